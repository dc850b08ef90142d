"""Sums of gradients over micro-batches, in one fixed order: whichever process made which part, the sum has the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Gradients = list[Tensor | None]  # one for each parameter, in their order; None where no part of a loss has reached it


def halvings(n: int) -> int:
    """Count how often `n` micro-batches are halved: the sums that wait, at most, while another half is made."""
    return (n & -n).bit_length() - 1


def tree(starts: Sequence[int], chain: Callable[[Sequence[int]], Gradients]) -> Gradients:
    """Sum over micro-batches: halves while their number is even, and what is left, an odd number, one after another.

    `chain` adds up gradients of micro-batches one after another. Up to three are summed as a chain would sum them.
    """
    if len(starts) % 2:
        return chain(starts)
    half = len(starts) // 2
    return added(tree(starts[:half], chain), tree(starts[half:], chain))


def added(one: Gradients, other: Gradients) -> Gradients:
    """Add the second to the first, in place."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if pairs:
        torch._foreach_add_([a for a, _ in pairs], [b for _, b in pairs])
    return [b if a is None else a for a, b in zip(one, other, strict=True)]
