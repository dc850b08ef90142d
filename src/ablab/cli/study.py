"""The commands `ablab check`, `ablab run` and `ablab report`: thin over `ablab.launch.study.Lab`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ablab.cli.options import Device, Json, Out, Precision, Scale, StudyFile, console, say
from ablab.cli.runs import RunOptions, spread
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.check.facts import Facts
    from ablab.launch.study import Lab
    from ablab.report.judged import Judged


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


@spread
def run(study: StudyFile, scale: Scale = None, *, how: RunOptions) -> None:
    """Do what is missing (tokens, training, stages), then judge and write the report. Resumes by itself."""
    answered(how.lab(study, scale), how)


def answered(lab: Lab, how: RunOptions) -> None:
    """Run a study and print its answer, also where runs were given up, which is raised behind it."""
    from ablab.launch.study import GivenUp

    try:
        judged = lab.run(say=how.say, **how.running)
    except GivenUp as some:
        _answer(some.judged, how.as_json)
        raise
    _answer(judged, how.as_json)


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


def _answer(judged: Judged, as_json: bool) -> None:
    if as_json:
        print_json(judged.answer)
        return
    from ablab.report.terminal import terminal

    terminal(judged.answer, console())
    print(f"\nreport: {judged.page}")
