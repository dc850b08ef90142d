"""Sums of gradients over micro-batches, in one fixed order: whichever process made which part, the sum has the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ablab.core.fault import Fault
from ablab.runtime.ranks import Ranks

Gradients = list[Tensor | None]  # one for each parameter, in their order; None where no part of a loss has reached it
BUCKET = 1 << 25  # bytes of gradients that go round at once: two copies of them are held meanwhile


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


def across(gradients: Sequence[Tensor], group: Ranks) -> None:
    """Sum gradients over the processes of a group, in place: the upper part of `tree`, each process's sum being one half.

    Every process gets its piece of all others' gradients, adds them, and hands the sum round: as many bytes as a ring, and an
    order that is ours. The order of an all_reduce is the library's, and another one for another number of processes.
    """
    for bucket in _buckets(gradients):
        flat = torch.cat([one.flatten() for one in bucket])
        flat = torch.nn.functional.pad(flat, (0, -flat.numel() % group.world))
        theirs = torch.empty_like(flat)
        dist.all_to_all_single(theirs, flat)
        parts = list(theirs.view(group.world, -1))
        while len(parts) > 1:
            parts = [left.add_(right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
        dist.all_gather(list(flat.view(group.world, -1)), parts[0])
        pieces = flat[: sum(one.numel() for one in bucket)].split([one.numel() for one in bucket])
        torch._foreach_copy_(bucket, [piece.view(one.shape) for piece, one in zip(pieces, bucket, strict=True)])


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one type and device, one after another, BUCKET bytes or a single one at a time."""
    bucket, size = list[Tensor](), 0
    for one in gradients:
        if bucket and (size + one.nbytes > BUCKET or (one.dtype, one.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket, size = [], 0
        bucket.append(one)
        size += one.nbytes
    if bucket:
        yield bucket


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
