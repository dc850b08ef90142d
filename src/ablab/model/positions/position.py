"""What every position scheme is: where a token stands, what that turns, and what it adds to the scores."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.columns import Columns
from ablab.model.parts.part import Part


class Position(Part, Sized):
    """No position signal: every scheme says what it does otherwise.

    Attention calls `place`, `rotate` and `columns` in this order, q and k already normalised. A scheme whose bias is no inner
    product of columns sets `pairwise` and has a `bias`. Every tensor in a place has leading axes (B, length): places are cut
    along the second, and kept with the keys in decode.
    """

    turns = False  # q and k are rotated
    reads = False  # columns depend on q and k
    share = "layer"  # or "net": one for the whole network
    relative = False  # scores see differences of places alone, and nothing before the key
    pairwise = False  # the bias is asked for pair by pair: `bias`
    needs_length = False  # it must hear (`declare`) the length that will be read

    @property
    def alike(self) -> bool:
        """Every head turns by the same angles, if at all: a decoder may turn what keys are made of."""
        return not self.turns

    def place(self, x_BTD: Tensor, pos_BT: Tensor, carry: Any = None) -> tuple[Any, Any]:
        """Return what a token's place is; `carry` is what the tokens before this stretch left behind (decode)."""
        return pos_BT, carry

    def rotate(self, q_BTHK: Tensor, k_BTGK: Tensor, p: Any) -> tuple[Tensor, Tensor]:
        """Apply the multiplicative part."""
        return q_BTHK, k_BTGK

    def columns(self, q_BTHK: Tensor, k_BTGK: Tensor, p: Any) -> Columns | None:
        """Return the additive part as low-rank columns."""
        return None

    @classmethod
    def owed(cls) -> list[str]:
        """Ask for its `bias`, too, where it is `pairwise`."""
        return [*super().owed(), *(["bias"] if cls.pairwise and cls.bias is Position.bias else [])]

    def bias(self, p_query: Any, p_key: Any) -> Tensor:
        """Compute (B|1, H, T, S), fp32 or fp64: of the queries at p_query over the keys at p_key; attention asks for blocks.

        Only where `pairwise`.
        """
        raise NotImplementedError(f"{type(self).__name__} is pairwise and has no `bias`")
