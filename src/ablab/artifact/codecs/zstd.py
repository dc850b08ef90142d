"""Zstandard: LZ77, Huffman and finite-state entropy codes."""

from __future__ import annotations

from collections.abc import Mapping

from ablab.artifact import container
from ablab.artifact.arrays import Array
from ablab.artifact.codecs.codec import Codec
from ablab.artifact.layout import Layout


class Zstd(Codec):
    """Compresses with zstd: fast to read, a little larger than brotli.

    How the numbers lie: ablab.artifact.layout. Raises ValueError for a level out of range, CheckFailed where the library is
    missing. Source: RFC 8878; parameter-golf.

    level: 1 to 22, the slowest and smallest
    shuffle: numbers of several bytes lie as byte planes, all lowest bytes first
    transpose: matrices of codes lie by columns
    pack_bits: codes of k bits take k bits
    group: one stream for each group of like parts
    sort_rows: rows of codes lie in an order in which neighbours are alike, then by columns, where that brings neighbours a
        tenth nearer (the order is stored)
    """

    source = "RFC 8878; parameter-golf"

    def __init__(
        self,
        *,
        level: int = 22,
        shuffle: bool = True,
        transpose: bool = False,
        pack_bits: bool = False,
        group: bool = True,
        sort_rows: bool = False,
    ) -> None:
        if not 1 <= level <= 22:
            raise ValueError(f"level = {level} is unknown to zstd; choose 1 to 22")
        self.level = level
        self.layout = Layout(shuffle, transpose, pack_bits, group, sort_rows)

    def encode(self, parts: list[Array], meta: Mapping[str, object]) -> bytes:
        """Compress parts to an artifact; `len` of it is its size. The same bytes for the same parts."""
        library = container.imported("zstandard")

        def compress(plain: bytes) -> bytes:
            one = library.ZstdCompressor(level=self.level, write_checksum=False, write_content_size=False)
            return bytes(one.compress(plain))

        return container.write("zstd", parts, meta, self.layout, compress)

    @staticmethod
    def expand(encoded: memoryview, size: int) -> bytes:
        """Decompress to `size` bytes exactly. ValueError, or zstd's own error, for damaged ones; never makes many more."""
        reader = container.imported("zstandard").ZstdDecompressor(max_window_size=1 << 27).stream_reader(encoded)
        pieces: list[bytes] = []
        left = size + 1
        while left and (piece := reader.read(min(left, 1 << 24))):
            pieces.append(bytes(piece))
            left -= len(piece)
        if left != 1:
            raise ValueError("a zstd stream does not end where it should")
        return b"".join(pieces)
