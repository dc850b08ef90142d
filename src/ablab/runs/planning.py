"""A study made a plan: its corpora prepared, how runs are executed resolved, and every run keyed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import read_json, write_json
from ablab.records.run import Executed, Where
from ablab.records.settings import Settings
from ablab.runs.contents import Contents
from ablab.runs.plan import Plan, Run
from ablab.runs.program import ITS_OWN, of_arms, read_key, run_key
from ablab.runs.store import Store, score_key
from ablab.runtime.lock import in_turn

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.study import Study


def make(
    study: Study,
    store: Store,
    *,
    device: str = "cpu",
    precision: str | None = None,
    per_run: int = 1,
    computes: bool = True,
    say: Callable[[str], None] = print,
    recall: Callable[[str], None] | None = None,
) -> Plan:
    """Prepare the corpora, resolve how runs are executed, and key every run of every arm and seed.

    precision: bf16 or fp32; None is what the study began with where that is fp32, which every machine has, else what the
    hardware multiplies. per_run: processes of each run; CheckFailed where they cannot share an arm's batch. computes: False
    reads what the study has in the precision that it began with, on any machine. recall: where a source or weights trained
    elsewhere cannot be read any more, take what the store made of them, and say so with this.
    """
    if study.runner is not None:
        study.trained_here("--per-run", asked=per_run > 1)
        return _over_command(study, store, recall)
    from ablab.model import compiled
    from ablab.model.attention import attend
    from ablab.runs import corpora
    from ablab.runtime import capacity
    from ablab.training import memory

    capacity.require(device)
    device = capacity.use(device)
    for called, sha256 in study.levers.items():
        say(f"levers of {called} are loaded, whose code is not ablab's (sha256 {sha256[:16]})")
    of_arm = corpora.prepared(study, store, say, recall)
    settings = [arm.settings for arm in study.with_baseline.values()]
    side_by_side = (
        capacity.cores() if device == "cpu" else 1
    )  # the most runs that share this memory, whatever --jobs says
    path = store.study(study.name, study.scale) / "where.json"
    if precision is None and path.exists():
        kept = str(read_json(path, form=Executed)["precision"])
        precision = kept if kept == "fp32" or not computes else None
    where = resolve_where(
        path,
        device=device,
        precision=capacity.precision(device, precision),
        executor=attend.executor_for(device),
        micro_rows=memory.fit_micro_rows(
            settings,
            memory_bytes=capacity.memory_bytes(device) // side_by_side,
            vocab_size=max(c.vocab_size for c in of_arm.values()),
            device=device,
            per_run=per_run,
        ),
        compiled=compiled.compiles(device),
    )
    if faults := _unshared(settings, where, per_run):
        raise CheckFailed(faults)
    say(f"precision: {where.precision}; another one (--precision) is another experiment, with its own numbers")
    return replace(on(study, store, where, of_arm, recall), per_run=per_run)


def _unshared(settings: Sequence[Settings], where: Where, per_run: int) -> list[Fault]:
    """Say why `per_run` processes cannot make a run together: with micro-batches that they cannot share."""
    from ablab.training.sums import micro_batches_fault

    sizes = sorted({asked["budget"]["batch_tokens"] // asked["model"]["seq_len"] for asked in settings})
    found = [fault for rows in sizes if (fault := micro_batches_fault(rows, where.micro_rows, per_run))]
    cure = "or begin the study with --per-run in another --out, where micro_rows is chosen by it"
    return [Fault("--per-run", f"{one.place}: {one.fault}", f"{one.cure}, {cure}") for one in found]


def _over_command(study: Study, store: Store, recall: Callable[[str], None] | None) -> Plan:
    """Give every run of a program its key: there is no corpus of ours, and how it is executed is its own affair."""
    programs, metric, runs = of_arms(study, store, recall), study.decision["metric"], dict[tuple[str, int], Run]()
    for seed in study.seeds:
        for name, arm in study.with_baseline.items():
            asked, program = arm.settings["runner"], programs[name]
            repeats = asked["repeats"] if (name, seed) == (study.baseline.name, study.seeds[0]) else 0
            trained = run_key(asked, program, seed)
            scores = {
                stage: read_key(asked, metric, trained=trained, repeats=repeats) for stage in arm.settings["stage"]
            }
            runs[name, seed] = Run(
                name, seed, arm.settings, Path(program.top), trained, scores, study.called, program=program, metric=metric,
                repeats=repeats,
            )  # fmt: skip
    return Plan(study, store, ITS_OWN, {}, runs)


def on(
    study: Study,
    store: Store,
    where: Where,
    of_arm: dict[str, Corpus],
    recall: Callable[[str], None] | None = None,
) -> Plan:
    """Give every run of a study its key, on corpora that are prepared; executed as `where` says."""
    contents = Contents(store, recall)
    runs = _runs(study, store, of_arm, where, contents)
    contents.save()
    return Plan(study, store, where, {c.key: c for c in of_arm.values()}, runs)


def _runs(
    study: Study, store: Store, of_arm: dict[str, Corpus], where: Where, contents: Contents
) -> dict[tuple[str, int], Run]:
    """List every arm at every seed; of weights trained elsewhere, the seed's own file, by its content."""
    runs = {}
    for nth, seed in enumerate(study.seeds):
        for name, arm in study.with_baseline.items():
            corpus, asked = of_arm[name], arm.settings_of(nth)
            trained, taken = contents.key(asked, corpus=corpus.key, seed=seed, where=where)
            scores = {stage: score_key(asked, stage, trained=trained) for stage in asked["stage"]}
            runs[name, seed] = Run(
                name, seed, asked, store.data / corpus.key, trained, scores, study.called, taken, study.levers
            )
    return runs


def resolve_where(path: Path, *, device: str, precision: str, executor: str, micro_rows: int, compiled: bool) -> Where:
    """Read the study's `where.json`: written at first use, kept afterwards, so that all its runs are executed alike.

    Raises CheckFailed where the study began otherwise.
    """
    here = Where(device, precision, executor, micro_rows, compiled)
    if not path.exists():
        with in_turn(path.parent):  # two machines may begin one study at once, and need not be alike
            if not path.exists():
                write_json(path, here.as_json())
                return here
    executed = read_json(path, form=Executed)
    if executed["micro_rows"] < 1:
        fault = f"holds micro_rows = {executed['micro_rows']}, which nothing here wrote"
        raise CheckFailed(Fault(str(path), fault, "delete it to have it made again"))
    kept = Where.read({**executed, "device": executed["device"].partition(":")[0]})  # once a GPU's number stood there
    if (kept.device, kept.precision, kept.executor) != (device, precision, executor):
        began = f"{kept.precision} by {kept.executor} on {kept.device}"
        fault = f"this study began with {began}, not with {precision} by {executor} on {device}"
        cure = "go on where it began"
        if (kept.device, kept.executor) == (device, executor):
            cure = f"go on with --precision {kept.precision}, which is slow where it must be emulated"
        raise CheckFailed(Fault(str(path), fault, f"{cure}, or choose another --out"))
    return kept
