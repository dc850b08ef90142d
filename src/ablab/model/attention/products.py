"""Attention of short rows by plain matrix products: every score of a row is kept, and nothing is computed twice."""

from __future__ import annotations

import torch

from ablab.model.parts.context import Context


def products(
    q_nTHK: torch.Tensor,
    k_nSGK: torch.Tensor,
    v_nSGV: torch.Tensor,
    rival_nTH: torch.Tensor | None,
    mask: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Compute out_nTHV of n independent rows; `mask` (n|1, H|1, T, S) is added to the scores, and its gradient is given.

    With `rival_nTH` the first key must be one that no query sees: there stands the sink.

    The same answer as `kernel.flash`, faster where rows are short, because the kernel's tiles and second pass do not
    pay there.
    """
    out: torch.Tensor = _Products.apply(q_nTHK, k_nSGK, v_nSGV, rival_nTH, mask, scale)
    return out


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rival: torch.Tensor | None,
        mask: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.scale, ctx.groups, ctx.mask = scale, k.shape[2], (mask.shape, mask.dtype)
        q, k, v = _grouped(q, k.shape[2]), k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
        z = torch.matmul(q, k.transpose(2, 3)).mul_(scale)
        by_head = z.view(len(z), -1, mask.shape[2], z.shape[3])
        by_head.add_(mask)
        if rival is not None:
            by_head[..., 0] = rival.transpose(1, 2)
        p = torch.softmax(z, -1)
        lost = None
        if rival is not None:
            first = p.view(by_head.shape)[..., 0]
            lost = first.clone()
            first.zero_()
        ctx.save_for_backward(q, k, v, p, lost)
        return _ungrouped(torch.matmul(p, v), mask.shape[2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, p, lost = ctx.saved_tensors
        rows = d_out.shape[1]
        d_out = _grouped(d_out, ctx.groups)
        dv = torch.matmul(p.transpose(2, 3), d_out)
        dp = torch.matmul(d_out, v.transpose(2, 3))
        # With the sink's column at zero this is the exact backward of the rest: delta = sum p dp holds for what is
        # left.
        dz = torch._softmax_backward_data(dp, p, -1, p.dtype)
        d_rival = None
        if lost is not None and ctx.needs_input_grad[3]:
            delta = torch.linalg.vecdot(p, dp).view(lost.shape)
            d_rival = -(lost * delta).transpose(1, 2)
        d_mask = None
        if ctx.needs_input_grad[4]:
            size, dtype = ctx.mask
            d_mask = dz.view(len(dz), -1, rows, dz.shape[3]).sum_to_size(size).to(dtype)
        dq = torch.matmul(dz, k).mul_(ctx.scale)
        dk = torch.matmul(dz.transpose(2, 3), q).mul_(ctx.scale)
        return _ungrouped(dq, rows), dk.transpose(1, 2), dv.transpose(1, 2), d_rival, d_mask, None


def _grouped(x_nTHK: torch.Tensor, groups: int) -> torch.Tensor:
    """Group (n, T, H, K) -> (n, G, H/G * T, K): the heads of a group are more rows over the same keys."""
    n, _, _, width = x_nTHK.shape
    return x_nTHK.transpose(1, 2).reshape(n, groups, -1, width)


def _ungrouped(x_nGRK: torch.Tensor, rows: int) -> torch.Tensor:
    n, _, _, width = x_nGRK.shape
    return x_nGRK.reshape(n, -1, rows, width).transpose(1, 2)
