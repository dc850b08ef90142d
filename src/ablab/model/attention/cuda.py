"""The lift on a GPU: the same lifted queries and keys, by the kernel that the table of choices names for the case."""

from __future__ import annotations

from torch import Tensor

from ablab.model.attention.choice import choice
from ablab.model.attention.documents import Documents
from ablab.model.attention.flex import flex
from ablab.model.attention.lifted import lifted
from ablab.model.attention.stock import Stock, causal
from ablab.model.parts.columns import Columns


def case_of(window: int | None, documents: Documents) -> str:
    """Return `window`, `documents` or `full`: what the shape asks for. A window as long as the row is none."""
    if window is not None and window < documents.shape[1]:
        return "window"
    return "full" if documents.whole else "documents"


def lift_cuda(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    window: int | None,
    documents: Documents,
    columns: Columns | None,
    sink_H: Tensor | None,
    scale: float,
    by: Stock | None = None,
) -> Tensor:
    """Attend on a GPU: full rows by the stock kernels, windows and documents by flex. `by`: another stock kernel."""
    case = case_of(window, documents)
    if choice("cuda", case).kernel == "flex":
        seen = window if case == "window" else None
        return flex(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            window=seen,
            documents=documents,
            columns=columns,
            sink_H=sink_H,
            scale=scale,
        )
    rival = None if sink_H is None else sink_H.expand(q_BTHK.shape[:3])
    if columns is not None:
        centre = columns.w[:, :1].detach()
        q_BTHK, k_BSGK, rival = lifted(q_BTHK, k_BSGK, columns, centre, centre, rival, scale)
    return causal(q_BTHK, k_BSGK, v_BSGK, rival, scale, by)
