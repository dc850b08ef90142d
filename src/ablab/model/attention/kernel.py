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

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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


def of_rows(
    q_nGMK: torch.Tensor, k_nGSK: torch.Tensor, v_nGSK: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from every query to every key but what `mask` (n|1, G|1, M|1, S) hides: (n, G, M, K) and log-sum-exp (n, G, M)."""
    out_and_lse: tuple[torch.Tensor, torch.Tensor] = _flash(
        q_nGMK, k_nGSK, v_nGSK, 0.0, False, attn_mask=mask, scale=scale
    )
    return out_and_lse


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
    q, k, v = (t.transpose(1, 2) for t in (q, k, _widen(v, q.shape[-1])))
    out, lse = _flash(q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale)
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
    tensors = (t.transpose(1, 2) for t in (_widen(d_out, lifted), q, k, _widen(v, lifted), _widen(out, lifted)))
    dq, dk, dv = _flash_backward(*tensors, lse, 0.0, mask is None, attn_mask=mask, scale=scale)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)[..., :width], d_rival


def onward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rival: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Compute `forward` of the last T of S >= T tokens, causal: keys before them are seen by all, their own as far as they go.

    v is as wide as q and k. The kernel's causal mask knows no offset, so the two parts are taken one after the other and
    joined by their sums.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    before = k.shape[2] - q.shape[2]
    out, lse = _flash(q, k[:, :, before:], v[:, :, before:], 0.0, True, scale=scale)
    if before:
        past, lse_past = _flash(q, k[:, :, :before], v[:, :, :before], 0.0, False, scale=scale)
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


def onward_back(
    d_out: torch.Tensor,
    saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    lost: torch.Tensor | None,
    scale: float,
    d_k: torch.Tensor,
    d_v: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the gradients of q and of the rival of `onward`; those of k and v are added to d_k and d_v.

    saved: q, k, v, out, log-sum-exp. With the joint sums each part's gradients are exact, and those of q add. d_out and out
    may be narrower than q.
    """
    q, k, v, out, lse = saved
    before, lifted = k.shape[1] - q.shape[1], q.shape[-1]
    d_out, out, lse = _widen(d_out, lifted), _widen(out, lifted), lse.contiguous()
    d_rival = None if lost is None else -lost.transpose(1, 2) * (d_out * out).sum(-1, dtype=lost.dtype)
    d_q = torch.zeros_like(q)
    for part, causal in ((slice(before, None), True), (slice(0, before), False)):
        if causal or before:
            tensors = (t.transpose(1, 2) for t in (d_out, q, k[:, part], v[:, part], out))
            gradients = [t.transpose(1, 2) for t in _flash_backward(*tensors, lse, 0.0, causal, scale=scale)]
            for total, one in zip((d_q, d_k[:, part], d_v[:, part]), gradients, strict=True):
                total += one
    return d_q, d_rival


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


def _widen(x: torch.Tensor, width: int) -> torch.Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))
