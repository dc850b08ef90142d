"""The command `ablab ladder`: the same question at several scales, and whether its answer holds beyond them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablab.cli.options import StudyFile, console
from ablab.cli.runs import RunOptions, spread
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.report.laddered import Laddered


def _at(flops: float | None) -> float | None:
    if flops is not None and not (flops > 0 and math.isfinite(flops)):
        raise typer.BadParameter(f"{flops} is no finite number above 0", param_hint="--at")
    return flops


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of numbers; write 3,5,8", param_hint="--seeds") from None


@spread
def ladder(
    study: StudyFile,
    scales: Annotated[str, typer.Option(metavar="NAME,NAME,NAME", help="Three scales of the study or more.")],
    at: Annotated[
        float | None,
        typer.Option(metavar="FLOPS", help="Where the word is asked for (its furthest reach).", callback=_at),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,N", help="Seeds on each scale (what the file plans at most).")
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Judge what exists.")] = False,
    page: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the page there.")] = None,
    *,
    how: RunOptions,
) -> None:
    """Ask the question at three scales or more, and whether the answer holds beyond them. Resumes by itself."""
    from ablab.launch.study import LadderGivenUp

    names, counts = [name.strip() for name in scales.split(",")], None if seeds is None else _numbers(seeds)
    try:
        result = how.lab(study).ladder(
            names, seeds=counts, at=at, train=not no_train, page=page, say=how.say, **how.running
        )
    except LadderGivenUp as some:
        _answer(some.laddered, how.as_json)
        raise
    _answer(result, how.as_json)


def _answer(result: Laddered, as_json: bool) -> None:
    if as_json:
        print_json(result.answer)
        return
    from ablab.report import laddered

    laddered.show(result.answer, console())
    print(f"\nreport: {result.page}")
