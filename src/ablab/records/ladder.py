"""What `ablab ladder` answers: one question at several scales, and how its effects move with training compute."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Scaled(TypedDict):
    """A rung: a scale of the study. flops: counted, of all tokens that the baseline trains on; seeds: what the plan asks.

    differs: settings of the baseline that are others than on the rung below, each as [there, here]; {} on the lowest.
    """

    scale: str
    flops: float
    tokens: int
    parameters: int
    seeds: int
    differs: dict[str, list[object]]


class Measured(TypedDict):
    """An arm on a rung. seeds: of its pairs, with two or more an interval at the ladder's level; mean: of its reference.

    used: whether it enters the ladder; because: why not, empty where it does.
    """

    scale: str
    seeds: list[int]
    differences: list[float]
    delta: float | None
    low: float | None
    high: float | None
    s: float | None
    mean: float | None
    flops: float
    used: bool
    because: str


class FormSaid(TypedDict):
    """What one form (line, power, top, parabola) says at the target."""

    form: str
    value: float
    low: float
    high: float


class Slope(TypedDict):
    """The change of the effect per decade of compute, by least squares."""

    value: float
    low: float
    high: float
    p: float


class Compute(TypedDict):
    """What of the compute an arm saves at the top rung (below 0: costs more), as a share; None: no end was found."""

    share: float
    low: float | None
    high: float | None


class Point(TypedDict):
    """The hull at one place beyond the top rung, for a drawing."""

    flops: float
    low: float
    high: float


class NextSeed(TypedDict):
    """The scale at which one more seed would narrow the interval at the target most, and by which share of it."""

    scale: str
    share: float


class Climbed(TypedDict):
    """An arm over all rungs. low, high: the effect at the target, widened by the allowance.

    word: holds, fades, reverses or open; None while seeds of the plan are missing, or where the target is too far for one.
    """

    name: str
    on: str
    word: str | None
    low: float | None
    high: float | None
    forms: list[FormSaid]
    hull: list[Point]
    trend: Slope | None
    saved: Compute | None
    tells_most: NextSeed | None
    rungs: list[Measured]
    sentence: str
    notes: list[str]


class LadderAnswer(TypedDict):
    """The answer. at: FLOPs of the target, None while too few rungs have an interval; reach: how far beyond the top rung it
    lies, in lengths of the ladder; spoken and shown: FLOPs up to which there is a word, and an interval. exploratory: arms of
    which results were known on a rung before it was asked, and why."""

    study: str
    question: str
    metric: str
    stage: str
    matters: float
    confidence: float
    family: int
    allowance: float
    at: float | None
    reach: float | None
    spoken: float | None
    shown: float | None
    rungs: list[Scaled]
    arms: list[Climbed]
    sentence: str
    reminder: str
    exploratory: list[str]
    notes: list[str]
    environment: NotRequired[dict[str, object]]
