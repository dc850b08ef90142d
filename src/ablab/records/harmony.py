"""What a Harmony build says of itself (manifest.json), what it was asked (plan.json), and the result of a unit."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from ablab.records.corpus import File

Counted = Literal["train_rows", "train_tokens", "valid_rows", "valid_tokens", "reasoning", "final", "bad", "dropped",
                "truncated", "checked"]  # fmt: skip


class Shard(TypedDict):
    """Documents whose tokens lie in one file; files: all that belong to it, by their paths in the folder."""

    name: str
    rows: int
    tokens: int
    files: dict[str, File]


class Split(TypedDict):
    """The shards of a split, and what they hold together."""

    rows: int
    tokens: int
    shards: list[Shard]


class Encoder(TypedDict):
    """The tokenizer that made the ids."""

    sha256: str
    name: NotRequired[str]
    vocab_size: NotRequired[int]


class RowsFile(TypedDict):
    """A file of rows that a build read; fields: their names; first: its row that is row 0 here."""

    name: str
    sha256: str
    rows: int
    fields: NotRequired[list[str]]
    first: NotRequired[int]


class Divided(TypedDict):
    """How rows were held out."""

    rule: str
    valid_fraction: float
    threshold: int


class Carried(TypedDict, total=False):
    """What of a manifest is shown as it stands."""

    config_hash: str
    inputs: list[RowsFile]
    split: Divided
    quarantined: int
    dropped: int
    truncated: int
    digest: str


class Quarantine(File):
    """The file of the rows that failed."""

    name: str


class HarmonyManifest(Carried):
    """manifest.json, as who reads the token files of a build relies on it."""

    kind: str
    splits: dict[str, Split]
    tokenizer: Encoder
    spans: NotRequired[dict[str, int]]
    quarantine: NotRequired[object]


class BuildIdentity(TypedDict):
    """What two builds must share to give the same files; plan.json of one that was begun."""

    format: int
    settings: dict[str, float | None]
    inputs: list[RowsFile]
    tokenizer: str
    digest: NotRequired[str]


class Built(HarmonyManifest):
    """manifest.json, as who made it relies on it."""

    identity: BuildIdentity
    rows: int
    checked: int
    config: dict[str, object]
    renderer: dict[str, object]


class Finished(TypedDict):
    """The result of a slice of the rows; shortest_dropped: tokens of the shortest row that was dropped as too long."""

    unit: int
    train_rows: int
    valid_rows: int
    train_tokens: int
    valid_tokens: int
    reasoning: int
    final: int
    bad: int
    dropped: int
    shortest_dropped: int
    truncated: int
    checked: int
    files: dict[str, File]
    digest: NotRequired[str]
