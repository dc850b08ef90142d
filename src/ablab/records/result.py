"""The result of a stage (result.json); its scores by document are in scores.npz."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ablab.records.run import MadeBy


class Bands(TypedDict, total=False):
    """Nats and scored tokens by position in the window; band i is [edges[i], edges[i + 1]). A probe has none."""

    edges: list[float]
    nats: list[float | None]
    tokens: list[float]


class Passkey(TypedDict):
    """Scores of a passkey by length and depth: rows are lengths."""

    lengths: list[float]
    depths: list[float]
    score: list[list[float | None]]
    acc: NotRequired[list[list[float | None]]]


class Induction(TypedDict):
    """Nats saved on a repeated segment, by lag."""

    lags: list[float]
    values: list[float | None]
    local_reach: NotRequired[float]


class Curve(TypedDict):
    """Nats saved with their standard errors: by the distance to what came before, or by the position in the document (in
    bins: one longer than values); short: tokens of the context beside which it is a gain."""

    values: list[float | None]
    se: list[float | None]
    distances: NotRequired[list[float]]
    positions: NotRequired[list[float]]
    short: NotRequired[float]


class Probe(TypedDict, total=False):
    """The results of an evaluator that does not decide; more of them than these are shown as they are."""

    score: float | None
    acc: float | None
    above_floor: bool
    below_ceiling: bool
    passkey: Passkey
    induction: Induction
    natural: Curve
    gain: Curve


class Extra(TypedDict):
    """What an evaluator shows beside its scores, as far as it is read; updates: how often it learned."""

    updates: NotRequired[int]
    diverged: NotRequired[object]


class Saved(TypedDict):
    """The file of scores and its hash."""

    file: NotRequired[str]
    sha256: str


class Scheme(TypedDict):
    """What is packed under a scheme; bytes are those before the codec."""

    tensors: int
    numbers: int
    bytes: int


class Rotated(TypedDict):
    """What a Hadamard rotation did to a tensor; mse: of rounding to nearest, by the name of its bits."""

    name: str
    kurtosis_before: float | None
    kurtosis_after: float | None
    mse_before: dict[str, float | None]
    mse_after: dict[str, float | None]
    error_before: float | None
    error_after: float | None
    kept: bool


class Corrected(TypedDict):
    """What low-rank factors gave back of a tensor: the norm of its error, and the error of its layer's output."""

    name: str
    rank: int
    error_before: float | None
    error_after: float | None
    layer_before: NotRequired[float | None]
    layer_after: NotRequired[float | None]


class Artifact(TypedDict, total=False):
    """The account of packed weights; predicted_bytes by the entropy of the codes, and ratio, bytes over it, or None; a row
    for each tensor that was rotated (hadamard) or has factors (lqer)."""

    schemes: dict[str, Scheme]
    predicted_bytes: float | None
    ratio: float | None
    raw_bytes: int
    codec: str
    notes: list[str]
    hadamard: list[Rotated]
    lqer: list[Corrected]
    violations: list[str]


class Read(TypedDict):
    """Where the score of a program was read: file and line, the text that stood there, and what tells two runs apart.

    digits: behind the point of the score. echo: sha256 of the numbers at its place in all lines like that one, which no clock
    beside them moves; echo_digits: behind the points of these numbers.
    repeats: scores of further runs under the same seed, None of one that diverged.
    """

    file: str
    line: int
    text: str
    digits: int
    echo: str
    echo_digits: int
    repeats: list[float | None]


class Result(MadeBy):
    """result.json. bytes: of the artifact, model and code; violations: rules that were violated, in words; diverged: why the
    scores mean nothing, or None; key: the name of the directory that it was written into."""

    metrics: dict[str, float | None]
    bytes: int
    violations: list[str]
    bands: Bands
    probe: Probe | None
    seconds: float
    scores: Saved
    artifact: Artifact
    diverged: object
    key: str
    timing: NotRequired[dict[str, float]]
    checked: NotRequired[dict[str, float | None]]
    extra: NotRequired[Extra]
    read: NotRequired[Read]
    stage: NotRequired[str]
    model_bytes: NotRequired[int]
    code_bytes: NotRequired[int]
    blob: NotRequired[str]
    peak_bytes: NotRequired[int | None]
    digest: NotRequired[str]


def present(record: object) -> None:
    """Give a result, or the text of its scores, today's names: before 2026-12 violations were called gates."""
    for part in (record, record.get("artifact")) if isinstance(record, dict) else ():
        if isinstance(part, dict) and "gates" in part:
            part["violations"] = part.pop("gates")


class BesideScores(TypedDict):
    """What scores.npz holds besides numbers per document."""

    bands: dict[str, list[float | None]]
    extra: dict[str, object]
    violations: list[str]
