"""Token files as sources: Megatron prefixes, folders that `ablab data build` made, golf shards, plain uint16 files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import canonical
from ablab.core.inputs import Inputs
from ablab.core.kinds import answer, kind_of
from ablab.data.formats.indexed import bare, open_indexed, open_sidecars, paths, sidecars
from ablab.data.formats.located import MANIFEST, harmony_manifest, prefix_of, shards_of
from ablab.data.formats.shards import bytes_path, bytes_sidecar, read_shard
from ablab.records.corpus import Input, InputFile

_PIECE = 1 << 24  # tokens looked through at once
_SIDECARS = ("_lossmask", "_span")


class Opened(NamedTuple):
    """One token file. `starts`: where documents begin; `loss` and `span` label-aligned; `n_bytes`: of each token's text."""

    tokens: np.ndarray
    starts: np.ndarray
    loss: np.ndarray | None = None
    span: np.ndarray | None = None
    n_bytes: np.ndarray | None = None


@dataclass(frozen=True)
class TokenFile:
    """A token file, named as the study names it. `kind`: "megatron", or "shard" for golf and plain uint16 files."""

    path: Path  # the prefix, or the file
    kind: str
    vocab_sha256: str = field(default="", compare=False)  # of the tokenizer that made it, where that is known
    built: dict[str, str] = field(default_factory=dict, compare=False)  # sha256 of each file by its build's manifest

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def tokens_file(self) -> Path:
        """The file that holds the tokens."""
        return self.path if self.kind == "shard" else paths(self.path)[0]

    @property
    def files(self) -> list[Path]:
        """Every file that it consists of: its content is theirs."""
        if self.kind == "shard":
            beside = bytes_path(self.path)
            return [self.path, *([beside] if beside is not None and beside.exists() else [])]
        files = list(paths(self.path))
        for prefix in sidecars(self.path) or ():
            files += paths(prefix)
        return files

    def describe(self, inputs: Inputs) -> Input:
        """Describe the part as the manifest does: every file with its size and sha256, and one hash over all of them."""
        if gone := sorted(path for path in self.built if not Path(path).is_file()):
            cure = "build it again; `ablab data verify` says more"
            raise CheckFailed(Fault(gone[0], "is missing, and the build's manifest lists it", cure))
        listed: list[InputFile] = [
            {"path": str(p), "sha256": inputs.sha256(p), "size": p.stat().st_size} for p in self.files
        ]
        for one in listed:
            if self.built.get(one["path"], one["sha256"]) != one["sha256"]:
                cure = "build it again; `ablab data verify` says more"
                raise CheckFailed(Fault(one["path"], "is not what the build's manifest says (sha256 differs)", cure))
        digest = hashlib.sha256(canonical([one["sha256"] for one in listed]).encode()).hexdigest()
        return {"source": self.name, "kind": self.kind, "sha256": digest, "files": listed}

    def open(self, bos_id: int | None) -> Opened:
        """Read in place. CheckFailed where it is damaged.

        Documents of shards begin at `bos_id`, and at the file's beginning; they are not looked for where it is None.
        """
        if self.kind == "shard":
            tokens = read_shard(self.path)
            starts = np.zeros(1, np.int64) if bos_id is None else _after(tokens, bos_id)
            return Opened(tokens, starts, n_bytes=bytes_sidecar(self.path))
        indexed = open_indexed(self.path)
        starts = np.unique(indexed.document_starts()[:-1])
        starts = starts[starts < len(indexed.tokens)]  # documents without tokens
        beside = open_sidecars(indexed)
        if beside is None:
            return Opened(indexed.tokens, starts)
        return Opened(indexed.tokens, starts, beside[0].tokens, beside[1].tokens)


def parts_at(path: Path, place: str) -> tuple[list[TokenFile], list[TokenFile]] | Fault | None:
    """Find token files at `path` as (training, held-out); a Fault where it looks like one and is none; None where it is text.

    A folder must hold the manifest of a build; a Megatron prefix may be written bare, with .bin or with .idx.
    """
    if path.is_dir():
        return _built(path, place)
    if path.is_file() and is_sidecar(path) and path.suffix == ".bin":
        return Fault(place, f"'{path}' holds labels or byte counts of another file, no tokens", "name that file")
    if path.suffix in ("", ".bin", ".idx") or not path.exists():
        prefix = bare(path)
        both = [file.is_file() for file in paths(prefix)]
        if not any(both) and paths(Path(f"{prefix}_tokens"))[1].is_file():
            return [TokenFile(Path(f"{prefix}_tokens"), "megatron")], []
        if all(both):
            return [TokenFile(prefix, "megatron")], []
        if path.suffix == "" and path.is_file():  # a file is no prefix, whatever lies beside it
            if (other := kind_of(path) or answer(path)) is not None:
                return Fault(place, f"'{path}' {other.what}", other.cure)
            return Fault(place, f"'{path}' is a file without a suffix", "call it .txt, .jsonl or .bin, as it is")
        if path.suffix == ".bin" and both[0]:
            return [TokenFile(path, "shard")], []
        if any(both):
            missing = paths(prefix)[both.index(False)]
            return Fault(place, f"'{missing}' is missing beside its partner", "a Megatron prefix needs .bin and .idx")
    return None


def is_sidecar(path: Path) -> bool:
    """Tell whether a file belongs to another one, so that a pattern that matches both means the other."""
    name = path.name.rsplit(".", 1)[0]
    for ending in _SIDECARS:
        if name.endswith(ending):
            return path.with_name(name.removesuffix(ending) + "_tokens.bin").exists()
    if path.suffix == ".bin" and "_val_bytes_" in name:
        return path.with_name(path.name.replace("_val_bytes_", "_val_")).exists()
    return path.suffix == ".idx" and path.with_suffix(".bin").exists()


def _built(folder: Path, place: str) -> tuple[list[TokenFile], list[TokenFile]] | Fault:
    file = folder / MANIFEST
    if not file.is_file():
        return Fault(place, f"'{folder}' is a folder", f"name its files, such as '{folder}/*.txt'")
    manifest = harmony_manifest(file)
    parts: dict[str, list[TokenFile]] = {"train": [], "valid": []}
    for split, shard in shards_of(manifest, file):
        listed = {str(folder / name): one["sha256"] for name, one in shard["files"].items()}
        made = manifest["tokenizer"]["sha256"]
        parts[split].append(TokenFile(prefix_of(folder, split, shard), "megatron", made, listed))
    return parts["train"], parts["valid"]


def _after(tokens: np.ndarray, bos_id: int) -> np.ndarray:
    """Find the places of `bos_id`, and 0."""
    places = [
        at + np.flatnonzero(np.asarray(tokens[at : at + _PIECE]) == bos_id) for at in range(0, len(tokens), _PIECE)
    ]
    return np.unique(np.concatenate([[0], *places])).astype(np.int64)


def highest(tokens: np.ndarray) -> tuple[int, int]:
    """Find the lowest and the highest id, looked up in pieces."""
    pieces = [np.asarray(tokens[at : at + _PIECE]) for at in range(0, len(tokens), _PIECE)]
    return min(int(piece.min()) for piece in pieces), max(int(piece.max()) for piece in pieces)


def documents_of(opened: Opened) -> Iterator[slice]:
    """Yield where each document lies in the file."""
    for at in range(0, len(opened.starts), _PIECE):
        bounds = [*opened.starts[at : at + _PIECE + 1].tolist(), len(opened.tokens)][: _PIECE + 1]
        yield from map(slice, bounds[:-1], bounds[1:])
