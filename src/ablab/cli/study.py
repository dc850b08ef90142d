"""The commands `ablab check`, `ablab run` and `ablab report`: thin over `ablab.launch.study.Lab`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ablab.cli.options import Device, Json, Mirror, Out, Precision, Scale, StudyFile, console, say
from ablab.core import duration
from ablab.core.files import print_json
from ablab.core.plain import plain
from ablab.core.streams import styled

if TYPE_CHECKING:
    from ablab.check.facts import Facts
    from ablab.launch.board import Progress
    from ablab.report.judged import Judged
    from ablab.runs.plan import Plan, Run

BAR_WIDTH = 110  # columns from which on a bar and a clock stand beside name and text
Changed = Annotated[
    bool,
    typer.Option(
        "--allow-changed-code",
        help="Take results of other code as they are, go on with what other code, torch or machine began; the page says so.",
    ),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs side by side; they divide the threads.")]
Until = Annotated[str | None, typer.Option(help="Stop after this long, resumable: 90s, 30m, 8h.")]
TryAgain = Annotated[bool, typer.Option("--try-again", help="Also runs that were out of memory.")]


def check(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """Show what each arm changes and costs, what the study can show, and a miniature of every arm through every stage."""
    from ablab.check import facts as checking
    from ablab.check import program
    from ablab.launch.study import Lab, silent

    facts = Lab(study, scale, out, device, precision).check(silent if as_json else say)
    if as_json:
        print_json(facts)
    elif program.of_program(facts):
        program.show(facts, console())
    else:
        checking.show(cast("Facts", facts), console())


def run(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    jobs: Jobs = None,
    until: Until = None,
    mirror: Mirror = None,
    allow_changed_code: Changed = False,
    try_again: TryAgain = False,
    as_json: Json = False,
) -> None:
    """Do what is missing (tokens, training, stages), then judge and write the report. Resumes by itself."""
    from ablab.launch.study import GivenUp, Lab, silent

    limit = seconds(until) if until else None
    try:
        judged = Lab(study, scale, out, device, precision).run(
            jobs=jobs,
            until=limit,
            mirrors=tuple(mirror or ()),
            allow_changed_code=allow_changed_code,
            try_again=try_again,
            say=silent if as_json else say,
            progress=functools.partial(shown, quiet=as_json),
        )
    except GivenUp as some:
        _answer(some.judged, as_json)
        raise
    _answer(judged, as_json)


def report(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    page: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the page there and nothing to --out.")] = None,
    as_json: Json = False,
) -> None:
    """Judge what exists now and write the report; works at any moment, also while `run` is going on."""
    from ablab.launch.study import Lab

    _answer(Lab(study, scale, out, device).report(page), as_json)


def seconds(text: str) -> float:
    """Read `90s`, `30m`, `8h`, `2d` in seconds; typer.BadParameter otherwise."""
    span = duration.seconds(text)
    if span is None:
        raise typer.BadParameter(f"'{text}' is no duration; write 90s, 30m or 8h", param_hint="--until")
    return span


def _answer(judged: Judged, as_json: bool) -> None:
    if as_json:
        print_json(judged.answer)
        return
    from ablab.report.terminal import terminal

    terminal(judged.answer, console())
    print(f"\nreport: {judged.page}")


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
