"""Golf shards, as their own programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablab.data.formats.shards import MAGIC


def write_shard(path: Path, tokens: Sequence[int] | np.ndarray, *, plain: bool = False) -> None:
    """Write uint16 tokens as a golf shard, or without a header where `plain`."""
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, 1, len(tokens)
    path.write_bytes((b"" if plain else header.tobytes()) + np.asarray(tokens).astype("<u2").tobytes())
