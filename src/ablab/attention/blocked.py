"""Full rows with a bias, a block of queries at a time, each over all keys before its end.

A bias is measured from a token (see `lifted`), and fp32 rounds it to 2^-24 of what it is there. Measured from the row's first
token that is 2^-24 of the whole row's bias, for the near keys too, which count most: with gates of about one half the late
rows of 3,000 tokens were off by 3e-4. Measured from the first token of the query's own block, near keys have small biases and
only far ones large, whose weights are nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ablab.attention import kernel
from ablab.attention.lifted import lifted
from ablab.columns import Columns

Parts = Sequence[torch.Tensor | None]  # q, k, v, u, w, row as in `attend`, sink (H,) or None

# Measured on one core (AVX512, fp32, forward and backward, 8 heads of 64, GRAPE-A): blocks of 512, 256, 128, 64 queries take
# 1.06, 1.02, 1.16, 1.43 of the time of one measured from the first token at T = 2048, and 1.10, 1.12, 1.40, 1.79 at T = 4096.
# FoX at T = 3,000 is then off by 2.9e-5 (256) or 1.3e-5 (128) at most.
BLOCK = 256


def blocked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    columns: Columns,
    sink_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """out (n, T, H, K) of rows that are one document each, causal; differentiable in everything."""
    out: torch.Tensor = _Blocked.apply(columns.parts, scale, q, k, v, columns.u, columns.w, columns.row, sink_H)
    return out


class _Blocked(torch.autograd.Function):
    """Only inputs, output and log-sum-exp are kept; backward lifts again, which is cheap."""

    @staticmethod
    def forward(ctx: Any, parts: tuple[int, int], scale: float, *whole: torch.Tensor | None) -> torch.Tensor:
        q, sink = whole[0], whole[6]
        assert q is not None
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.promote_types(q.dtype, torch.float32))
        lost = None if sink is None else torch.empty_like(lse)
        for start, rows, spans in _blocks(q.shape[1]):
            q_, k_, v_, rival = _lift(_cut(whole, spans), start, parts, scale)
            out[:, rows], lse[..., rows], share = kernel.onward(q_, k_, v_, rival, scale)
            if lost is not None and share is not None:
                lost[..., rows] = share
        ctx.save_for_backward(out, lse, lost, *whole)
        ctx.settings = parts, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        out, lse, lost, *whole = ctx.saved_tensors
        parts, scale = ctx.settings
        needs = ctx.needs_input_grad[2:]
        grads = [torch.zeros_like(x) if x is not None and need else None for x, need in zip(whole, needs, strict=True)]
        wanted = [n for n, grad in enumerate(grads) if grad is not None]
        for start, rows, spans in _blocks(out.shape[1]):
            leaves = [
                None if x is None else x.detach().requires_grad_(need)
                for x, need in zip(_cut(whole, spans), needs, strict=True)
            ]
            with torch.enable_grad():
                lifts = _lift(leaves, start, parts, scale)
            with torch.no_grad():
                q, k, v, _ = lifts
                share = None if lost is None else lost[..., rows]
                found = kernel.onward_back(d_out[:, rows], q, k, v, out[:, rows], lse[..., rows], share, scale)
            reached = [
                (o, g) for o, g in zip(lifts, found, strict=True) if o is not None and g is not None and o.requires_grad
            ]
            pulled = torch.autograd.grad(
                [o for o, _ in reached],
                [leaf for n in wanted if (leaf := leaves[n]) is not None],
                [g.to(o.dtype) for o, g in reached],
                allow_unused=True,
            )
            for n, g in zip(wanted, pulled, strict=True):
                total = grads[n]
                if g is not None and total is not None:
                    _part(total, spans[n]).add_(g)
        return None, None, *grads


def _blocks(length: int) -> Iterator[tuple[int, slice, list[slice | None]]]:
    """First query of a block, its queries, and what it needs of every part."""
    for start in range(0, length, BLOCK):
        rows, keys = slice(start, min(start + BLOCK, length)), slice(0, min(start + BLOCK, length))
        yield start, rows, [rows, keys, keys, rows, keys, rows, None]


def _cut(whole: Parts, spans: Sequence[slice | None]) -> list[torch.Tensor | None]:
    return [None if x is None else _part(x, span) for x, span in zip(whole, spans, strict=True)]


def _part(x: torch.Tensor, span: slice | None) -> torch.Tensor:
    """The tokens `span` of x; all of it where it is one for every token."""
    return x if span is None or x.shape[1] == 1 else x[:, span]


def _lift(
    piece: Parts, start: int, parts: tuple[int, int], scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Lifted q and k, v, and the sink's logits of a block whose first query is token `start`."""
    q, k, v, u, w, row, sink = piece
    assert q is not None and k is not None and v is not None and u is not None and w is not None and row is not None
    centre = w[:, start : start + 1].detach()
    rival = None if sink is None else sink.expand(q.shape[:3])
    q, k, rival = lifted(q, k, Columns(u, w, row, parts), centre, centre, rival, scale)
    return q, k, v, rival
