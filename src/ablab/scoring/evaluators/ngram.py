"""The model mixed with n-grams of the text that it has already been scored on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ablab.core.lever import Choice, value_of
from ablab.data import Corpus
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.scoring.cuts import Cut, batches, hidden_of, log_p, nats_of
from ablab.scoring.evaluators.evaluator import Evaluator, reading
from ablab.scoring.evaluators.grams import Grams
from ablab.scoring.ledger import Ledger

BLOCK = 1 << 18  # tokens whose model scores are held before they are mixed
# At most: every order is a table over the whole text, and what repeats for longer is found by the shorter ones.
ORDERS = 32


class Ngram(Evaluator):
    """Scores p = (1 - weight) p_model + weight p_ngram; the counts of p_ngram come from targets scored before.

    p_ngram: orders 1 to `max_order` with absolute discounting, backing off to the model itself, so that it is one
    distribution over the vocabulary whatever was counted. Contexts never reach over a document's start. The model reads
    windows as in disjoint. extra: {"model_nats_per_token" (the model alone), "known" (share of targets that some count
    speaks of)}.

    max_order (tokens): of the longest grams, 32 at most
    weight: of p_ngram in the mixture
    discount: taken from every count
    chunk (tokens): targets are counted when so many more have been scored
    carry: counts go on through the documents in the corpus's order, as one stream; false counts each document for itself
    seq_len (tokens): of a window, declared to the position schemes; default: the trained one
    documents: of the held-out text, a sample that is the same for all arms; default: all
    """

    source = "Ney, Essen and Kneser 1994; mixtures over caches: Kuhn and De Mori 1990; openai/parameter-golf #978"

    def __init__(
        self,
        *,
        max_order: int = 3,
        weight: float = 0.1,
        discount: float = 0.75,
        chunk: int = 64,
        carry: bool = False,
        seq_len: int | None = None,
        documents: int | None = None,
    ) -> None:
        if max_order < 1:
            raise ValueError(f"max_order = {max_order} counts nothing; give at least 1 (single tokens)")
        if max_order > ORDERS:
            raise ValueError(
                f"max_order = {max_order} is more than {ORDERS}, the longest grams counted; give at most that"
            )
        for name, share in (("weight", weight), ("discount", discount)):
            if not 0 < share < 1:
                raise ValueError(f"{name} = {share:g} is no share; give more than 0 and less than 1")
        if chunk < 1:
            raise ValueError(f"chunk = {chunk} never learns; give at least 1")
        super().__init__(documents=documents, seq_len=seq_len)
        self.max_order, self.weight, self.discount, self.chunk = max_order, weight, discount, chunk
        self.carry = carry

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for lengths that are `long` times these."""
        return {**Evaluator.miniature(choice, long), "chunk": max(1, round(value_of(choice, "chunk", int) * long))}

    def rehearsal(self, settings: Settings) -> tuple[Evaluator, int]:
        """Return the same on little text, and how many tokens of it: a window and some chunks are two thirds of that."""
        small = self.of_all()
        small.chunk = min(self.chunk, 16)
        return small, 3 * (self.window(settings) + 2 * small.chunk + 2) // 2

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand every target's score to the ledger, then count it."""
        seq_len, trained = self.window(settings), settings["model"]["seq_len"]
        alone_T, grams = np.full(len(corpus.valid.tokens), np.nan), self._grams(corpus)
        known = 0
        with reading(model, precision, length=seq_len, trained=trained) as device:
            for first, end in _blocks(corpus):
                _read(model, corpus, first, end, seq_len, alone_T, device)
                for at_N in self._turns(corpus, first, end):
                    known += self._mix(ledger, model, corpus, grams, alone_T, at_N, seq_len, device)
        scored = ~np.isnan(alone_T)
        count = int(scored.sum())
        return {
            "model_nats_per_token": float(alone_T[scored].mean()) if count else None,
            "known": known / count if count else None,
        }

    def _grams(self, corpus: Corpus) -> Grams:
        starts, tokens = corpus.valid.starts, corpus.valid.tokens.astype(np.int64)
        document_T = np.repeat(np.arange(len(corpus.valid)), np.diff(starts))
        return Grams(
            tokens,
            starts[document_T],
            document_T * (not self.carry),
            max_order=self.max_order,
            discount=self.discount,
            vocab_size=corpus.vocab_size,
        )

    def _turns(self, corpus: Corpus, first: int, end: int) -> Iterator[np.ndarray]:
        """Yield targets by their place in the text, as many as are scored before the next count."""
        starts, marks = corpus.valid.starts, corpus.valid.marks
        at_N = int(starts[first]) + np.flatnonzero(marks[int(starts[first]) : int(starts[end])] != UNTRAINED)
        if self.carry:
            yield from (at_N[i : i + self.chunk] for i in range(0, len(at_N), self.chunk))
            return
        document_N = np.searchsorted(starts, at_N, side="right") - 1  # each counts for itself: all take turns together
        turn_N = (at_N - starts[document_N] - 1) // self.chunk
        order = np.argsort(turn_N, kind="stable")
        yield from np.split(at_N[order], np.flatnonzero(np.diff(turn_N[order])) + 1) if len(at_N) else []

    def _mix(
        self,
        ledger: Ledger,
        model: Decoder,
        corpus: Corpus,
        grams: Grams,
        alone_T: np.ndarray,
        at_N: np.ndarray,
        seq_len: int,
        device: torch.device,
    ) -> int:
        """Score these targets, then count them. Returns of how many some count spoke."""
        starts = corpus.valid.starts
        document_N = np.searchsorted(starts, at_N, side="right") - 1
        place_N = at_N - starts[document_N]
        a_N, b_N = grams.mix(at_N)

        def spread(rows: np.ndarray) -> np.ndarray:
            return np.stack([self._spread(model, corpus, grams, int(at_N[row]), seq_len, device) for row in rows])

        nats_N = -self._log(a_N, b_N, -alone_T[at_N])
        ledger.score(document_N, place_N, (place_N - 1) % seq_len, nats_N, spread)
        grams.learn(at_N)
        ledger.update(document_N, place_N)
        return int((a_N > 0).sum())

    def _log(self, a: np.ndarray, b: np.ndarray | float, log_model: np.ndarray) -> np.ndarray:
        """Compute the log of weight A + (1 - weight + weight B) p_model."""
        with np.errstate(divide="ignore"):
            log_N: np.ndarray = np.logaddexp(np.log(self.weight * a), np.log1p(self.weight * (b - 1)) + log_model)
        return log_N

    def _spread(
        self, model: Decoder, corpus: Corpus, grams: Grams, at: int, seq_len: int, device: torch.device
    ) -> np.ndarray:
        """Compute log p of every token at one place, from what has been counted up to now."""
        document = int(np.searchsorted(corpus.valid.starts, at, side="right")) - 1
        last = at - int(corpus.valid.starts[document]) - 1
        start = last // seq_len * seq_len
        (batch,) = batches(corpus, [Cut(document, start, last + 1, last)], seq_len)
        tokens = batch.tokens_BT.to(device)
        log_model_V = log_p(model, model(tokens, batch.ids_BT.to(device))[:, -1])[0]
        a_V, b = grams.spread(at)
        return self._log(a_V, b, log_model_V)


def _blocks(corpus: Corpus) -> Iterator[tuple[int, int]]:
    """Yield documents [first, end) of about BLOCK tokens."""
    starts, first = corpus.valid.starts, 0
    while first < len(corpus.valid):
        end = int(np.searchsorted(starts, starts[first] + BLOCK, side="right")) - 1
        end = min(max(end, first + 1), len(corpus.valid))
        yield first, end
        first = end


def _read(
    model: Decoder, corpus: Corpus, first: int, end: int, seq_len: int, alone_T: np.ndarray, device: torch.device
) -> None:
    """Read the model's own nats of every target of some documents, into alone_T."""
    starts = corpus.valid.starts
    cuts = (
        Cut(document, start, min(start + seq_len, inputs), start)
        for document in range(first, end)
        for inputs in [int(starts[document + 1] - starts[document]) - 1]
        for start in range(0, inputs, seq_len)
    )
    for batch in batches(corpus, cuts, seq_len):
        nats_N = nats_of(model, hidden_of(model, batch, device), batch.targets_N, corpus.vocab_size)
        alone_T[starts[batch.document_N] + batch.place_N] = nats_N
