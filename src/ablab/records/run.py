"""The records of a run: how it is executed (where.json), the result of its training (done.json), its checkpoints, its end.

A record's type is what its reader checks the file against (`ablab.core.forms`), whoever wrote it: a digest tells that a
record is as it was written, and who forges a record writes its digest too. NotRequired is what some training has not: one
that took its weights from a file, or one of an earlier version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict


class MadeBy(TypedDict):
    """What made a result: a hash of every file of source that can change it, and the machine."""

    source: NotRequired[dict[str, str]]
    machine: NotRequired[str]


class Executed(TypedDict):
    """where.json: how all runs of a study are executed."""

    device: str
    precision: str
    executor: str
    micro_rows: int
    compiled: bool


@dataclass(frozen=True)
class Where:
    """How runs are executed: resolved once per study, the same for all arms, part of the training key."""

    device: str
    precision: str
    executor: str
    micro_rows: int
    compiled: bool = False

    @classmethod
    def read(cls, kept: Executed) -> Where:
        """Read what a where.json holds."""
        return cls(kept["device"], kept["precision"], kept["executor"], kept["micro_rows"], kept["compiled"])

    def as_json(self) -> Executed:
        return {
            "device": self.device,
            "precision": self.precision,
            "executor": self.executor,
            "micro_rows": self.micro_rows,
            "compiled": self.compiled,
        }


class Positions(TypedDict):
    """Targets trained in each band of positions; edges are one more than bands."""

    edges: list[int]
    tokens: list[int]


class Validated(TypedDict, total=False):
    """The held-out text that every point of a trajectory scores; nothing where nothing was trained."""

    documents: int
    tokens: int
    bytes: int
    whole: bool


class Load(TypedDict, total=False):
    """How a step's choices were spread over experts: cv and largest load in percent, entropy in nats."""

    cv_pct: float
    entropy: float
    max_load_pct: float
    dead: int
    bias_range: float | None
    layer: str


class Routing(Load, total=False):
    """Health of the mixtures at the last step: the worst and the mean over layers; nothing where there are none."""

    layers: list[Load]


class Rounded(TypedDict):
    """Steps whose passes saw rounded weights, and how many tensors those were."""

    steps: int
    tensors: int


class End(TypedDict):
    """How many rows a file of rows has, and the chained digest of the last one (`ablab.core.chain`)."""

    rows: int
    chain: str


class Resumed(TypedDict):
    """A step from which a run went on by other code or on another machine, and what had changed."""

    step: int
    changed: list[str]


class Identity(TypedDict):
    """Which training a directory is of: a hash of what was asked, and how it is executed."""

    identity: str
    seed: int
    precision: str
    micro_rows: int
    executor: str
    compiled: bool
    device: str


class Adopted(TypedDict):
    """The file that weights trained elsewhere were taken from; names: whose spelling its tensors have."""

    file: str
    sha256: str
    names: str
    tokenizer: str | None
    notes: list[str]


class Ran(TypedDict):
    """How a program was run: its words, the variables that were added, what it stood on; resumed: how often it went on.

    diff, patch: sha256 of what was applied to the commit, "" where nothing was; stdout: sha256 of what it said.
    """

    argv: list[str]
    env: dict[str, str]
    commit: str
    tree: str
    diff: str
    patch: str
    reads: list[list[str]]
    stdout: str
    resumed: int
    gpus: list[str]


class Trained(MadeBy):
    """done.json: the result of a training. status: "done", or "diverged", and then `fault` says why."""

    status: str
    token_hash: str
    tokens: int
    seconds: float
    tokens_per_second: float | None
    trajectory: list[dict[str, float | None]]
    spikes: int
    steps: int
    weights: dict[str, str]
    untrained: dict[str, float | None]
    fault: NotRequired[str | None]
    routing: NotRequired[Routing]
    positions: NotRequired[Positions | None]
    validated: NotRequired[Validated]
    parameters: NotRequired[dict[str, int]]
    metrics: NotRequired[End]
    resumed: NotRequired[list[Resumed]]
    validate_seconds: NotRequired[float]
    hashes: NotRequired[list[list[int | str]]]
    rounded: NotRequired[Rounded]
    epochs: NotRequired[float]
    identity: NotRequired[str]
    seed: NotRequired[int]
    precision: NotRequired[str]
    micro_rows: NotRequired[int]
    executor: NotRequired[str]
    compiled: NotRequired[bool]
    device: NotRequired[str]
    code: NotRequired[str | None]
    threads: NotRequired[int]
    adopted: NotRequired[Adopted]
    program: NotRequired[Ran]
    digest: NotRequired[str]


def clocked(done: Trained) -> bool:
    """Tell whether its seconds are those of a training here: weights from a file took none."""
    return bool(done["steps"] or "program" in done)


class Progressed(TypedDict, total=False):
    """The progress of a run at a checkpoint: the fields of `ablab.training.train.Progress`."""

    step: int
    tokens: int
    seconds: float
    token_hash: str
    recent: list[float]
    spikes: int
    trajectory: list[dict[str, float | None]]
    hashes: list[list[int | str]]
    machines: list[str]
    untrained: dict[str, float | None]
    positions: list[int]
    rounded: int
    resumed: list[Resumed]
    validate_seconds: float


class Checkpoint(MadeBy):
    """checkpoint-STEP.json: what of a run's state is no tensor; sha256 is that of the tensors' file."""

    step: int
    sha256: str
    digest: str
    identity: NotRequired[str]
    metrics_bytes: NotRequired[int]
    progress: NotRequired[Progressed]


class FailedRun(TypedDict):
    """A row of failed.json: a run that the machine failed, which a later start may try again."""

    arm: str
    seed: int
    fault: str
    keys: NotRequired[list[str]]
    kind: NotRequired[str]
