"""A study file on a store, and what is done with it: check, run, report. The commands and the Python API are this object."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, Halted
from ablab.core.files import read_json
from ablab.records.run import Executed
from ablab.study.read import read

if TYPE_CHECKING:
    from ablab.check.facts import Facts
    from ablab.check.program import CommandFacts
    from ablab.launch.beside import Beside
    from ablab.launch.board import Progress
    from ablab.report.judged import Judged
    from ablab.report.laddered import Laddered
    from ablab.runs.plan import Plan, Readings
    from ablab.runs.store import Store
    from ablab.study import Study

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


def aside(text: str) -> None:
    """Say on stderr what must be said beside an answer."""
    print(text, file=sys.stderr)


class GivenUp(CheckFailed):
    """Runs were given up; what the others came to is judged all the same."""

    def __init__(self, faults: Sequence[Fault], judged: Judged) -> None:
        super().__init__(faults)
        self.judged = judged


class LadderGivenUp(CheckFailed):
    """Runs of a rung were given up; the ladder of what the others came to is written all the same."""

    def __init__(self, faults: Sequence[Fault], laddered: Laddered) -> None:
        super().__init__(faults)
        self.laddered = laddered


class Running(TypedDict, total=False):
    """What the runs of a ladder are told: as `Lab.run` has it."""

    jobs: int | None
    until: float | None
    mirrors: Sequence[str]
    allow_changed_code: bool
    try_again: bool
    progress: Callable[[Plan], AbstractContextManager[Progress]] | None


@dataclass(frozen=True)
class Lab:
    """A study at a scale, the store `out`, and how it is executed. The file is read anew by every call.

    device: cpu or cuda; None is the one that the study began with. precision: bf16 or fp32; None is what the study began
    with, or what the hardware multiplies. per_run: processes that make one run together, on as many of `gpus` GPUs; one that
    is silent for `patience` seconds is given up; started: torchrun or srun has started them. joins: as one of several workers
    (`ablab work`): run() makes one run at a time, leaves what was given up, and writes the page at its end. Calls raise
    InvalidStudy and CheckFailed with every fault, Interrupted where a signal ended them; the same call then goes on.
    `--out DIR` is out="DIR".
    """

    path: Path
    scale: str | None = None
    out: Path = Path("runs")
    device: str | None = "cpu"
    precision: str | None = None
    per_run: int = 1
    joins: bool = False
    patience: float = 600.0
    started: bool = False
    gpus: int | None = None

    def __post_init__(self) -> None:
        for name in ("path", "out"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        read(self.path)  # a file that cannot be read is refused at once; what it asks, where the levers are needed

    @property
    def study(self) -> Study:
        """The study in the file. InvalidStudy with every fault in it."""
        from ablab.study import load

        return load(self.path, self.scale)

    @property
    def store(self) -> Store:
        """Where corpora, runs and reports lie."""
        from ablab.runs.store import Store

        return Store(self.out)

    def plan(self, *, computes: bool = True, say: Say = silent, recall: Say | None = None) -> Plan:
        """Make the study concrete: its data prepared, its execution resolved, every run keyed (`ablab.runs.planning.make`)."""
        from ablab.judging.collect import measurable
        from ablab.runs import planning
        from ablab.runtime import capacity

        study, store = self.study, self.store
        self._of_a_program(study)
        device = self.device or ("cpu" if study.runner else self._began(study, store))
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise CheckFailed(Fault("device", f"'{device}' is no device", "choose cpu or cuda"))
        if self.precision not in (None, *capacity.PRECISIONS):
            cure = f"choose {' or '.join(capacity.PRECISIONS)}"
            raise CheckFailed(Fault("precision", f"'{self.precision}' is no precision of a run", cure))
        how: dict[str, Any] = {"precision": self.precision, "per_run": self.per_run, "computes": computes}
        measurable(made := planning.make(study, store, device=device, say=say, recall=recall, **how))
        return made

    def check(self, say: Say = silent) -> Facts | CommandFacts:
        """Return what each arm changes and costs, what the study can show, and how a miniature of every arm fared.

        CheckFailed for arms that change nothing and stages that break a rule.
        """
        from ablab.check import program
        from ablab.check.facts import facts

        with _ending_well():
            plan = self.plan(say=say)
            return program.facts(plan) if plan.study.runner else facts(plan, say=say)

    def run(
        self,
        *,
        seeds: int | None = None,
        jobs: int | None = None,
        until: float | None = None,
        mirrors: Sequence[str] = (),
        allow_changed_code: bool = False,
        try_again: bool = False,
        say: Say = print,
        progress: Callable[[Plan], AbstractContextManager[Progress]] | None = None,
    ) -> Judged:
        """Do what is missing (tokens, training, stages), then judge and write the report. Resumes by itself.

        Commands that share a store share its runs, on whatever machines: each run is made once, others wait for it.
        seeds: of every arm, whatever the looks say; the verdict keeps its rule. jobs: runs side by side. until: seconds from
        now, then it ends resumable. mirrors: names of `training.mirrors`. allow_changed_code: take what other code has made;
        the page says so. try_again: also runs that were out of memory. say: hears lines for people; progress(plan), of runs.

        Raises GivenUp, behind the report, where runs were given up; Interrupted after checkpoints at a signal or at `until`.
        """
        from ablab.core.streams import unfinished
        from ablab.judging import rungs
        from ablab.launch import joint, local, ranks
        from ablab.launch.board import Board
        from ablab.launch.lines import lines
        from ablab.runs.plan import Readings
        from ablab.training import mirrors as boards

        deadline = None if until is None else time.monotonic() + until
        for name in mirrors:
            boards.check(name)
        with _ending_well(), unfinished():
            plan = self.plan(say=say)
            plan.study.trained_here("a mirror", asked=bool(mirrors))
            together = ranks.Together(self.per_run, self.patience, self.started)
            jobs = 1 if self.joins and jobs is None and self.gpus is None else jobs
            jobs, together = ranks.arranged(plan, together, jobs, self.device, self.gpus)
            with joint.begun(plan, say, changed=allow_changed_code, try_again=try_again, joins=self.joins) as held:

                def here() -> None:
                    held.check()
                    page.check()

                shown, kept = contextlib.nullcontext(lines(say)) if progress is None else progress(plan), Readings()
                with shown as take, _page_kept(plan, kept) as page:
                    local.execute(
                        Board(plan if seeds is None else rungs.fixed(plan, seeds), take, kept),
                        jobs=jobs,
                        together=together,
                        mirrors=tuple(mirrors),
                        allow_changed=allow_changed_code,
                        until=deadline,
                        after_each=(lambda: None) if self.joins else page.ask,
                        here=here,
                    )
                    page.close(drop=True)  # judged once more below, every record read anew
                held.check()
                return _unless_given_up(plan, conclude(plan))

    def ladder(
        self,
        scales: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        at: float | None = None,
        train: bool = True,
        page: Path | str | None = None,
        say: Say = print,
        **how: Unpack[Running],
    ) -> Laddered:
        """Ask the study's question at every one of the scales, and how the effects move with compute (docs/ladder.md).

        seeds: of every arm, one number for each scale; by default what the file plans at most. at: FLOPs at which the word is
        asked for; by default the furthest that may carry one. train: False judges what exists. page: another folder for it.
        how: as `run` has it. The top rung is run first: it tells most.

        Raises LadderGivenUp, behind the page, where runs were given up.
        """
        from ablab.judging import ladder as ladders
        from ablab.judging import rungs as of_ladder
        from ablab.report import laddered

        rungs = [replace(self, scale=scale) for scale in scales]
        asked = of_ladder.asked([rung.study for rung in rungs], seeds)
        with _ending_well():
            plans = [rung.plan(computes=train, say=say if train else silent, recall=aside) for rung in rungs]
            planned = [of_ladder.fixed(plan, n) for plan, n in zip(plans, asked, strict=True)]
            of_ladder.check(planned, at)
            faults, began, until = list[Fault](), time.monotonic(), how.get("until")
            for i in sorted(range(len(rungs)), key=lambda i: -of_ladder.flops(planned[i], "baseline")) if train else ():
                say(f"rung {scales[i]}: {asked[i]} seeds")
                if until is not None:
                    how["until"] = until - (time.monotonic() - began)
                try:
                    rungs[i].run(seeds=asked[i], say=say, **how)
                except GivenUp as some:
                    faults += some.faults
            answer = ladders.conclude(plans, asked, at)
            climbing = [rung["scale"] for rung in answer["rungs"]]  # one page, in whatever order they were named
            climbed = laddered.write(answer, Path(page or self.store.ladder(answer["study"], climbing)))
        if faults:
            raise LadderGivenUp(faults, climbed)
        return climbed

    def report(self, page: Path | str | None = None, recall: Say = aside) -> Judged:
        """Judge what exists now and write the report; works at any moment, also while the study runs.

        page: another folder for it; nothing is then written into the store. CheckFailed where the finished page of another
        version of the study lies there. recall: hears of data that are gone, of which what the store has is taken.
        """
        from ablab.judging import versions

        with _ending_well():
            plan = self.plan(computes=False, recall=recall).look()
            if page is not None:
                return conclude(plan, versions.free(plan, Path(page)))
            versions.guard(plan)
            try:
                return conclude(plan)
            except Halted as error:
                cure = "or have the page written elsewhere and nothing here: --page DIR"
                raise Halted(Fault(one.place, one.fault, f"{one.cure}, {cure}") for one in error.faults) from error

    @property
    def verdict(self) -> Judged:
        """What was judged last. CheckFailed where nothing was, or another version of the study."""
        from ablab.judging import shelf, versions
        from ablab.report.judged import Judged
        from ablab.report.view import answered

        study = self.study
        folder = self.store.study(study.name, study.scale)
        answer = shelf.lying(folder)
        if answer is None:
            place, cure = str(folder / "verdict.json"), "call run() or report()"
            raise CheckFailed(Fault(place, "is missing: nothing of this study was judged here", cure))
        plan = self.plan(computes=False, recall=aside)
        if answer.get("version") != shelf.version(plan):
            since = versions.since(plan, answer)
            raise CheckFailed(Fault(str(folder), f"is of another version: {since}", "call run() or report()"))
        return Judged(answered(answer), folder)

    def _of_a_program(self, study: Study) -> None:
        """Refuse what says how ablab trains, where it does not."""
        if study.runner is not None and self.precision is not None:
            fault = "is the program's affair: the arms are runs of a program ([runner])"
            cure = "leave it out, and tell the program in runner.args or runner.env"
            raise CheckFailed(Fault("precision", fault, cure))

    def _began(self, study: Study, store: Store) -> str:
        """Return the device that the study began with. CheckFailed where it never ran here, or that device is not here."""
        import torch

        began = store.study(study.name, self.scale) / "where.json"
        if not began.exists():
            raise CheckFailed(Fault(str(began), "is missing: this study never ran here", self.again))
        device = str(read_json(began, form=Executed)["device"])
        if device != "cpu" and not torch.cuda.is_available():
            raise CheckFailed(Fault(str(began), f"this study trains on {device}, which is not here", "go where it ran"))
        return device

    @property
    def again(self) -> str:
        """The cure of a study that has not run: the command that runs it."""
        scaled, stored = f" --scale {self.scale}" if self.scale else "", f" --out {self.out}"
        return f"do `ablab run {self.path}{scaled}{'' if self.out == Path('runs') else stored}` first"


def conclude(plan: Plan, to: Path | None = None) -> Judged:
    """Judge a plan and write its page; to: another folder for it than the study's own."""
    from ablab import report
    from ablab.judging import judge
    from ablab.report.judged import Judged

    answer, folder = judge.conclude(plan, to), to or plan.directory
    report.write(answer, folder)
    return Judged(answer, folder)


@contextlib.contextmanager
def _ending_well() -> Iterator[None]:
    """Raise Interrupted within the block at signals that ask to end; a disk that is full is said as such."""
    from ablab.runtime import signals

    with signals.interrupting(), places.full_disk_said():
        yield


@contextlib.contextmanager
def _page_kept(plan: Plan, kept: Readings) -> Iterator[Beside[Judged]]:
    """Keep the page of what there is, written by a thread of its own whenever it is asked; what was read stays read."""
    from ablab.launch.beside import Beside

    page = Beside(lambda: conclude(plan.look(kept)))
    try:
        yield page
    finally:
        page.close()


def _unless_given_up(plan: Plan, judged: Judged) -> Judged:
    if faults := _given_up(plan):
        raise GivenUp(faults, judged)
    return judged


def _given_up(plan: Plan) -> list[Fault]:
    from ablab.runs import given_up

    whole = f"the whole fault stands in {plan.directory / 'ledger.jsonl'}"
    again = {given_up.OUT_OF_MEMORY: "run again with --try-again to try it again"}
    return [
        Fault(
            f"{row['arm']}, seed {row['seed']}",
            f"given up: {row['fault'].strip().splitlines()[-1]}",
            f"{whole}; {again.get(row.get('kind', ''), 'run again to try again')}",
        )
        for row in plan.failures()
    ]
