"""Overlapping windows: every token but a document's first ones is scored with nearly a whole window before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ablab.data import Corpus
from ablab.data.bands import band_edges
from ablab.model import inference
from ablab.model.decoder import Decoder
from ablab.scoring.cuts import Cut, batches, hidden_of, score
from ablab.scoring.evaluators.disjoint import declared
from ablab.scoring.ledger import Ledger
from ablab.scoring.receptive import receptive, within
from ablab.scoring.scores import Scores
from ablab.scoring.subset import at_least_one, input_lengths, sample


class Sliding:
    """Scores each document in windows that begin `stride` tokens apart; every target once, no window leaves its document.

    The first window is scored whole, each later one in its last `stride` places (seq_len - stride and on), the last one as
    far as the text goes: what seq_len - stride to seq_len - 1 tokens of context make of a token. Bands are places in the
    window. `seq_len`: of a window (default: the trained one), declared to the position schemes. `documents` as in disjoint.
    extra: {"windows", "forwarded_tokens", "way"}. "one pass": where no hidden state looks back beyond its window
    (`receptive`), a document is read once, with the same scores up to rounding. "windows": each of them is read.
    ValueError where stride is more than the window.
    """

    source = "Baevski and Auli 2019, arXiv 1809.10853; openai/parameter-golf #1394"
    revision: ClassVar[int] = 1
    decides: ClassVar[bool] = True

    def __init__(self, *, stride: int = 64, seq_len: int | None = None, documents: int | None = None) -> None:
        if stride < 1:
            raise ValueError(f"stride = {stride} never moves on; give at least 1")
        at_least_one(documents=documents, seq_len=seq_len)
        if seq_len is not None:
            _fits(stride, seq_len)
        self.stride, self.seq_len, self.documents = stride, seq_len, documents

    @staticmethod
    def miniature(choice: dict[str, Any], long: float) -> dict[str, Any]:
        """The settings for lengths that are `long` times these."""
        length = choice["seq_len"]
        small = None if length is None else max(4, round(length * long))
        stride = max(1, round(choice["stride"] * long))
        return {"documents": None, "seq_len": small, "stride": stride if small is None else min(stride, small)}

    def rehearsal(self, settings: Mapping[str, Any]) -> tuple[Sliding, int]:
        """The same on little text, and how many tokens of it: a document of three windows is two thirds of that."""
        seq_len = self.seq_len or settings["model"]["seq_len"]
        _fits(self.stride, seq_len)
        return Sliding(stride=self.stride, seq_len=self.seq_len), 3 * (seq_len + 2 * self.stride + 1) // 2

    def fit(self, settings: Mapping[str, Any], corpus: Corpus, model: Decoder | None = None) -> None:
        """ValueError where stride is more than a window, or a window beyond the model's places; only sizes are read."""
        seq_len = self.seq_len or settings["model"]["seq_len"]
        _fits(self.stride, seq_len)
        within(settings, corpus, model, min(seq_len, max(input_lengths(corpus, self.documents), default=0)))

    def __call__(
        self,
        model: Decoder,
        corpus: Corpus,
        settings: Mapping[str, Any],
        *,
        seed: int,
        precision: str,
        ledger: Ledger | None = None,
    ) -> Scores:
        """Scores per document. `seed` is not used: nothing here is drawn."""
        trained = settings["model"]["seq_len"]
        seq_len = self.seq_len or trained
        self.fit(settings, corpus, model)
        corpus = sample(corpus, self.documents)
        ledger = ledger or Ledger(corpus)
        lengths = (np.diff(corpus.valid.starts) - 1).tolist()
        reach = receptive(model)
        once = reach is not None and reach <= seq_len - self.stride
        width = max(inference.FORWARD_TOKENS, 4 * reach, seq_len) if reach is not None and once else seq_len
        cuts = pieces(lengths, width, reach) if reach is not None and once else windows(lengths, seq_len, self.stride)
        forwarded = 0
        with inference.inference(model, precision) as device, declared(model, seq_len, trained):
            for batch in batches(corpus, cuts, width, inference.FORWARD_TOKENS):
                hidden_ND = hidden_of(model, batch, device)
                offset_N = offsets(batch.place_N - 1, seq_len, self.stride)
                score(ledger, model, hidden_ND, batch, offset_N, corpus.vocab_size)
                forwarded += batch.tokens
        extra = {
            "windows": sum(n_windows(n, seq_len, self.stride) for n in lengths),
            "forwarded_tokens": forwarded,
            "way": "one pass" if once else "windows",
        }
        return ledger.scores(band_edges(seq_len), extra)


def n_windows(inputs: int, seq_len: int, stride: int) -> int:
    """Windows of a document: one begins every `stride` tokens, as long as it has something to score."""
    return 0 if inputs < 1 else 1 + max(0, -(-(inputs - seq_len) // stride))


def windows(lengths: list[int], seq_len: int, stride: int) -> Iterator[Cut]:
    """Every window of every document, by the number of its inputs: all tokens but the last."""
    for document, inputs in enumerate(lengths):
        for k in range(n_windows(inputs, seq_len, stride)):
            start = k * stride
            yield Cut(document, start, min(start + seq_len, inputs), start + seq_len - stride if k else 0)


def pieces(lengths: list[int], width: int, reach: int) -> Iterator[Cut]:
    """Documents whole, or in pieces of `width` inputs that overlap by what a hidden state can see."""
    for document, inputs in enumerate(lengths):
        first = 0
        while first < inputs:
            start = max(0, first - reach)
            yield Cut(document, start, min(start + width, inputs), first)
            first = start + width


def offsets(input_N: np.ndarray, seq_len: int, stride: int) -> np.ndarray:
    """Where inputs (by place in their document) stand in the window that scores them."""
    later_N = np.maximum(0, -(-(input_N + 1 - seq_len) // stride))
    found: np.ndarray = input_N - later_N * stride
    return found


def _fits(stride: int, seq_len: int) -> None:
    if stride > seq_len:
        raise ValueError(
            f"stride = {stride} is more than seq_len {seq_len}; tokens between the windows would have no score, "
            f"so give at most {seq_len}"
        )
