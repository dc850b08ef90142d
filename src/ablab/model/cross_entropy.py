"""Cross entropy over a large vocabulary, in chunks of rows: the logits of all rows never exist at once.

Forward keeps one number for each row (its log-sum-exp); backward makes a chunk's logits again and turns them, in place,
into their gradient. That is a fourth product on top of three, and memory that does not grow with rows times vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ablab.model.parts.context import Context

# Logits at once. Measured (V = 201,088, d_model 512, 2048 rows, fp32, 2 cores, forward and backward; bench/loss.py),
# against the plain form's time and 4723 MiB: chunks of 64 rows 1.42 and 455 MiB, 128 rows 1.29 and 505, these 333 rows
# 1.04 and 663, 512 rows 1.10 and 800. The weight's gradient alone is 393. Nothing is chosen by a timing at run time.
AT_ONCE = 1 << 26
# The same on a GPU, where no cache holds a chunk: what counts is how often the weight's gradient is read and written in
# fp32, once a chunk. At V = 201,088 and 32,768 rows chunks of 2^26 logits do it 99 times (618 MB each way at d_model 768),
# of 2^29 13 times, with 1 GiB of bf16 logits and as much for their gradient. Counted, not measured (bench/roofline.py).
AT_ONCE_ON_GPU = 1 << 29
# Entries of the weight's gradient made at once under autocast: their bf16 product is added in fp32 while it is in cache.
SLICE = 1 << 18
IGNORED = -1
# Rows without a target are left out where a tenth of them or more have none (masked conversations: a third).
DENSE = 0.9


# Graphs of a chunk's elementwise part: by vocabulary, types, soft cap, and rows (one, or any number).
MOST_COMPILED = 64


def chunk_rows(vocab_size: int, device: str = "cpu") -> int:
    """Count the rows whose logits are made at once: AT_ONCE logits (AT_ONCE_ON_GPU on `cuda`), at least one row."""
    return max(1, (AT_ONCE_ON_GPU if device == "cuda" else AT_ONCE) // vocab_size)


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
    size = rows or chunk_rows(weight_VD.shape[0], kind)
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
        chosen, by = torch.empty_like(lse), elementwise(hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            for at, z in _products(hidden, weight.to(dtype), rows):
                lse[at], chosen[at] = by.sums(z, targets[at], softcap)
        ctx.save_for_backward(hidden, weight, targets, lse)
        ctx.settings = softcap, rows, dtype
        return (lse - chosen).masked_fill_(targets == IGNORED, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, lse = ctx.saved_tensors
        softcap, rows, dtype = ctx.settings
        d = d.masked_fill(targets == IGNORED, 0.0)
        dh = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Summed over chunks in fp32, whatever type the weight has.
        dw = torch.zeros_like(weight, dtype=lse.dtype) if ctx.needs_input_grad[1] else None
        narrow, by = weight.to(dtype), elementwise(hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            for at, z in _products(hidden, narrow, rows):
                low = by.slopes(z, targets[at], lse[at], d[at], softcap)
                if dh is not None:
                    dh[at] = low @ narrow
                if dw is not None:
                    _add_product(dw, low, hidden[at].to(dtype))
        return dh, None if dw is None else dw.to(weight.dtype), None, None, None, None


class Elementwise(Protocol):
    """What is done with a chunk's logits z_nV, which come as the product gave them and may be overwritten."""

    def sums(self, z: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
        """Return the log-sum-exp of each row's capped logits and the target's one, at least fp32."""

    def slopes(self, z: Tensor, targets: Tensor, lse: Tensor, d: Tensor, softcap: float) -> Tensor:
        """Return the gradient of sum(d nll) in z, in z's type."""


class InPlace:
    """Operator by operator: on a CPU, where a chunk stays in cache.

    One buffer serves all chunks: fresh pages for each would cost as much as the softmax.
    """

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def _capped(self, z: Tensor, softcap: float) -> Tensor:
        wide = torch.promote_types(z.dtype, torch.float32)
        if wide != z.dtype:
            if self.buffer is None:
                self.buffer = torch.empty_like(z, dtype=wide)
            z = self.buffer[: len(z)].copy_(z)
        return z.div_(softcap).tanh_().mul_(softcap) if softcap else z

    def sums(self, z: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
        z = self._capped(z, softcap)
        chosen = z.gather(1, targets[:, None].clamp(min=0))[:, 0]
        most = z.amax(1)
        return z.sub_(most[:, None]).exp_().sum(1).log_().add_(most), chosen

    def slopes(self, z: Tensor, targets: Tensor, lse: Tensor, d: Tensor, softcap: float) -> Tensor:
        low, z = z, self._capped(z, softcap)
        # d cap / dz = 1 - tanh^2 = 1 - (capped / softcap)^2
        slope = (z / softcap).square_().neg_().add_(1) if softcap else None
        z.sub_(lse[:, None]).exp_()
        target = targets[:, None].clamp(min=0)
        z.scatter_(1, target, z.gather(1, target) - 1).mul_(d[:, None])
        z = z if slope is None else z.mul_(slope)
        return z if z.dtype == low.dtype else low.copy_(z)


class Fused:
    """One generated kernel each: on a GPU, where every operator of `InPlace` would read and write the chunk in memory.

    `compile`: what makes a kernel of a function. The number of rows is free: a last chunk, or rows without the masked
    ones, make no new graph. A limit that is hit raises.
    """

    def __init__(self, compile: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._sums, self._slopes = compile(fused_sums), compile(fused_slopes)

    def sums(self, z: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
        lse, chosen = self._run(self._sums, softcap, z, targets)
        return lse, chosen

    def slopes(self, z: Tensor, targets: Tensor, lse: Tensor, d: Tensor, softcap: float) -> Tensor:
        out: Tensor = self._run(self._slopes, softcap, z, targets, lse, d)
        return out

    def _run(self, kernel: Callable[..., Any], softcap: float, *by_row: Tensor) -> Any:
        import torch._dynamo

        for tensor in by_row:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        limits: dict[str, Any] = {"recompile_limit": MOST_COMPILED, "accumulated_recompile_limit": MOST_COMPILED}
        with torch._dynamo.config.patch(**limits):
            return kernel(*by_row, softcap)


def fused_sums(z: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Do what `InPlace.sums` does, overwriting nothing."""
    z = _capped(z, softcap)
    return z.logsumexp(1), z.gather(1, targets[:, None].clamp(min=0))[:, 0]


def fused_slopes(z: Tensor, targets: Tensor, lse: Tensor, d: Tensor, softcap: float) -> Tensor:
    """Do what `InPlace.slopes` does, overwriting nothing. A row without a target has d = 0."""
    capped = _capped(z, softcap)
    hit = torch.arange(z.shape[1], device=z.device) == targets[:, None]
    slope = ((capped - lse[:, None]).exp() - hit.to(capped.dtype)) * d[:, None]
    return (slope * (1 - (capped / softcap).square()) if softcap else slope).to(z.dtype)


def _capped(z: Tensor, softcap: float) -> Tensor:
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return softcap * torch.tanh(z / softcap) if softcap else z


def elementwise(device: str) -> Elementwise:
    """Choose who does a chunk's elementwise part: generated kernels on `cuda`, else operators in place."""
    return _generated() if device == "cuda" else InPlace()


@functools.cache
def _generated() -> Fused:
    return Fused(lambda function: torch.compile(function, fullgraph=True))


def _products(hidden: Tensor, weight: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield of each chunk its place and its logits in the product's type, in one buffer that serves all chunks."""
    buffer = weight.new_empty((min(rows, len(hidden)), len(weight)))
    for start in range(0, len(hidden), rows):
        at = slice(start, min(len(hidden), start + rows))
        z = buffer[: at.stop - start]
        torch.mm(hidden[at].to(weight.dtype), weight.T, out=z)
        yield at, z


def _add_product(total_VD: Tensor, low_nV: Tensor, hidden_nD: Tensor) -> None:
    """Add low^T hidden to total; a product in a narrower type is taken slice by slice and added in the total's."""
    if low_nV.dtype == total_VD.dtype:
        total_VD.addmm_(low_nV.T, hidden_nD)
        return
    step = max(1, SLICE // total_VD.shape[1]) if total_VD.device.type == "cpu" else len(total_VD)
    for start in range(0, len(total_VD), step):
        cut = slice(start, start + step)
        total_VD[cut] += low_nV[:, cut].T @ hidden_nD
