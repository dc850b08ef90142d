"""Codecs: the arrays of an artifact to bytes and back, without loss."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "codec", __name__, raw="Raw", brotli="Brotli", zstd="Zstd", lzma="Lzma", aliases={"none": "raw", "xz": "lzma"}
)
