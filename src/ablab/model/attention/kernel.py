"""The stock flash kernel of the CPU, with a sink made exact by its log-sum-exp.

The operator is called by its own name, not through scaled_dot_product_attention: nothing can dispatch to dense
mathematics behind the caller's back; what the kernel cannot do, it refuses. The sink costs no column: out sigmoid(lse
- s) is the output, and the corrected out and lse make the stock backward exact. Keys may have fewer heads than
queries; the kernel reads them where they lie.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ablab.model.parts.context import Context

stock_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
stock_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flash(
    q_nTHK: torch.Tensor,
    k_nSGK: torch.Tensor,
    v_nSGV: torch.Tensor,
    rival_nTH: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Compute out_nTHV of n independent rows; causal where `mask` (n|1, 1, T, S) is None. v may be narrower than q and k.

    rival_nTH: the logit of a silent key of each query, or None.
    """
    out: torch.Tensor = _Flash.apply(q_nTHK, k_nSGK, v_nSGV, rival_nTH, mask, scale)
    return out


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rival: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Compute the output (n, T, H, V), and for `backward` the log-sum-exp and the sink's share of the mass, both (n, H, T)."""
    width = v.shape[-1]
    q, k, v = (t.transpose(1, 2) for t in (q, k, widen(v, q.shape[-1])))
    out, lse = stock_flash(q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale)
    out, lost = out.transpose(1, 2)[..., :width], None
    if rival is not None:
        rival = rival.transpose(1, 2).to(lse.dtype)
        lost = torch.sigmoid(rival - lse)
        out = (out * torch.sigmoid(lse - rival).transpose(1, 2)[..., None]).to(out.dtype)
        lse = torch.logaddexp(lse, rival)
    return out, lse, lost


def backward(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    made: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    mask: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Compute the gradients of q, k, v and of the rival; the arguments are those of `forward` and what it returned (`made`)."""
    out, lse, lost = made
    width, lifted = v.shape[-1], q.shape[-1]
    d_rival = None
    if lost is not None:
        # The sink gives no value: its logit's gradient is its share of the mass times minus (d_out . out).
        d_rival = -lost.transpose(1, 2) * (d_out * out).sum(-1, dtype=lost.dtype)
    tensors = (t.transpose(1, 2) for t in (widen(d_out, lifted), q, k, widen(v, lifted), widen(out, lifted)))
    dq, dk, dv = stock_flash_backward(*tensors, lse, 0.0, mask is None, attn_mask=mask, scale=scale)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)[..., :width], d_rival


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rival: torch.Tensor | None,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        out, lse, lost = forward(q, k, v, rival, mask, scale)
        ctx.save_for_backward(q, k, v, out, lse, lost, mask)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse, lost, mask = ctx.saved_tensors
        return *backward(d_out, q, k, v, (out, lse, lost), mask, ctx.scale), None, None


def widen(x: torch.Tensor, width: int) -> torch.Tensor:
    """Fill the last axis with zeros up to `width`."""
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))
