"""Sums of gradients over the processes of a group, whose order is ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ablab.runtime.ranks import Ranks

BUCKET = 1 << 25  # bytes of gradients that go round at once: two copies of them are held meanwhile


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
