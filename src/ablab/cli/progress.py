"""What a person sees while runs are going on: live bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ablab.core.plain import plain
from ablab.core.streams import styled
from ablab.launch.board import Progress
from ablab.launch.lines import lines
from ablab.runs.plan import Plan, Run

BAR_WIDTH = 110  # columns from which on a bar and a clock stand beside name and text


@contextmanager
def show(plan: Plan, *, quiet: bool) -> Iterator[Progress]:
    """Yield `take(kind, run, text)`; kinds are start, say, wait and later (for another process), and how a run ended."""
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
    """The share done where the text says `step 12/488`."""
    words = text.replace(",", " ").split()
    if "step" in words[:-1] and "/" in (count := words[words.index("step") + 1]):
        done, total = count.split("/", 1)
        if done.isdigit() and total.isdigit() and int(total):
            return int(done) / int(total)
    return None
