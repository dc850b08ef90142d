"""The commands `ablab check`, `ablab run` and `ablab report`: thin over `ablab.launch.study.Lab`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablab.cli.options import Device, Json, Mirror, Out, Precision, Scale, StudyFile, console, say
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.launch.board import Progress
    from ablab.report.judged import Judged
    from ablab.runs.plan import Plan

Changed = Annotated[
    bool,
    typer.Option(
        "--allow-changed-code",
        help="Take results of other code as they are, go on with what other code, torch or machine began; the page says so.",
    ),
]


def check(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """What each arm changes and costs, what the study can show, and a miniature of every arm through every stage."""
    from ablab.check import facts as checking
    from ablab.launch.study import Lab, silent

    facts = Lab(study, scale, out, device, precision).check(silent if as_json else say)
    if as_json:
        print_json(facts)
    else:
        checking.show(facts, console())


def run(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side; they divide the threads.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this long, resumable: 90s, 30m, 8h.")] = None,
    mirror: Mirror = None,
    allow_changed_code: Changed = False,
    try_again: Annotated[bool, typer.Option("--try-again", help="Also runs that were out of memory.")] = False,
    as_json: Json = False,
) -> None:
    """Do what is missing (tokens, training, stages), then judge and write the report. Resumes by itself."""
    from ablab.cli import progress
    from ablab.launch.study import GivenUp, Lab, silent

    @contextmanager
    def shown(plan: Plan) -> Iterator[Progress]:
        """A live line per busy run on a terminal; plain lines otherwise; nothing for --json."""
        with progress.show(plan, quiet=as_json) as take:
            yield take

    limit = seconds(until) if until else None
    try:
        judged = Lab(study, scale, out, device, precision).run(
            jobs=jobs,
            until=limit,
            mirrors=tuple(mirror or ()),
            allow_changed_code=allow_changed_code,
            try_again=try_again,
            say=silent if as_json else say,
            progress=shown,
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
    """`90s`, `30m`, `8h`, `2d` in seconds; typer.BadParameter otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match:
        raise typer.BadParameter(f"'{text}' is no duration; write 90s, 30m or 8h", param_hint="--until")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _answer(judged: Judged, as_json: bool) -> None:
    if as_json:
        print_json(judged.answer)
        return
    from ablab.report.terminal import terminal

    terminal(judged.answer, console())
    print(f"\nreport: {judged.page}")
