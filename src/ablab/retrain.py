"""One finished training of a bundle made again from the data, and held against what the bundle has of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ablab import corpora, machine
from ablab import plan as planning
from ablab.launch import work
from ablab.plan import Plan, Run
from ablab.scores import Scores
from ablab.store import Store
from ablab.study import load

if TYPE_CHECKING:
    from ablab.auditor import Audit
    from ablab.bundle import Bundle


def chosen(key: str, salt: str, plan: Plan) -> Run | None:
    """The run that a bundle's digest and the auditor's own word choose among those that ended; None where none was trained.

    The word makes it a choice that whoever made the bundle could not know: without one they could bundle again until the
    digest chooses a run that they like.
    """
    ended = []
    for run in plan.runs.values():
        done = plan.store.trained(run.train_key)
        if done is not None and done["status"] == "done" and done["steps"]:
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
    found: Audit,
    say: Callable[[str], None],
) -> None:
    """Prepare the data, train and score the chosen run in the store `folder`, and put what comes of it into `found`."""
    run = chosen(bundle.key, salt, plan)
    if run is None:
        found.noted.append("no run was trained again: the weights of this study were trained elsewhere")
        return
    if run.settings["budget"]["tokens"] is None:
        found.noted.append(
            "no run was trained again: a budget of seconds ends elsewhere on every machine and every time"
        )
        return
    machine.require(plan.where.device)
    mine = _plan(plan, folder, data, say)
    ours = mine.runs[run.arm, run.seed]
    if (key := mine.corpus(ours).key) != plan.corpus(run).key:
        found.broken.append(
            f"the data at hand are another corpus ({key[:8]}) than the bundled runs have ({plan.corpus(run).key[:8]})"
        )
        return
    found.held.append(f"the data at hand are the corpus of the bundle ({key[:8]})")
    done = plan.store.trained(run.train_key)
    assert done is not None
    say(f"training {run.arm}, seed {run.seed} again: it took {done['seconds']:,.0f} s")
    torch.set_num_threads(done["threads"])
    work.do(ours, store=mine.store, where=mine.where, mirrors=(), stop=lambda: False, say=say)
    allowed = plan.study.decision["matters"] / 2 if tolerance is None else tolerance
    found.retrained = compared(plan, run, mine.store, allowed)
    said = found.retrained["sentence"]
    (found.held if found.retrained["holds"] else found.broken).append(said)


def _plan(plan: Plan, folder: Path, data: Path, say: Callable[[str], None]) -> Plan:
    """The study's plan on an empty store and the data at hand."""
    study = load(plan.study.path, plan.study.scale, folder=data.absolute())
    store = Store(folder)
    of_arm = corpora.prepared(study, store, say)
    return planning.on(study, store, plan.where, of_arm, recall=lambda _: None)


def compared(plan: Plan, run: Run, store: Store, tolerance: float) -> dict[str, Any]:
    """The bundled run beside the one made again in `store`.

    alike: whether code, machine, torch and threads are those of the bundle, so that bits must agree. largest: of the stages'
    differences of the deciding metric. holds: bit for bit, or where not alike within the tolerance; the tokens must agree
    everywhere.
    """
    theirs, ours = plan.store.trained(run.train_key), store.trained(run.train_key)
    assert theirs is not None
    place = f"{run.arm}, seed {run.seed}, trained again"
    if ours is None or ours["status"] != theirs["status"]:
        return _row(run, False, f"{place}: ended as {ours and ours['status']}, in the bundle as {theirs['status']}")
    if ours["token_hash"] != theirs["token_hash"]:
        return _row(run, False, f"{place}: was fed other tokens than the bundled run")
    alike = all(ours.get(name) == theirs.get(name) for name in ("machine", "threads", "source"))
    gaps, same, metric = {}, ours["weights"] == theirs["weights"], plan.study.decision["metric"]
    for stage, key in run.score_keys.items():
        one, other = plan.store.scored(key), store.scored(key)
        if one is None or other is None or one["probe"]:
            continue
        before, after = Scores.load(plan.store.score(key), one), Scores.load(store.score(key), other)
        same = (
            same and before.nats.shape == after.nats.shape and np.array_equal(before.nats, after.nats, equal_nan=True)
        )
        pair = one["metrics"][metric], other["metrics"][metric]
        if None not in pair:
            gaps[stage] = pair[1] - pair[0]
    largest = max(map(abs, gaps.values()), default=0.0)
    if same:
        return _row(run, True, f"{place}: weights and scores agree bit for bit", gaps, alike)
    kind = "the same kind of machine" if alike else "another machine, torch, number of threads or by other code"
    text = f"{place} on {kind}: {metric} differs by {largest:.3g} at most"
    if alike:
        return _row(run, False, f"{text}, and there it must not differ by a bit", gaps, alike)
    holds = largest <= tolerance
    return _row(run, holds, f"{text}, {'within' if holds else 'beyond'} the tolerance of {tolerance:g}", gaps, alike)


def _row(
    run: Run, holds: bool, sentence: str, gaps: dict[str, float] | None = None, alike: bool | None = None
) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "seed": run.seed,
        "holds": holds,
        "sentence": sentence,
        "differences": gaps or {},
        "alike": alike,
    }
