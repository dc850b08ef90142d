"""A prepared corpus on disk: token files, their checksums, and how they are read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, overload

import numpy as np

from ablab.fault import Fault, GateFailed
from ablab.files import key_of, read_json, sha256_file
from ablab.tokenizers import slot

FILES = ("tokenizer", "train.tokens", "train.starts", "valid.tokens", "valid.bytes", "valid.starts", "valid.digests")


class Tokenizer(Protocol):
    """What the data floor asks of a tokenizer."""

    vocab_size: int
    bos_id: int
    trained: bool

    def train(self, texts: Sequence[str]) -> None: ...
    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]: ...
    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes: ...
    def decode(self, ids: Sequence[int] | np.ndarray) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def save(self, path: Path) -> None: ...


class Document(NamedTuple):
    """One validation document: `ids` (int64, BOS first) and `n_bytes` (int64, bytes of each token; 0 for BOS)."""

    ids: np.ndarray
    n_bytes: np.ndarray


class Valid(Sequence[Document]):
    """The validation documents, in hash order. `digests` (documents, 16) names each by its content."""

    def __init__(self, tokens: np.ndarray, n_bytes: np.ndarray, starts: np.ndarray, digests: np.ndarray) -> None:
        self.tokens, self.n_bytes, self.digests = tokens, n_bytes, digests
        self.starts = np.append(starts, len(tokens))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} validation documents")
        index %= len(self)
        piece = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return Document(self.tokens[piece].astype(np.int64), self.n_bytes[piece].astype(np.int64))

    @property
    def n_targets(self) -> int:
        """Tokens that are scored: all but the BOS of each document."""
        return len(self.tokens) - len(self)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared corpus. `tokens` are the training documents, each BOS and its tokens; `documents` where they start."""

    path: Path
    key: str
    manifest: dict[str, Any]
    vocab_size: int
    bos_id: int
    tokens: np.ndarray  # np.memmap, uint16 or uint32
    documents: np.ndarray  # int64
    valid: Valid

    @property
    def n_train(self) -> int:
        """Training tokens, the BOS of each document included."""
        return len(self.tokens)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return cast(Tokenizer, _lever(self.manifest).load(self.path / "tokenizer"))


def open_corpus(path: Path) -> Corpus:
    """Open the corpus at `path` after checking every file against the manifest's sha256.

    GateFailed, naming the file, where one is missing, changed, or not listed.
    """
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise _broken(file, "is missing")
        if file.stat().st_size != entry["size"] or sha256_file(file) != entry["sha256"]:
            raise _broken(file, "is not what the manifest says (sha256 differs)")
    for file in path.iterdir():
        if file.name not in manifest["files"] and file.name != "manifest.json" and not file.name.startswith("."):
            raise _broken(file, "is not listed in the manifest")
    token = np.dtype(manifest["dtype"])
    valid = Valid(
        np.memmap(path / "valid.tokens", token, "r"),
        np.memmap(path / "valid.bytes", "<u2", "r"),
        np.fromfile(path / "valid.starts", "<i8"),
        np.fromfile(path / "valid.digests", np.uint8).reshape(-1, 16),
    )
    return Corpus(
        path=path,
        key=manifest["key"],
        manifest=manifest,
        vocab_size=manifest["tokenizer"]["vocab_size"],
        bos_id=manifest["tokenizer"]["bos_id"],
        tokens=np.memmap(path / "train.tokens", token, "r"),
        documents=np.fromfile(path / "train.starts", "<i8"),
        valid=valid,
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the corpus at `path`, checked against its own digest."""
    file = path / "manifest.json"
    manifest = read_json(file)
    if not isinstance(manifest, dict) or manifest.get("digest") != digest_of_manifest(manifest):
        raise _broken(file, "was changed after it was written")
    if set(manifest["files"]) != set(FILES):
        raise _broken(file, f"does not list the files {', '.join(FILES)}")
    return manifest


def digest_of_manifest(manifest: dict[str, Any]) -> str:
    """Hash of everything in the manifest but the hash itself."""
    return key_of({name: value for name, value in manifest.items() if name != "digest"})


def _lever(manifest: dict[str, Any]) -> Any:
    return slot.load(manifest["tokenizer"]["choice"]["name"])


def _broken(file: Path, fault: str) -> GateFailed:
    return GateFailed(Fault(str(file), fault, f"delete {file.parent} to have the data prepared again"))
