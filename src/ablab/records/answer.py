"""What verdict.json says, as its readers may rely on it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

# Numbers and words of the verdict that its readers compare with. `verdict` imports nothing of ours, so they stand twice;
# tests/test_house.py holds the two equal.
POWER = 0.80
FEWEST_DOCUMENTS = 20  # effective ones
NEVER = "further seeds call it better only if its reference diverges, too"


class Kept(TypedDict):
    """What is read of a verdict that may be of any version: of the studies whose page lies in a folder."""

    arms: list[dict[str, object]]
    decided_by: object
    environment: NotRequired[dict[str, object] | None]
    data: NotRequired[list[object] | None]
    version: NotRequired[object]
    study: NotRequired[object]
    question: NotRequired[object]


class Path(TypedDict):
    """A setting that an arm changes."""

    path: NotRequired[object]


class Banked(TypedDict):
    """A row of a verdict that the bank of noise reads."""

    name: str
    on: str | None
    word: NotRequired[str | None]
    seeds: NotRequired[int]
    s: NotRequired[float | None]
    changes: NotRequired[list[Path]]
    contrast: NotRequired[object]
    shares_weights: NotRequired[object]


class Turn(TypedDict):
    """An arm that is better at one stage and worse at the other; kind is "shown" or "likely"."""

    first: str
    stage: str
    kind: str
    over: NotRequired[str]


class Cell(TypedDict):
    """The difference at a stage, and the arm's own metric there."""

    mean: NotRequired[float | None]
    delta: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class Step(TypedDict):
    """From the stage that a stage stands on to the stage itself; delta is what that differs from the reference's."""

    before: str
    gap: float | None
    gap_low: NotRequired[float | None]
    gap_high: NotRequired[float | None]
    delta: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    over: NotRequired[str]
    said: NotRequired[str]


class Named(TypedDict):
    """An arm by its name."""

    name: str


class ArmAnswer(Named, total=False):
    """An arm: its word and numbers, what it changes, what it costs."""

    on: str | None
    word: str | None
    seeds: int
    delta: float | None
    low: float | None
    high: float | None
    p: float | None
    mean: float | None
    more_seeds: int | None
    notes: list[str]
    stages: dict[str, Cell]
    steps: dict[str, Step]
    inversions: list[Turn]
    unstable: dict[str, str]
    shares_weights: bool
    changes: list[dict[str, object]]
    because: str | None
    expect: dict[str, object]
    cost: dict[str, object]
    cost_against: dict[str, object] | None
    over_limits: str
    pairs: list[int]
    trajectory: dict[str, object] | None
    price: dict[str, object] | None


class RunAnswer(TypedDict):
    """A run in the ledger; trajectory: [tokens, the deciding metric]."""

    arm: str
    seed: int
    status: str
    token_hash: NotRequired[str | None]
    metrics: NotRequired[dict[str, float | None]]
    trajectory: NotRequired[list[list[float | None]]]


class BandAnswer(TypedDict):
    """Nats per token by position, and their difference to the reference's; edges are one longer."""

    edges: list[float]
    nats_per_token: NotRequired[list[float | None]]
    tokens: NotRequired[list[float]]
    difference: NotRequired[list[float | None]]


class PositionAnswer(TypedDict):
    """Training tokens by position; edges are one longer."""

    edges: list[float]
    trained: list[float]


class Judged(TypedDict):
    """A verdict with its arms, the baseline among them."""

    arms: list[ArmAnswer]


class Answer(Judged, total=False):
    """verdict.json, as the report reads it: a verdict of an earlier version may lack a part, none has one of another shape."""

    study: str
    scale: str | None
    question: str
    metric: str
    stage: str
    stages: list[str]
    matters: float
    confidence: float
    decided_by: str
    winner: str | None
    sentence: str
    runs: list[RunAnswer]
    looks: list[int]
    weights: list[float]
    bits_per_nat: float | None
    bands: dict[str, dict[str, BandAnswer]]
    needle: dict[str, dict[str, object]]
    notes: list[str]
    data: list[dict[str, object]]
    environment: dict[str, object]
    budget: dict[str, object]
    limits: dict[str, object]
    warnings: list[str]
    correlation: float | None
    positions: dict[str, PositionAnswer]
    artifacts: dict[str, dict[str, dict[str, object]]]
    decisions: list[dict[str, object]]
    exploratory: bool
    bank: dict[str, object] | None
    earlier: list[dict[str, object]]
    on_baseline: dict[str, int]
