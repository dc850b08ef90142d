"""Compressed files read as what is in them: gzip and zstandard, in pieces, so that no file can fill the memory."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from ablab.core.fault import CheckFailed, Fault
from ablab.core.kinds import kind_of
from ablab.core.opened import opened

SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_AGAIN = "copy or fetch the file again"
_PIECE = 1 << 10  # compressed bytes at once: at worst they unpack to 32 MiB
_LARGEST_WINDOW = 1 << 27  # bytes that an unpacker of zstandard keeps: what the program itself allows


class Unpacked(io.RawIOBase):
    """What is in a compressed file. Reading raises CheckFailed where it is damaged, cut short, or packed another way."""

    def __init__(self, path: Path) -> None:
        self._path, self._kind = path, SUFFIXES[path.suffix]
        self._file = opened(path)
        self._pieces = self._unpacked()
        self._left = memoryview(b"")
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        """Fill the buffer as far as the next piece reaches; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # a buffer, as io hands it
        while not self._left:
            try:
                self._left = memoryview(next(self._pieces))
            except StopIteration:
                return 0
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        self._given += size
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _unpacked(self) -> Iterator[bytes]:
        if (found := kind_of(self._path)) is None or found.name != self._kind:
            what = "is not compressed at all" if found is None else found.what
            end = "" if found is None else {"gzip": ".gz", "zstd": ".zst"}.get(found.name, "")
            cure = f"call it {self._path.stem}{end}" if found is None or end else found.cure
            raise CheckFailed(Fault(str(self._path), f"{what}, whatever its name says", cure))
        part, rest = None, b""
        while piece := rest or self._file.read(_PIECE):
            rest = b""
            if part is None and self._kind == "gzip" and not piece.strip(b"\0"):
                continue  # filled up behind its end, as tapes were
            part = part or _stream(self._kind)
            try:
                yield part.decompress(piece)
            except (zlib.error, zstandard.ZstdError) as error:
                fault = f"is damaged behind {self._given:,} bytes of text ({' '.join(str(error).split())})"
                raise CheckFailed(Fault(str(self._path), fault, _AGAIN)) from None
            if part.eof:
                rest, part = part.unused_data, None
        if part is not None:
            raise CheckFailed(Fault(str(self._path), f"is cut short behind {self._given:,} bytes of text", _AGAIN))


def _stream(kind: str) -> zlib._Decompress | zstandard.ZstdDecompressionObj:
    if kind == "gzip":
        return zlib.decompressobj(31)
    return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()


def unpacked(path: Path) -> BinaryIO:
    """Open a file of either suffix to be read; any other as it lies. OSError as `opened` of ablab.core.opened."""
    return io.BufferedReader(Unpacked(path)) if path.suffix in SUFFIXES else opened(path)
