"""Cross entropy over a large vocabulary, in chunks of rows: the logits of all rows never exist at once.

Forward keeps one number for each row (its log-sum-exp); backward makes a chunk's logits again and turns them, in place,
into their gradient. That is a fourth product on top of three, and memory that does not grow with rows times vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ablab.model.parts.context import Context

# Logits at once. Measured (V = 201,088, d_model 512, 2048 rows, fp32, 2 cores, forward and backward; bench/loss.py),
# against the plain form's time and 4723 MiB: chunks of 64 rows 1.42 and 455 MiB, 128 rows 1.29 and 505, these 333 rows
# 1.04 and 663, 512 rows 1.10 and 800. The weight's gradient alone is 393. Nothing is chosen by a timing at run time.
AT_ONCE = 1 << 26
# Entries of the weight's gradient made at once under autocast: their bf16 product is added in fp32 while it is in cache.
SLICE = 1 << 18
IGNORED = -1
# Rows without a target are left out where a tenth of them or more have none (masked conversations: a third).
DENSE = 0.9


def chunk_rows(vocab_size: int) -> int:
    """Count the rows whose logits are made at once: AT_ONCE logits, at least one row."""
    return max(1, AT_ONCE // vocab_size)


def nll(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float = 0.0, rows: int | None = None
) -> Tensor:
    """Compute -log softmax(cap(hidden weight^T))[target] of each row in nats, fp32 (fp64 from fp64); 0 where the target is -1.

    cap(z) = softcap tanh(z / softcap) (Gemma 2, 2408.00118), the identity at 0. rows: of a chunk, `chunk_rows` unless
    given. Under autocast the products are taken in its type and their results rounded to it, as `F.linear` does; softmax
    and sums are fp32. Differentiable once, in hidden and weight. ValueError where shapes or types do not fit.
    """
    if hidden_ND.ndim != 2 or weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden_ND.shape)}, weight {tuple(weight_VD.shape)} do not fit; give (N, D) and (V, D)"
        )
    if targets_N.shape != hidden_ND.shape[:1] or targets_N.is_floating_point():
        raise ValueError(
            f"targets are {tuple(targets_N.shape)} {targets_N.dtype}; give one integer for each of {len(hidden_ND)} rows"
        )
    if rows is not None and rows < 1:
        raise ValueError(f"a chunk of {rows} rows; give 1 or more, or none for the committed size")
    kind = hidden_ND.device.type
    dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    elif hidden_ND.dtype != weight_VD.dtype:
        raise ValueError(f"hidden is {hidden_ND.dtype}, weight {weight_VD.dtype}; cast them to one dtype")
    size = rows or chunk_rows(weight_VD.shape[0])
    kept_n = (targets_N != IGNORED).nonzero()[:, 0]
    if len(kept_n) >= DENSE * len(targets_N):
        nats: Tensor = _Nll.apply(hidden_ND, weight_VD, targets_N, float(softcap), size, dtype)
        return nats
    nll_n: Tensor = _Nll.apply(hidden_ND[kept_n], weight_VD, targets_N[kept_n], float(softcap), size, dtype)
    return nll_n.new_zeros(len(targets_N)).index_put((kept_n,), nll_n)


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, rows: int, dtype: torch.dtype
    ) -> Tensor:
        lse = hidden.new_empty(len(hidden), dtype=torch.promote_types(dtype, torch.float32))
        chosen = torch.empty_like(lse)
        with torch.autocast(hidden.device.type, enabled=False):
            for at, z, _ in _logits(hidden, weight.to(dtype), rows, softcap):
                chosen[at] = z.gather(1, targets[at, None].clamp(min=0))[:, 0]
                most = z.amax(1)
                lse[at] = z.sub_(most[:, None]).exp_().sum(1).log_().add_(most)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.settings = softcap, rows, dtype
        return (lse - chosen).masked_fill_(targets == IGNORED, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, lse = ctx.saved_tensors
        softcap, rows, dtype = ctx.settings
        d = d.masked_fill(targets == IGNORED, 0.0)[:, None]
        dh = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Summed over chunks in fp32, whatever type the weight has.
        dw = torch.zeros_like(weight, dtype=lse.dtype) if ctx.needs_input_grad[1] else None
        narrow = weight.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for at, z, low in _logits(hidden, narrow, rows, softcap):
                # d cap / dz = 1 - tanh^2 = 1 - (capped / softcap)^2
                slope = (z / softcap).square_().neg_().add_(1) if softcap else None
                z.sub_(lse[at, None]).exp_()
                target = targets[at, None].clamp(min=0)
                z.scatter_(1, target, z.gather(1, target) - 1).mul_(d[at])
                z = z if slope is None else z.mul_(slope)
                low = z if low is None else low.copy_(z)
                if dh is not None:
                    dh[at] = low @ narrow
                if dw is not None:
                    _add_product(dw, low, hidden[at].to(dtype))
        return dh, None if dw is None else dw.to(weight.dtype), None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, rows: int, softcap: float) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield of each chunk its place, its capped logits in fp32 (fp64), and a buffer of the products' type if that is another.

    One buffer serves all chunks: fresh pages for each would cost as much as the softmax.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    size = (min(rows, len(hidden)), len(weight))
    buffer = weight.new_empty(size)
    z = buffer if wide == weight.dtype else weight.new_empty(size, dtype=wide)
    for start in range(0, len(hidden), rows):
        at = slice(start, min(len(hidden), start + rows))
        n = at.stop - start
        torch.mm(hidden[at].to(weight.dtype), weight.T, out=buffer[:n])
        here = z[:n] if z is buffer else z[:n].copy_(buffer[:n])
        if softcap:
            here.div_(softcap).tanh_().mul_(softcap)
        yield at, here, None if z is buffer else buffer[:n]


def _add_product(total_VD: Tensor, low_nV: Tensor, hidden_nD: Tensor) -> None:
    """Add low^T hidden to total; a product in a narrower type is taken slice by slice and added in the total's."""
    if low_nV.dtype == total_VD.dtype:
        total_VD.addmm_(low_nV.T, hidden_nD)
        return
    step = max(1, SLICE // total_VD.shape[1]) if total_VD.device.type == "cpu" else len(total_VD)
    for start in range(0, len(total_VD), step):
        cut = slice(start, start + step)
        total_VD[cut] += low_nV[:, cut].T @ hidden_nD
