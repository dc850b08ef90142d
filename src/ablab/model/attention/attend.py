"""The one attention core: plain, windowed, packed, biased, with sinks; one door, several executors."""

from __future__ import annotations

import torch

from ablab.model.attention.choice import choice
from ablab.model.attention.documents import Added, Documents
from ablab.model.attention.flex import flex
from ablab.model.attention.lift import lift
from ablab.model.attention.varlen import varlen
from ablab.model.parts.columns import per_head

__all__ = ["EXECUTORS", "Added", "Documents", "attend", "executor_for"]

REVISION = 1  # raised whenever a number that this file makes changes on purpose
# Where each executor may run. Which one does is read off a table, before training, never off a timing at run time.
EXECUTORS = {"lift": ("cpu", "cuda"), "flex": ("cuda",), "varlen": ("cuda",), "reference": ("cpu", "cuda")}
PAIRWISE = ("lift", "reference")  # those that take a pairwise bias


def executor_for(device: str, *, pairwise: bool = False) -> str:
    """Name the executor of a device, from the table of choices. `pairwise`: the model has a pairwise bias.

    ValueError where no executor knows the device.
    """
    return choice(torch.device(device).type, "pairwise" if pairwise else "full").executor


def attend(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    added: Added,
    *,
    scale: float | None = None,
    executor: str,
) -> torch.Tensor:
    """Compute out_BTHK = softmax(scale q.k + bias over visible keys and the sink) v, differentiable in every tensor.

    Head h reads kv group h // (H/G). scale is 1/sqrt(K) unless given; columns, bias and sink are added after it.
    Precision is that of q, k, v: autocast does not reach inside.
    ValueError where shapes or dtypes disagree, the executor is unknown, or it cannot honour what is asked; nothing
    falls back.
    """
    _check(q_BTHK, k_BSGK, v_BSGK, added)
    scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    if executor not in EXECUTORS:
        raise ValueError(f"no attention executor is called '{executor}'; known: {', '.join(EXECUTORS)}")
    if executor != "reference" and q_BTHK.device.type not in EXECUTORS[executor]:
        raise ValueError(f"executor '{executor}' does not run on '{q_BTHK.device.type}'; use 'reference'")
    if added.bias is not None and executor not in PAIRWISE:
        raise ValueError(f"executor '{executor}' takes no pairwise bias; use {' or '.join(PAIRWISE)}")
    given = (q_BTHK, k_BSGK, v_BSGK)
    with _as_given(q_BTHK):
        if executor in ("flex", "varlen"):
            return (flex if executor == "flex" else varlen)(*given, added, scale)
        return (lift if executor == "lift" else reference)(*given, added, scale)


def _as_given(q: torch.Tensor) -> torch.autocast:
    return torch.autocast(q.device.type, enabled=False)


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: Added) -> None:
    window, documents, columns, sink_H = added.window, added.documents, added.columns, added.sink_H
    sizes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if (
        q.ndim != 4
        or k.shape != v.shape
        or q.shape[:2] != k.shape[:2]
        or q.shape[3] != k.shape[3]
        or q.shape[2] % k.shape[2]
    ):
        raise ValueError(f"{sizes} do not fit; give q (B, T, H, K) and k, v (B, T, G, K) with H a multiple of G")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; cast them to one dtype")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}, but a token sees itself; give 1 or more, or none for full attention")
    if documents.shape != q.shape[:2]:
        raise ValueError(
            f"documents describe {documents.shape} tokens, but q has {tuple(q.shape[:2])}; build them from this batch"
        )
    if sink_H is not None and sink_H.shape != (q.shape[2],):
        raise ValueError(f"sink is {tuple(sink_H.shape)}, but there are {q.shape[2]} heads; give one logit for each")
    if columns is not None and columns.row.shape != q.shape[:3]:
        raise ValueError(
            f"columns have row {tuple(columns.row.shape)}, but q has {tuple(q.shape[:3])}; give one for each head"
        )


def reference(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    added: Added,
    scale: float,
) -> torch.Tensor:
    """Attend by definition, every score written down: any device, any dtype (inside at least fp32), memory T^2."""
    dtype = torch.promote_types(q_BTHK.dtype, torch.float32)
    heads = q_BTHK.shape[2]
    q, k, v = q_BTHK.to(dtype), per_head(k_BSGK.to(dtype), heads), per_head(v_BSGK.to(dtype), heads)
    z = torch.einsum("bthk,bshk->bhts", q, k) * scale
    if added.columns is not None:
        z = z + added.columns.bias(heads).to(dtype)
    if added.bias is not None:
        z = z + added.bias.block(slice(None), slice(None)).to(dtype)
    z = z.masked_fill(~added.documents.visible_BTS(added.window)[:, None], -torch.inf)
    if added.sink_H is not None:
        z = torch.cat([added.sink_H.to(dtype)[None, :, None, None].expand(*z.shape[:3], 1), z], dim=-1)
    p = torch.softmax(z, dim=-1)
    if added.sink_H is not None:
        p = p[..., 1:]
    return torch.einsum("bhts,bshk->bthk", p, v).to(q_BTHK.dtype)
