"""The lift: additive positions, sinks, windows and documents by the plain attention kernel; on a GPU, by its own.

Biases become columns of queries and keys (GRAPE's unipotent form), sinks a factor of the output, windows blocks of
rows, documents rows of their own. Measured and dropped: documents as a potential of their own (a column that lifts a
document's scores above the others' leaks between documents).
"""

from __future__ import annotations

import dataclasses

import torch

from ablab.model.attention import blocked as blocks
from ablab.model.attention.choice import choice
from ablab.model.attention.documents import Added, Documents
from ablab.model.attention.flex import flex
from ablab.model.attention.kernel import flash
from ablab.model.attention.lifted import Flat, lifted, piece, take
from ablab.model.attention.products import products
from ablab.model.attention.rows import rows
from ablab.model.attention.stock import Stock, causal
from ablab.model.attention.varlen import varlen
from ablab.model.attention.windowed import in_chunks
from ablab.model.parts.columns import Columns

# Measured on one core (AVX2, fp32, forward and backward), committed here: nothing is chosen by a timing at run time.
# Windowed rows up to SHORT tokens keep their scores: window 16 takes 0.70 to 0.82 of the kernel's time, 64 takes 0.85,
# 128 takes 0.97; beyond, memory counts and the gain is gone. Full rows always take the kernel: at T=256 products take
# 0.96 to 1.10 of its time, then ever more.
SHORT = 512
BLOCKS = (
    (64, 32),
    (128, 64),
)  # (largest window, rows of a block); 128 beyond: short ones waste little, long ones copy little


def lift(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    added: Added,
    scale: float,
) -> torch.Tensor:
    """Attend; under a window time and memory are linear in T, without one memory is. On a GPU see `lift_cuda`.

    Error against the oracle: fp32 1e-6 + 2^-24 max|column product|, the largest within a block of queries and of keys near
    it on a CPU, within the row on a GPU; bf16 the kernel's own.
    """
    if added.window is not None and added.documents.longest <= added.window:
        added = dataclasses.replace(added, window=None)
    if added.bias is not None:
        return rows(q_BTHK, k_BSGK, v_BSGK, added, added.bias, scale)
    if q_BTHK.device.type == "cuda":
        return lift_cuda(q_BTHK, k_BSGK, v_BSGK, added, scale)
    window, documents, columns, sink_H = added.window, added.documents, added.columns, added.sink_H
    if window is not None:
        flat = _flat(q_BTHK, k_BSGK, v_BSGK, columns)
        parts, missing = ((1, 1), [None] * 3) if columns is None else (columns.parts, [])
        short = q_BTHK.shape[1] <= SHORT and q_BTHK.dtype != torch.bfloat16
        return _windowed([*flat, *missing, sink_H], parts, window, documents, scale, short).view(q_BTHK.shape)
    if documents.whole:
        return _rows(q_BTHK, k_BSGK, v_BSGK, columns, sink_H, scale)
    return _documents(q_BTHK, k_BSGK, v_BSGK, documents, columns, sink_H, scale)


def _windowed(
    flat: Flat, parts: tuple[int, int], window: int, documents: Documents, scale: float, short: bool
) -> torch.Tensor:
    """Compute out (N, H, K) of the flat batch in blocks of queries, each over its own keys and the window before.

    Edges of documents and rows lie in the blocks' mask.

    short: keep every score (products) instead of calling the kernel chunk by chunk.
    """
    q = flat[0]
    assert q is not None
    block = next((rows for largest, rows in BLOCKS if window <= largest), 128)
    plan = documents.blocks(window, block, q.dtype)
    if short:
        q_, k_, v_, rival = piece(flat, plan.anchor, flat[4], parts, window, block, 0, scale)
        return products(q_, k_, v_, rival, plan.mask, scale).flatten(0, 1)[: len(q)]
    return in_chunks(flat, plan, parts, window, block, scale)


def _rows(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    columns: Columns | None,
    sink_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attend in rows that are one document each. In bf16 what rounds a bias is far below what rounds its weight."""
    if columns is not None and q.shape[1] > blocks.BLOCK and q.dtype != torch.bfloat16:
        return blocks.blocked(q, k, v, columns, sink_H, scale)
    rival = None if sink_H is None else sink_H.expand(q.shape[:3])
    if columns is not None:
        # Measured from the first token: from the middle, rounding would be half, but a gate's later sums would move
        # earlier rows' bits.
        centre = columns.w[:, :1].detach()
        q, k, rival = lifted(q, k, columns, centre, centre, rival, scale)
    return flash(q, k, v, rival, None, scale)


def _documents(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    documents: Documents,
    columns: Columns | None,
    sink_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attend in one row of the kernel for each document; documents of like length share a call."""
    outs, offset, shape = [], 0, q.shape
    flat = _flat(q, k, v, columns)
    for s in documents.stretches:
        n = s.index.numel()
        place = documents.back - offset
        inside = (place >= 0) & (place < n)
        qs, ks, vs, *cs = (take(x, s.index, place.clamp(0, n - 1), inside) for x in flat)
        here = None if columns is None else Columns(cs[0], cs[1], cs[2], columns.parts)
        outs.append(_rows(qs, ks, vs, here, sink_H, scale).flatten(0, 1))
        offset += n
    real = torch.cat([s.real.flatten() for s in documents.stretches])
    index = torch.cat([s.index.flatten() for s in documents.stretches])
    return take(torch.cat(outs), documents.back, index, real).view(shape)


def _flat(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, columns: Columns | None) -> list[torch.Tensor]:
    batch, length = q.shape[:2]
    several = [q, k, v]
    if columns is not None:
        several += [columns.u, columns.w, columns.row]
    return [x.expand(batch, length, *x.shape[2:]).flatten(0, 1) for x in several]


def case_of(window: int | None, documents: Documents) -> str:
    """Return `window`, `documents` or `full`: what the shape asks for. A window as long as the row is none."""
    if window is not None and window < documents.shape[1]:
        return "window"
    return "full" if documents.whole else "documents"


def lift_cuda(
    q_BTHK: torch.Tensor,
    k_BSGK: torch.Tensor,
    v_BSGK: torch.Tensor,
    added: Added,
    scale: float,
    by: Stock | None = None,
) -> torch.Tensor:
    """Attend on a GPU by the kernel that the table of choices names for the case. `by`: another stock kernel."""
    case, columns = case_of(added.window, added.documents), added.columns
    if (kernel := choice("cuda", case).kernel) != "stock":
        seen = added if case == "window" else dataclasses.replace(added, window=None)
        return (flex if kernel == "flex" else varlen)(q_BTHK, k_BSGK, v_BSGK, seen, scale)
    rival = None if added.sink_H is None else added.sink_H.expand(q_BTHK.shape[:3])
    if columns is not None:
        centre = columns.w[:, :1].detach()
        q_BTHK, k_BSGK, rival = lifted(q_BTHK, k_BSGK, columns, centre, centre, rival, scale)
    return causal(q_BTHK, k_BSGK, v_BSGK, rival, scale, by)
