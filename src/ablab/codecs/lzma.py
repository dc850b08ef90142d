"""LZMA: LZ77 and an adaptive range coder."""

from __future__ import annotations

import lzma  # the standard library's: imports are absolute
from typing import Any

from ablab import container
from ablab.layout import Layout
from ablab.packed import Part

LEAST, MOST = 1 << 12, 1 << 26  # dictionary, bytes


class Lzma:
    """Compresses with raw LZMA2 streams, without headers of their own.

    level: 0 to 9. shuffle, transpose, pack_bits, group, sort_rows: how the numbers lie (ablab.layout).
    Raises ValueError for a level out of range. Source: LZMA SDK; parameter-golf.
    """

    source = "LZMA SDK; parameter-golf"

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
        if not 0 <= level <= 9:
            raise ValueError(f"level = {level} is unknown to lzma; choose 0 to 9")
        self.level = level
        self.layout = Layout(shuffle, transpose, pack_bits, group, sort_rows)

    def encode(self, parts: list[Part], meta: dict[str, Any]) -> bytes:
        """The artifact; `len` of it is its size. The same bytes for the same parts."""

        def compress(plain: bytes) -> bytes:
            # The presets' contexts of literals: without them (lc = lp = pb = 0) files of int6 codes were 1.3% larger.
            how = {"preset": self.level | lzma.PRESET_EXTREME}
            return lzma.compress(plain, lzma.FORMAT_RAW, filters=[_filter(len(plain)) | how])

        return container.write("lzma", parts, meta, self.layout, compress)

    @staticmethod
    def expand(encoded: memoryview, size: int) -> bytes:
        """Exactly `size` bytes. Raises ValueError, or lzma's own error, for damaged ones; never makes many more."""
        one = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_filter(size)])
        plain = one.decompress(encoded, max_length=size)
        if not one.eof:  # the end mark may still be unread
            plain += one.decompress(b"", max_length=1)
        if not one.eof or len(plain) != size:
            raise ValueError("an lzma stream does not end where it should")
        return plain


def _filter(size: int) -> dict[str, Any]:
    """The dictionary is no larger than the content, and known from its length alone."""
    return {"id": lzma.FILTER_LZMA2, "dict_size": min(max(1 << (size - 1).bit_length() if size else 0, LEAST), MOST)}
