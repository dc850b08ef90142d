"""The command `ablab trial`: one change of a checkout, kept or not, by the exit code."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablab.cli.options import Out, seconds
from ablab.cli.runs import Jobs

if TYPE_CHECKING:
    from ablab.launch.trial import Tried

NOT_BETTER = 1


def _matters(value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value} is not above 0", param_hint="--matters")
    return value


def _alpha(value: float) -> float:
    if not 0 < value < 0.5:
        raise typer.BadParameter(f"{value} does not lie between 0 and 0.5", param_hint="--alpha")
    return value


def _budget(text: str | None) -> float | None:
    return None if text is None else seconds(text, "--budget")


def _log(text: str) -> str | dict[str, object]:
    """Read a table as `runner.log` of a study has it; else a regular expression where there is a group in it, else a reader."""
    if text.lstrip().startswith("{"):
        try:
            found: object = tomllib.loads(f"log = {text}")["log"]
        except tomllib.TOMLDecodeError as error:
            cure = """write --log '{ json = "{out}/log.json", field = "val_loss" }'"""
            raise typer.BadParameter(f"{text!r} is no table of TOML ({error}); {cure}", param_hint="--log") from None
        return dict(found) if isinstance(found, dict) else text
    return {"regex": text} if "(" in text else text


def trial(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND", help="The program, behind --; {seed} and {out} stand in it.")
    ],
    log: Annotated[
        str,
        typer.Option(
            metavar="READER|REGEX|TABLE",
            help="Where the score is: nanogpt, 'val loss ([\\d.]+)', '{ json = \"{out}/log.json\", field = \"val_loss\" }'.",
        ),
    ],
    matters: Annotated[
        float, typer.Option(help="A difference smaller than this is none, in the metric.", callback=_matters)
    ],
    metric: Annotated[str, typer.Option(help="What the score is called.")] = "val_loss",
    lower: Annotated[bool, typer.Option("--lower/--higher", help="Which way is better.")] = True,
    patch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The change.", show_default="what the checkout holds beside its commit"),
    ] = None,
    directory: Annotated[Path, typer.Option(metavar="DIR", help="The checkout, or a folder in it to run in.")] = Path(),
    reads: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files that git does not keep and runs read (repeatable)."),
    ] = None,
    seed_arg: Annotated[str | None, typer.Option(metavar="NAME", help="Append --NAME={seed} to the command.")] = None,
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Of each side, at most.")] = 8,
    first_seed: Annotated[int, typer.Option(min=0, help="Move it for fresh seeds.")] = 0,
    budget: Annotated[str | None, typer.Option(help="Stop after this long: 600 (seconds), 30m, 1h30m.")] = None,
    timeout: Annotated[str | None, typer.Option(help="End a run after this long; it has failed: 30m.")] = None,
    alpha: Annotated[
        float, typer.Option(help="Chance of a wrong word where there is no difference.", callback=_alpha)
    ] = 0.05,
    jobs: Jobs = None,
    out: Out = Path("runs"),
) -> None:
    """Try the change that the checkout holds against what is committed. Ends with 0 better, 1 not; stdout is one line of JSON.

    Seeds of both are run until the word is settled, or seeds or time are used up. Run again, it goes on.
    """
    from ablab.launch.study import aside
    from ablab.launch.trial import Attempt
    from ablab.launch.trial import trial as tried

    words = [*command, *([f"--{seed_arg.lstrip('-')}={{seed}}"] if seed_arg else [])]
    asked = Attempt(
        tuple(words), _log(log), matters, metric, lower, directory, patch, tuple(reads or ()), timeout, seeds, first_seed,
        alpha, out,
    )  # fmt: skip
    found = tried(asked, budget=_budget(budget), jobs=jobs, say=aside)
    print(json.dumps(found, allow_nan=False))
    _end(found)


def _end(found: Tried) -> None:
    """Say what came out to people, and to a shell by the exit code."""
    from ablab.core import streams
    from ablab.core.fault import CheckFailed

    if found["faults"]:
        streams.tell(*(f"error: {fault}" for fault in found["faults"]))
        raise typer.Exit(CheckFailed.exit_code)
    streams.tell(f"{found['word']}: {found['said']}", f"report: {found['page']}")
    if found["exploratory"] and not found["better"]:
        cure = "if it is worth it, ask all seeds together: the same command with a --first-seed that was not run"
        streams.tell(f"exploratory, so not kept: {found['exploratory']}; {cure}")
    if not found["better"]:
        raise typer.Exit(NOT_BETTER)
