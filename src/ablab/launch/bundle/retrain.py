"""One finished training of a bundle made again from the data, and compared with the bundle's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ablab.core.differences import different
from ablab.launch import work
from ablab.launch.bundle.findings import Retrained
from ablab.records.result import Result
from ablab.runs import corpora, planning
from ablab.runs.plan import Plan, Run
from ablab.runs.store import Store
from ablab.runtime import capacity
from ablab.scoring.scores import Scores
from ablab.study import load

if TYPE_CHECKING:
    from ablab.launch.bundle.findings import Audit
    from ablab.launch.bundle.write import Bundle

# of a record: its clocks, its memory, how it came about, and its digest
MAKING = (
    "seconds",
    "validate_seconds",
    "tokens_per_second",
    "timing",
    "peak_bytes",
    "checked",
    "source",
    "machine",
    "code",
    "threads",
    "resumed",
    "digest",
    "scores",
)
COUNTED = ("steps", "tokens", "hashes", "epochs", "validated", "positions", "parameters")  # whatever machine
OF_CORPUS = ("counts", "tokenizer", "files", "parts", "dtype", "looked_at")  # of a manifest: what is no path


def chosen(key: str, salt: str, plan: Plan) -> Run | None:
    """Choose the run by a bundle's digest and the auditor's own word, among those that ended; None where none can be made.

    However it says that it ended, after how many steps: whoever made the bundle could keep a run out of the choice by that.
    Those trained elsewhere cannot be made again, nor those of a budget in seconds, which end elsewhere every time.

    The word makes it a choice that whoever made the bundle could not know: without one they could bundle again until the
    digest chooses a run that they like.
    """
    ended = []
    for run in plan.runs.values():
        told = run.settings
        if told["train"]["weights"] or told["budget"]["tokens"] is None:
            continue
        if plan.store.trained(run.train_key) is not None:
            ended.append(run)
    if not ended:
        return None
    drawn = int.from_bytes(hashlib.sha256(f"{key}/{salt}".encode()).digest(), "big")
    return sorted(ended, key=lambda run: (run.arm, run.seed))[drawn % len(ended)]


def again(
    bundle: Bundle,
    plan: Plan,
    folder: Path,
    data: Path,
    *,
    salt: str,
    tolerance: float | None,
    result: Audit,
    say: Callable[[str], None],
) -> None:
    """Prepare the data, train and score the chosen run in the store `folder`, and put what comes of it into `result`."""
    run = chosen(bundle.key, salt, plan)
    if run is None:
        result.noted.append(f"no run was trained again: {_none(plan)}")
        return
    done = plan.store.trained(run.train_key)
    assert done is not None
    if type(threads := done.get("threads")) is not int or threads < 1:
        result.broken.append(f"{run.arm}, seed {run.seed}: says that {threads!r} threads made it")
        return
    capacity.require(plan.where.device)
    mine = _plan(plan, folder, data, say)
    ours = mine.runs[run.arm, run.seed]
    if other := _other_data(plan, mine):
        result.broken += other
        return
    keys = ", ".join(key[:8] for key in plan.corpora)
    result.held.append(f"the data at hand are the corpus of the bundle ({keys}), with its counts and groups")
    say(f"training {run.arm}, seed {run.seed} again: it took {done['seconds']:,.0f} s")
    # more than there are cores would be no faster, and a number of millions takes the machine down
    torch.set_num_threads(min(threads, max(capacity.cores(), torch.get_num_threads())))
    work.do(ours, store=mine.store, where=mine.where, mirrors=(), stop=lambda: False, say=say)
    allowed = plan.study.decision["matters"] / 2 if tolerance is None else tolerance
    result.retrained = compared(plan, run, mine.store, allowed)
    said = result.retrained["sentence"]
    (result.held if result.retrained["holds"] else result.broken).append(said)


def _plan(plan: Plan, folder: Path, data: Path, say: Callable[[str], None]) -> Plan:
    """Plan the study on an empty store and the data at hand."""
    study = load(plan.study.path, plan.study.scale, folder=data.absolute())
    store = Store(folder)
    of_arm = corpora.prepared(study, store, say)
    return planning.on(study, store, plan.where, of_arm, recall=lambda _: None)


def _none(plan: Plan) -> str:
    """Say why no run of a study can be trained again."""
    trained = [run for run in plan.runs.values() if plan.store.trained(run.train_key) is not None]
    if not trained:
        return "the bundle holds none"
    if all(run.settings["train"]["weights"] for run in trained):
        return "the weights of this study were trained elsewhere"
    return "a budget of seconds ends elsewhere on every machine and every time"


def _other_data(plan: Plan, mine: Plan) -> list[str]:
    """List where the data at hand are not what the bundle says of them: another corpus, other counts, other groups."""
    differences = []
    for arm in plan.study.with_baseline:
        one, other = (each.corpus(each.runs[arm, each.seeds[0]]) for each in (plan, mine))
        if one.key != other.key:
            fault = f"the data at hand are another corpus ({other.key[:8]}) than the bundled runs have ({one.key[:8]})"
            differences.append(fault)
            continue
        counts = [(c.n_train, len(c.valid), c.valid.n_targets, c.valid.n_scored_bytes) for c in (one, other)]
        told = [{name: c.manifest.get(name) for name in OF_CORPUS} for c in (one, other)]
        if counts[0] != counts[1] or told[0] != told[1]:
            differences.append(
                f"the bundle counts other tokens, documents or bytes of corpus {one.key[:8]} than the data hold"
            )
        groups = [None if c.groups is None else c.groups.numbers.tolist() for c in (one, other)]
        if groups[0] != groups[1]:
            differences.append(
                f"the bundle groups the held-out documents of corpus {one.key[:8]} otherwise than the data do"
            )
    return list(dict.fromkeys(differences))


def compared(plan: Plan, run: Run, store: Store, tolerance: float) -> Retrained:
    """Compare the bundled run with the one made again in `store`."""
    theirs, ours = plan.store.trained(run.train_key), store.trained(run.train_key)
    assert theirs is not None
    place = f"{run.arm}, seed {run.seed}, trained again"
    if ours is None or ours["status"] != theirs["status"]:
        return _row(run, False, f"{place}: ended as {ours and ours['status']}, in the bundle as {theirs['status']}")
    if ours["token_hash"] != theirs["token_hash"]:
        return _row(run, False, f"{place}: was fed other tokens than the bundled run")
    alike = all(ours.get(name) == theirs.get(name) for name in ("machine", "threads", "source"))
    metric = plan.study.decision["metric"]
    gaps, counted, bits = dict[str, float](), _unlike(theirs, ours, COUNTED), _unlike(theirs, ours, None)
    for stage, key in run.score_keys.items():
        one, other = plan.store.scored(key), store.scored(key)
        if one is None and theirs["status"] == "done":
            return _row(run, False, f"{place}: has stage {stage}, which the bundle left out", gaps, alike)
        if one is None or other is None:
            continue
        before, after = Scores.load(plan.store.score(key), one), Scores.load(store.score(key), other)
        counted += [
            f"stage {stage}: {text}" for text in (*_unlike(one, other, ("code_bytes",)), *_other(before, after))
        ]
        if _kinds(one) != _kinds(other):
            counted.append(f"stage {stage}: violations are {_kinds(other)} and were {_kinds(one)}")
        bits += [f"stage {stage}: {text}" for text in (*_unlike(one, other, None), *_bits(before, after))]
        pair = before.metrics.get(metric), after.metrics.get(metric)  # of the scores: a record may say anything
        if pair[0] is not None and pair[1] is not None:
            gaps[stage] = pair[1] - pair[0]
    if counted:
        return _row(run, False, f"{place}: {_first(counted)}", gaps, alike)
    if not bits:
        return _row(run, True, f"{place}: weights and scores agree bit for bit", gaps, alike)
    largest = max(map(abs, gaps.values()), default=0.0)
    kind = "the same kind of machine" if alike else "another machine, torch, number of threads or by other code"
    text = f"{place} on {kind}: {metric} differs by {largest:.3g} at most"
    if alike:
        return _row(run, False, f"{text}, and there it must not differ by a bit ({_first(bits)})", gaps, alike)
    holds = largest <= tolerance
    return _row(run, holds, f"{text}, {'within' if holds else 'beyond'} the tolerance of {tolerance:g}", gaps, alike)


def _unlike(before: Mapping[str, object], after: Mapping[str, object], names: tuple[str, ...] | None) -> list[str]:
    """List what two records have otherwise in the fields `names`; in all but those of their making where that is None."""
    one, other = (
        {name: held for name, held in record.items() if (name not in MAKING if names is None else name in names)}
        for record in (before, after)
    )
    return different(one, other)


def _other(before: Scores, after: Scores) -> list[str]:
    """List what two evaluations of one text count that is not equal."""
    names = [name for name in ("tokens", "bytes") if not np.array_equal(getattr(before, name), getattr(after, name))]
    for span in before.spans.keys() | after.spans.keys():
        one, other = (scores.spans.get(span, {}).get("tokens") for scores in (before, after))
        if one is None or other is None or not np.array_equal(one, other):
            names.append(f"tokens of {span}")
    return [f"other {name} of the documents were scored" for name in names]


def _bits(before: Scores, after: Scores) -> list[str]:
    """Say which nats are not the same bit for bit."""
    pairs = [("nats", before.nats, after.nats)]
    spans = before.spans.keys() & after.spans.keys()
    pairs += [(f"nats of {name}", before.spans[name]["nats"], after.spans[name]["nats"]) for name in spans]
    return [f"{name} of the documents differ" for name, a, b in pairs if not np.array_equal(a, b, equal_nan=True)]


def _kinds(result: Result) -> list[str]:
    """List the rules that a stage violated; what stands behind the colon holds numbers of the machine."""
    return sorted({violation.partition(":")[0] for violation in result["violations"]})


def _first(texts: list[str]) -> str:
    return texts[0] + (f", and {len(texts) - 1} more" if len(texts) > 1 else "")


def _row(
    run: Run, holds: bool, sentence: str, gaps: dict[str, float] | None = None, alike: bool | None = None
) -> Retrained:
    return {
        "arm": run.arm,
        "seed": run.seed,
        "holds": holds,
        "sentence": sentence,
        "differences": gaps or {},
        "alike": alike,
    }
