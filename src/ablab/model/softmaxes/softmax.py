"""What every softmax is: what competes with the keys for the attention mass."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class Softmax(Part, Sized):
    """Attention weights sum to 1 over the visible keys: nothing competes with them."""

    def sink(self) -> Tensor | None:
        """Return logits (n_heads,) that compete with the keys, or None."""
        return None
