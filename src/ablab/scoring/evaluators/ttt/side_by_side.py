"""Documents side by side, chunk by chunk: each has adapters of its own, that learn from what was scored of it.

Names: B documents side by side, T places of a row, C places of a chunk, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ablab.data import Corpus
from ablab.data.bands import band_edges
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model import decoder
from ablab.model.cross_entropy import AT_ONCE, nll
from ablab.model.decoder import Decoder
from ablab.runtime.machine import autocast
from ablab.scoring.evaluators.ttt.descent import GPU_TOKENS
from ablab.scoring.evaluators.ttt.lora import Adapters
from ablab.scoring.evaluators.ttt.watch import Watch
from ablab.scoring.ledger import Ledger


@dataclass(frozen=True)
class Rows:
    """One chunk of several documents, a row each: up to seq_len tokens that end with the chunk.

    at_BC: the places of the chunk's inputs in the row; targets_BC: -1 where nothing is scored.
    """

    tokens_BT: Tensor
    at_BC: Tensor
    targets_BC: Tensor
    document_N: np.ndarray
    place_N: np.ndarray
    offset_N: np.ndarray


def groups(lengths: list[int], begin: int, end: int, most: int, *, by_length: bool) -> Iterator[list[int]]:
    """Yield documents that go side by side, longest first; empty ones are left out.

    by_length: like lengths together, which changes no score; else neighbours in the text.
    """
    known = [document for document in range(begin, end) if lengths[document]]

    def longest(some: list[int]) -> list[int]:
        return sorted(some, key=lambda document: -lengths[document])

    known = longest(known) if by_length else known
    for at in range(0, len(known), most):
        yield longest(known[at : at + most])


class SideBySide:
    """Goes through groups of documents chunk by chunk."""

    def __init__(
        self,
        model: Decoder,
        before: Decoder,
        adapters: Adapters,
        corpus: Corpus,
        ledger: Ledger,
        seq_len: int,
        chunk: int,
        precision: str,
    ) -> None:
        self.model, self.before, self.adapters, self.corpus, self.ledger = model, before, adapters, corpus, ledger
        self.seq_len, self.chunk, self.precision = seq_len, chunk, precision
        self.device = model.head_weight.device
        self.watch, self.steps = Watch(), 0
        self.sums: list[tuple[float, int]] = []  # nats and tokens by the chunk's number

    def go(self, group: list[int], lengths: list[int]) -> str:
        """Score the documents, longest first; why it stopped, or nothing."""
        counts = [-(-lengths[document] // self.chunk) for document in group]
        for number in range(counts[0]):
            active = sum(count > number for count in counts)
            goes_on = sum(count > number + 1 for count in counts)
            made = [rows for rows in self._rows(group[:active], lengths, number)]
            nats_N = np.concatenate([self._one(low, rows, goes_on) for low, rows in made])
            self._count(number, nats_N)
            if fault := self.watch.see(nats_N, functools.partial(self._unadapted, [rows for _, rows in made])):
                return f"at chunk {number + 1} of {active} documents side by side: {fault}"
            if goes_on:
                self.adapters.learn(goes_on)
                self.steps += goes_on
                self._tell(made, goes_on)
        return ""

    def _rows(self, documents: list[int], lengths: list[int], number: int) -> Iterator[tuple[int, Rows]]:
        """Yield rows of chunk `number` in batches that fit a forward pass, and how many documents stand before each."""
        width = min(self.seq_len, (number + 1) * self.chunk)
        tokens = GPU_TOKENS if self.device.type == "cuda" else decoder.FORWARD_TOKENS
        # Logits of a batch are held at once: an adapted head has a product of its own for each document.
        step = max(1, min(tokens // width, AT_ONCE // (self.chunk * self.model.head_weight.shape[0])))
        for low in range(0, len(documents), step):
            yield low, rows_of(self.corpus, documents[low : low + step], lengths, number, self.chunk, self.seq_len)

    def _one(self, low: int, rows: Rows, goes_on: int) -> np.ndarray:
        """Score a batch, and leave the gradients of the documents that go on; returns the nats."""
        learning = max(0, goes_on - low)
        self.adapters.bind(low, low + len(rows.tokens_BT))
        with torch.set_grad_enabled(learning > 0), self.adapters.attached():
            with autocast(self.precision, str(self.device)):
                hidden_BCD = self._hidden(self.model, rows)
                logits_BCV = self._logits(hidden_BCD)
            targets = rows.targets_BC.to(self.device)
            nats_BC = F.cross_entropy(logits_BCV.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
            nats_BC = nats_BC.view(targets.shape)
            scored = rows.targets_BC.numpy() >= 0
            nats_N: np.ndarray = nats_BC.detach().double().cpu().numpy()[scored]

            def spread(wanted: np.ndarray) -> np.ndarray:
                at = torch.from_numpy(np.flatnonzero(scored)[wanted]).to(self.device)
                log_p_V: np.ndarray = logits_BCV.detach().flatten(0, 1)[at].double().log_softmax(-1).cpu().numpy()
                return log_p_V

            self.ledger.score(rows.document_N, rows.place_N, rows.offset_N, nats_N, spread)
            if learning:
                count_B = (targets >= 0).sum(1).clamp(min=1)
                (nats_BC.sum(1) / count_B)[:learning].sum().backward()
        return nats_N

    def _hidden(self, model: Decoder, rows: Rows) -> Tensor:
        """Compute the hidden states of the chunks alone: the head is not taken over the context."""
        tokens = rows.tokens_BT.to(self.device)
        hidden_BTD = model(tokens, torch.zeros_like(tokens))
        at_BC = rows.at_BC.to(self.device)
        out: Tensor = hidden_BTD.gather(1, at_BC[..., None].expand(*at_BC.shape, hidden_BTD.shape[-1]))
        return out

    def _logits(self, hidden_BCD: Tensor) -> Tensor:
        if self.adapters.head is None:
            return self.model.logits(hidden_BCD)
        z_BCV = F.linear(hidden_BCD, self.model.head_weight)
        return self.model.capped(self.adapters.head(hidden_BCD, z_BCV))

    @torch.no_grad()
    def _unadapted(self, several: list[Rows]) -> np.ndarray:
        """Compute the nats of the same chunks under the weights before adapting."""
        nats = []
        for rows in several:
            with autocast(self.precision, str(self.device)):
                hidden_ND = self._hidden(self.before, rows).flatten(0, 1)
                targets = rows.targets_BC.flatten().to(self.device)
                nats_N = nll(hidden_ND, self.before.head_weight, targets, softcap=self.before.softcap)
            nats.append(nats_N[targets >= 0].double().cpu().numpy())
        return np.concatenate(nats)

    def _tell(self, made: list[tuple[int, Rows]], goes_on: int) -> None:
        """Tell the ledger what was learned from: the chunks of the documents that go on."""
        for low, rows in made:
            owner_N = np.nonzero(rows.targets_BC.numpy() >= 0)[0]
            mine_N = owner_N < goes_on - low
            if mine_N.any():
                self.ledger.update(rows.document_N[mine_N], rows.place_N[mine_N])

    def _count(self, number: int, nats_N: np.ndarray) -> None:
        self.sums += [(0.0, 0)] * (number + 1 - len(self.sums))
        nats, tokens = self.sums[number]
        self.sums[number] = nats + float(nats_N.sum()), tokens + len(nats_N)

    def by_chunk(self) -> dict[str, list[int] | list[float]]:
        """Return nats and tokens by how many chunks of its document a token's chunk had before it, in doubling bands."""
        edges = band_edges(max(1, len(self.sums)))
        parts = [self.sums[low:high] for low, high in zip(edges, edges[1:])]
        return {
            "edges": edges,
            "nats": [sum(nats for nats, _ in part) for part in parts],
            "tokens": [sum(tokens for _, tokens in part) for part in parts],
        }


def rows_of(corpus: Corpus, documents: list[int], lengths: list[int], number: int, chunk: int, seq_len: int) -> Rows:
    """Make rows of chunk `number` of each document (inputs number * chunk and on), behind what fits of the text before it."""
    begins, count = number * chunk, len(documents)
    ends = np.array([min(begins + chunk, lengths[document]) for document in documents])
    starts = np.maximum(0, ends - seq_len)
    base = corpus.valid.starts[np.array(documents)]
    offset_BC = begins + np.arange(int((ends - begins).max())) - starts[:, None]
    inside_BC = begins + np.arange(offset_BC.shape[1]) < ends[:, None]
    place_BC = np.where(inside_BC, offset_BC + starts[:, None] + 1, 0)
    read_BT = starts[:, None] + np.arange(int((ends - starts).max()))
    read_BT = base[:, None] + np.minimum(read_BT, ends[:, None] - 1)
    known_BC = base[:, None] + place_BC
    scored_BC = inside_BC & (corpus.valid.marks[known_BC] != UNTRAINED)
    targets_BC = np.where(scored_BC, corpus.valid.tokens[known_BC].astype(np.int64), -1)
    document_BC = np.broadcast_to(np.array(documents)[:, None], (count, offset_BC.shape[1]))
    return Rows(
        torch.from_numpy(corpus.valid.tokens[read_BT].astype(np.int64)),
        torch.from_numpy(np.where(inside_BC, offset_BC, 0)),
        torch.from_numpy(targets_BC),
        document_BC[scored_BC],
        place_BC[scored_BC],
        offset_BC[scored_BC],
    )
