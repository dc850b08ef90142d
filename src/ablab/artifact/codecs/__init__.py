"""Codecs: the arrays of an artifact to bytes and back, without loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.artifact.codecs.codec import Codec

slot: Slot[Codec] = Slot(
    "codec",
    __name__,
    base="codec.Codec",
    raw="Raw",
    brotli="Brotli",
    zstd="Zstd",
    lzma="Lzma",
    aliases={"none": "raw", "xz": "lzma"},
)
