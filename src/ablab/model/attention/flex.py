"""Windows, documents and columns by one compiled FlexAttention kernel of a GPU (arXiv 2412.05496, torch.nn.attention).

The mask is FlexAttention's: a table of blocks that says which blocks of keys a block of queries meets, made from the
documents' edges without ever writing down (T, T) scores, once for a forward pass. Fixed slopes are a `score_mod`, so that a
head stays as wide as it is. Other columns are lifted into q and k: a captured tensor's gradient is scattered in a `score_mod`
by atomic additions, slowly and in no fixed order, and columns that learn (FoX) want one at every pair. The sink is out
sigmoid(lse - s), differentiated through the kernel's own lse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ablab.model.attention.documents import Added, Documents
from ablab.model.attention.lifted import centres, lifted

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Modification = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # of score, row, head, query, key
BLOCK = 128  # queries and keys of a mask's block: the kernel's own default
SMALLEST_HEAD = 16  # channels: a matrix product of the compiled kernel takes no fewer
# Every shape, window and grad mode is a compilation of its own. Beyond so many FlexAttention would quietly run dense.
MOST_COMPILED = 256


def flex(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    added: Added,
    scale: float,
) -> Tensor:
    """Attend in time of the blocks in sight: linear in T under a window. Compiled on a GPU.

    On the CPU the same formula runs dense, for tests (forward; torch refuses the backward there). ValueError for heads of
    fewer than 16 channels or fp64 on a GPU.
    """
    if q_BTHK.device.type == "cuda" and (q_BTHK.shape[3] < SMALLEST_HEAD or q_BTHK.dtype == torch.float64):
        fault = f"executor 'flex' has no kernel for heads of {q_BTHK.shape[3]} channels in {q_BTHK.dtype}"
        raise ValueError(f"{fault}; use 16 channels or more in bf16, fp16 or fp32")
    documents, columns, sloped = added.documents, added.columns, None
    rival = None if added.sink_H is None else added.sink_H.expand(q_BTHK.shape[:3])
    if columns is not None and columns.slope_H is not None:
        sloped = _sloped(columns.slope_H)
    elif columns is not None:
        centre = centres(columns.w.detach(), documents.pos_BT)
        q_BTHK, k_BSGK, rival = lifted(q_BTHK, k_BSGK, columns, centre, centre, rival, scale)
    q, k, v = (t.transpose(1, 2) for t in (q_BTHK, k_BSGK, v_BSGK))
    out, lse = _fused(q, k, v, mask(documents, added.window), scale, sloped)
    if rival is not None:
        out = (out * torch.sigmoid(lse - rival.transpose(1, 2).to(lse.dtype))[..., None]).to(out.dtype)
    return out.transpose(1, 2)


def mask(documents: Documents, window: int | None) -> BlockMask:
    """Make the BlockMask of these documents under this window; once for each window, then kept with the documents."""
    if window not in documents.masks:
        documents.masks[window] = _mask(documents.segment_BT, window)
    return documents.masks[window]


def _sloped(slope_H: Tensor) -> Modification:
    """Make what adds -slope (i - j) to a score. Exact in fp32 within a document, whose places are those of the row moved."""
    slope_H = slope_H.detach()

    def lowered(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slope_H[h] * (i - j)

    return lowered


def _mask(segment_BT: Tensor, window: int | None) -> BlockMask:
    from torch.nn.attention.flex_attention import BlockMask

    length = segment_BT.shape[1]

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        inside = (i >= j) & (segment_BT[b, i] == segment_BT[b, j])
        return inside if window is None else inside & (i - j < window)

    n = -(-length // BLOCK)
    first = BLOCK * torch.arange(n, device=segment_BT.device)
    last = (first + BLOCK - 1).clamp(max=length - 1)
    # Segments never fall along a row: a block of keys is in sight where its last one is not before the queries' first,
    # and all of it where both blocks lie in one segment.
    low, high = segment_BT[:, first], segment_BT[:, last]
    some = (first[:, None] >= first) & (high[:, None, :] >= low[:, :, None])
    every = (first[:, None] > first) & (low[:, None, :] == high[:, :, None])
    if window is not None:
        some = some & (first[:, None] - last < window)
        every = every & (last[:, None] - first < window)
    counts, places = _listed(some & ~every)
    whole_counts, whole_places = _listed(every)
    made: BlockMask = BlockMask.from_kv_blocks(
        counts, places, whole_counts, whole_places, BLOCK_SIZE=BLOCK, mask_mod=seen, seq_lengths=(length, length)
    )
    return made


def _listed(met_Bij: Tensor) -> tuple[Tensor, Tensor]:
    """List (B, 1, n) how many blocks of keys each block of queries meets, (B, 1, n, n) which, those first."""
    order = met_Bij.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return met_Bij.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]


def _fused(
    q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask, scale: float, sloped: Modification | None
) -> tuple[Tensor, Tensor]:
    """Compute out and its log-sum-exp (natural) of (B, H, T, K)."""
    from torch.nn.attention.flex_attention import AuxRequest

    ask: dict[str, Any] = {"block_mask": blocks, "scale": scale, "enable_gqa": True, "return_aux": AuxRequest(lse=True)}
    ask["score_mod"] = sloped
    limits: dict[str, Any] = {"recompile_limit": MOST_COMPILED, "accumulated_recompile_limit": 4 * MOST_COMPILED}
    if q.device.type != "cuda":
        out, aux = _kernel(False)(q, k, v, **ask)
    else:
        with torch._dynamo.config.patch(**limits):  # fullgraph: a limit that is hit raises
            out, aux = _kernel(True)(q, k, v, **ask)
    return out, aux.lse


@functools.cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel, dynamic=False, fullgraph=True) if compiled else kernel
