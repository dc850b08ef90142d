"""What was read of a run that is not ours: a log, a table, a record of another program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Level:
    """A score as printed: nats and bpb, each None where it was not; digits: behind the point, of the shorter; line: 1-based."""

    nats: float | None
    bpb: float | None
    digits: int
    line: int


@dataclass(frozen=True)
class LoggedRun:
    """One run. stages: label -> level, in the order of the file, the label as printed with its digits where they differ.

    settings: as printed, seed, paths and rank left out; None where the log says none. seed_in_name: of the file's name.
    code_bytes, bytes (of the artifact), val_tokens, shards (of training), steps, tokens, seconds: None where not said.
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
