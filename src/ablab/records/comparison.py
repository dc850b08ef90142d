"""What `ablab judge` answers about runs that are not ours, in the order of its questions."""

from __future__ import annotations

from typing import Literal, TypedDict

Side = Literal["x", "y", ""]
Grade = Literal["stops", "warns", "notes"]


class Flag(TypedDict):
    """Something seen. side: "" of both together. grade: stops (nothing can be compared), warns, notes."""

    kind: str
    side: Side
    grade: Grade
    said: str


class Seen(TypedDict):
    """A run that was read. value: its score in the metric, None where it has none; counted: it entered the mean."""

    source: str
    line: int
    label: str | None
    value: float | None
    seed: int | None
    steps: int | None
    counted: bool


class Sided(TypedDict):
    """One side: n independent runs behind mean, sd and the mean's own 95% interval, None without two runs.

    export: the name of its tokenizer's, tokens_per_byte: bpb over nats.
    """

    name: str
    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    stage: str | None
    export: str | None
    tokens_per_byte: float | None
    implied_bytes: float | None
    runs: list[Seen]


class Levers(TypedDict):
    """What the settings differ in. count: None where a side holds no list of them; code: equal, differs, unknown."""

    count: int | None
    of: int
    names: list[str]
    changes: dict[str, list[str | None]]
    code: str
    said: str


class Welch(TypedDict):
    """Welch's interval of mean x minus mean y: as `ablab.verdict.Unpaired` has it."""

    word: str
    delta: float | None
    nx: int
    ny: int
    low: float | None
    high: float | None
    p: float | None
    se: float | None
    df: float | None
    c: float | None
    m: int
    notes: list[str]


class Ruled(TypedDict):
    """What a public rule says: as `ablab.verdict.Record` has it."""

    rule: str
    record: bool
    nx: int
    ny: int | None
    margin: float | None
    a: float | None
    t: float | None
    df: float | None
    p: float | None
    value: float | None
    target: float | None
    notes: list[str]


class Paired(TypedDict):
    """Differences at seed numbers that both sides have; robustness only, it never decides."""

    seeds: list[int]
    differences: list[float]
    delta: float | None
    low: float | None
    high: float | None
    p: float | None
    df: int | None


class Banked(TypedDict):
    """The second line, from the shipped noise: z alone of a single run, which is a screen and no word."""

    family: str
    stage: str
    sd: float
    d0: float | None
    df: float | None
    low: float | None
    high: float | None
    p: float | None
    z: float | None
    said: str


class Settle(TypedDict):
    """Runs on each side that would show the difference seen, and their price by the logs' own clock; None: not known."""

    sd: float
    sd_of: str
    n: int | None
    more_x: int | None
    more_y: int | None
    seconds: float | None
    said: str


class Stated(TypedDict):
    """A number of a claim, and what of the logs it is; match: None where it is nothing that was read or computed."""

    stated: str
    match: str | None
    value: float | None
    where: str | None


class Comparison(TypedDict):
    """The answer. word: that of the interval, or `same settings`, `invalid` (not comparable), `no logs`."""

    word: str
    sentence: str
    metric: str
    matters: float | None
    x: Sided
    y: Sided | None
    flags: list[Flag]
    levers: Levers | None
    unpaired: Welch | None
    rules: list[Ruled]
    by_seed: Paired | None
    bank: Banked | None
    settle: Settle | None
    claims: list[Stated]


class Answers(TypedDict):
    """All that was asked: a comparison for each arm of x, and what of the files could not be read."""

    comparisons: list[Comparison]
    faults: list[str]
