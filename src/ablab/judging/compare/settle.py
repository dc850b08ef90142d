"""What would settle a comparison: runs a side, their price by the logs' own clock, and what public noise says beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ablab.judging import noise
from ablab.judging.compare.side import METRICS, Group
from ablab.judging.logs.stages import stage_of
from ablab.records.comparison import Banked, Settle
from ablab.verdict import guarded, runs_a_side, two_groups


def settle(x: Group, y: Group, delta: float | None) -> Settle | None:
    """Count runs a side that show the difference seen with power 0.80 (two-sided 5%); None where none was seen.

    The spread is the family's own round one, by the reference's export; else that of these runs. Runs that are there count.
    """
    sd, said = spread(x, y)
    if delta is None or sd is None:
        return None
    n = runs_a_side(delta, sd)
    nx, ny = len(x.by_key), len(y.by_key)
    more = [None, None] if n is None else [max(0, n - nx), max(0, n - ny)]
    seconds = _price(more, [_clock(x), _clock(y)])
    return {
        "sd": sd,
        "sd_of": said,
        "n": n,
        "more_x": more[0],
        "more_y": more[1],
        "seconds": seconds,
        "said": _said(n, more, seconds, _processes(x, y)),
    }


def spread(x: Group, y: Group) -> tuple[float | None, str]:
    """Return (sd of one run, whose it is)."""
    if y.export is not None and y.export.name is not None:
        sd = noise.planning_sd(y.export.name, METRICS.get(x.metric, x.metric))
        if sd is not None:
            return sd, f"runs of {y.export.name} in public logs"
    own = pooled(x, y)
    return (own[0], "these runs") if own else (None, "")


def pooled(x: Group, y: Group) -> tuple[float, int] | None:
    """Pool (sd, df) within both sides; None without spread."""
    sides = [list(g.by_key.values()) for g in (x, y)]
    df = sum(max(0, len(side) - 1) for side in sides)
    total = sum((len(side) - 1) * statistics.variance(side) for side in sides if len(side) > 1)
    return (math.sqrt(total / df), df) if df and total > 0 else None


def beside(x: Group, y: Group, delta: float | None) -> Banked | None:
    """Write the second line, off the shipped noise, of levels whose fingerprint (family, stage, export) matches on both sides.

    From two runs a side an interval; of a single run z alone, a screen. Refused below d0 = 4 and for gaps.
    """
    a, b = x.export, y.export
    same = a is not None and b is not None and a.name == b.name and x.stage == y.stage
    if delta is None or x.metric != "bpb" or not same or a is None or b is None or not (a.exact and b.exact):
        return None
    row = noise.level(str(a.name), stage_of(str(x.stage)), METRICS["bpb"])
    if row is None or noise.weight(row) < two_groups.LEAST_D0:
        return None
    nx, ny = len(x.by_key), len(y.by_key)
    name = f"{row['groups']} configurations of {row['family']}, {row['stage']}"
    base: Banked = {
        "family": row["family"], "stage": row["stage"], "sd": row["prior_sd"], "d0": row["d0"],
        "df": None, "low": None, "high": None, "p": None, "z": None, "said": "",
    }  # fmt: skip
    if min(nx, ny) < 2:
        z = delta / (row["prior_sd"] * math.sqrt(1 / nx + 1 / ny))
        return base | {"z": z, "said": f"a screen and no word: z = {z:.2f} by the noise of {name}"}
    own = pooled(x, y)
    joint = guarded(delta, own[0] ** 2 if own else 0.0, nx, ny, sd0=row["prior_sd"], d0=noise.weight(row))
    if joint is None:
        return None
    said = f"with the noise of {name}: {joint.low:+.5f} to {joint.high:+.5f}, p {joint.p:.2g}; no word is read off it"
    return base | {"df": joint.df, "low": joint.low, "high": joint.high, "p": joint.p, "sd": joint.sd, "said": said}


def _clock(group: Group) -> float | None:
    """Return the median seconds of training of a side's runs, as their logs tell."""
    seconds = [one.run.seconds for one in group.scored if one.run.seconds is not None]
    return statistics.median(seconds) if seconds else None


def _price(more: Sequence[int | None], clocks: Sequence[float | None]) -> float | None:
    total = 0.0
    for runs, clock in zip(more, clocks, strict=True):
        if runs is None or (runs and clock is None):
            return None
        total += runs * (clock or 0.0)
    return total


def _processes(x: Group, y: Group) -> int | None:
    """Count the GPUs of a run, where all logs that say it agree."""
    lists = [{**one.run.facts, **(one.run.settings or {})} for g in (x, y) for one in g.scored]
    sizes = {one["world_size"] for one in lists if "world_size" in one}
    [size] = sizes if len(sizes) == 1 else [""]
    return int(size) if size.isdecimal() else None


def _said(n: int | None, more: Sequence[int | None], seconds: float | None, gpus: int | None) -> str:
    if n is None:
        return "no number of runs shows a difference as small as this one"
    if not any(more):
        return f"{n} runs a side show a difference of this size, and so many are there"
    said = f"{n} runs a side show a difference of this size with power 0.80: {more[0]} more of x, {more[1]} more of y"
    if seconds is None:
        return f"{said}; the logs tell no time"
    hours = f"{seconds / 3600:,.1f} hours of training by the logs' own clock"
    return f"{said}, {hours}" + (f" on {gpus} GPUs each, {gpus * seconds / 3600:,.0f} GPU hours" if gpus else "")
