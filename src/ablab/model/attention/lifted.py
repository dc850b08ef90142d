"""Columns of a bias appended to queries and keys, so that plain attention adds the bias; rows cut out of the flat batch and
laid back, with gradients that never scatter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ablab.model.parts.columns import Columns
from ablab.model.parts.context import Context

Flat = Sequence[torch.Tensor | None]  # q (N, H, K), k, v (N, G, K), u (N, H, r), w (N, G, r), row (N, H), sink (H,)


def lifted(
    q: torch.Tensor,
    k: torch.Tensor,
    columns: Columns,
    centre_q: torch.Tensor,
    centre_k: torch.Tensor,
    rival: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return [q, u/scale], [k, w - centre] and the sink's logit in that frame.

    u . (w - centre) differs from the bias by a constant of the row, which no softmax over keys sees; the sink sees it,
    so its logit takes it on. Centring keeps the products small, hence exact. The columns stand last: a sum that meets
    them first would round every later term to their size.
    """
    batch, length, heads = q.shape[:3]
    u, w = columns.u.expand(batch, length, heads, -1), columns.w - centre_k
    if rival is not None:
        group = heads // centre_q.shape[2]
        dot = (u.unflatten(2, (-1, group)) * centre_q[:, :, :, None]).sum(-1).flatten(2, 3)
        rival = rival - (columns.row + dot)
    wide = torch.promote_types(q.dtype, torch.float32)
    u, w = (u / scale).to(wide), w.expand(batch, k.shape[1], k.shape[2], -1).to(wide)
    if q.dtype == torch.bfloat16:
        u, w = _Split.apply(u, w, columns.parts)
    width = -(q.shape[-1] + u.shape[-1]) % 8  # the matrix products like widths in eights: 72 is faster than 65
    u, w = F.pad(u, (0, width)), F.pad(w, (0, width))
    return torch.cat([q, u], -1), torch.cat([k, w], -1), rival


def centres(w_BSGr: torch.Tensor, pos_BT: torch.Tensor) -> torch.Tensor:
    """Return for every token the columns of its document's first: what biases are measured from, so that they stay small."""
    batch, length = pos_BT.shape
    first = torch.arange(length, device=w_BSGr.device) - pos_BT
    w = w_BSGr.expand(batch, length, -1, -1)
    return w.gather(1, first[:, :, None, None].expand(w.shape))


def piece(
    flat: Flat,
    anchor: torch.Tensor,
    anchored: torch.Tensor | None,
    parts: tuple[int, int],
    window: int,
    block: int,
    ahead: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Cut out lifted q, k, then v and the sink's logits, in blocks; keys begin `ahead` rows before the queries.

    Biases are measured from the block's `anchor` tokens, looked up in `anchored` (w of the whole batch).
    """
    q, k, v, u, w, row, sink = flat
    assert q is not None and k is not None and v is not None
    q, k, v = blocks(q, block, 0), blocks(k, block, window, ahead), blocks(v, block, window, ahead)
    rival = None if sink is None else sink.expand(q.shape[:3])
    if u is not None and w is not None and row is not None and anchored is not None:
        cut = Columns(blocks(u, block, 0), blocks(w, block, window, ahead), blocks(row, block, 0), parts)
        centre = anchored.detach()[anchor]
        q, k, rival = lifted(q, k, cut, centre[:, window:], centre, rival, scale)
    return q, k, v, rival


class _Split(torch.autograd.Function):
    """fp32 columns as sums of bf16 ones: u . w = sum over a + b < 3 of u_a . w_b, nothing above 2^-24 lost.

    d u is read off the columns (u_0, w_b), d w off (u_a, w_0): together they hold the whole other side.
    """

    @staticmethod
    def forward(
        ctx: Context, u: torch.Tensor, w: torch.Tensor, parts: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        us, ws = _parts(u, parts[0]), _parts(w, parts[1])
        ctx.pairs = [(a, b) for a in range(parts[0]) for b in range(parts[1]) if a + b < 3]
        return torch.cat([us[a] for a, _ in ctx.pairs], -1), torch.cat([ws[b] for _, b in ctx.pairs], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, du: torch.Tensor, dw: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        n = len(ctx.pairs)
        from_u = [d for d, (a, _) in zip(du.float().chunk(n, -1), ctx.pairs, strict=True) if a == 0]
        from_w = [d for d, (_, b) in zip(dw.float().chunk(n, -1), ctx.pairs, strict=True) if b == 0]
        return sum(from_u[1:], from_u[0]), sum(from_w[1:], from_w[0]), None


def _parts(x: torch.Tensor, n: int) -> list[torch.Tensor]:
    parts, rest = [], x
    for _ in range(n):
        parts.append(rest.bfloat16())
        rest = rest - parts[-1].to(x.dtype)
    return parts


def take(x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Take x[index] along the first axis; the gradient is d[back], zero where not `real`: the caller knows the way back."""
    out: torch.Tensor = _Take.apply(x, index, back, real)
    return out


def blocks(x: torch.Tensor, block: int, before: int, ahead: int = 0) -> torch.Tensor:
    """Cut (N, ...) -> (n, before + block, ...): blocks of rows with the `before` rows ahead of them, zeros beyond both
    ends.

    The first block starts at row `ahead` of x; what it needs ahead of x is zeros.
    """
    out: torch.Tensor = _Blocks.apply(x, block, before, ahead)
    return out


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(back, real)
        ctx.axes = index.ndim
        return x[index]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        back, real = ctx.saved_tensors
        d = d.flatten(0, ctx.axes - 1)
        return d[back] * real.view(-1, *[1] * (d.ndim - 1)), None, None, None


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: torch.Tensor, block: int, before: int, ahead: int) -> torch.Tensor:
        n = -(-(len(x) - ahead) // block)
        front, behind = before - ahead, n * block + ahead - len(x)
        ctx.sizes = (len(x), block, before, front)
        padded = F.pad(x, (*[0, 0] * (x.ndim - 1), front, behind)) if front or behind else x
        # A copy where blocks overlap is made by whoever needs one: this is a view.
        return padded.unfold(0, before + block, block).movedim(-1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        length, block, before, front = ctx.sizes
        if not before:
            return d.flatten(0, 1)[:length], None, None, None
        n, pieces = len(d), -(-(before + block) // block)
        total = d.new_zeros((n + pieces - 1, block, *d.shape[2:]))
        for piece in range(pieces):
            part = d[:, piece * block : (piece + 1) * block]
            total[piece : piece + n, : part.shape[1]] += part
        return total.flatten(0, 1)[front : front + length], None, None, None
