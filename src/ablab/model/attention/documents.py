"""What a batch of rows says about its documents, and the plans that executors draw from it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ablab.model.parts.columns import Columns
from ablab.model.parts.pairs import Pairwise

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True)
class Stretches:
    """Documents of like length as the rows of one batch.

    index: (n, L) of their tokens in the flat batch, padded by the first token. real: (n, L) tells tokens from padding,
    which stands behind the document, so that no token sees it under a causal mask.
    """

    index: torch.Tensor
    real: torch.Tensor


@dataclass(frozen=True)
class Blocks:
    """Blocks of queries over keys.

    mask: (n, 1, block, window + block), 0 where seen, else -inf; the first key of a block is seen by no query, queries
    behind the batch's end see themselves. anchor: (n, window + block), for each key the flat index of the token that
    its biases are measured from: the block's first query, or the document's first token behind it.
    """

    mask: torch.Tensor
    anchor: torch.Tensor


@dataclass(frozen=True)
class Added:
    """What is added to scaled scores: minus infinity at keys that a query does not see, biases, and a sink beside the keys.

    Seen are j <= i, i - j < window (`window` tokens, the current one included), of the same document. sink_H: logits that take
    mass and give no value.
    """

    window: int | None
    documents: Documents
    columns: Columns | None = None
    bias: Pairwise | None = None
    sink_H: torch.Tensor | None = None


class Documents:
    """The documents of a batch of rows, from ids_BT: a document's tokens are contiguous, neighbours' ids differ.

    pos_BT: int64 index of a token within its document in this row. segment_BT: int64 number of the document in the
    flat batch: a row's edge is a document's edge. Plans for the executors are made once and kept: build one Documents
    for a forward pass.
    """

    def __init__(self, ids_BT: torch.Tensor) -> None:
        if ids_BT.ndim != 2 or ids_BT.is_floating_point() or 0 in ids_BT.shape:
            raise ValueError(
                f"ids_BT is {tuple(ids_BT.shape)} {ids_BT.dtype}, but ids are (B, T) integers, B and T > 0"
            )
        self.shape = (ids_BT.shape[0], ids_BT.shape[1])
        first = torch.ones_like(ids_BT, dtype=torch.bool)
        first[:, 1:] = ids_BT[:, 1:] != ids_BT[:, :-1]
        place = torch.arange(self.shape[1], device=ids_BT.device).expand(self.shape)
        self.pos_BT = place - torch.where(first, place, 0).cummax(1).values
        self.segment_BT = first.flatten().cumsum(0).view(self.shape) - 1
        self._blocks: dict[tuple[int, int, torch.dtype], Blocks] = {}
        self.masks: dict[int | None, BlockMask] = {}  # of `flex`, by window

    @functools.cached_property
    def starts(self) -> torch.Tensor:
        """Flat index of every document's first token."""
        return (self.pos_BT.flatten() == 0).nonzero().flatten()

    @functools.cached_property
    def edges(self) -> torch.Tensor:
        """Flat index of every document's first token, then the number of tokens; int32 (n + 1,)."""
        return torch.nn.functional.pad(self.starts, (0, 1), value=self.segment_BT.numel()).to(torch.int32)

    @functools.cached_property
    def lengths(self) -> torch.Tensor:
        """Tokens of every document."""
        return torch.bincount(self.segment_BT.flatten())

    @functools.cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(self.lengths.max())

    @functools.cached_property
    def whole(self) -> bool:
        """Every row is one document."""
        return len(self.lengths) == self.shape[0]

    @functools.cached_property
    def stretches(self) -> list[Stretches]:
        """Documents grouped by length rounded up, to 16, 32 or multiples of 64: few kernel calls, little padding."""
        lengths = self.lengths
        rounded = torch.where(lengths > 64, (lengths + 63) // 64 * 64, 64)
        for size in (32, 16):
            rounded = torch.where(lengths <= size, size, rounded)
        plan = []
        for size in rounded.unique().tolist():
            chosen = rounded == size
            start, length = self.starts[chosen][:, None], lengths[chosen][:, None]
            offset = torch.arange(min(size, int(length.max())), device=lengths.device)[None]
            real = offset < length
            plan.append(Stretches(start + torch.where(real, offset, 0), real))
        return plan

    @functools.cached_property
    def back(self) -> torch.Tensor:
        """For every flat token, where it lies in the stretches laid end to end."""
        place = torch.empty(self.segment_BT.numel(), dtype=torch.int64, device=self.segment_BT.device)
        offset = 0
        for s in self.stretches:
            place[s.index[s.real]] = offset + s.real.flatten().nonzero().flatten()
            offset += s.index.numel()
        return place

    def visible_BTS(self, window: int | None) -> torch.Tensor:
        """Tell whether query i sees key j: j <= i, i - j < window, same document."""
        place = torch.arange(self.shape[1], device=self.segment_BT.device)
        distance = place[:, None] - place[None]
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        return seen[None] & (self.segment_BT[:, :, None] == self.segment_BT[:, None, :])

    def blocks(self, window: int, block: int, dtype: torch.dtype) -> Blocks:
        """Cut the flat batch into blocks of queries, each over its own keys and the `window` before; made once, then kept."""
        at = (window, block, dtype)
        if at not in self._blocks:
            segment, n = self.segment_BT.flatten(), -(-self.segment_BT.numel() // block)
            padded = torch.nn.functional.pad(segment, (window, n * block - len(segment)), value=-1)
            keys = padded.unfold(0, window + block, block)
            query = torch.arange(block, device=segment.device)[:, None]
            key = torch.arange(window + block, device=segment.device)[None]
            seen = (key <= query + window) & (key > query) & (keys[:, None, :] == keys[:, window:, None])
            mask = torch.zeros(seen.shape, dtype=dtype, device=segment.device).masked_fill_(~seen, -torch.inf)
            first = block * torch.arange(n, device=segment.device)
            self._blocks[at] = Blocks(mask[:, None], torch.maximum(self.starts[keys.clamp(min=0)], first[:, None]))
        return self._blocks[at]
