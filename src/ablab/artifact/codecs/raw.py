"""No compression."""

from __future__ import annotations

from collections.abc import Mapping

from ablab.artifact import container
from ablab.artifact.arrays import Array
from ablab.artifact.codecs.codec import Codec
from ablab.artifact.layout import Layout


class Raw(Codec):
    """Lays the arrays end to end, as they are; with `pack_bits`, codes of k bits take k bits.

    Nothing is compressed, so no other order of the bytes would change their number.

    pack_bits: codes of k bits take k bits
    """

    source = "ablab"

    def __init__(self, *, pack_bits: bool = False) -> None:
        self.layout = Layout(pack_bits=pack_bits)

    def encode(self, parts: list[Array], meta: Mapping[str, object]) -> bytes:
        """Join parts to an artifact; `len` of it is its size. The same bytes for the same parts."""
        return container.write("raw", parts, meta, self.layout, lambda plain: plain)

    @staticmethod
    def expand(encoded: memoryview, size: int) -> memoryview:
        """Return the bytes themselves."""
        return encoded
