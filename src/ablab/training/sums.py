"""Sums of gradients over micro-batches, in one fixed order: whichever process made which part, the sum has the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ablab.core.fault import Fault

Gradients = list[Tensor | None]  # one for each parameter, in their order; None where no part of a loss has reached it


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


def micro_batches_fault(rows: int, micro_rows: int, world: int) -> Fault | None:
    """Say what is wrong where `world` processes cannot share a batch of `rows`, each with a part of its tree of sums."""
    if world & (world - 1):
        below = 1 << (world.bit_length() - 1)
        fault = f"{world} processes cannot share a tree of sums, which is made of halves"
        return Fault("processes", fault, f"choose {below} or {2 * below}")
    n = -(-rows // micro_rows)
    if n % world == 0:
        return None
    fitting = [size for size in range(1, rows + 1) if rows % (size * world) == 0]
    near = [size for size in fitting if size < micro_rows][-1:] + [size for size in fitting if size > micro_rows][:1]
    fault = f"{rows} rows of a batch, {micro_rows} at a time, are {n} micro-batch{'es' if n > 1 else ''} for {world} processes"
    cure = f"choose {' or '.join(map(str, near))}" if near else "choose a larger batch, or fewer processes"
    return Fault("micro_rows", fault, cure)
