"""What decoding keeps of earlier stretches of text, layer by layer.

    cache = Cache(decoder)
    hidden = decoder(prompt_BT, ids_BT, cache=cache)
    hidden = decoder(next_B1, ids_BT[:, -1:], cache=cache)

The forward is that of training. A stretch may be one token or many, and the cache empty or not: the logits are those of
the full forward. Prompts of unequal length stand at the right edge of one batch, their pads in front, as a document of
their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.attention.attend import Added, attend
from ablab.model.attention.cached import Cached, Stretch, attend_factors, attend_kept, bias_of
from ablab.model.decoder import Decoder
from ablab.model.layer import Attention
from ablab.model.parts.columns import Columns
from ablab.model.parts.norm import Norm
from ablab.model.parts.pairs import Pairwise, across, cut
from ablab.model.size import factored, met

FIRST_ROOM = 64  # columns made room for where nobody says how many will come


class Cache:
    """What a decoder keeps of a batch of rows between two stretches of text.

    room: columns to make room for at once; more are made by doubling. One `LayerCache` for each layer that a pass meets, loops
    unrolled. Full layers keep every column, windowed ones a ring of `window`. Keys are kept normalised and rotated,
    values as attention reads them, both in the type of the activations. After an error a cache is void.
    """

    def __init__(self, decoder: Decoder, room: int = FIRST_ROOM) -> None:
        self.carry: object = None
        self.length = 0
        self.memories = [LayerCache(self, attention, room) for attention in met(decoder)]
        self.stretch: Stretch
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)

    def documents(self, ids_BT: Tensor) -> Stretch:
        """Begin the next stretch; a row goes on with its document where the id does.

        ValueError where another batch is given, or a graph would be kept.
        """
        if torch.is_grad_enabled():
            raise ValueError("a cache keeps no graph; decode under torch.inference_mode() or no_grad()")
        last_id_B, last_pos_B = self._last
        if last_id_B is not None and len(last_id_B) != len(ids_BT):
            raise ValueError(
                f"the cache holds {len(last_id_B)} rows, not {len(ids_BT)}; make a new one for a new batch"
            )
        self.stretch = Stretch(ids_BT, self.length, last_id_B, last_pos_B)
        self.length += ids_BT.shape[1]
        self._last = ids_BT[:, -1], self.stretch.pos_BT[:, -1]
        return self.stretch

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, spare room counted in."""
        return sum(kept.nbytes for memory in self.memories for kept in memory.kept())


class LayerCache:
    """What one layer keeps: keys and values, or their factors where these are smaller; bias columns; places."""

    def __init__(self, cache: Cache, attention: Attention, room: int) -> None:
        self.cache, self.attention, self.room = cache, attention, room
        self.carry: object = None
        self.factored = factored(attention)
        self._kept: dict[str, Cached] = {}
        self._places: object = None

    def attend(self, x_BTD: Tensor, q: Tensor, k: Tensor, v: Tensor, columns: Columns | None, p: object) -> Tensor:
        """Compute out_BTHK of the stretch at hand, which is kept for later ones.

        The first stretch takes the executor of training; whatever meets earlier columns takes the cached one.
        """
        stretch, own = self.cache.stretch, self.attention
        start, paired = stretch.start, own.position.pairwise
        tensors = factors_of(own, x_BTD, k, p) if self.factored else (k.transpose(1, 2), v.transpose(1, 2))
        names = ("a_k", "b_k", "a_v", "b_v") if self.factored else ("k", "v")
        seen = tuple(self._extend(name, x, start) for name, x in zip(names, tensors, strict=True))
        w_BGSr = None if columns is None else self._extend("w", columns.w.transpose(1, 2), start)
        places = self._extend_places(p, start) if paired else None
        if start == 0:
            bias = Pairwise(own.position.bias, p) if paired else None
            added = Added(own.window, stretch.documents, columns, bias, own.softmax.sink())
            return attend(q, k, v, added, executor=own.executor)
        with torch.autocast(q.device.type, enabled=False):
            pieces = stretch.pieces(own.window)
            outs = [self._piece(rows, keys, q, seen, columns, w_BGSr, p, places) for rows, keys in pieces]
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

    def _piece(
        self, rows: slice, keys: slice, q: Tensor, seen: tuple[Tensor, ...], columns: Columns | None,
        w_BGSr: Tensor | None, p: object, places: object,
    ) -> Tensor:  # fmt: skip
        """Compute out_BTHK of some queries over the kept columns that they may see."""
        own, stretch = self.attention, self.cache.stretch
        bias = None if columns is None or w_BGSr is None else bias_of(columns, w_BGSr[:, :, keys], rows)
        if places is not None:
            of_pairs = own.position.bias(cut(p, rows), cut(places, keys))
            bias = of_pairs if bias is None else bias + of_pairs
        hidden, here = stretch.mask(own.window, rows, keys), tuple(x[:, :, keys] for x in seen)
        attend_these = attend_factors if self.factored else attend_kept
        return attend_these(q[:, rows], here, hidden, bias, own.softmax.sink())

    def kept(self) -> list[Cached]:
        """List every buffer."""
        buffers = list(self._kept.values())
        across(buffers.append, self._places)
        return buffers

    def _extend(self, name: str, x: Tensor, start: int) -> Tensor:
        if name not in self._kept:
            self._kept[name] = Cached(2, self.attention.window, self.room)
        return self._kept[name].extend(x, start)

    def _extend_places(self, p: object, start: int) -> object:
        if self._places is None:
            self._places = across(lambda _: Cached(1, self.attention.window, self.room), p)
        return across(lambda x, kept: kept.extend(x, start), p, self._places)


def factors_of(attention: Attention, x_BTD: Tensor, k_BTGK: Tensor, p: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a_k (B, R, T, G), b_k (B, R, T, K), a_v, b_v as they are kept, in k's type.

    The norm's scale is one number for a token and group and goes into a_k; its weight goes into b_k, which is then
    rotated as keys are: rotation is linear, and alike for all heads.
    """
    factors = attention.projection.factors(x_BTD)
    assert factors is not None, "only where `factored`"
    a_k, b_k, a_v, b_v = factors
    norm = attention.k_norm
    if not isinstance(norm, nn.Identity):
        wide = torch.promote_types(a_k.dtype, torch.float32)
        raw_BTGK = a_k.to(wide) @ b_k.to(wide)
        a_k = a_k * (raw_BTGK.square().mean(-1, keepdim=True) + norm.eps).rsqrt().to(a_k.dtype)
        b_k = b_k * norm.weight.to(b_k.dtype) if isinstance(norm, Norm) else b_k
    b_k = attention.position.rotate(b_k, b_k, p)[1]
    return (
        a_k.permute(0, 3, 1, 2).to(k_BTGK.dtype),
        b_k.transpose(1, 2).to(k_BTGK.dtype),
        a_v.permute(0, 3, 1, 2).to(k_BTGK.dtype),
        b_v.transpose(1, 2).to(k_BTGK.dtype),
    )
