"""What a verdict says: one row per arm, and plain JSON with null for every number that does not exist."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Band:
    """A mean difference with its interval; low and high are None where the row has no interval."""

    delta: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class StageBand(Band):
    """The difference at one stage; mean is the arm's own metric there."""

    mean: float | None = None


@dataclass(frozen=True)
class StageLevel:
    """The baseline's own metric at one stage; it differs from nothing."""

    mean: float
    delta: None = None
    low: None = None
    high: None = None


@dataclass(frozen=True)
class Gap(Band):
    """The difference of the gap from the first stage; gap is the arm's own, within its runs."""

    gap: float | None = None


@dataclass(frozen=True)
class Step:
    """From the stage that a stage stands on (`before`) to the stage itself, paired within the runs.

    gap is the arm's own difference of its metric, [gap_low, gap_high] its interval; delta with [low, high] is what that
    differs from the reference's (None for the baseline). over: "seeds", or "documents" where one run is all there is; such
    an interval speaks for these weights only, and is none where the documents are too few. said: what was taken as independent
    there, or that they are too few.
    """

    before: str
    gap: float | None
    gap_low: float | None = None
    gap_high: float | None = None
    delta: float | None = None
    low: float | None = None
    high: float | None = None
    over: str = "seeds"
    said: str = ""


@dataclass(frozen=True)
class Inversion:
    """Better at one stage and worse at the other; kind is "shown" or "likely".

    over: what the interval of the gap between the two was taken over, "seeds" or "documents" (for these weights).
    """

    first: str
    stage: str
    kind: str
    delta_first: float
    delta: float
    over: str = "seeds"


@dataclass(frozen=True)
class Rate:
    """How often an arm diverged: at `count` of `seeds`, and the Clopper-Pearson interval of that share."""

    count: int
    seeds: int
    low: float
    high: float


@dataclass(frozen=True)
class Price:
    """What the missing seeds cost: trainings (`runs`) and `evaluations` (stages), each where it does not exist already.

    None: a budget that is not in tokens, or a needed step that was never timed.
    """

    runs: int
    tokens: float | None
    seconds: float | None
    evaluations: int = 0


@dataclass(frozen=True)
class Row:
    """One arm, or one effect of a factorial. `on` is the reference that every difference is taken against.

    `look` is the place (1 to K) of the look the numbers belong to; `pairs` the seeds of its pairs; `mean` the arm's own metric
    over them (the baseline: over all its done seeds). word is None for effects that carry none.
    `unstable` says in words at which stages the arm's own scores are not finite; `shares_weights` that it trains nothing of
    its own.
    `diverged` and `reference_diverged` are the rates of the two over the seeds at which both were run (the baseline: its
    own), None where neither diverged.
    `text_documents` is the effective number (Kish) of the documents, or of their groups, that `se_doc`, `low_text` and
    `high_text` rest on, and `text_said` what was taken as independent, or that they are too few.
    """

    name: str
    on: str | None
    word: str | None
    delta: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: int = 0
    look: int | None = None
    m: int | None = None
    s: float | None = None
    c: float | None = None
    mean: float | None = None
    mde: float | None = None
    chance: float | None = None
    more_seeds: int | None = None
    fresh: bool = False
    price: Price | None = None
    lower: int | None = None
    notes: tuple[str, ...] = ()
    trajectory: Band | None = None
    stages: Mapping[str, StageBand | StageLevel] = field(default_factory=dict)
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    inversions: tuple[Inversion, ...] = ()
    unstable: Mapping[str, str] = field(default_factory=dict)
    diverged: Rate | None = None
    reference_diverged: Rate | None = None
    shares_weights: bool = False
    se_doc: float | None = None
    low_text: float | None = None
    high_text: float | None = None
    text_documents: float | None = None
    text_said: str = ""
    correlation: float | None = None
    seeds_saved: float | None = None
    pairs: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return a plain dict; null in place of missing numbers."""
        plain = as_plain(self)
        assert isinstance(plain, dict)
        return plain


@dataclass(frozen=True)
class Factor:
    """One of the things that a factorial crosses; levels as they are said, the reference's first."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of levels (`at`) and the arm that is it; mean: its metric over the seeds at which all cells are done."""

    arm: str
    at: tuple[int, ...]
    mean: float | None


@dataclass(frozen=True)
class Effect(Row):
    """What a level does alone (order 1, the other factors averaged), or two or three beyond the sum of what fewer do.

    `of` names each by [factor, level]; interactions of two have a word and a place in the family, main effects a word under
    conditions that `notes` name where they are not met. `reading` says an interaction's word in other words. `alone`: what each
    of two does without the other; `share`: how much of their sum is there together. `needs` names the cells that are missing.
    """

    label: str = ""
    order: int = 0
    of: tuple[tuple[int, int], ...] = ()
    reading: str = ""
    alone: tuple[float, float] | None = None
    share: float | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crossed:
    """A factorial: its cells, what its factors do alone and together, and that in a plain sentence.

    seeds: those at which every cell is done that is fit to be compared; `mean` of the cells is over them.
    """

    name: str
    factors: tuple[Factor, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    effects: tuple[Effect, ...]
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The whole study. winner is None while it is not finished, or if nothing in it is valid. warnings come before it.

    bits_per_nat turns nats per token into bits per byte on this validation set (None without documents).
    """

    looks: tuple[int, ...]
    weights: tuple[float, ...]
    winner: str | None
    decided_by: str
    sentence: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Mapping[str, Row]
    bits_per_nat: float | None = None
    factorials: tuple[Crossed, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return a plain dict; rows keep their order as a list."""
        plain = as_plain(self)
        assert isinstance(plain, dict)
        plain["rows"] = [row.as_json() for row in self.rows.values()]
        return plain


def as_plain(value: object) -> object:
    """Turn dataclasses, mappings and sequences to dicts and lists; a float that is not finite becomes None."""
    if is_dataclass(value):
        return {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [as_plain(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no plain form")
