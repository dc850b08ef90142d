"""Brotli: LZ77 and context-modelled Huffman codes."""

from __future__ import annotations

from collections.abc import Mapping

from ablab.artifact import container
from ablab.artifact.arrays import Array
from ablab.artifact.codecs.codec import Codec
from ablab.artifact.layout import Layout


class Brotli(Codec):
    """Compresses with brotli: the smallest files of the usual codecs on codes of rounded weights, and the slowest.

    How the numbers lie: ablab.artifact.layout. Raises ValueError for a quality or window out of range, CheckFailed where the
    library is missing. Source: RFC 7932; parameter-golf, PR #1394.

    quality: 0 to 11, the slowest and smallest
    window (log2 of bytes): the reach of matches, 10 to 24
    shuffle: numbers of several bytes lie as byte planes, all lowest bytes first
    transpose: matrices of codes lie by columns
    pack_bits: codes of k bits take k bits, which before brotli makes the file larger
    group: one stream for each group of like parts
    sort_rows: rows of codes lie in an order in which neighbours are alike, then by columns, where that brings neighbours a
        tenth nearer (the order is stored)
    """

    source = "RFC 7932; parameter-golf, PR #1394"

    def __init__(
        self,
        *,
        quality: int = 11,
        window: int = 24,
        shuffle: bool = True,
        transpose: bool = False,
        pack_bits: bool = False,
        group: bool = True,
        sort_rows: bool = False,
    ) -> None:
        if not 0 <= quality <= 11:
            raise ValueError(f"quality = {quality} is unknown to brotli; choose 0 to 11")
        if not 10 <= window <= 24:
            raise ValueError(f"window = {window} is unknown to brotli; choose 10 to 24")
        self.quality, self.window = quality, window
        self.layout = Layout(shuffle, transpose, pack_bits, group, sort_rows)

    def encode(self, parts: list[Array], meta: Mapping[str, object]) -> bytes:
        """Compress parts to an artifact; `len` of it is its size. The same bytes for the same parts."""
        library = container.imported("brotli")

        def compress(plain: bytes) -> bytes:
            return bytes(library.compress(plain, quality=self.quality, lgwin=self.window))

        return container.write("brotli", parts, meta, self.layout, compress)

    @staticmethod
    def expand(encoded: memoryview, size: int) -> bytes:
        """Decompress to `size` bytes exactly. ValueError, or brotli's own error, for damaged ones; never makes many more."""
        library = container.imported("brotli")
        one, pieces, made = library.Decompressor(), [], 0
        piece = one.process(bytes(encoded), output_buffer_limit=size + 1)
        while True:
            pieces.append(piece)
            made += len(piece)
            if one.is_finished() or made > size or not piece:
                break
            piece = one.process(b"", output_buffer_limit=size + 1 - made)
        if not one.is_finished() or made != size:
            raise ValueError("a brotli stream does not end where it should")
        return b"".join(pieces)
