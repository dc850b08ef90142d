"""The command `ablab judge`: anyone's runs, held against anyone's."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from ablab.cli.options import Json, console
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import print_json, write_atomic

if TYPE_CHECKING:
    from ablab.records.comparison import Comparison

SHOWN = 5  # faults of files that are printed beside an answer
ALONE = 3  # arms that nothing is held against, each with its runs; of more there is a line each


class Greedy(TyperCommand):
    """--against takes every word up to the next option: a shell writes a pattern out, and what it names belongs together."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, spelled(args))


def spelled(args: list[str]) -> list[str]:
    """Return the words with `--against` before each word that follows one, up to the next option."""
    spelled_out: list[str] = []
    after = False
    for i, word in enumerate(args):
        if word == "--":
            return [*spelled_out, *args[i:]]
        if word.startswith("-") and len(word) > 1:
            after = word == "--against"
            spelled_out += [] if after else [word]
        else:
            spelled_out += ["--against", word] if after else [word]
    return spelled_out + ["--against"] * (after and args[-1:] == ["--against"])


def _metric(word: str | None) -> str | None:
    if word not in (None, "bpb", "nats", "value"):
        raise typer.BadParameter(f"'{word}' is no metric; known: bpb, nats, value", param_hint="--metric")
    return word


def _matters(value: float | None) -> float | None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value} is no finite number above 0", param_hint="--matters")
    return value


def judge(
    what: Annotated[list[str], typer.Argument(metavar="X...", help="Logs, tables, folders or patterns of them.")],
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="Y...", help="What X is held against, up to the next option; also an arm's name in X."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="ttt, sliding, quant, pre_quant, val, adaptive, or a label.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="bpb, nats or value.", callback=_metric)] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="A public rule: golf-strict, golf-frontier, speedrun:3.28, track3 (repeatable)."),
    ] = None,
    matters: Annotated[
        float | None, typer.Option(help="The smallest difference that matters, in the metric.", callback=_matters)
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT|FILE", help="A claim: words, a README, a submission.json, their folder (repeatable)."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that loads nothing, too.")] = None,
    comment: Annotated[bool, typer.Option("--comment", help="Print Markdown, ready to paste.")] = False,
    as_json: Json = False,
) -> None:
    """Judge runs of any program by its logs. Ends with 0 judged, 4 not comparable, 2 nothing read."""
    from ablab.core import streams
    from ablab.judging.compare.ask import ask
    from ablab.report import compared, compared_page
    from ablab.report.shareable import shareable

    if comment and as_json:
        raise typer.BadParameter("--comment and --json are two outputs; give one of them")
    if html is not None:
        _may_be_written(html)
    answers = ask(
        what, against or [], stage=stage, metric=metric, presets=preset or [], matters=matters, claim=claim or []
    )
    if html is not None:
        write_atomic(html, compared_page.page(shareable(answers)), elsewhere="another --html")
    if as_json:
        print_json(answers)
    else:
        if comment:
            print("\n".join(map(compared.comment, answers["comparisons"])), end="")
        else:
            _show(answers["comparisons"])
        more = len(answers["faults"]) - SHOWN
        streams.tell(*answers["faults"][:SHOWN], *([f"and {more} more (--json has all)"] if more > 0 else []))
    if any(answer["word"] == "no logs" for answer in answers["comparisons"]):
        raise typer.Exit(2)
    if any(answer["word"] == "invalid" for answer in answers["comparisons"]):
        raise typer.Exit(4)


def _show(answers: list[Comparison]) -> None:
    """Print the answers one below the other; of many arms alone a table."""
    from ablab.core import grid
    from ablab.report import compared

    screen = console()
    if len(answers) > ALONE and all(answer["y"] is None and not answer["claims"] for answer in answers):
        compared.show_arms(answers, screen)
        return
    for i, answer in enumerate(answers):
        if i:
            grid.say("", screen, width=screen.width)
        compared.show(answer, screen)


def _may_be_written(html: Path) -> None:
    """Refuse a place that holds anything but an earlier page: a log that is judged, a folder, a device."""
    if html.exists():
        with html.open("rb") if html.is_file() else io.BytesIO() as there:
            if there.read(15).lower() != b"<!doctype html>":
                fault = "is there already, and is no page"
                raise CheckFailed(Fault(f"--html {html}", fault, "give the name of a new file"))
