"""The shipped bank of noise: how much equal runs of public projects differ, as numbers with their provenance.

It plans, and `ablab judge` prints it as a second line beside the word; no word is read off it. A row is the spread of runs of
one configuration that differ in the seed alone, pooled over `groups` configurations; d0 says how alike these are in their
noise (limma's fitFDist; null: all alike; 0: too few of them to tell), q10 and q90 how far they differ. Gaps between two stages
of one run have a d0 of 1 to 3: a bank of them gains nothing, and is refused.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

from ablab.core.fault import Fault, Refused, did_you_mean
from ablab.core.files import read_json
from ablab.judging.compare.exports import EXPORTS, NEAR
from ablab.judging.logs.stages import stage_of
from ablab.verdict.two_groups import LEAST_D0

FILE = Path(__file__).resolve().parent / "noise_bank.json"


class UnknownFamily(Refused):
    """No row of the bank is of this family: a usage error."""

    exit_code = 2


class NoiseRow(TypedDict):
    """One row: sd (of df pooled degrees) and prior_sd (what d0 runs would have shown) in `unit`; pulls or files: its runs."""

    family: str
    kind: str
    stage: str
    unit: str
    sd: float
    df: int
    groups: int
    q10: float | None
    q90: float | None
    prior_sd: float
    d0: float | None
    source: str
    commit: str
    licence: str
    pulls: NotRequired[list[int]]
    files: NotRequired[list[str]]


class Planning(TypedDict):
    """The round sd of a run's last score that plans a family: after test-time training, of sp1024 over sliding windows, of
    olmo_ladder the larger of its two. parameters: of the models that it may stand for, about twice what it was measured on;
    export: of `EXPORTS`, the text that it is bound to; null: any."""

    family: str
    unit: str
    sd: float
    parameters: list[int]
    export: str | None


class NoiseBank(TypedDict):
    """The shipped file."""

    planning: list[Planning]
    rows: list[NoiseRow]


@cache
def bank() -> NoiseBank:
    """Read the shipped file, once."""
    return read_json(FILE, form=NoiseBank)


def rows(family: str | None = None) -> list[NoiseRow]:
    """Return the rows of a family, or all; UnknownFamily where there is none of it."""
    known = sorted({row["family"] for row in bank()["rows"]})
    if family is not None and family not in known:
        fault = f"the bank has no family '{family}'"
        raise UnknownFamily(Fault("ablab noise", fault, did_you_mean(family, known)))
    return [row for row in bank()["rows"] if family in (None, row["family"])]


def level(family: str, stage: str, unit: str) -> NoiseRow | None:
    """Return the row of a stage's level in a family; None where there is none. Gaps are not asked for: see the module."""
    wanted = ("level", family, stage, unit)
    return next((r for r in rows() if (r["kind"], r["family"], r["stage"], r["unit"]) == wanted), None)


def weight(row: NoiseRow) -> float:
    """Return d0, infinite where all configurations are alike."""
    return math.inf if row["d0"] is None else row["d0"]


def fit(row: NoiseRow) -> str:
    """Say what a row is good for, in words."""
    if row["kind"] == "gap":
        return "nothing: a gap"
    return "plan, judge" if weight(row) >= LEAST_D0 else "plan"


def planning_sd(family: str, unit: str) -> float | None:
    """Return the sd of one run that plans a family; None where it has none."""
    return next((r["sd"] for r in bank()["planning"] if (r["family"], r["unit"]) == (family, unit)), None)


def like(metric: str, stage: str, *, ratio: float, parameters: int) -> tuple[float, str] | None:
    """Return (sd of one run in `metric`, where it is from) of the family that is like a study; None where none is.

    A family that is bound to a text asks for its tokens per byte: ratio is tokens / (bytes ln 2) of the held-out text, which
    also turns nats per token into bits per byte. Other families stand for models of their size.
    """
    if metric not in ("nats_per_token", "bits_per_byte") or not (ratio > 0 and math.isfinite(ratio)):
        return None
    for one in sorted(bank()["planning"], key=lambda one: one["export"] is None):
        bound, (least, most) = one["export"], one["parameters"]
        if not least <= parameters <= most or (bound is not None and abs(ratio / EXPORTS[bound] - 1) > NEAR):
            continue
        row = level(one["family"], stage_of(stage), one["unit"])
        sd = one["sd"] if row is None else row["sd"]
        what = one["family"] if row is None else f"{one['family']}, {row['stage']}"
        factor = {("bits_per_byte", "nats_per_token"): 1 / ratio, ("nats_per_token", "bits_per_byte"): ratio}
        why = "models of this size" if bound is None else "text of these tokens"
        held = next(r for r in rows(one["family"]))
        return sd * factor.get((one["unit"], metric), 1.0), f"{what} ({why}; {held['source']})"
    return None
