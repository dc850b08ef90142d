"""What lies between a compressor and a codec: named arrays, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ablab.records.result import Artifact


@dataclass(frozen=True, eq=False)
class Array:
    """One array of an artifact.

    name: unique in the artifact. array: C-contiguous, any plain numpy type. bits: of integer codes, which lie within
    -2^(bits-1) and 2^(bits-1) - 1 (two's complement); None for other numbers. group: its role (`attn_q`, `mlp_in`,
    `embedding`, `scale`, `control`, ...): arrays of one group look alike, so a codec may lay them side by side.
    """

    name: str
    array: np.ndarray
    bits: int | None = None
    group: str = "other"


@dataclass(frozen=True, eq=False)
class Packed:
    """A compressor's whole output: the arrays, `meta` (JSON, what restoring needs), and `report`, not in the artifact."""

    parts: list[Array]
    meta: Mapping[str, object] = field(default_factory=dict)
    report: Artifact = field(default_factory=Artifact)
