"""What verdict.json says: what judging writes into it, and the report reads from it.

A number that does not exist is None. NotRequired is what some arms or runs have not, whoever wrote the file.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ablab.records.corpus import Manifest
from ablab.records.cost import Paid
from ablab.records.decision import Noise
from ablab.records.result import Artifact, Passkey, Probe
from ablab.records.run import End, Routing, Validated
from ablab.records.settings import BudgetSettings, Limits

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
    runs: NotRequired[object]
    version: NotRequired[object]
    study: NotRequired[object]
    question: NotRequired[object]


class Path(TypedDict):
    """A setting that an arm changes."""

    path: NotRequired[object]


class BankRow(TypedDict):
    """A row of a verdict of any version that the bank of noise reads."""

    name: str
    on: str | None
    word: NotRequired[str | None]
    seeds: NotRequired[int]
    s: NotRequired[float | None]
    changes: NotRequired[list[Path]]
    contrast: NotRequired[object]
    shares_weights: NotRequired[object]


class Band(TypedDict):
    """A mean difference with its interval."""

    delta: float | None
    low: float | None
    high: float | None


class StageBand(Band):
    """The difference at a stage (of the baseline: none), and the arm's own metric there."""

    mean: float | None


class Gap(Band):
    """The difference of the gap from the first stage, and the arm's own gap."""

    gap: float | None


class Step(Band):
    """From the stage that a stage is based on (`before`) to the stage itself: the arm's own gap with its interval, and what
    that differs from the reference's. over: "seeds" or "documents"; said: what was taken as independent there."""

    before: str
    gap: float | None
    gap_low: float | None
    gap_high: float | None
    over: str
    said: str


class Inversion(TypedDict):
    """An arm that is better at one stage and worse at the other; kind is "shown" or "likely"."""

    first: str
    stage: str
    kind: str
    delta_first: float | None
    delta: float | None
    over: str


class Rate(TypedDict):
    """How often an arm diverged: at `count` of `seeds`, and the interval of that share."""

    count: int
    seeds: int
    low: float | None
    high: float | None


class Price(TypedDict):
    """What the missing seeds cost: trainings, and stages of what is trained."""

    runs: int
    tokens: float | None
    seconds: float | None
    evaluations: int


class Row(TypedDict):
    """What the verdict says of an arm (`ablab.verdict.rows.Row`, field for field)."""

    name: str
    on: str | None
    word: str | None
    delta: float | None
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    look: int | None
    m: int | None
    s: float | None
    c: float | None
    mean: float | None
    mde: float | None
    chance: float | None
    more_seeds: int | None
    fresh: bool
    price: Price | None
    lower: int | None
    notes: list[str]
    trajectory: Band | None
    stages: dict[str, StageBand]
    gaps: dict[str, Gap]
    steps: dict[str, Step]
    inversions: list[Inversion]
    unstable: dict[str, str]
    diverged: Rate | None
    reference_diverged: Rate | None
    shares_weights: bool
    se_doc: float | None
    low_text: float | None
    high_text: float | None
    text_documents: float | None
    text_said: str
    correlation: float | None
    seeds_saved: float | None
    pairs: list[int]


class Factor(TypedDict):
    """One of the things that a factorial crosses; levels as they are said, the baseline's first."""

    name: str
    levels: list[str]


class Cell(TypedDict):
    """A combination of levels, the arm that it is, and its metric over the seeds at which all cells are done."""

    arm: str
    at: list[int]
    mean: float | None


class Effect(Row):
    """What a level does alone (order 1), or two or three beyond the sum of what fewer do (`ablab.verdict.rows.Effect`)."""

    label: str
    order: int
    of: list[list[int]]
    reading: str
    alone: list[float] | None
    share: float | None
    needs: list[str]


class Crossed(TypedDict):
    """A factorial: cells, effects, and one plain sentence about both."""

    name: str
    factors: list[Factor]
    cells: list[Cell]
    seeds: list[int]
    effects: list[Effect]
    sentence: str


class Said(TypedDict):
    """What the verdict says of the whole study (`ablab.verdict.rows.Verdict`, but for its rows)."""

    looks: list[int]
    weights: list[float]
    winner: str | None
    decided_by: str
    sentence: str
    warnings: list[str]
    notes: list[str]
    bits_per_nat: float | None
    factorials: NotRequired[list[Crossed]]  # of a verdict that knows of them


class Changed(TypedDict):
    """A setting that an arm changes against its reference."""

    path: str
    before: object
    after: object


class Recorded(TypedDict):
    """What the record of decisions leaves of an arm: "declared", "added" or "exploratory", the results before it, why."""

    kind: str
    after: int
    because: str
    family: int


class Pooled(Band):
    """A contrast over every seed ever run for it, in whichever studies."""

    seeds: int
    word: str
    decisions: int
    studies: list[str]
    alpha: float
    arms: int


class Declared(TypedDict):
    """What the study's file says of an arm; contrast: the key of its question, None of the baseline."""

    changes: list[Changed]
    because: str | None
    contrast: str | None
    together: str | None
    expect: dict[str, float]


class Left(TypedDict, total=False):
    """What the record of decisions leaves of an arm; nothing of the baseline."""

    record: Recorded
    pooled: Pooled | None


class ArmAnswer(Row, Declared, Paid, Left):
    """An arm, or the baseline."""


class RunAnswer(TypedDict):
    """A run in the ledger; trajectory: [tokens, the deciding metric]. One that was given up has a fault and no numbers."""

    arm: str
    seed: int
    status: str
    token_hash: str | None
    metrics: dict[str, float | None]
    fault: str | None
    trajectory: NotRequired[list[list[float | None]]]
    spikes: NotRequired[int]
    tokens: NotRequired[int]
    seconds: NotRequired[float]
    tokens_per_second: NotRequired[float | None]
    violations: list[str]
    routing: NotRequired[Routing | None]
    key: NotRequired[str]


class BandAnswer(TypedDict):
    """Nats per token and tokens scored by position, over `seeds`; edges are one longer. Over the `pairs` of an arm the
    difference to its reference's; None in a band that the reference has not."""

    edges: list[float]
    nats_per_token: list[float | None]
    tokens: list[float]
    seeds: list[int]
    difference: NotRequired[list[float | None]]
    pairs: NotRequired[list[int]]


class PositionAnswer(TypedDict):
    """Training tokens by position; edges are one longer."""

    edges: list[float]
    trained: list[float]


class ArtifactAnswer(Artifact):
    """The account of an arm's artifact at a stage, of the first finished seed; bytes over all of them."""

    bytes: float | None
    least: int
    most: int
    model_bytes: float | None
    code_bytes: float | None
    seeds: int


class Apart(Passkey):
    """The difference of two passkey maps, over pairs."""

    pairs: list[int]


class ProbeAnswer(Probe):
    """A probe over `seeds`; difference: to the reference's."""

    seeds: list[int]
    difference: NotRequired[Apart]


class OnBaseline(TypedDict):
    """How many arms were judged on the baseline, in whichever studies, in how many families."""

    arms: int
    families: int


class Earlier(TypedDict):
    """Another version of a study that was judged under its name."""

    at: str
    question: str
    judged: str


class Answer(Said):
    """verdict.json."""

    study: str
    scale: str | None
    question: str
    metric: str
    stage: str
    stages: list[str]
    matters: float
    confidence: float
    arms: list[ArmAnswer]
    runs: list[RunAnswer]
    correlation: float | None
    levels: dict[str, dict[str, float]]
    bands: dict[str, dict[str, BandAnswer]]
    positions: dict[str, PositionAnswer]
    validated: dict[str, Validated]
    artifacts: dict[str, dict[str, ArtifactAnswer]]
    needle: dict[str, ProbeAnswer]
    on_baseline: OnBaseline
    data: list[Manifest]
    budget: BudgetSettings
    baseline: dict[str, object]
    limits: Limits
    exploratory: bool
    decisions: list[dict[str, object]]
    bank: Noise | None
    fingerprint: str
    environment: dict[str, object]
    changed: list[str]
    chains: dict[str, End]
    version: str
    earlier: list[Earlier]
