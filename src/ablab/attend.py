"""The one attention core: plain, windowed, packed, biased, with sinks; one door, several executors."""

from __future__ import annotations

from typing import Any

import torch

from ablab.attention.documents import Documents
from ablab.attention.lift import lift
from ablab.attention.reference import reference
from ablab.columns import Columns

__all__ = ["EXECUTORS", "Documents", "attend", "executor_for"]

REVISION = 1  # raised whenever a number that this file makes changes on purpose
# Where each executor may run. An executor is chosen here, before training, never by a timing at run time.
EXECUTORS = {"lift": ("cpu",), "reference": ("cpu", "cuda")}


def executor_for(device: str, *, pairwise: bool = False) -> str:
    """The executor of a device: `lift` on the CPU, `reference` elsewhere. `pairwise`: the model has a pairwise bias.

    ValueError where no executor knows the device.
    """
    kind = torch.device(device).type
    for name, devices in EXECUTORS.items():
        if kind in devices and not (pairwise and name == "lift"):
            return name
    known = sorted({device for devices in EXECUTORS.values() for device in devices})
    raise ValueError(f"no attention executor runs on '{kind}'; known: {', '.join(known)}")


def attend(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    *,
    window: int | None,
    documents: Documents,
    columns: Columns | None = None,
    bias: torch.Tensor | None = None,
    sink_H: torch.Tensor | None = None,
    scale: float | None = None,
    executor: str,
) -> torch.Tensor:
    """out_BTHK = softmax(scale q.k + bias over visible keys and the sink) v, differentiable in every tensor.

    Visible: j <= i, i - j < window (`window` tokens, the current one included), same document. Head h reads kv group h
    // (H/G). scale is 1/sqrt(K) unless given; columns, bias and sink are added after it. sink_H: logits that take mass
    and give no value.
    Precision is that of q, k, v: autocast does not reach inside.
    ValueError where shapes or dtypes disagree, the executor is unknown, or it cannot honour what is asked; nothing
    falls back.
    """
    _check(q_BTHK, k_BSGK, v_BSGK, window, documents, columns, sink_H)
    scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    ask: dict[str, Any] = {
        "window": window,
        "documents": documents,
        "columns": columns,
        "sink_H": sink_H,
        "scale": scale,
    }
    if executor == "reference":
        with _as_given(q_BTHK):
            return reference(q_BTHK, k_BSGK, v_BSGK, bias=bias, **ask)
    if executor != "lift":
        raise ValueError(f"no attention executor is called '{executor}'; known: {', '.join(EXECUTORS)}")
    if bias is not None:
        raise ValueError("executor 'lift' takes no pairwise bias; use columns, or the executor 'reference'")
    if q_BTHK.device.type not in EXECUTORS["lift"]:
        raise ValueError(f"executor 'lift' does not run on '{q_BTHK.device.type}'; use 'reference'")
    with _as_given(q_BTHK):
        return lift(q_BTHK, k_BSGK, v_BSGK, **ask)


def _as_given(q: torch.Tensor) -> torch.autocast:
    return torch.autocast(q.device.type, enabled=False)


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int | None,
    documents: Documents,
    columns: Columns | None,
    sink_H: torch.Tensor | None,
) -> None:
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
