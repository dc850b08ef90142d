"""What an arm of a verdict costs: by itself, under the study's limits and beside its reference."""

from __future__ import annotations

from typing import TypedDict


class Range(TypedDict):
    """The least and the most of measured times, and of how many runs."""

    low: float
    high: float
    runs: int


class StageCost(TypedDict):
    """Medians over an arm's finished seeds: seconds and their parts, peak memory, bytes; root_pack: seconds of packing at
    the stage whose bytes this one evaluates."""

    seconds: float | None
    peak_bytes: float | None
    bytes: float | None
    model_bytes: float | None
    code_bytes: float | None
    pack: float | None
    check: float | None
    evaluate: float | None
    spread: Range | None
    root_pack: float | None


class Clocks(TypedDict):
    """Every measured time by seed (as text): of training, and per stage with the packing that it uses."""

    train_seconds: dict[str, float]
    tokens_per_second: dict[str, float | None]
    stage_seconds: dict[str, dict[str, float]]


class Speeds(TypedDict):
    """How far the clocks of an arm's trainings lie apart."""

    train_seconds: Range | None
    tokens_per_second: Range | None


class Spent(TypedDict):
    """What an arm's finished runs took: medians of speed, time and bytes."""

    tokens_per_second: float | None
    step_ms: float | None
    train_seconds: float | None
    bytes: float | None
    stage_seconds: dict[str, float | None]
    stages: dict[str, StageCost]
    clocks: Clocks
    spread: Speeds


class Margin(TypedDict):
    """A measured value against a limit of the study; below 0 it is over."""

    limit: float
    value: float
    margin: float


class Size(TypedDict):
    """How large an arm is. Of the cache: what decoding keeps of a row's first token, and of a row of seq_len tokens."""

    parameters: int
    active_parameters: int
    body_parameters: int
    embedding_parameters: int
    flops_per_token: float
    cache_bytes_per_token: int
    cache_bytes_at_seq_len: int
    cache_precision: str


class KnownSizes(TypedDict):
    """Sizes as far as they are known: None of a program that is not ours."""

    parameters: int | None
    active_parameters: int | None
    body_parameters: int | None
    embedding_parameters: int | None
    flops_per_token: float | None
    cache_bytes_per_token: int | None
    cache_bytes_at_seq_len: int | None
    cache_precision: str | None


class Cost(Spent, KnownSizes):
    """What an arm costs."""

    peak_bytes: float | None
    limits: dict[str, Margin]


class Times(TypedDict):
    """A time to another, over pairs of runs at one seed; sure_low and sure_high: the interval of the typical ratio."""

    median: float
    low: float
    high: float
    pairs: int
    sure_low: float | None
    sure_high: float | None


class CostAgainst(TypedDict):
    """What an arm costs beside its reference: bytes as a difference, the rest as ratios. free: None where nothing tells."""

    bytes: float | None
    train_time: float | None
    stage_time: float | None
    train_spread: Times | None
    stage_spread: Times | None
    peak_bytes: float | None
    free: bool | None


class Paid(TypedDict):
    """What an arm costs, by itself and beside its reference; over_limits: by how much it is beyond the study's, in words."""

    cost: Cost
    cost_against: CostAgainst | None
    over_limits: str
