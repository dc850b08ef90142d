"""LZMA: LZ77 and an adaptive range coder."""

from __future__ import annotations

import lzma  # the standard library's: imports are absolute
from collections.abc import Mapping

from ablab.artifact import container
from ablab.artifact.arrays import Array
from ablab.artifact.codecs.codec import Codec
from ablab.artifact.layout import Layout

LEAST, MOST = 1 << 12, 1 << 26  # dictionary, bytes
EXTREME = 9  # the only level of the longest search: in their extreme forms the ten presets are but two searches
LEVELS = (*range(7), EXTREME)


class Lzma(Codec):
    """Compresses with raw LZMA2 streams, without headers of their own.

    How the numbers lie: ablab.artifact.layout. The dictionary always holds the content (4 KiB to 64 MiB). Raises ValueError
    for another level. Source: LZMA SDK; parameter-golf.

    level: how matches are searched: 0 to 6 as the presets of xz, 9 as its `9e`; 7 and 8, which in xz are 6 with a larger
        dictionary, are refused
    shuffle: numbers of several bytes lie as byte planes, all lowest bytes first
    transpose: matrices of codes lie by columns
    pack_bits: codes of k bits take k bits
    group: one stream for each group of like parts
    sort_rows: rows of codes lie in an order in which neighbours are alike, then by columns, where that brings neighbours a
        tenth nearer (the order is stored)
    """

    source = "LZMA SDK; parameter-golf"
    revision = 2  # 2: levels below 9 are no longer extreme, which gave the ten levels two searches

    def __init__(
        self,
        *,
        level: int = 9,
        shuffle: bool = True,
        transpose: bool = False,
        pack_bits: bool = False,
        group: bool = True,
        sort_rows: bool = False,
    ) -> None:
        if level in (7, 8):
            fault = "searches as level 6, and the dictionary holds the content at every level"
            raise ValueError(f"level = {level} {fault}; choose 0 to 6, or 9")
        if level not in LEVELS:
            raise ValueError(f"level = {level} is unknown to lzma; choose 0 to 6, or 9")
        self.level = level
        self.layout = Layout(shuffle, transpose, pack_bits, group, sort_rows)

    def encode(self, parts: list[Array], meta: Mapping[str, object]) -> bytes:
        """Compress parts to an artifact; `len` of it is its size. The same bytes for the same parts."""

        def compress(plain: bytes) -> bytes:
            # The presets' contexts of literals: without them (lc = lp = pb = 0) files of int6 codes were 1.3% larger.
            how = {"preset": self.level | (lzma.PRESET_EXTREME if self.level == EXTREME else 0)}
            return lzma.compress(plain, lzma.FORMAT_RAW, filters=[_filter(len(plain)) | how])

        return container.write("lzma", parts, meta, self.layout, compress)

    @staticmethod
    def expand(encoded: memoryview, size: int) -> bytes:
        """Decompress to `size` bytes exactly. ValueError, or lzma's own error, for damaged ones; never makes many more."""
        one = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_filter(size)])
        plain = one.decompress(encoded, max_length=size)
        if not one.eof:  # the end mark may still be unread
            plain += one.decompress(b"", max_length=1)
        if not one.eof or len(plain) != size:
            raise ValueError("an lzma stream does not end where it should")
        return plain


def _filter(size: int) -> dict[str, int]:
    """Return lzma's filter: its dictionary is no larger than the content, and known from its length alone."""
    return {"id": lzma.FILTER_LZMA2, "dict_size": min(max(1 << (size - 1).bit_length() if size else 0, LEAST), MOST)}
