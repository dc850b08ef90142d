"""Full rows with a bias, a block of queries at a time, each over all keys before its end.

A bias is measured from a token (see `lifted`), and fp32 rounds it to 2^-24 of what it is there. Measured from the row's first
token that is 2^-24 of the whole row's bias, for the near keys too, which count most: with gates of about one half the late
rows of 3,000 tokens were off by 3e-4. Measured from the first token of the query's own block, near keys have small biases and
only far ones large, whose weights are nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ablab.model.attention.kernel import stock_flash, stock_flash_backward, widen
from ablab.model.parts.columns import Columns
from ablab.model.parts.context import Context

# Measured on one core (AVX512, fp32, forward and backward, 8 heads of 64, GRAPE-A): blocks of 512, 256, 128 queries take
# 0.95, 0.96, 1.14 of the time of a row measured from its first token at T = 2048, and 1.09, 1.04, 1.14 at T = 4096. FoX at
# T = 3,000 is then off by 2.9e-5 (256) or 1.3e-5 (128) at most.
BLOCK = 256


def blocked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    columns: Columns,
    sink_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Compute out (n, T, H, K) of rows that are one document each, causal; differentiable in everything. Not for bf16."""
    out: torch.Tensor = _Blocked.apply(scale, q, k, v, columns.u, columns.w, columns.row, sink_H)
    return out


class _Blocked(torch.autograd.Function):
    """[q, u/scale] and [k, w - centre] as `lifted` has them, where from block to block only the keys' columns change."""

    @staticmethod
    def forward(
        ctx: Context,
        scale: float,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        u: torch.Tensor,
        w: torch.Tensor,
        row: torch.Tensor,
        sink: torch.Tensor | None,
    ) -> torch.Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]))
        lost = None if sink is None else torch.empty_like(lse)
        for rows, keys, q_, k_, v_, centre in _blocks(q, k, v, u, w, scale):
            rival = None if sink is None else sink - (row[:, rows] + _dot(_of(u, rows), centre))
            out_rows, lse[..., rows], share = _onward(q_[:, rows], k_[:, keys], v_[:, keys], rival, scale)
            out[:, rows] = out_rows[..., : out.shape[-1]]
            if lost is not None and share is not None:
                lost[..., rows] = share
        ctx.save_for_backward(out, lse, lost, q, k, v, u, w, row)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        out, lse, lost, q, k, v, u, w, row = ctx.saved_tensors
        width, r = q.shape[-1], w.shape[-1]
        d_q, d_k, d_v = (x.new_zeros((*x.shape[:3], _wide(width, r))) for x in (q, k, v))
        d_rivals = None if lost is None else torch.empty_like(row)
        from_rival = u.new_zeros((*row.shape, r))
        for rows, keys, q_, k_, v_, centre in _blocks(q, k, v, u, w, ctx.scale):
            share = None if lost is None else lost[..., rows]
            saved = q_[:, rows], k_[:, keys], v_[:, keys], out[:, rows], lse[..., rows]
            d_q[:, rows], d_rival = _onward_back(d_out[:, rows], saved, share, ctx.scale, d_k[:, keys], d_v[:, keys])
            if d_rivals is not None and d_rival is not None:
                d_rivals[:, rows] = d_rival
                heads = centre.repeat_interleave(q.shape[2] // centre.shape[2], 2)
                from_rival[:, rows] = -d_rivals[:, rows, :, None].to(u.dtype) * heads
        d_u = d_q[..., width : width + r].to(u.dtype) / ctx.scale + from_rival
        d_w = d_k[..., width : width + r].to(w.dtype)
        d_row = None if d_rivals is None else -d_rivals
        d_sink = None if d_rivals is None else d_rivals.sum((0, 1)).to(q.dtype)
        grads = d_q[..., :width], d_k[..., :width], d_v[..., : v.shape[-1]], _fit(d_u, u), _fit(d_w, w), d_row, d_sink
        return None, *(g if need else None for g, need in zip(grads, ctx.needs_input_grad[1:], strict=True))


def _blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor, w: torch.Tensor, scale: float
) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield a block's queries and keys, the row's lifted q, k, v, and what its bias is measured from, (n, 1, G|1, r)."""
    n, length, _, width = k.shape
    r = w.shape[-1]
    pad = _wide(width, r) - width - r
    q_ = F.pad(torch.cat([q, (u / scale).to(q.dtype).expand(n, length, q.shape[2], r)], -1), (0, pad))
    k_ = F.pad(k, (0, r + pad))
    v_ = F.pad(v, (0, q_.shape[-1] - v.shape[-1]))
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        centre = w[:, start : start + 1]
        k_[:, :stop, :, width : width + r] = w[:, :stop] - centre
        yield slice(start, stop), slice(0, stop), q_, k_, v_, centre


def _onward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rival: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Compute `kernel.forward` of the last T of S >= T tokens, causal: all see the keys before them, of their own those so far.

    v is as wide as q and k. The kernel's causal mask knows no offset, so the two parts are taken one after the other and
    joined by their sums.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    before = k.shape[2] - q.shape[2]
    out, lse = stock_flash(q, k[:, :, before:], v[:, :, before:], 0.0, True, scale=scale)
    if before:
        past, lse_past = stock_flash(q, k[:, :, :before], v[:, :, :before], 0.0, False, scale=scale)
        both = torch.logaddexp(lse, lse_past)
        out = out * (lse - both).exp()[..., None] + past * (lse_past - both).exp()[..., None]
        lse = both
    out, lost = out.transpose(1, 2), None
    if rival is not None:
        rival = rival.transpose(1, 2).to(lse.dtype)
        lost = torch.sigmoid(rival - lse)
        out = out * torch.sigmoid(lse - rival).transpose(1, 2)[..., None]
        lse = torch.logaddexp(lse, rival)
    return out, lse, lost


def _onward_back(
    d_out: torch.Tensor,
    saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    lost: torch.Tensor | None,
    scale: float,
    d_k: torch.Tensor,
    d_v: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the gradients of q and of the rival of `_onward`; those of k and v are added to d_k and d_v.

    saved: q, k, v, out, log-sum-exp. With the joint sums each part's gradients are exact, and those of q add. d_out and out
    may be narrower than q.
    """
    q, k, v, out, lse = saved
    before, lifted = k.shape[1] - q.shape[1], q.shape[-1]
    d_out, out, lse = widen(d_out, lifted), widen(out, lifted), lse.contiguous()
    d_rival = None if lost is None else -lost.transpose(1, 2) * (d_out * out).sum(-1, dtype=lost.dtype)
    d_q = torch.zeros_like(q)
    for part, causal in ((slice(before, None), True), (slice(0, before), False)):
        if causal or before:
            tensors = (t.transpose(1, 2) for t in (d_out, q, k[:, part], v[:, part], out))
            gradients = [t.transpose(1, 2) for t in stock_flash_backward(*tensors, lse, 0.0, causal, scale=scale)]
            for total, one in zip((d_q, d_k[:, part], d_v[:, part]), gradients, strict=True):
                total += one
    return d_q, d_rival


def _wide(width: int, r: int) -> int:
    """Widen to eights: the matrix products like such widths."""
    return width + r + -(width + r) % 8


def _of(x: torch.Tensor, rows: slice) -> torch.Tensor:
    """Take the tokens `rows` of x, or x itself where it is one for all."""
    return x if x.shape[1] == 1 else x[:, rows]


def _dot(u: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Compute u . centre of every head, (n, T|1, H)."""
    out: torch.Tensor = (u.unflatten(2, (centre.shape[2], -1)) * centre[:, :, :, None]).sum(-1).flatten(2, 3)
    return out


def _fit(grad: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return grad.sum_to_size(like.shape)
