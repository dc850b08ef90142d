"""What every codec is: the arrays of an artifact to bytes and back, without loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from ablab.artifact.arrays import Array
from ablab.core.lever import Lever


class Codec(Lever):
    """Makes the bytes that count; `ablab.artifact.container.write` lays the arrays and heads them with the codec's name."""

    @abstractmethod
    def encode(self, parts: list[Array], meta: Mapping[str, object]) -> bytes:
        """Compress parts to an artifact; `len` of it is its size. The same bytes for the same parts."""

    @staticmethod
    @abstractmethod
    def expand(encoded: memoryview, size: int) -> bytes | memoryview:
        """Decompress to `size` bytes exactly. ValueError for damaged ones; never makes many more."""
