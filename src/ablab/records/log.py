"""What was read of a run that is not ours: a log, a table, a record of another program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Level:
    """A score as it was printed: nats per token and bits per byte, each None where it was not.

    digits: behind the point, of the shorter; line: 1-based. value: a number whose unit the file does not say; its label
    is the metric's name then. A file that says none of the three makes no Level.
    """

    nats: float | None
    bpb: float | None
    digits: int
    line: int
    value: float | None = None


@dataclass(frozen=True)
class LoggedRun:
    """One run. stages: label -> level, in the order of the file, labels as printed; `val` is the last validation in training.

    settings: as printed, seed, paths and rank left out; None where the log holds no list of them. facts: settings that
    single lines tell; they are never all, so equal facts are no equal settings. seed_in_name: of the file's name.
    arm: the name that the file itself gives. code: a hash of the program, where the file holds it, code_bytes: its size;
    bytes: of the artifact; val_tokens, shards (of training), steps, tokens, seconds: None where not said.
    lost: label -> line of a last score that is nan or infinite: such a run diverged, and what the label held before is gone.
    number, of: the place among the runs of its file. complete: it ended by itself, as far as the file tells.
    reader: a name of `ablab.judging.logs.formats`.
    """

    source: Path
    line: int
    stages: dict[str, Level]
    settings: dict[str, str] | None = None
    seed: int | None = None
    seed_in_name: int | None = None
    code_bytes: int | None = None
    bytes: int | None = None
    val_tokens: int | None = None
    shards: int | None = None
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    arm: str | None = None
    code: str | None = None
    number: int = 1
    of: int = 1
    complete: bool = True
    reader: str = ""
    lost: dict[str, int] = field(default_factory=dict)
