"""What every command that makes runs has: its options, each declared once, and how the runs are shown."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablab.cli.options import Device, Json, Mirror, Out, Precision, say, seconds
from ablab.core.plain import plain
from ablab.core.streams import styled

if TYPE_CHECKING:
    from ablab.launch.board import Progress
    from ablab.launch.study import Lab, Running
    from ablab.runs.plan import Plan, Run

BAR_WIDTH = 110  # columns from which on a bar and a clock stand beside name and text
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs side by side; they divide the threads.")]
PerRun = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that make one run together: 1, 2, 4, ...; by default WORLD_SIZE, else 1."),
]
Gpus = Annotated[
    int | None, typer.Option(min=1, help="GPUs in use: --gpus 8 --per-run 2 makes 4 runs side by side (--device cuda).")
]
Patience = Annotated[
    str | None,
    typer.Option(
        help="With --per-run: a process that says nothing for this long is given up, and the run ends.",
        show_default="10m",
    ),
]
Until = Annotated[str | None, typer.Option(help="Stop after this long, resumable: 90s, 30m, 1h30m.")]
Changed = Annotated[
    bool,
    typer.Option(
        "--allow-changed-code",
        help="Take results of other code as they are, go on with what other code, torch or machine began; the page says so.",
    ),
]
TryAgain = Annotated[bool, typer.Option("--try-again", help="Also runs that were out of memory.")]


@dataclass(frozen=True)
class RunOptions:
    """Where the runs of a study are made and how: the options that a command takes by `spread`."""

    out: Out = Path("runs")
    device: Device = "cpu"
    precision: Precision = None
    jobs: Jobs = None
    per_run: PerRun = None
    gpus: Gpus = None
    patience: Patience = None
    until: Until = None
    mirror: Mirror = None
    allow_changed_code: Changed = False
    try_again: TryAgain = False
    as_json: Json = False

    def lab(self, study: Path, scale: str | None = None) -> Lab:
        """Open a study on these options' store and device."""
        from ablab.launch import outside
        from ablab.launch.study import Lab

        told = outside.told()
        n = outside.processes(told, self.per_run, self.jobs, self.gpus)
        lab = Lab(study, scale, self.out, self.device, self.precision, n, started=told is not None, gpus=self.gpus)
        return lab if self.patience is None else replace(lab, patience=self._hanging(self.patience, n))

    def _hanging(self, text: str, processes: int) -> float:
        """Return the seconds after which a process of a run that says nothing counts as hung."""
        if processes == 1:
            fault = "is of runs that several processes make together; leave it out, or add --per-run"
            raise typer.BadParameter(fault, param_hint="--patience")
        return seconds(text, "--patience")

    def say(self, text: str) -> None:
        """Say a line to people: nothing beside JSON."""
        if not self.as_json:
            say(text)

    @property
    def running(self) -> Running:
        """What `Lab.run` and `Lab.ladder` are told of the runs."""
        return {
            "jobs": self.jobs,
            "until": None if self.until is None else seconds(self.until, "--until"),
            "mirrors": tuple(self.mirror or ()),
            "allow_changed_code": self.allow_changed_code,
            "try_again": self.try_again,
            "progress": functools.partial(shown, quiet=self.as_json),
        }


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """Return the command with every field of its argument `how` as an option of its own, behind the others."""
    own = inspect.signature(verb, eval_str=True)
    fields = inspect.signature(RunOptions, eval_str=True).parameters

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        from ablab.launch import outside

        how = RunOptions(**{name: given.pop(name) for name in fields})
        told = outside.told()
        if told is None:
            verb(**given, how=how)
            return
        told.settle(how.device)
        if told.rank:
            raise SystemExit(outside.serve(told))
        outside.lead(told, lambda: verb(**given, how=how))

    told = [one for name, one in own.parameters.items() if name != "how"]
    command.__signature__ = own.replace(parameters=[*told, *fields.values()])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*told, *fields.values())}
    return command


@contextmanager
def shown(plan: Plan, *, quiet: bool) -> Iterator[Progress]:
    """Yield `take(kind, run, text)`; kinds are start, say, wait and later (for another process), and how a run ended."""
    from ablab.launch.lines import lines

    if quiet:
        yield lambda kind, run, text: None
    elif sys.stdout.isatty():
        with _live(plan) as take:
            yield take
    else:
        yield lines(functools.partial(print, flush=True))


@contextmanager
def _live(plan: Plan) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

    console = Console(file=styled(), highlight=False)
    if console.width < BAR_WIDTH:  # one text, so that it is cut at its end and not in the arm's name
        columns: list[ProgressColumn] = [TextColumn("{task.description}: {task.fields[text]}")]
    else:
        name, text = TextColumn("{task.description}"), TextColumn("{task.fields[text]}")
        columns = [name, BarColumn(bar_width=24), text, TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bars:
        lines: dict[tuple[str, int], TaskID] = {}

        def take(kind: str, run: Run | None, text: str) -> None:
            assert run is not None
            key, title, text = (run.arm, run.seed), escape(plain(f"{run.arm}, seed {run.seed}")), plain(text)
            if kind == "start":
                lines[key] = bars.add_task(title, total=1.0, text="")
            elif kind == "say":
                bars.update(lines[key], text=escape(text), completed=_fraction(text))
            elif kind == "wait":
                bars.console.print(f"{title}: {escape(text)}")
            elif kind == "later":
                bars.remove_task(lines.pop(key))
            else:
                bars.remove_task(lines.pop(key))
                fault = f": {escape(text.strip().splitlines()[-1])}" if text.strip() else ""
                bars.console.print(f"{title}: {kind}{fault}")

        yield take


def _fraction(text: str) -> float | None:
    """Read the share done where the text says `step 12/488`."""
    words = text.replace(",", " ").split()
    if "step" in words[:-1] and "/" in (count := words[words.index("step") + 1]):
        done, total = count.split("/", 1)
        if done.isdigit() and total.isdigit() and int(total):
            return int(done) / int(total)
    return None
