"""What a prepared corpus says of itself (manifest.json), and the groups of its held-out documents."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class InputFile(TypedDict):
    """A file that a source was read from."""

    path: str
    sha256: str
    size: NotRequired[int]


class Input(TypedDict):
    """A source, and a hash of all that it holds; of the interpreter's own library `files` is how many it was."""

    source: str
    sha256: str
    files: NotRequired[int | list[InputFile]]
    kind: NotRequired[str]
    topics: NotRequired[int]
    python: NotRequired[str]
    rows: NotRequired[list[int]]


class Chosen(TypedDict):
    """A lever as the settings choose it: its name, and beside it the settings of its constructor."""

    name: str


class MadeWith(TypedDict):
    """The tokenizer of a corpus."""

    choice: Chosen
    vocab_size: int
    bos_id: int
    fingerprint: str


class File(TypedDict):
    """Size in bytes, and sha256."""

    size: int
    sha256: str


class Piece(TypedDict):
    """Token files that training reads where they lie."""

    path: str
    kind: str


class Looked(TypedDict):
    """The counts of a finished corpus: targets to learn, and stretches of held-out text that training has, too."""

    targets: int
    stretches: int
    in_training: int


class Made(TypedDict, total=False):
    """What a corpus is the hash of, as far as it is read: "tokens" or "text", the tokenizer's choice, what sources hold."""

    kind: str
    tokenizer: Chosen
    sources: dict[str, object]


class Laid(TypedDict):
    """The token files of a corpus: their dtype, what they count, and those that lie elsewhere."""

    dtype: str
    counts: dict[str, int]
    parts: list[Piece]


class Manifest(Laid):
    """manifest.json; key is the hash of identity, digest that of all else in it."""

    key: str
    identity: Made
    inputs: list[Input]
    tokenizer: MadeWith
    files: dict[str, File]
    digest: str
    looked_at: NotRequired[Looked]


class Grouped(TypedDict):
    """Which of the groups (by name) each held-out document belongs to; names: a hash of what told them apart."""

    corpus: str
    by: str
    names: str
    groups: list[str]
    numbers: list[int]
