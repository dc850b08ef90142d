"""What a stage came to (result.json), score for score beside it in scores.npz."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ablab.records.run import MadeBy


class Bands(TypedDict):
    """Nats and scored tokens by position in the window; band i is [edges[i], edges[i + 1])."""

    edges: list[int]
    nats: list[float | None]
    tokens: list[int]


class Probe(TypedDict):
    """What an evaluator that does not decide found; more of it than these is shown as it is."""

    score: NotRequired[float | None]
    acc: NotRequired[float | None]
    passkey: NotRequired[dict[str, object]]


class Extra(TypedDict):
    """What an evaluator shows beside its scores, as far as it is read; updates: how often it learned."""

    updates: NotRequired[int]
    diverged: NotRequired[object]


class Saved(TypedDict):
    """The file of scores and its hash."""

    file: NotRequired[str]
    sha256: str


class Artifact(TypedDict, total=False):
    """The account of packed weights: schemes {name: {tensors, numbers, bytes before the codec}}; predicted_bytes by the entropy
    of the codes, and ratio, bytes over it, or None; a row for each tensor that was turned (hadamard) or has factors (lqer)."""

    schemes: dict[str, dict[str, object]]
    predicted_bytes: float | None
    notes: list[str]
    hadamard: list[dict[str, object]]
    lqer: list[dict[str, object]]
    ratio: float | None
    raw_bytes: int
    codec: str
    gates: list[str]


class Result(MadeBy):
    """result.json. bytes: of the artifact, model and code; gates: rules that were violated, in words; diverged: why the scores
    mean nothing, or None; key: the name of the directory that it was written into."""

    metrics: dict[str, float | None]
    bytes: int
    gates: list[str]
    bands: dict[str, list[float | None]]
    probe: Probe | None
    seconds: float
    scores: Saved
    artifact: Artifact
    diverged: object
    key: str
    timing: NotRequired[dict[str, float]]
    checked: NotRequired[dict[str, float | None]]
    extra: NotRequired[Extra]
    stage: NotRequired[str]
    model_bytes: NotRequired[int]
    code_bytes: NotRequired[int]
    blob: NotRequired[str]
    peak_bytes: NotRequired[int | None]
    digest: NotRequired[str]


class Text(TypedDict):
    """What scores.npz holds besides numbers per document."""

    bands: dict[str, list[float | None]]
    extra: dict[str, object]
    gates: list[str]
