"""The ledger of one evaluation: every score in the order it was given, and what was trained on between.

Evaluators hand in rows (document, place, nats) and nothing else. What a target weighs, how often it was scored, and whether
it was scored before anything learned from it follows from the ledger and the corpus, so none of it can be claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from ablab.data import Corpus
from ablab.data.corpus.tokens import PLAIN, UNTRAINED
from ablab.data.spans import SPANS
from ablab.model.decoder import Decoder
from ablab.scoring.scores import Scores

Spread = Callable[[np.ndarray], np.ndarray]


class Enough(Exception):
    """As many scores were taken as were asked for: the evaluation need not go on."""


class Ledger:
    """Takes scores of the held-out text of `corpus`; `scores()` adds them up.

    watch: targets as (document, place) of which the whole distribution is kept, in `seen`: what the checks look at.
    most: raise Enough once so many scores are there.
    """

    def __init__(self, corpus: Corpus, *, watch: Collection[tuple[int, int]] = (), most: int | None = None) -> None:
        self.corpus, self._most, self._count = corpus, most, 0
        starts = corpus.valid.starts
        self._starts = starts
        self._watched = np.array(sorted(int(starts[d]) + p for d, p in watch), np.int64)
        self.seen: dict[tuple[int, int], np.ndarray] = {}  # float64 log-probabilities (V,) of watched targets
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._once, self._again = np.zeros((2, int(starts[-1])), bool)  # scored; scored more often than that
        self._early = 0  # targets that were trained on before they were scored
        self.updates = 0  # how often the evaluator learned
        self.fault = ""

    def score(
        self,
        document_N: np.ndarray,
        place_N: np.ndarray,
        offset_N: np.ndarray,
        nats_N: np.ndarray,
        spread: Spread | None = None,
    ) -> None:
        """Record scores of N targets: token `place` (1 is the first scored) of a document, read at `offset` of its window.

        spread(rows) gives the log-probabilities (n, V) that the nats of these rows were read from; it is asked for watched
        targets only. Raises ValueError for a target that the corpus does not have.
        """
        at = self._starts[document_N] + place_N
        if len(at) and not ((place_N > 0) & (at < self._starts[np.asarray(document_N) + 1])).all():
            raise ValueError("a score is of a token that its document does not have")
        distinct, times = np.unique(at, return_counts=True)
        self._again[distinct] |= (times > 1) | self._once[distinct]
        self._once[distinct] = True
        self._rows.append((at, np.asarray(offset_N, np.int32), np.asarray(nats_N, np.float64)))
        if len(self._watched) and spread is not None:
            (rows,) = np.nonzero(np.isin(at, self._watched))
            if len(rows):
                for row, log_p in zip(rows, spread(rows)):
                    self.seen[int(document_N[row]), int(place_N[row])] = np.asarray(log_p, np.float64)
        self._count += len(at)
        if self._most is not None and self._count >= self._most:
            raise Enough

    def score_by(
        self,
        model: Decoder,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        ids_BT: Tensor,
        document_BT: np.ndarray,
        place_BT: np.ndarray,
        offset_BT: np.ndarray,
    ) -> Tensor:
        """Score a batch by the model's own distribution; targets of -1 are not scored. Returns the nats (B, T).

        The numpy arrays say of each target which document it is of, its place there, and its input's place in the window.
        """
        nats_BT = model.nll(tokens_BT, targets_BT, ids_BT)
        scored = targets_BT.cpu().numpy() >= 0

        def spread(rows: np.ndarray) -> np.ndarray:
            at = torch.from_numpy(np.flatnonzero(scored)[rows]).to(tokens_BT.device)
            hidden = model(tokens_BT, ids_BT).flatten(0, 1)[at]
            log_p_NV: np.ndarray = model.logits(hidden).detach().double().log_softmax(-1).cpu().numpy()
            return log_p_NV

        nats = nats_BT.detach().double().cpu().numpy()[scored]
        self.score(document_BT[scored], place_BT[scored], offset_BT[scored], nats, spread)
        return nats_BT

    def update(self, document_N: np.ndarray, place_N: np.ndarray) -> None:
        """Say that something was learned from these targets: each must have been scored before."""
        self.updates += 1
        self._early += int((~self._once[self._starts[document_N] + np.asarray(place_N)]).sum())

    def diverge(self, why: str) -> None:
        """Say that scores from here on mean nothing. The stage becomes `unstable`; the first reason is kept."""
        self.fault = self.fault or why

    def order(self) -> np.ndarray:
        """Return every target in the order it was scored, as its place in `corpus.valid.tokens`."""
        return np.concatenate([at for at, _, _ in self._rows]) if self._rows else np.zeros(0, np.int64)

    def trace(self) -> np.ndarray:
        """Return nats of every token of the held-out text, NaN where it was not scored; the last score counts."""
        nats_T = np.full(len(self._once), np.nan)
        for at, _, nats in self._rows:
            nats_T[at] = nats
        return nats_T

    def violations(self) -> list[str]:
        """List violations in words, normally none: single pass (C4), score before update (C3)."""
        wanted = self.corpus.valid.marks != UNTRAINED
        missed, again = int((wanted & ~self._once).sum()), int(self._again.sum())
        beyond = int((~wanted & self._once).sum())
        faults = []
        if missed or again or beyond:
            extra = f", {beyond} that the corpus does not score" if beyond else ""
            faults.append(f"C4 single pass: {missed} targets were never scored, {again} more than once{extra}")
        if self._early:
            faults.append(f"C3 score before update: {self._early} targets were learned from before they were scored")
        return faults

    def scores(self, edges: list[int], extra: Mapping[str, object] | None = None) -> Scores:
        """Add everything up per document. `edges`: of the position bands (see Scores). Nats are NaN after `diverge`."""
        valid = self.corpus.valid
        count = len(valid)
        at = self.order()
        offset = np.concatenate([o for _, o, _ in self._rows]) if self._rows else np.zeros(0, np.int32)
        nats = np.concatenate([n for _, _, n in self._rows]) if self._rows else np.zeros(0)
        document = np.searchsorted(self._starts, at, side="right") - 1
        band = np.searchsorted(edges, offset, side="right") - 1
        scores = Scores(
            nats=np.bincount(document, nats, count),
            tokens=np.bincount(document, minlength=count),
            bytes=np.bincount(document, valid.n_bytes[at].astype(np.int64), count),
            bands={
                "edges": edges,
                "nats": np.bincount(band, nats, len(edges) - 1).tolist(),
                "tokens": np.bincount(band, minlength=len(edges) - 1).tolist(),
            },
            violations=self.violations(),
            spans=self._by_span(document, nats, valid.marks[at]) if valid.spans else {},
            extra=dict(extra or {}),
        )
        if self.updates:
            scores.extra["updates"] = self.updates
        if self.fault:
            scores.nats[:] = np.nan
            scores.extra["diverged"] = self.fault
        return scores

    def _by_span(self, document: np.ndarray, nats: np.ndarray, marks: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Count nats and tokens per document of the targets in each span."""
        count, sums = len(self.corpus.valid), {}
        spans = np.where(marks == PLAIN, 0, marks)
        for name, mark in SPANS.items():
            here = document[spans == mark]
            tokens = np.bincount(here, minlength=count)
            sums[name] = {"nats": np.bincount(here, nats[spans == mark], count), "tokens": tokens}
        return sums
