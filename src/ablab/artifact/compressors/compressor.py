"""What every compressor is: weights to few numbers, and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ablab.artifact.arrays import Packed, Part
from ablab.core.slot import Sized

Weights = dict[str, Tensor]


class Compressor(Sized):
    """Chooses the numbers of an artifact, of which a codec makes bytes."""

    def quantise(self, weights: Weights, calibration: Any = None) -> Packed:
        """The parts, what restoring needs, and the report; the same for the same weights in any order.

        calibration: `ablab.artifact.compressors.calibration.Calibration` within a study. Raises ValueError ("fault; cure").
        """
        raise NotImplementedError(f"{type(self).__name__} has no `quantise`")

    @staticmethod
    def restore(parts: list[Part], meta: dict[str, Any]) -> Weights:
        """The weights that are left, from nothing but the parts and `meta`: names, shapes and types as they were."""
        raise NotImplementedError("the compressor has no `restore`")
