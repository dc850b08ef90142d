"""Full causal rows by the stock kernels of a GPU, with a sink made exact by their log-sum-exp, as `kernel` does on the CPU.

The operators are called by their own names, forward and backward: nothing can dispatch to dense mathematics behind the
caller's back. Flash takes bf16 and fp16, and reads grouped keys where they lie; fp32 goes to the memory-efficient kernel,
which wants a key head for each query head.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ablab.model.attention.kernel import widen
from ablab.model.parts.context import Context

_aten = torch.ops.aten
PAD_LSE = 32  # the memory-efficient kernel lays its log-sum-exp out in blocks of so many rows, +inf behind the last


class _Forward(Protocol):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, list[Tensor]]: ...


class _Backward(Protocol):
    def __call__(
        self, d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kept: list[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class Stock(NamedTuple):
    """A causal kernel over (n, H, T, K): forward gives out, lse (n, H, T) and what backward wants kept."""

    forward: _Forward
    backward: _Backward


def causal(q: Tensor, k: Tensor, v: Tensor, rival_nTH: Tensor | None, scale: float, by: Stock | None = None) -> Tensor:
    """Compute out (n, T, H, V) of n independent causal rows q (n, T, H, K), k (n, T, G, K), v (n, T, G, V), V <= K.

    rival_nTH: the logit of a silent key of each query, or None. by: the kernel, else that of the type. ValueError for
    types that no stock kernel of a GPU takes.
    """
    if by is None:
        known = {torch.bfloat16: FLASH, torch.float16: FLASH, torch.float32: EFFICIENT}
        if q.dtype not in known:
            raise ValueError(f"no stock kernel of a GPU takes {q.dtype}; use bf16, fp16 or fp32, or 'reference'")
        by = known[q.dtype]
    out: Tensor = _Causal.apply(q, k, v, rival_nTH, scale, by)
    return out


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, q: Tensor, k: Tensor, v: Tensor, rival: Tensor | None, scale: float, by: Stock) -> Tensor:
        ctx.scale, ctx.by, ctx.width, lost = scale, by, q.shape[-1], None
        narrow = v.shape[-1]
        q, k, v = (widen(t, -(-q.shape[-1] // 8) * 8).transpose(1, 2) for t in (q, k, v))
        out, lse, kept = by.forward(q, k, v, scale)
        if rival is not None:
            rival = rival.transpose(1, 2).to(lse.dtype)
            lost = torch.sigmoid(rival - lse)
            out = (out * torch.sigmoid(lse - rival)[..., None]).to(out.dtype)
            lse = torch.logaddexp(lse, rival)
        ctx.save_for_backward(q, k, v, out, lse, lost, *kept)
        return out.transpose(1, 2)[..., :narrow]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, lost, *kept = ctx.saved_tensors
        width = d.shape[-1]
        d = widen(d, q.shape[-1]).transpose(1, 2)
        d_rival = None
        if lost is not None:
            # The sink gives no value: its logit's gradient is its share of the mass times minus (d . out).
            d_rival = -(lost * (d * out).sum(-1, dtype=lost.dtype)).transpose(1, 2)
        dq, dk, dv = ctx.by.backward(d, q, k, v, out, lse, list(kept), ctx.scale)
        dq, dk, dv = (g.transpose(1, 2) for g in (dq, dk, dv))
        return dq[..., : ctx.width], dk[..., : ctx.width], dv[..., :width], d_rival, None, None


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    out, lse, _, _, _, _, seed, offset, _ = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, scale=scale)
    return out, lse, [seed, offset]


def _flash_backward(
    d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kept: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (None, None, q.shape[2], k.shape[2])
    dq, dk, dv = _aten._scaled_dot_product_flash_attention_backward(
        d, q, k, v, out, lse, *sizes, 0.0, True, *kept, scale=scale
    )
    return dq, dk, dv


def _efficient(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    k, v = (_per_head(t, q.shape[1]) for t in (k, v))
    out, lse, seed, offset = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, True, scale=scale)
    return out, lse[..., : q.shape[2]], [seed, offset]


def _efficient_backward(
    d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kept: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    groups, heads = k.shape[1], q.shape[1]
    lse = F.pad(lse, (0, -lse.shape[-1] % PAD_LSE), value=torch.inf)
    wide = (_per_head(t, heads) for t in (k, v))
    dq, dk, dv, _ = _aten._scaled_dot_product_efficient_attention_backward(
        d, q, *wide, None, out, lse, *kept, 0.0, [True, True, True, False], True, scale=scale
    )
    dk, dv = (g.unflatten(1, (groups, heads // groups)).sum(2) for g in (dk, dv))
    return dq, dk, dv


def _per_head(x_nGTK: Tensor, heads: int) -> Tensor:
    return x_nGTK if x_nGTK.shape[1] == heads else x_nGTK.repeat_interleave(heads // x_nGTK.shape[1], 1)


FLASH = Stock(_flash, _flash_backward)
EFFICIENT = Stock(_efficient, _efficient_backward)
