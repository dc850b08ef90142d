"""The grouped product: rows sorted by expert, each times its expert's matrix; forward and backward without a Python loop.

Names: N tokens, K experts per token, R = N K rows, E experts, I inputs, O outputs. `ends_E` is the running count of rows.
Three ways, all exact, chosen by what the tensors are:
- torch's grouped product, where it takes them: fp32, bf16, fp16 with rows of whole 16 bytes (before torch 2.13 it refuses
  others on CPUs too). On a CPU it is a loop in C++ that reached 38 to 57 GFLOP/s in fp32 on one core where one dense product
  has 50 to 60; on a GPU in bf16 it is one kernel, and nothing waits for the host.
- the same in fp32 on bf16 numbers, rounded at the end, on a CPU that has no bf16 arithmetic: what the emulated bf16 product
  gives, at 5 to 7 times its speed (6 to 8 GFLOP/s were measured). Products of two bf16 numbers are exact in fp32.
- padded batches for everything else (fp64; odd widths): experts of like load share one batched product. Tried for fp32 as
  the only way: one batch padded to the largest load had 0.3 to 0.5 times the speed of torch's.
What else counted on a CPU: keeping the rounded weights for backward, gathering by index_select instead of indexing, weighing
hidden units instead of outputs, and adding up a token's rows one gather at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.parts.context import Context, in_type
from ablab.model.parts.part import Part

_grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm
_ALIGNED = 16  # bytes
_ONES = 8  # columns of ones that add up a bias's gradient: the fewest whose rows are whole 16 bytes in bf16


class Sorted(NamedTuple):
    """Rows (token, choice) by expert: `order_R` is the row at each place, `inverse_R` the place of each row."""

    order_R: Tensor
    inverse_R: Tensor
    ends_E: Tensor

    @property
    def counts_E(self) -> Tensor:
        """Rows of each expert, int64."""
        return self.ends_E.long().diff(prepend=self.ends_E.new_zeros(1).long())


def by_expert(experts_NK: Tensor, n_experts: int) -> Sorted:
    """Sort the choices of N tokens by expert, each expert's rows in the order of the tokens. Nothing waits for the host."""
    chosen_R, order_R = torch.sort(experts_NK.flatten(), stable=True)
    inverse_R = torch.empty_like(order_R)
    inverse_R[order_R] = torch.arange(len(order_R), device=order_R.device)
    every_E = torch.arange(n_experts, device=order_R.device)
    return Sorted(order_R, inverse_R, torch.searchsorted(chosen_R, every_E, right=True).to(torch.int32))


def spread(x_ND: Tensor, rows: Sorted, top_k: int) -> Tensor:
    """Copy each token's vector to the places of its K rows, (R, D)."""
    y: Tensor = _Spread.apply(x_ND, rows.order_R // top_k, rows.inverse_R.view(-1, top_k))
    return y


def collect(y_RD: Tensor, rows: Sorted, top_k: int) -> Tensor:
    """Sum each token's K rows, (N, D): what `spread` is the transpose of."""
    out: Tensor = _Collect.apply(y_RD, rows.order_R // top_k, rows.inverse_R.view(-1, top_k))
    return out


def product(
    x_RI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None, ends_E: Tensor, scale_R: Tensor | None = None
) -> Tensor:
    """Compute y = x W_e^T + s b_e for each row's expert e, (R, O) in the type of x. ValueError where the sizes do not meet.

    scale_R (1 where it is not given) is a row's weight: who has put it on x already gets it on the bias too. Weights of a
    wider type than x are rounded to it, as autocast does; their gradients come back in their own.
    """
    experts, _, width = weight_EOI.shape
    if x_RI.shape[1] != width or len(ends_E) != experts:
        raise ValueError(
            f"rows {tuple(x_RI.shape)} with {len(ends_E)} ends do not fit weights {tuple(weight_EOI.shape)}"
        )
    y: Tensor = _Product.apply(x_RI, weight_EOI, bias_EO, ends_E, None if bias_EO is None else scale_R)
    return y


class _Spread(torch.autograd.Function):
    """A gather whose backward is one too: nothing is added up in an order that the hardware chooses."""

    @staticmethod
    def forward(ctx: Context, x_ND: Tensor, token_R: Tensor, inverse_NK: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_NK)
        return x_ND.index_select(0, token_R)

    @staticmethod
    def backward(ctx: Context, grad_RD: Tensor) -> tuple[Tensor, None, None]:
        return _added(grad_RD, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """The transpose of _Spread; it keeps no row."""

    @staticmethod
    def forward(ctx: Context, y_RD: Tensor, token_R: Tensor, inverse_NK: Tensor) -> Tensor:
        ctx.save_for_backward(token_R)
        return _added(y_RD, inverse_NK)

    @staticmethod
    def backward(ctx: Context, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        (token_R,) = ctx.saved_tensors
        return grad_ND.index_select(0, token_R), None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, x_RI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None, ends_E: Tensor, scale_R: Tensor | None
    ) -> Tensor:
        ctx.own = weight_EOI.dtype
        with torch.autocast(x_RI.device.type, enabled=False):
            inner = _inner(x_RI)
            w_EOI = weight_EOI.to(x_RI.dtype).to(inner)
            b_EO = None if bias_EO is None else bias_EO.to(x_RI.dtype).to(inner)
            ctx.save_for_backward(x_RI, w_EOI, b_EO, ends_E, scale_R)
            y_RO = _rows(x_RI.to(inner), w_EOI.transpose(1, 2), ends_E)
            if b_EO is not None:
                of_row_RO = b_EO.index_select(0, _experts(ends_E, len(x_RI)))
                y_RO += of_row_RO if scale_R is None else of_row_RO * scale_R[:, None]
            return in_type(y_RO, x_RI.dtype)

    @staticmethod
    def backward(ctx: Context, grad_RO: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, Tensor | None]:
        x_RI, w_EOI, b_EO, ends_E, scale_R = ctx.saved_tensors
        with torch.autocast(x_RI.device.type, enabled=False):
            inner = _inner(x_RI)
            g_RO = grad_RO.to(inner).contiguous()
            by_x = by_bias = by_scale = None
            if ctx.needs_input_grad[0]:
                by_x = _rows(g_RO, w_EOI, ends_E).to(x_RI.dtype)
            by_weight = _outer(g_RO, x_RI.to(inner), ends_E).to(ctx.own)
            if b_EO is not None:
                scales_R1 = g_RO.new_ones(len(g_RO), _ONES) if scale_R is None else scale_R[:, None].to(inner)
                by_bias = _outer(g_RO, scales_R1.expand(-1, _ONES), ends_E)[..., 0].to(ctx.own)
                if scale_R is not None:
                    by_scale = (g_RO * b_EO.index_select(0, _experts(ends_E, len(g_RO)))).sum(1).to(scale_R.dtype)
            return by_x, by_weight, by_bias, None, by_scale


def _added(y_RD: Tensor, inverse_NK: Tensor) -> Tensor:
    """Sum each token's rows, in fp32 at least. One gather of N rows at a time: a sum over a short middle axis of all
    of them is slower, and its temporary K times as large."""
    wide = torch.float64 if y_RD.dtype == torch.float64 else torch.float32
    first, *others = inverse_NK.unbind(1)
    total_ND = y_RD.index_select(0, first).to(wide)
    for places_N in others:
        total_ND += y_RD.index_select(0, places_N)
    return in_type(total_ND, y_RD.dtype)


def _experts(ends_E: Tensor, rows: int) -> Tensor:
    """Return the expert of each row, (R,)."""
    counts_E = ends_E.long().diff(prepend=ends_E.new_zeros(1).long())
    return torch.repeat_interleave(counts_E, output_size=rows)


def _inner(x: Tensor) -> torch.dtype:
    """Return the type in which products are taken: fp32 for bf16 where the CPU has no bf16 arithmetic."""
    emulated = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not _has_bf16()
    return torch.float32 if emulated else x.dtype


def _has_bf16() -> bool:
    """Tell whether torch sees bf16 arithmetic on this CPU; no where it cannot tell, which costs time on some and no digit."""
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in known)


def _takes(*widths: int, like: Tensor) -> bool:
    """Tell whether torch's grouped product takes rows of these widths."""
    known = like.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return known and len(like) > 0 and all(width * like.element_size() % _ALIGNED == 0 for width in widths)


def _rows(a_RK: Tensor, b_EKM: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply each row by its expert's matrix, (R, M)."""
    if _takes(a_RK.shape[1], b_EKM.shape[2], like=a_RK):
        out: Tensor = _grouped_mm(a_RK.contiguous(), b_EKM, offs=ends_E)
        return out
    out = a_RK.new_zeros(len(a_RK), b_EKM.shape[2])
    for experts, places, real in _batches(ends_E):
        y = torch.bmm(a_RK[places], b_EKM[experts])
        out[places[real]] = y[real]
    return out


def _outer(a_RM: Tensor, b_RK: Tensor, ends_E: Tensor) -> Tensor:
    """Sum a b^T over the rows of each expert, (E, M, K); zero where it has none."""
    if _takes(a_RM.shape[1], b_RK.shape[1], like=a_RM):
        out: Tensor = _grouped_mm(a_RM.t(), b_RK.contiguous(), offs=ends_E)
        return out
    out = a_RM.new_zeros(len(ends_E), a_RM.shape[1], b_RK.shape[1])
    for experts, places, real in _batches(ends_E):
        a, b = (x[places].masked_fill_(~real[..., None], 0) for x in (a_RM, b_RK))
        out[experts] = torch.bmm(a.transpose(1, 2), b)
    return out


def _batches(ends_E: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Group experts of like load: their numbers (m,), the places of their rows (m, most), and which of these are real.

    Loads share a batch when they have the same number of binary digits: below half of a batch is padding.
    """
    ends = ends_E.tolist()
    starts = [0, *ends[:-1]]
    together: dict[int, list[int]] = {}
    for expert, (start, end) in enumerate(zip(starts, ends)):
        if end > start:
            together.setdefault((end - start).bit_length(), []).append(expert)
    made = []
    for members in together.values():
        counts = torch.tensor([ends[e] - starts[e] for e in members], device=ends_E.device)
        first = torch.tensor([starts[e] for e in members], device=ends_E.device)
        step = torch.arange(int(counts.max()), device=ends_E.device)
        real = step < counts[:, None]
        places = torch.where(real, first[:, None] + step, 0)
        made.append((torch.tensor(members, device=ends_E.device), places, real))
    return made


class Stacked(Part):
    """n matrices of one size, weight (n, d_out, d_in), bias (n, d_out): the experts of a mixture. Role `matrix`.

    Each matrix is one logical matrix with its own stream (`weight.0`, `weight.1`, ...), so that adding an expert leaves
    the others' draws unchanged. How rows find their matrix is the owner's business: they come sorted.
    """

    role = "matrix"

    def __init__(self, n: int, d_in: int, d_out: int, *, std: float, bias: bool = False) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(n, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n, d_out)) if bias else None

    def init(self, draw: Draw) -> None:
        for i, matrix in enumerate(self.weight.unbind(0)):
            draw.matrix_(matrix, f"weight.{i}", self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_RI: torch.Tensor, ends_E: torch.Tensor, scale_R: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply rows by their own matrices; rows sorted, `ends_E` their running count, `scale_R` weights of their bias."""
        return product(x_RI, self.weight, self.bias, ends_E, scale_R)
