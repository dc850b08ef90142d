"""The command `ablab ladder`: the same question at several scales, and whether its answer holds beyond them."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablab.cli.options import Device, Json, Mirror, Out, Precision, StudyFile, console, say
from ablab.cli.study import Changed, Jobs, TryAgain, Until, seconds, shown
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.report.laddered import Laddered


def _at(flops: float | None) -> float | None:
    if flops is not None and not (flops > 0 and math.isfinite(flops)):
        raise typer.BadParameter(f"{flops} is not above 0", param_hint="--at")
    return flops


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of numbers; write 3,5,8", param_hint="--seeds") from None


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
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    jobs: Jobs = None,
    until: Until = None,
    mirror: Mirror = None,
    allow_changed_code: Changed = False,
    try_again: TryAgain = False,
    page: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the page there.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the question at three scales or more, and whether the answer holds beyond them. Resumes by itself."""
    from ablab.launch.study import Lab, LadderGivenUp, silent

    names = [name.strip() for name in scales.split(",")]
    try:
        result = Lab(study, None, out, device, precision).ladder(
            names,
            seeds=_numbers(seeds) if seeds is not None else None,
            at=at,
            train=not no_train,
            page=page,
            say=silent if as_json else say,
            jobs=jobs,
            until=seconds_of(until),
            mirrors=tuple(mirror or ()),
            allow_changed_code=allow_changed_code,
            try_again=try_again,
            progress=functools.partial(shown, quiet=as_json),
        )
    except LadderGivenUp as some:
        _answer(some.laddered, as_json)
        raise
    _answer(result, as_json)


def seconds_of(until: str | None) -> float | None:
    """Return the duration in seconds, if one is given."""
    return seconds(until) if until else None


def _answer(result: Laddered, as_json: bool) -> None:
    if as_json:
        print_json(result.answer)
        return
    from ablab.report import laddered

    laddered.show(result.answer, console())
    print(f"\nreport: {result.page}")
