"""Long windowed rows, chunk by chunk: only inputs, output and log-sum-exp are kept, so memory is linear in T, too."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ablab.model.attention import kernel
from ablab.model.attention.documents import Blocks
from ablab.model.attention.lifted import Flat, blocks, piece
from ablab.model.parts.context import Context

# Tokens lifted at a time. All at once, the lifted copies of a long row leave every cache and cost fresh pages at each
# step: at T=16384 a third of the time went to the system. 512 to 2048 tokens measure alike.
CHUNK = 1024


def in_chunks(flat: Flat, plan: Blocks, parts: tuple[int, int], window: int, block: int, scale: float) -> torch.Tensor:
    """Compute out (N, H, K) of the flat batch by the kernel, CHUNK tokens at a time."""
    out: torch.Tensor = _Windowed.apply(plan, parts, window, block, scale, flat[6] is not None, *flat)
    return out


class _Windowed(torch.autograd.Function):
    """Backward lifts again, which is cheap."""

    @staticmethod
    def forward(
        ctx: Context,
        plan: Blocks,
        parts: tuple[int, int],
        window: int,
        block: int,
        scale: float,
        sunk: bool,
        *flat: torch.Tensor | None,
    ) -> torch.Tensor:
        q = flat[0]
        assert q is not None
        ctx.plan, ctx.settings, ctx.scale = plan, (parts, window, block), scale
        out = q.new_empty((len(plan.mask), block, *q.shape[1:]))
        size = (len(plan.mask), q.shape[1], block)
        lse = q.new_empty(size, dtype=torch.promote_types(q.dtype, torch.float32))
        lost = torch.empty_like(lse) if sunk else None
        for at, part, ahead, _ in _chunks(flat, window, block):
            q_, k_, v_, rival = piece(part, plan.anchor[at], flat[4], parts, window, block, ahead, scale)
            out[at], lse[at], share = kernel.forward(q_, k_, v_, rival, plan.mask[at], scale)
            if lost is not None and share is not None:
                lost[at] = share
        ctx.save_for_backward(out, lse, lost, *flat)
        return out.flatten(0, 1)[: len(q)]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        out, lse, lost, *flat = ctx.saved_tensors
        parts, window, block = ctx.settings
        needs = ctx.needs_input_grad[6:]
        grads = [torch.zeros_like(x) if x is not None and need else None for x, need in zip(flat, needs, strict=True)]
        for at, part, ahead, spans in _chunks(flat, window, block):
            leaves = [
                None if x is None else x.detach().requires_grad_(need) for x, need in zip(part, needs, strict=True)
            ]
            with torch.enable_grad():
                q, k, v, rival = piece(leaves, ctx.plan.anchor[at], flat[4], parts, window, block, ahead, ctx.scale)
            d = blocks(d_out[spans[0]], block, 0)
            made = out[at], lse[at], None if lost is None else lost[at]
            with torch.no_grad():
                gradients = kernel.backward(d, q, k, v, made, ctx.plan.mask[at], ctx.scale)
            reached = [
                (o, g) for o, g in zip((q, k, v, rival), gradients, strict=True) if o is not None and o.requires_grad
            ]
            wanted = [n for n, need in enumerate(needs) if grads[n] is not None]
            if not reached:
                continue
            pulled = torch.autograd.grad(
                [o for o, _ in reached],
                [leaf for n in wanted if (leaf := leaves[n]) is not None],
                [_like(g, o) for o, g in reached],
                allow_unused=True,
            )
            for n, g in zip(wanted, pulled, strict=True):
                total = grads[n]
                if g is not None and total is not None:
                    total[spans[n]] += g
        return None, None, None, None, None, None, *grads


def _like(g: torch.Tensor | None, o: torch.Tensor) -> torch.Tensor | None:
    return None if g is None else g.to(o.dtype)


def _chunks(flat: Flat, window: int, block: int) -> Iterator[tuple[slice, list[torch.Tensor | None], int, list[slice]]]:
    """Yield the blocks of a chunk, its part of every flat tensor, how far its keys begin ahead, and where each part lies."""
    q = flat[0]
    assert q is not None
    rows, everything = max(1, CHUNK // block), slice(None)
    for first in range(0, -(-len(q) // block), rows):
        start, stop = first * block, min(len(q), (first + rows) * block)
        ahead = min(start, window)
        queries, keys = slice(start, stop), slice(start - ahead, stop)
        spans = [queries, keys, keys, queries, keys, queries, everything]
        yield (
            slice(first, first + rows),
            [None if x is None else x[s] for x, s in zip(flat, spans, strict=True)],
            ahead,
            spans,
        )
