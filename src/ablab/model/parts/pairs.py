"""What depends on tokens' places: biases computed pair by pair, and sums along documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Pairwise:
    """A bias that is no inner product of columns: computed pair by pair, a block of queries and keys at a time.

    of(p_query, p_key) -> bias_BHTS (B|1, H, T, S), fp32 or fp64, added after the scale, before the mask; what it says
    of pairs that a query does not see is ignored, but must be a number. place: what tokens' places are, a tensor or a
    tuple (of tuples) of tensors, all with leading axes (B, length).
    """

    of: Callable[[Any, Any], torch.Tensor]
    place: object

    def block(self, rows: slice, keys: slice) -> torch.Tensor:
        """Compute the bias_BHTS of the queries `rows` over the keys `keys`."""
        return self.of(cut(self.place, rows), cut(self.place, keys))


def cut(place: object, length: slice) -> object:
    """Cut out the places of some of the tokens: every tensor of `place` along its second axis."""
    return across(lambda x: x[:, length], place)


def across(do: Callable[..., Any], *places: Any) -> Any:
    """Apply `do` to the tensors of one or several places of like structure, laid out like them."""
    if isinstance(places[0], tuple):
        return tuple(across(do, *parts) for parts in zip(*places, strict=True))
    return None if places[0] is None else do(*places)


def running(each_BTN: torch.Tensor, pos_BT: torch.Tensor, carry_BN: torch.Tensor | None) -> torch.Tensor:
    """Sum along every document, the current token included, fp64: biases are differences of large sums.

    A document that began before this stretch (pos says so) goes on from the carry; without one, from the stretch's
    start.
    """
    total = each_BTN.to(torch.float64).cumsum(1)
    start_BT = torch.arange(each_BTN.shape[1], device=each_BTN.device) - pos_BT
    before = torch.cat([torch.zeros_like(total[:, :1]), total], 1)
    sums = total - before.gather(1, start_BT.clamp(min=0)[..., None].expand_as(total))
    if carry_BN is not None:
        sums = sums + carry_BN[:, None].to(sums.dtype) * (start_BT < 0)[..., None]
    return sums
