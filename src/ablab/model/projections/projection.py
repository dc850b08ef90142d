"""What every projection is: hidden states to queries, keys and values."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class Projection(Part, Sized):
    """x_BTD -> q_BTHK, k_BTGK, v_BTGK."""

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project to queries, keys and values of every token."""

    def factors(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Return a_k_BTGR, b_k_BTRK, a_v_BTGR, b_v_BTRK with k = a_k b_k, v = a_v b_v: what a decoder may keep instead of k, v.

        None where they are no such products.
        """
        return None
