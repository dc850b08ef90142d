"""Attention with a pairwise bias: blocks of queries over the keys in reach, made again in backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ablab.model.attention.documents import Added
from ablab.model.attention.lifted import lifted
from ablab.model.attention.products import products
from ablab.model.parts.columns import Columns
from ablab.model.parts.pairs import Pairwise, across

# Measured on one core (AVX2, fp32, forward and backward, T = 2048, 8 heads of 64): full rows in blocks of 32, 64, 128,
# 256 queries take 2.0, 1.3, 0.99, 1.0 s, under a window of 128 in blocks of 32, 64, 128 queries 0.44, 0.27, 0.30 s.
BLOCKS = ((128, 64),)  # (largest window, queries of a block)
LONG = 128  # queries of a block beyond
SCORES = 1 << 22  # of a block over every head and row of the batch; rows of the batch beyond go one after the other


def rows(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    added: Added,
    bias: Pairwise,
    scale: float,
) -> torch.Tensor:
    """Compute out_BTHK by plain products, inside at least fp32; differentiable in everything that the bias reads, too.

    Memory is linear in T: a block's scores and biases are dropped and made again in backward. Keys that no query of a
    block sees (behind the window, or in documents that ended) are not touched.
    """
    (batch, length, heads), window, columns = q_BTHK.shape[:3], added.window, added.columns
    first_BT = torch.arange(length, device=q_BTHK.device) - added.documents.pos_BT
    lifts = None if columns is None else (columns.u.expand(batch, length, heads, -1), columns.w, columns.row)
    block = next((size for largest, size in BLOCKS if window is not None and window <= largest), LONG)
    reach = length if window is None else min(length, window + block)
    at_once = max(1, SCORES // (heads * block * reach))
    # Pieces of a split: backward lays their gradients side by side, where slices would each fill a whole tensor.
    several = across(lambda x: list(x.split(at_once)), (q_BTHK, k_BSGK, v_BSGK, lifts, bias.place, first_BT))
    done = []
    for n in range(-(-batch // at_once)):
        some = across(lambda pieces, n=n: pieces[n], several)
        done.append(_rows(some, block, bias, added.sink_H, window, scale))
    return torch.cat(done) if len(done) > 1 else done[0]


def _rows(
    some: tuple[object, object, object, object, object, torch.Tensor],
    block: int,
    bias: Pairwise,
    sink_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """Attend in a few rows of the batch, block by block."""
    first_BT = some[5]
    place = torch.arange(first_BT.shape[1], device=first_BT.device)
    reach = first_BT if window is None else first_BT.clamp(min=place - window + 1)
    held = across(lambda x: list(x.split(block, 1)), some)
    outs = []
    for n, low in enumerate((reach[:, ::block].amin(0) // block).tolist()):
        ask = (held, low, n, block, bias, sink_H, window, scale)
        if torch.is_grad_enabled():
            outs.append(checkpoint(_block, *ask, use_reentrant=False, preserve_rng_state=False))
        else:
            outs.append(_block(*ask))
    return torch.cat(outs, 1)


def _block(
    held: tuple[object, ...],
    low: int,
    n: int,
    block: int,
    bias: Pairwise,
    sink_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """Attend from the n-th block of queries to the keys from the block `low` on."""
    q, _, _, lifts, p_query, first_query = across(lambda pieces: pieces[n], held)
    _, k, v, lifts_key, p_key, first_key = across(lambda pieces: torch.cat(pieces[low : n + 1], 1), held)
    dtype = torch.promote_types(q.dtype, torch.float32)
    given, start = q.dtype, n * block
    q, k, v = (x.to(dtype) for x in (q, k, v))
    rival = None if sink_H is None else sink_H.expand(q.shape[:3])
    if lifts is not None:
        u, w, row = lifts
        # Measured from the block's first query, or from the document's first token behind it.
        each = torch.arange(len(q), device=q.device)[:, None]
        centre_q, centre_k = (w.detach()[each, (first - start).clamp(min=0)] for first in (first_query, first_key))
        q, k, rival = lifted(q, k, Columns(u, lifts_key[1], row), centre_q, centre_k, rival, scale)
    query = torch.arange(start, start + q.shape[1], device=q.device)[:, None]
    distance = query - torch.arange(low * block, low * block + k.shape[1], device=q.device)
    seen = (distance >= 0) & (first_query[:, :, None] == first_key[:, None, :])
    if window is not None:
        seen &= distance < window
    hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
    mask = bias.of(p_query, p_key) + hidden[:, None]
    if rival is not None:  # a first key for the sink
        k, v, mask = F.pad(k, (0, 0, 0, 0, 1, 0)), F.pad(v, (0, 0, 0, 0, 1, 0)), F.pad(mask, (1, 0))
    return products(q, k, v, rival, mask, scale).to(given)
