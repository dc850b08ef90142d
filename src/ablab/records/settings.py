"""What an arm asks: the canonical settings, every default filled in (`ablab.study.keys` has the meaning of each key)."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from ablab.core.lever import Choice


class BudgetSettings(TypedDict):
    """[budget]; of tokens and seconds one is None."""

    tokens: int | None
    seconds: float | None
    batch_tokens: int


class DataSettings(TypedDict):
    """[data]; sources as the machine finds them."""

    source: list[str]
    valid_source: list[str] | None
    valid_text_bytes: int | None
    text_field: str
    text_separator: str
    tokenizer: Choice
    valid_fraction: float
    valid_bytes: int
    groups: str | None
    order: Literal["chunks", "megatron"]
    weights: list[float] | None
    span: int


class KindSettings(TypedDict):
    """A layer kind: `table` is its name, window None sees everything, router None routes nothing; positions and residuals
    may be lists, which compose."""

    table: str
    window: int | None
    projection: Choice
    position: Choice | list[Choice]
    softmax: Choice
    temperature: Choice
    gate: Choice
    value: Choice
    mlp: Choice
    router: Choice | None
    residual: Choice | list[Choice]
    block: Choice


class ModelSettings(TypedDict):
    """[model]: `layers` has a letter per layer, `kinds` what a letter stands for, `loops` [first, end, times]."""

    layers: str
    loops: list[list[int]]
    loop_from: float | None
    kinds: dict[str, KindSettings]
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    seq_len: int
    tied: bool
    qk_norm: bool | Literal["after"]
    softcap: float
    bias: bool
    norm: Literal["rms", "bare", "layer"]
    norm_eps: float
    init: Literal["normal", "orthogonal"]
    init_std: float
    embed_std: float | None
    out_std: float | None
    embedding: Choice | list[Choice]
    skips: Choice


class TrainSettings(TypedDict):
    """[train]."""

    optimizer: Choice
    schedule: Choice
    loss: Choice
    qat: Choice
    weights: list[str] | None
    clip: float
    ema: float
    ema_warmup: float | None
    salt: str
    validate_every: int
    validate_bytes: int | None


class StageSettings(TypedDict):
    """A stage; one that is based on another (`after`) has that one's compress, codec and code."""

    after: str | None
    compress: Choice
    codec: Choice
    code: str | None
    windows: dict[str, int] | None
    evaluate: Choice


class StudySettings(TypedDict):
    """[study]."""

    name: str
    question: str


class SeedsSettings(TypedDict):
    """decision.seeds; keep None keeps every arm."""

    start: int
    at_most: int
    probe: int
    keep: int | Literal["2 sigma"] | None
    first: int


class DecisionSettings(TypedDict):
    """[decision]."""

    metric: str
    stage: str
    matters: float
    confidence: float
    seeds: SeedsSettings
    tie: list[str]


Limits = dict[str, float]  # [limits]: those that are set
LeversSettings = TypedDict("LeversSettings", {"from": list[str]})  # [levers]


class CrossedFactor(TypedDict):
    """What a factorial crosses with others: a setting, or sets of changes that have names. base: which of its levels the
    baseline has; names: the levels as the cells' names have them."""

    path: str
    label: str
    levels: list[object]
    names: list[str]
    base: int


class Crossing(TypedDict):
    """A factorial; cells: arm (or "baseline") -> the index of its level of each factor."""

    factors: list[CrossedFactor]
    cells: dict[str, list[int]]


class LogSettings(TypedDict):
    """runner.log: where a program's score is read. One of reader, regex and field; file None is its stdout."""

    reader: str | None
    stage: str | None
    regex: str | None
    last: bool
    field: str | None
    file: str | None


class RunnerSettings(TypedDict):
    """[runner]: a program that is not ours, as the file writes it; timeout in seconds, paths from the study's folder."""

    command: str
    directory: str
    reads: list[str]
    log: LogSettings
    args: dict[str, str | int | float | bool]
    env: dict[str, str]
    patch: str | None
    shell: bool
    resume: str | None
    timeout: float | None
    gpus: int
    repeats: int


class Settings(TypedDict):
    """Everything that an arm asks. runner: of a study over a command, whose other sections then ask nothing."""

    budget: BudgetSettings
    data: DataSettings
    model: ModelSettings
    train: TrainSettings
    stage: dict[str, StageSettings]
    runner: NotRequired[RunnerSettings]
