"""What every compressor is: weights to few numbers, and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ablab.artifact.arrays import Array, Packed
from ablab.core.lever import Sized

if TYPE_CHECKING:
    from ablab.artifact.compressors.calibration import Calibration

Weights = dict[str, Tensor]


class Compressor(Sized):
    """Chooses the numbers of an artifact, of which a codec makes bytes."""

    calibrates: ClassVar[bool] = False  # whether it asks what the inputs of the matrices look like on training text

    @abstractmethod
    def quantise(self, weights: Weights, calibration: Calibration | None = None) -> Packed:
        """Return the parts, what restoring needs, and the report; the same for the same weights in any order.

        calibration: within a study, where it `calibrates`. Raises ValueError ("fault; cure").
        """

    @staticmethod
    @abstractmethod
    def restore(parts: list[Array], meta: Mapping[str, object]) -> Weights:
        """Restore the weights from nothing but the parts and `meta`: names, shapes and types as they were."""
