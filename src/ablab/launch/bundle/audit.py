"""A bundle checked by somebody who trusts nothing in it: every digest, the judgement made again, one run trained again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from ablab.core import chain
from ablab.core.differences import close, different, shown
from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.core.files import key_of, read_json, write_json
from ablab.core.forms import fits, misfit
from ablab.core.opened import read_whole
from ablab.data.corpus.corpus import Corpus, Valid, read_manifest
from ablab.data.corpus.groups import recalled
from ablab.judging import collect, judge, sources
from ablab.launch.bundle import retrain
from ablab.launch.bundle import write as bundles
from ablab.launch.bundle.findings import Audit
from ablab.launch.bundle.write import Bundle
from ablab.records.answer import Answer
from ablab.records.run import Executed, Where
from ablab.report.shareable import shareable
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.scoring.scores import Scores, finite
from ablab.study import load
from ablab.study.read import read
from ablab.study.settings import decides
from ablab.training.metrics import WALL

# of a verdict: what says where and when it was judged, and what else lay in the store
ELSEWHERE = ("environment", "earlier", "notes", "changed", "chains")  # a bundle chains its own rows


class Counted(Valid):
    """A held-out text of which only the counts are known."""

    def __init__(self, documents: int, targets: int, n_bytes: int) -> None:
        nothing = np.zeros(0, np.int64)
        super().__init__(nothing, nothing, nothing, nothing)
        self._counts = documents, targets, n_bytes

    def __len__(self) -> int:
        return self._counts[0]

    @property
    def n_targets(self) -> int:
        return self._counts[1]

    @property
    def n_scored_bytes(self) -> int:
        return self._counts[2]


def audit(
    path: Path,
    folder: Path,
    *,
    data: Path | None = None,
    salt: str = "",
    tolerance: float | None = None,
    say: Callable[[str], None] = print,
) -> Audit:
    """Check the bundle at `path` in the empty directory `folder`.

    data: the folder that the study file's sources and patterns are relative to; with it the data are prepared, compared by
    their key, and one finished training is made again: the bundle's own digest and `salt` choose which. On the kind of
    machine that made it, with the same threads, it must agree bit for bit; elsewhere to `tolerance` (of the deciding metric;
    by default half of the study's `matters`).
    CheckFailed where the file is no bundle, was changed, or was made by another version of ablab.
    """
    bundle = bundles.opened(path)
    result = Audit(bundle.key)
    for name in bundle.index["members"]:
        bundle.extract(name, folder / "bundle" / name)
    result.held.append(f"all {len(bundle.index['members'])} files match the index, and the index its digest")
    try:
        plan = _plan(bundle, folder / "bundle")  # whose store is called what the bundle says: apart from the second one
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _other(bundle, f"holds what no bundle has ({type(error).__name__}: {error})") from error
    result.take(
        f"{len(bundle.index['runs'])} runs lie under the keys of what the study asks", lambda: _keys(bundle, plan)
    )
    if result.broken:
        return result
    result.take(
        "every record matches its digest, every score its record, every level its scores", lambda: _records(plan)
    )
    result.take(
        "every row of the ledger, the decisions and the metrics follows from the one before", lambda: _chains(plan)
    )
    if not result.broken:
        result.noted += _source(plan)
    result.take("the judgement made again from the scores is the bundled one", lambda: _judged(plan))
    if not result.broken:
        result.take("no warning was left out of the pages", lambda: _notes(plan, result))
    result.take("the pages say what the verdict says", lambda: _pages(plan))
    if data is None:
        result.noted.append("no run was trained again: name the folder of the data with --data")
    elif not result.broken:
        try:
            retrain.again(bundle, plan, folder / "again", data, salt=salt, tolerance=tolerance, result=result, say=say)
            if result.retrained is not None and not salt:
                result.noted.append(
                    "the digest of the bundle alone chose that run: with --salt WORD, a word of yours, nobody could have known"
                )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            result.broken.append(f"no run can be trained again ({type(error).__name__}: {error})")
    return result


def _plan(bundle: Bundle, folder: Path) -> Plan:
    """Make the plan of the bundled study on the bundled store: its corpora are known by their manifests alone."""
    if "levers" in read(folder / bundles.STUDY)[1]:
        raise _other(bundle, "names lever files, whose code a bundle does not carry and an audit does not run")
    study, store = load(folder / bundles.STUDY, bundle.index["scale"]), _store(bundle, folder)
    if study.name != bundle.index["study"]:
        raise _other(bundle, f"is called after study '{bundle.index['study']}' and holds study '{study.name}'")
    if files := bundle.index["weights"]:
        write_json(store.data / "weights.json", {str(folder / "study" / file): held for file, held in files.items()})
    known, of_arm = dict[str, Corpus](), dict[str, Corpus]()
    for name, arm in study.with_baseline.items():
        key = str(bundle.index["corpora"].get(name))
        if key not in known:
            known[key] = _known(bundle, store, key)
        by = arm.settings["data"]["groups"]
        groups = None if by is None else recalled(key, len(known[key].valid), by, store.data)
        if by is not None and groups is None:
            raise _other(bundle, f"holds no groups by {by} of corpus {key[:8]}")
        of_arm[name] = replace(known[key], groups=groups)
    return planning.on(study, store, _where(bundle), of_arm, recall=lambda _: None)


def _store(bundle: Bundle, folder: Path) -> Store:
    """Open the bundled store under the name that it had, which its texts begin paths with."""
    if bundle.index["root"] == "study":
        return Store(folder / "store")
    return Store((folder / "store").rename(folder / bundle.index["root"]))


def _where(bundle: Bundle) -> Where:
    told = bundle.index["where"]
    if not fits(told, Executed) or told.keys() != Executed.__annotations__.keys():
        raise _other(bundle, f"says that its runs were executed as {told!r}, which nothing here can")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", told["device"]) or not 1 <= told["micro_rows"] <= 1 << 30:
        raise _other(bundle, f"says that its runs were executed as {told!r}, which nothing here can")
    return Where.read(told)


def _known(bundle: Bundle, store: Store, key: str) -> Corpus:
    """Return a corpus of which only the manifest and the counts are known: its texts are not in the bundle."""
    told, path = bundle.index["counts"].get(key), store.data / key
    if not fits(told, dict[str, int]) or any(told.get(name, -1) < 0 for name in bundles.COUNTED):
        raise _other(bundle, f"does not say how much corpus {key[:8]} holds")
    manifest = read_manifest(path)
    identity, tokenizer = manifest.get("identity"), manifest["tokenizer"]
    if manifest["key"] != key or identity is None or key_of(identity) != key:
        raise _other(bundle, f"holds a corpus {key[:8]} that is called after something else")
    valid = Counted(told["documents"], told["targets"], told["bytes"])
    tokens = np.broadcast_to(np.zeros(1, np.uint16), told["train"])
    return Corpus(
        path, key, manifest, tokenizer["vocab_size"], tokenizer["bos_id"], tokens, np.zeros(0, np.int64), valid
    )


def _keys(bundle: Bundle, plan: Plan) -> list[str]:
    """List what of the indexed runs is not stored under the key that the study, read here, gives them."""
    faults = []
    for row in bundle.index["runs"]:
        if not fits(row, bundles.Bundled) or (run := plan.runs.get((row["arm"], row["seed"]))) is None:
            faults.append(f"the index lists a run that the study does not have: {row!r}"[:200])
        elif (run.train_key, run.score_keys) != (row["train"], row["score"]):
            made = f"{bundle.index.get('ablab')}, commit {bundle.index.get('commit')}"
            text = "lies under other keys than this ablab gives it; audit it with the one that made it"
            faults.append(f"{run.arm}, seed {run.seed}: {text} ({made})")
    return faults


def _records(plan: Plan) -> list[str]:
    """List records that were changed, scores that are not the recorded ones, metrics that are not those of the scores."""
    faults = []
    for run in plan.runs.values():
        place = f"{run.arm}, seed {run.seed}"
        try:
            plan.store.trained(run.train_key)
            for stage, key in run.score_keys.items():
                result = plan.store.scored(key)
                if result is None:
                    continue
                scores = Scores.load(plan.store.score(key), result)
                if (result["probe"] is None) is not decides(run.settings["stage"][stage]["evaluate"]):
                    faults.append(f"{place}, stage {stage}: its record says that it is another kind of evaluation")
                for name, own in finite(scores.metrics).items():
                    if not close(told := result["metrics"].get(name), own):
                        fault = f"{name} is {shown(told)} in the record and {shown(own)} in its scores"
                        faults.append(f"{place}, stage {stage}: {fault}")
        except Refused as refused:
            faults += [f"{place}: {fault.fault}" for fault in refused.faults]
    return faults


def _chains(plan: Plan) -> list[str]:
    """List rows that were edited, taken out or moved; and what the page itself says of the store that was bundled."""
    told = read_json(plan.directory / "verdict.json", form=dict[str, object]).get("changed")
    faults = [f"the page says of its store: {text}" for text in (told if isinstance(told, list) else ())]
    own: list[tuple[Path, str, tuple[str, ...]]] = [
        (plan.directory / "ledger.jsonl", "", ()),
        (plan.store.root / "decisions.jsonl", "", ()),
    ]
    for run in {run.train_key: run for run in plan.runs.values()}.values():
        if (done := plan.store.trained(run.train_key)) is not None and done.get("metrics"):
            own.append((plan.store.train(run.train_key) / "metrics.jsonl", str(done["metrics"]["chain"]), WALL))
    for path, end, aside in own:
        lines = read_whole(path).splitlines(keepends=True) if path.exists() else []
        said, _, _ = chain.check(iter(lines), aside=aside, end=end)
        faults += [f"{path.parent.name}/{path.name}: {text}" for text in said]
    return faults


def _source(plan: Plan) -> list[str]:
    """Say how the code that made the results differs from the code that reads them."""
    try:
        return sources.notes(plan)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return [f"the hashes of the source cannot be read ({type(error).__name__}: {error})"]


def _judged(plan: Plan) -> list[str]:
    """List where the judgement made again differs from the bundled one."""
    before = read_json(plan.directory / "verdict.json", "arms", "decided_by", "data", form=dict[str, object])
    after = judge.conclude(plan)
    write_json(plan.directory / "verdict.json", before)  # the pages are compared with this one
    return [f"judged again, {text}" for text in different(_lasting(before), _lasting(json.loads(json.dumps(after))))]


class _Notes(TypedDict):
    """What of a verdict says how it was made."""

    notes: list[str]
    environment: dict[str, object]


def _notes(plan: Plan, result: Audit) -> list[str]:
    """List notes that the bundled verdict left out, though they follow from its records; those that only it has are noted.

    What is said of code is of the code that judges: that which bundled may have been another one than this.
    """
    before = read_json(plan.directory / "verdict.json", form=_Notes)
    verdict = collect.judged(plan, collect.bank(plan)).as_json()
    own = [*verdict["notes"], *judge.on_record(plan, judge.decisions(plan, keep=False)), *judge.notes(plan)]
    said = _shareable(plan, own)
    here = set(_shareable(plan, sources.notes(plan)))
    result.noted += [
        f"a note of the pages that is not found here: {text}" for text in before["notes"] if text not in said
    ]
    lost = [f"the pages leave out: {text}" for text in said if text not in before["notes"] and text not in here]
    told = {name: before["environment"].get(name) for name in plan.where.as_json()}
    return lost + [f"in the pages, {text}" for text in different(told, plan.where.as_json())]


def _shareable(plan: Plan, texts: list[str]) -> list[str]:
    return list(shareable(texts, folder=plan.study.path.parent, root=plan.store.root))


def _lasting(verdict: Mapping[str, object]) -> dict[str, object]:
    """Return what of a verdict another machine must reproduce. The digest of a manifest is of its paths, too."""
    told = verdict["data"]
    if not fits(told, list[dict[str, object]]):
        raise TypeError(f"a verdict {misfit(told, list[dict[str, object]], 'data')}")
    data = [{key: value for key, value in one.items() if key != "digest"} for one in told]
    return {key: value for key, value in verdict.items() if key not in ELSEWHERE} | {"data": data}


def _pages(plan: Plan) -> list[str]:
    """List pages of the bundle that are not what its verdict is written out as."""
    from ablab.report import html, markdown

    verdict, faults = read_json(plan.directory / "verdict.json", form=Answer), []
    for name, page in (("report.html", html.page), ("report.md", markdown.page)):
        if (plan.directory / name).read_text(encoding="utf-8") != page(verdict):
            faults.append(f"{name} is not the page of its verdict.json")
    return faults


def _other(bundle: Bundle, fault: str) -> CheckFailed:
    return CheckFailed(Fault(str(bundle.path), fault, "ask for the bundle again"))
