"""Overlapping windows: every token but a document's first ones is scored with nearly a whole window before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ablab.core.lever import Choice, value_of, value_or_none
from ablab.data import Corpus
from ablab.model import decoder
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.scoring.cuts import Cut, batches, hidden_of, score
from ablab.scoring.evaluators.evaluator import Evaluator, reading
from ablab.scoring.ledger import Ledger
from ablab.scoring.receptive import receptive


class Sliding(Evaluator):
    """Scores each document in windows that begin `stride` tokens apart; every target once, no window leaves its document.

    The first window is scored whole, each later one in its last `stride` places (seq_len - stride and on), the last one as
    far as the text goes: what seq_len - stride to seq_len - 1 tokens of context make of a token. Bands are places in the
    window. extra: {"windows", "forwarded_tokens", "way"}. "one pass": where no hidden state looks back beyond its window
    (`receptive`), a document is read once, with the same scores up to rounding. "windows": each of them is read. ValueError
    where stride is more than the window.

    stride (tokens): between the beginnings of two windows
    seq_len (tokens): of a window, declared to the position schemes; default: the trained one
    documents: of the held-out text, a sample that is the same for all arms; default: all
    """

    source = "Baevski and Auli 2019, arXiv 1809.10853; openai/parameter-golf #1394"

    def __init__(self, *, stride: int = 64, seq_len: int | None = None, documents: int | None = None) -> None:
        if stride < 1:
            raise ValueError(f"stride = {stride} never moves on; give at least 1")
        super().__init__(documents=documents, seq_len=seq_len)
        if seq_len is not None:
            _fits(stride, seq_len)
        self.stride = stride

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for lengths that are `long` times these."""
        small, stride = Evaluator.miniature(choice, long), max(1, round(value_of(choice, "stride", int) * long))
        return {**small, "stride": min(stride, value_or_none(small, "seq_len", int) or stride)}

    def rehearsal(self, settings: Settings) -> tuple[Evaluator, int]:
        """Return the same on little text, and how many tokens of it: a document of three windows is two thirds of that."""
        _fits(self.stride, self.window(settings))
        return self.of_all(), 3 * (self.window(settings) + 2 * self.stride + 1) // 2

    def fit(self, settings: Settings, corpus: Corpus, model: Decoder | None = None) -> None:
        """Refuse a stride of more than a window, or a window beyond the model's places; only sizes are read."""
        _fits(self.stride, self.window(settings))
        super().fit(settings, corpus, model)

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand every target's score to the ledger, window by window."""
        seq_len, trained = self.window(settings), settings["model"]["seq_len"]
        lengths = (np.diff(corpus.valid.starts) - 1).tolist()
        reach = receptive(model)
        once = reach is not None and reach <= seq_len - self.stride
        width = max(decoder.FORWARD_TOKENS, 4 * reach, seq_len) if reach is not None and once else seq_len
        cuts = pieces(lengths, width, reach) if reach is not None and once else windows(lengths, seq_len, self.stride)
        forwarded = 0
        with reading(model, precision, length=seq_len, trained=trained) as device:
            for batch in batches(corpus, cuts, width, decoder.FORWARD_TOKENS):
                hidden_ND = hidden_of(model, batch, device)
                offset_N = offsets(batch.place_N - 1, seq_len, self.stride)
                score(ledger, model, hidden_ND, batch, offset_N, corpus.vocab_size)
                forwarded += batch.tokens
        return {
            "windows": sum(n_windows(n, seq_len, self.stride) for n in lengths),
            "forwarded_tokens": forwarded,
            "way": "one pass" if once else "windows",
        }


def n_windows(inputs: int, seq_len: int, stride: int) -> int:
    """Count the windows of a document: one begins every `stride` tokens, as long as it has something to score."""
    return 0 if inputs < 1 else 1 + max(0, -(-(inputs - seq_len) // stride))


def windows(lengths: list[int], seq_len: int, stride: int) -> Iterator[Cut]:
    """Yield every window of every document, by the number of its inputs: all tokens but the last."""
    for document, inputs in enumerate(lengths):
        for k in range(n_windows(inputs, seq_len, stride)):
            start = k * stride
            yield Cut(document, start, min(start + seq_len, inputs), start + seq_len - stride if k else 0)


def pieces(lengths: list[int], width: int, reach: int) -> Iterator[Cut]:
    """Yield documents whole, or in pieces of `width` inputs that overlap by what a hidden state can see."""
    for document, inputs in enumerate(lengths):
        first = 0
        while first < inputs:
            start = max(0, first - reach)
            yield Cut(document, start, min(start + width, inputs), first)
            first = start + width


def offsets(input_N: np.ndarray, seq_len: int, stride: int) -> np.ndarray:
    """Return where inputs (by place in their document) stand in the window that scores them."""
    later_N = np.maximum(0, -(-(input_N + 1 - seq_len) // stride))
    offsets_N: np.ndarray = input_N - later_N * stride
    return offsets_N


def _fits(stride: int, seq_len: int) -> None:
    if stride > seq_len:
        raise ValueError(
            f"stride = {stride} is more than seq_len {seq_len}; tokens between the windows would have no score, "
            f"so give at most {seq_len}"
        )
