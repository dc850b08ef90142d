"""The .idx file of Megatron's token files: its layout, and the checks that it must pass."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.kinds import instead
from ablab.core.opened import opened
from ablab.data.formats.mapped import map_file

MAGIC = b"MMIDIDX\x00\x00"
CODES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}
HEADER = struct.Struct("<9sQBQQ")
PIECE = 1 << 20  # sequences checked at a time: memory stays flat however many there are
_AGAIN = "write both files again"


def bare(place: Path | str) -> Path:
    """Return the prefix of a file: `place` without .bin or .idx."""
    place = Path(place)
    return place.with_suffix("") if place.suffix in (".bin", ".idx") else place


def paths(prefix: Path | str) -> tuple[Path, Path]:
    """Return PREFIX.bin and PREFIX.idx."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def read_header(path: Path) -> tuple[np.dtype, int, int]:
    """Read dtype of the tokens, number of sequences, number of document starts. CheckFailed where it is no such file."""
    try:
        with opened(path) as file:
            raw = file.read(HEADER.size)
    except OSError as error:
        raise broken(path, f"cannot be read ({error.strerror})", "check the file and its rights") from error
    if (raw[: len(MAGIC)] != MAGIC[: len(raw)] or not raw) and (other := instead(path, _AGAIN)) is not None:
        raise broken(path, f"is no Megatron index: it {other.what}", other.cure)
    if raw[: len(MAGIC)] != MAGIC[: len(raw)] or not raw:
        raise broken(path, f"is no Megatron index: it begins with {raw[:9]!r}, not {MAGIC!r}", "give the .idx file")
    if len(raw) < HEADER.size:
        raise broken(path, f"is truncated: {len(raw)} bytes, the header alone has {HEADER.size}")
    _, version, code, n_sequences, n_documents = HEADER.unpack(raw)
    if version != 1:
        raise broken(path, f"has version {version}; only version 1 is known", "write it with Megatron or ablab")
    if code not in CODES:
        known = ", ".join(f"{c} {name}" for c, name in CODES.items())
        raise broken(path, f"has dtype code {code}; known: {known}")
    if CODES[code].startswith("float"):
        raise broken(path, f"has dtype code {code}, {CODES[code]}, which holds no token ids", "write integer tokens")
    if n_documents < 1:
        raise broken(path, "has no document starts; there is at least one, 0")
    return np.dtype(CODES[code]).newbyteorder("<"), n_sequences, n_documents


def read_columns(path: Path, n: int, n_documents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Read lengths, pointers, documents and modes (None where there are none). CheckFailed where the size is another."""
    size, needed = path.stat().st_size, HEADER.size + 12 * n + 8 * n_documents
    if size not in (needed, needed + n):
        relation = "truncated" if size < needed else "too long"
        raise broken(
            path, f"is {relation}: {size:,} bytes, its {n:,} sequences and {n_documents:,} starts need {needed:,}"
        )
    at = HEADER.size
    lengths = map_file(path, np.dtype("<i4"), at, n)
    pointers = map_file(path, np.dtype("<i8"), at + 4 * n, n)
    documents = map_file(path, np.dtype("<i8"), at + 12 * n, n_documents)
    modes = map_file(path, np.dtype("i1"), needed, n) if size > needed else None
    return lengths, pointers, documents, modes


def check_documents(path: Path, documents: np.ndarray, n_sequences: int) -> None:
    """Refuse document starts that do not go from 0 to the number of sequences, or go back."""
    if documents[0] != 0 or documents[-1] != n_sequences:
        cure = "end the last document before the file is closed, then write it again"
        span = f"from {documents[0]} to {documents[-1]}, not from 0 to the {n_sequences} sequences"
        raise broken(path, f"has documents {span}", cure)
    for first in range(0, len(documents) - 1, PIECE):
        piece = documents[first : first + PIECE + 1]
        back = np.flatnonzero(piece[1:] < piece[:-1])  # a difference of 64-bit numbers could overflow
        if len(back):
            where = first + int(back[0])
            raise broken(
                path, f"has documents that go back: {where} at {documents[where]}, then {documents[where + 1]}"
            )


def check_pointers(path: Path, lengths: np.ndarray, pointers: np.ndarray, itemsize: int) -> int:
    """Check that each pointer is the bytes of all sequences before it. Returns the tokens of all sequences."""
    total = 0
    for first in range(0, len(lengths), PIECE):
        piece = np.asarray(lengths[first : first + PIECE], np.int64)
        if (piece < 0).any():
            where = int(np.flatnonzero(piece < 0)[0])
            raise broken(path, f"gives sequence {first + where} the length {piece[where]}")
        ends = np.cumsum(piece) + total
        wanted = (ends - piece) * itemsize
        wrong = np.flatnonzero(wanted != pointers[first : first + PIECE])
        if len(wrong):
            where = int(wrong[0])
            pointer = pointers[first + where]
            raise broken(
                path, f"points to byte {pointer} for sequence {first + where}; the lengths give {wanted[where]}"
            )
        total = int(ends[-1])
    return total


def broken(path: Path, fault: str, cure: str = _AGAIN) -> CheckFailed:
    """Make the error about one file."""
    return CheckFailed(Fault(str(path), fault, cure))
