"""Options and arguments that several commands have, each defined once; what is wrong with a word is said before any work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablab.core import duration
from ablab.training.mirrors import MODULES

if TYPE_CHECKING:
    from rich.console import Console


def _device(device: str | None) -> str | None:
    """Check the word; typer.BadParameter for no device of runs; whether this machine has it, the plan sees."""
    if device is not None and device.split(":")[0] not in ("cpu", "cuda"):
        raise typer.BadParameter(f"'{device}' is no device; known: cpu, cuda", param_hint="--device")
    return device


def _precision(asked: str | None) -> str | None:
    if asked is not None:
        from ablab.runtime import capacity

        try:
            capacity.precision("cpu", asked)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--precision") from None
    return asked


def known_mirrors(names: list[str] | None) -> list[str] | None:
    """Check the words; typer.BadParameter for one that is no mirror."""
    for name in names or []:
        if name not in MODULES:
            raise typer.BadParameter(
                f"no mirror is called '{name}'; known: {', '.join(MODULES)}", param_hint="--mirror"
            )
    return names


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")]
Scale = Annotated[str | None, typer.Option(help="A named scale of the study, [scale.NAME].")]
Out = Annotated[Path, typer.Option(help="Where corpora, runs and reports lie.")]
Device = Annotated[str, typer.Option(help="Where runs are made: cpu or cuda.", callback=_device)]
Precision = Annotated[
    str | None,
    typer.Option(help="bf16 or fp32; by default bf16 where the hardware multiplies it.", callback=_precision),
]
Mirror = Annotated[
    list[str] | None, typer.Option(help=f"Mirror metrics: {', '.join(MODULES)} (repeatable).", callback=known_mirrors)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def seconds(text: str, option: str) -> float:
    """Read a span of time that a person typed, in seconds; typer.BadParameter for anything else, and for none at all."""
    span = duration.seconds(text)
    if span is None:
        raise typer.BadParameter(f"'{text}' is no span of time; {duration.FORM}", param_hint=option)
    return span


def say(text: str, hang: int = 2) -> None:
    """Print a paragraph as wide as the terminal."""
    from ablab.core import grid

    screen = grid.console()
    grid.say(text, screen, width=screen.width, hang=hang)


def console() -> Console:
    """Open the console where tables are drawn."""
    from ablab.core import grid

    return grid.console()
