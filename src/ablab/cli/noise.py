"""The commands `ablab power` and `ablab noise`: what so many seeds can show, and how much equal runs differ elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from ablab.cli.options import Json, console, say
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.judging.noise import NoiseRow

START = 3  # seeds of the first look, as in `seeds = { start = 3, ... }`
SHOWN = (3, 5, 8, 12, 16, 24, 32)


class Visible(TypedDict):
    """What so many seeds (or runs a side) can show; tie: None where no zero of any size could be shown."""

    seeds: int
    looks: list[int]
    power: float
    visible: float | None
    tie: float | None


class Power(TypedDict):
    """The answer of `ablab power`; needed: seeds at which the effect is shown with power 0.80, None beyond a million."""

    sd: float
    effect: float
    arms: int
    alpha: float
    paired: bool
    needed: int | None
    rows: list[Visible]


def _positive(value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value} is not above 0")
    return value


def power(
    sd: Annotated[float, typer.Option(help="Of one seed's difference, arm minus baseline.", callback=_positive)],
    effect: Annotated[float, typer.Option(help="The true difference, in the unit of --sd.", callback=_positive)],
    seeds: Annotated[int | None, typer.Option(min=2, max=1_000_000, help="Only for so many.")] = None,
    arms: Annotated[int, typer.Option(min=1, max=64, help="Arms that share the error.")] = 1,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Independent runs: --sd is of one run, seeds are runs a side.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what so many seeds can show: power, the smallest effect that is seen, the smallest tie; error 5%, power 80%."""
    power = _groups(sd, effect, seeds, arms) if unpaired else _pairs(sd, effect, seeds, arms)
    if as_json:
        print_json(power)
    else:
        _show_power(power)


def _pairs(sd: float, effect: float, seeds: int | None, arms: int) -> Power:
    """Compute the power of a study's pairs, at the last look of a plan that starts at three seeds."""
    from ablab.verdict import planning, visible
    from ablab.verdict.spending import looks, weights

    def row(n: int) -> Visible:
        start = min(START, n)
        w = weights(start, n)[-1]
        reach = planning.power(effect, sd, n, w, arms)
        tie = visible.smallest_tie(sd, n, w, arms)
        return {
            "seeds": n,
            "looks": [*looks(start, n)],
            "power": reach,
            "visible": visible.mde(sd, n, w, arms),
            "tie": tie,
        }

    try:
        needed = planning.at_most_for(effect, sd, arms)
    except ValueError:
        needed = None
    return {"sd": sd, "effect": effect, "arms": arms, "alpha": 0.05, "paired": True, "needed": needed,
            "rows": [row(n) for n in _shown(seeds, needed)]}  # fmt: skip


def _groups(sd: float, effect: float, seeds: int | None, arms: int) -> Power:
    """Compute the power of two groups of independent runs, looked at once."""
    from ablab.verdict import two_groups

    needed = two_groups.runs_a_side(effect, sd, arms)

    def row(n: int) -> Visible:
        reach = two_groups.power_of_groups(effect, sd, n, arms)
        return {"seeds": n, "looks": [n], "power": reach, "visible": two_groups.visible(sd, n, arms), "tie": None}

    return {"sd": sd, "effect": effect, "arms": arms, "alpha": 0.05, "paired": False, "needed": needed,
            "rows": [row(n) for n in _shown(seeds, needed)]}  # fmt: skip


def _shown(seeds: int | None, needed: int | None) -> list[int]:
    if seeds is not None:
        return [seeds]
    return sorted({*SHOWN, *([needed] if needed is not None else [])})


def _show_power(power: Power) -> None:
    from ablab.core import grid

    screen, what = console(), "seeds" if power["paired"] else "runs a side"
    needed = "more than a million" if power["needed"] is None else f"{power['needed']:,}"
    arms = "" if power["arms"] == 1 else f" in each of {power['arms']} arms"
    say(f"{needed} {what} show {power['effect']:g}{arms} with power 0.80, where the sd is {power['sd']:g}")
    columns = [grid.Column(what), *(grid.Column(title, right=True) for title in ("power", "smallest seen"))]
    rows = [[f"{r['seeds']:,}", f"{r['power']:.3f}", _number(r["visible"])] for r in power["rows"]]
    if power["paired"]:
        columns += [grid.Column("smallest tie", right=True), grid.Column("looks at", right=True)]
        for row, r in zip(rows, power["rows"], strict=True):
            row += [_number(r["tie"]), ", ".join(f"{n:,}" for n in r["looks"])]
    grid.show(columns, rows, screen, width=screen.width)


def noise(
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="One family, with its sources.")] = None,
    as_json: Json = False,
) -> None:
    """List how much runs of one configuration differ from seed to seed, in public projects: the numbers that plan."""
    from ablab.judging import noise as bank

    rows = bank.rows(family)
    if as_json:
        print_json({"rows": rows, "planning": bank.bank()["planning"]})
    else:
        _show_noise(rows, whole=family is not None)


def _show_noise(rows: list[NoiseRow], *, whole: bool) -> None:
    from ablab.core import grid
    from ablab.judging import noise as bank

    screen = console()
    titles = ("sd", "q10", "q90", "df", "groups", "d0")
    columns = [grid.Column("family, stage"), *(grid.Column(title, right=True) for title in titles)]
    columns += [grid.Column("unit"), grid.Column("plans")]
    cells = []
    for row in rows:
        numbers = [_number(row[key]) for key in ("sd", "q10", "q90")]
        d0 = "all alike" if row["d0"] is None else f"{row['d0']:.1f}" if row["d0"] else "too few"
        counts = [f"{row['df']}", f"{row['groups']}", d0]
        cells.append([f"{row['family']}, {row['stage']}", *numbers, *counts, row["unit"], bank.fit(row)])
    grid.show(columns, cells, screen, width=screen.width)
    if not whole:
        say("ablab noise FAMILY names the sources; --json has all of it")
    for row in rows if whole else []:
        files, pulls = row.get("files", []), [f"#{pull}" for pull in row.get("pulls", [])]
        where = f"{row['source']} at {row['commit'][:12]} ({row['licence']})"
        say(f"{row['stage']}: {where}: {', '.join([*pulls, *files])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
