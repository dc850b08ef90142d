"""The oracle: dense attention, every score written down."""

from __future__ import annotations

import torch

from ablab.model.attention.documents import Documents
from ablab.model.parts.columns import Columns, Pairwise, per_head


def reference(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    *,
    window: int | None,
    documents: Documents,
    columns: Columns | None,
    bias: Pairwise | None,
    sink_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attend by definition: any device, any dtype (inside at least fp32), autograd's own gradients, memory T^2."""
    dtype = torch.promote_types(q_BTHK.dtype, torch.float32)
    heads = q_BTHK.shape[2]
    q, k, v = q_BTHK.to(dtype), per_head(k_BSGK.to(dtype), heads), per_head(v_BSGK.to(dtype), heads)
    z = torch.einsum("bthk,bshk->bhts", q, k) * scale
    if columns is not None:
        z = z + columns.bias(heads).to(dtype)
    if bias is not None:
        z = z + bias.block(slice(None), slice(None)).to(dtype)
    z = z.masked_fill(~documents.visible_BTS(window)[:, None], -torch.inf)
    if sink_H is not None:
        z = torch.cat([sink_H.to(dtype)[None, :, None, None].expand(*z.shape[:3], 1), z], dim=-1)
    p = torch.softmax(z, dim=-1)
    if sink_H is not None:
        p = p[..., 1:]
    return torch.einsum("bhts,bshk->bthk", p, v).to(q_BTHK.dtype)
