"""Attention over what earlier stretches of text left: kept columns, who sees them, and the product with one query.

All rows of a batch share their columns: column c of row b is that row's c-th token, pads included. A query sees the
columns of its own document, c - window < column <= c. Shapes: B batch, T queries of the stretch, S columns in sight, G
kv heads, H query heads, K head_dim, R ranks of a factor, r bias columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ablab.model.attention.documents import Documents
from ablab.model.attention.kernel import stock_flash
from ablab.model.parts.columns import Columns

ROWS = 64  # queries of a piece, where a stretch meets earlier columns: bounds the scores that are held at a time


class Cached:
    """The columns of one tensor, along `axis`: all of them, or the newest `window` in a ring.

    Room is made by doubling and never beyond the window, `room` columns at first. Writing a column costs the same
    however many are kept.
    """

    def __init__(self, axis: int, window: int | None, room: int) -> None:
        self.axis, self.window, self.room = axis, window, room
        self.held: Tensor | None = None

    def extend(self, x: Tensor, start: int) -> Tensor:
        """Keep x, whose first column is `start`, and return every column that a query of x may see.

        In the order of `Stretch.at`. ValueError where x is of another type than what is kept.
        """
        length = x.shape[self.axis]
        if self.window is None or length == 1 or start == 0:
            self._write(x, start)
            if self.window is None or length == 1:
                return self._first(start + length)
            return x
        seen = torch.cat([*self._newest(start, min(start, self.window - 1)), x], self.axis)
        self._write(x, start)
        return seen

    def _write(self, x: Tensor, start: int) -> None:
        length = x.shape[self.axis]
        if self.window is not None and length > self.window:
            x, start = x.narrow(self.axis, length - self.window, self.window), start + length - self.window
            length = self.window
        held = self._roomy(x, start + length)
        slot = start if self.window is None else start % self.window
        first = min(length, held.shape[self.axis] - slot)
        held.narrow(self.axis, slot, first).copy_(x if first == length else x.narrow(self.axis, 0, first))
        if first < length:
            held.narrow(self.axis, 0, length - first).copy_(x.narrow(self.axis, first, length - first))

    def _roomy(self, x: Tensor, columns: int) -> Tensor:
        """Return the buffer, made or grown so that `columns` fit, a ring's window at most."""
        most = columns if self.window is None else min(columns, self.window)
        if self.held is None or self.held.shape[self.axis] < most:
            size = max(most, self.room if self.held is None else 2 * self.held.shape[self.axis])
            shape = list(x.shape)
            shape[self.axis] = size if self.window is None else min(size, self.window)
            grown = x.new_empty(shape)
            if self.held is not None:
                grown.narrow(self.axis, 0, self.held.shape[self.axis]).copy_(self.held)
            self.held = grown
        if x.dtype != self.held.dtype:
            raise ValueError(f"the cache holds {self.held.dtype}, not {x.dtype}; decode in one precision throughout")
        return self.held

    def _first(self, columns: int) -> Tensor:
        assert self.held is not None
        return self.held.narrow(self.axis, 0, columns if self.window is None else min(columns, self.window))

    def _newest(self, start: int, columns: int) -> list[Tensor]:
        """Return the last `columns` before column `start`, in order."""
        if not columns:
            return []
        assert self.held is not None and self.window is not None
        slot = (start - columns) % self.window
        first = min(columns, self.window - slot)
        pieces = [self.held.narrow(self.axis, slot, first)]
        return pieces if first == columns else [*pieces, self.held.narrow(self.axis, 0, columns - first)]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, its spare room counted in."""
        return 0 if self.held is None else self.held.nbytes


class Stretch:
    """The documents of one stretch of T columns after `start` others, as a forward pass over it sees them.

    pos_BT: index of a token within its document, continued from what came before. What layers of one window ask is
    made once, then kept.
    """

    def __init__(self, ids_BT: Tensor, start: int, last_id_B: Tensor | None, last_pos_B: Tensor | None) -> None:
        self.ids_BT, self.start, self.shape = ids_BT, start, (ids_BT.shape[0], ids_BT.shape[1])
        if last_id_B is None or last_pos_B is None:
            self.pos_BT = self.documents.pos_BT
        elif self.shape[1] == 1:
            self.pos_BT = torch.where(ids_BT[:, 0] == last_id_B, last_pos_B + 1, 0)[:, None]
        else:
            fresh = self.documents.pos_BT
            before_B1 = torch.where(ids_BT[:, 0] == last_id_B, last_pos_B + 1, 0)[:, None]
            self.pos_BT = fresh + before_B1 * (fresh == torch.arange(self.shape[1], device=ids_BT.device))
        self._at: dict[int | None, Tensor] = {}
        self._masks: dict[tuple[int | None, int], Tensor | None] = {}

    @functools.cached_property
    def documents(self) -> Documents:
        """The stretch alone, as if nothing came before."""
        return Documents(self.ids_BT)

    @functools.cached_property
    def column_T(self) -> Tensor:
        return torch.arange(self.start, self.start + self.shape[1], device=self.ids_BT.device)

    @functools.cached_property
    def first_BT(self) -> Tensor:
        """The column at which a query's document begins."""
        return self.column_T - self.pos_BT

    @functools.cached_property
    def latest(self) -> int:
        """The latest beginning of a query's document."""
        return int(self.first_BT.max())

    def at(self, window: int | None) -> Tensor:
        """Return the columns that `Cached.extend` returns, by number."""
        if window not in self._at:
            end, low = self.start + self.shape[1], 0
            if window is not None and self.shape[1] == 1:
                slot = torch.arange(min(end, window), device=self.ids_BT.device)
                self._at[window] = self.start - (self.start - slot) % window
            else:
                low = 0 if window is None else max(0, self.start - window + 1)
                self._at[window] = torch.arange(low, end, device=self.ids_BT.device)
        return self._at[window]

    def pieces(self, window: int | None) -> Iterator[tuple[slice, slice]]:
        """Yield pieces of queries, each with the part of `at` that it may see."""
        if self.shape[1] == 1:
            yield slice(None), slice(None)
            return
        low = 0 if window is None else max(0, self.start - window + 1)
        for first in range(0, self.shape[1], ROWS):
            end = min(first + ROWS, self.shape[1])
            reach = 0 if window is None else max(0, self.start + first - window + 1 - low)
            yield slice(first, end), slice(reach, self.start + end - low)

    def mask(self, window: int | None, rows: slice, keys: slice) -> Tensor | None:
        """Mask those of the columns `keys` that the queries `rows` do not see, (B, 1, T, S); None where they see all."""
        name = (window, rows.start or 0)
        if name not in self._masks:
            self._masks[name] = self._mask(window, rows, keys)
        return self._masks[name]

    def _mask(self, window: int | None, rows: slice, keys: slice) -> Tensor | None:
        if self.shape[1] == 1:
            oldest = 0 if window is None else max(0, self.start + 1 - window)
            if self.latest <= oldest:
                return None
        at_S, query_T1 = self.at(window)[keys], self.column_T[rows, None]
        hidden = (at_S > query_T1) | (at_S < self.first_BT[:, rows, None])
        if window is not None:
            hidden |= at_S <= query_T1 - window
        return hidden[:, None]


def bias_of(columns: Columns, w_BGSr: Tensor, rows: slice) -> Tensor:
    """Return the true bias_BHTS of the queries `rows` of `columns` over kept columns w, in the type that these have.

    Measured from the first of the queries, so that near keys have small numbers; its row constant is put back, because
    a sink is not shifted by it.
    """
    row_BTH = columns.row[:, rows]
    batch, length, heads = row_BTH.shape
    u = columns.u[:, rows] if columns.u.shape[1] > 1 else columns.u
    u_BHTr = u.expand(batch, length, heads, -1).transpose(1, 2)
    w0_BG1r = columns.w[:, rows][:, :1].transpose(1, 2)
    groups = w0_BG1r.shape[1]
    u_BGMr = u_BHTr.reshape(batch, groups, -1, u.shape[-1])
    from_w0 = torch.matmul(u_BGMr, (w_BGSr - w0_BG1r).transpose(2, 3))
    constant = (u_BGMr * w0_BG1r).sum(-1, keepdim=True).view(batch, heads, length, 1)
    return from_w0.view(batch, heads, length, -1) + (constant + row_BTH.transpose(1, 2)[..., None])


def attend_kept(
    q_BTHK: Tensor,
    kept: tuple[Tensor, ...],
    hidden_B1TS: Tensor | None,
    bias_BHTS: Tensor | None,
    sink_H: Tensor | None,
) -> Tensor:
    """Compute out_BTHK of queries over kept k_BGSK, v_BGSK: the stock kernel on the CPU, plain products elsewhere.

    The heads of a group are more rows over the same keys: no key is copied, and each is read once. Scores and sums are
    fp32 or better.
    """
    batch, length, heads, width = q_BTHK.shape
    k_BGSK, v_BGSK = kept
    groups, wide = k_BGSK.shape[1], torch.promote_types(q_BTHK.dtype, torch.float32)
    q_BGMK = q_BTHK.transpose(1, 2).reshape(batch, groups, -1, width)
    mask = _mask(hidden_B1TS, bias_BHTS, groups, heads // groups, wide)
    out, lse = (_kernel if q_BTHK.device.type == "cpu" else _products)(q_BGMK, k_BGSK, v_BGSK, mask)
    if sink_H is not None:
        out = out * _spared(lse, sink_H, groups, length)
    return out.to(q_BTHK.dtype).reshape(batch, heads, length, width).transpose(1, 2)


def attend_factors(
    q_BTHK: Tensor,
    kept: tuple[Tensor, ...],
    hidden_B1TS: Tensor | None,
    bias_BHTS: Tensor | None,
    sink_H: Tensor | None,
) -> Tensor:
    """Compute out_BTHK where key g is sum_r a_k[r, g] b_k[r] and value g likewise: neither is ever written down.

    kept: a_k (B, R, S, G), b_k (B, R, S, K), a_v, b_v. Source: FlashTPA, arXiv 2501.06425, any rank.
    """
    batch, length, heads, width = q_BTHK.shape
    wide = torch.promote_types(q_BTHK.dtype, torch.float32)
    a_k, b_k, a_v, b_v = (f.to(wide) for f in kept)
    ranks, groups = a_k.shape[1], a_k.shape[3]
    q_B1NK = q_BTHK.to(wide).transpose(1, 2).reshape(batch, 1, -1, width) * width**-0.5
    by_rank = torch.matmul(q_B1NK, b_k.transpose(2, 3)).view(batch, ranks, groups, -1, b_k.shape[2])
    z = (by_rank * a_k.transpose(2, 3)[:, :, :, None]).sum(1)
    mask = _mask(hidden_B1TS, bias_BHTS, groups, heads // groups, wide)
    if mask is not None:
        z = z + mask
    lse = z.logsumexp(-1)
    weighed = (z - lse[..., None]).exp_()[:, None] * a_v.transpose(2, 3)[:, :, :, None]
    out = torch.matmul(weighed.flatten(2, 3), b_v).sum(1).view(batch, groups, -1, width)
    if sink_H is not None:
        out = out * _spared(lse, sink_H, groups, length)
    return out.to(q_BTHK.dtype).reshape(batch, heads, length, width).transpose(1, 2)


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attend from every query to every key but what `mask` (n|1, G|1, M|1, S) hides: (n, G, M, K) and log-sum-exp (n, G, M)."""
    out_and_lse: tuple[Tensor, Tensor] = stock_flash(q, k, v, 0.0, False, attn_mask=mask, scale=q.shape[-1] ** -0.5)
    return out_and_lse


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    z = torch.matmul(q.to(wide), k.to(wide).transpose(2, 3)).mul_(q.shape[-1] ** -0.5)
    if mask is not None:
        z = z + mask
    lse = z.logsumexp(-1)
    return torch.matmul((z - lse[..., None]).exp_(), v.to(wide)), lse


def _mask(hidden: Tensor | None, bias: Tensor | None, groups: int, group: int, wide: torch.dtype) -> Tensor | None:
    """Return what is added to the scores (B, G, M, S): the bias, and -inf where hidden; rows are (head of the group, query)."""
    if bias is None and hidden is None:
        return None
    if bias is None:
        assert hidden is not None
        mask = torch.zeros(hidden.shape, dtype=wide, device=hidden.device).masked_fill_(hidden, -torch.inf)
        if mask.shape[2] == 1:
            return mask
        return mask[:, :, None].expand(-1, -1, group, -1, -1).flatten(2, 3)
    mask = bias.to(wide)
    if hidden is not None:
        mask = mask.masked_fill(hidden, -torch.inf)
    return mask.reshape(mask.shape[0], groups, -1, mask.shape[3])


def _spared(lse_BGM: Tensor, sink_H: Tensor, groups: int, length: int) -> Tensor:
    """Return what the sink leaves of the mass, (B, G, M, 1)."""
    rival_GM = sink_H.to(lse_BGM.dtype).view(groups, -1, 1).expand(-1, -1, length).reshape(groups, -1)
    return torch.sigmoid(lse_BGM - rival_GM)[..., None]
