"""What every evaluator is: it is asked whether it fits, reads the held-out text, and hands each score to a ledger."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
import torch

from ablab.core.lever import Choice, Lever, value_or_none
from ablab.data import Corpus
from ablab.data.bands import band_edges
from ablab.model.decoder import Decoder, inference, skeleton
from ablab.records.settings import Settings
from ablab.scoring.ledger import Ledger
from ablab.scoring.scores import Scores


class Evaluator(Lever):
    """A model and held-out documents to scores per document; `score` is all that one must say for itself.

    `documents` scores a sample of that many, the same for all arms (default: all). `seq_len` is the window's length
    (default: the trained one). Raises ValueError for either below 1.
    """

    decides: ClassVar[bool] = True  # its scores are the metric over the text; else it is a probe, without a ledger
    documents: int | None = None
    seq_len: int | None = None

    def __init__(self, *, documents: int | None = None, seq_len: int | None = None) -> None:
        at_least_one(documents=documents, seq_len=seq_len)
        self.documents, self.seq_len = documents, seq_len

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for lengths that are `long` times these: all documents, windows in proportion."""
        small: Choice = {name: None for name in ("documents", "seq_len") if name in choice}
        if (seq_len := value_or_none(choice, "seq_len", int)) is not None:
            small["seq_len"] = max(4, round(seq_len * long))
        return small

    def rehearsal(self, settings: Settings) -> tuple[Evaluator, int]:
        """Return the same on little text, and how many tokens of it."""
        return self.of_all(), 2 * self.window(settings)

    def fit(self, settings: Settings, corpus: Corpus, model: Decoder | None = None) -> None:
        """Refuse a window that reaches beyond the model's places; only lengths and sizes are read."""
        longest = max(input_lengths(corpus, self.documents), default=0)
        within(settings, corpus, model, min(self.window(settings), longest))

    @classmethod
    def owed(cls) -> list[str]:
        """Owe nothing where it is called in a way of its own, as a probe may be."""
        return super().owed() if cls.__call__ is Evaluator.__call__ else []

    def __call__(
        self,
        model: Decoder,
        corpus: Corpus,
        settings: Settings,
        *,
        seed: int,
        precision: str,
        ledger: Ledger | None = None,
    ) -> Scores:
        """Score every document. `seed` is not used: nothing here is drawn."""
        self.fit(settings, corpus, model)
        corpus = sample(corpus, self.documents)
        ledger = ledger or Ledger(corpus)
        extra = self.score(model, corpus, ledger, settings, precision)
        return ledger.scores(band_edges(self.longest(settings, corpus)), extra)

    @abstractmethod
    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand the score of every target of `corpus` to the ledger; what is returned is shown beside the scores (`extra`)."""

    def window(self, settings: Settings) -> int:
        """Return the tokens of a window: `seq_len`, or the trained length."""
        return int(self.seq_len or settings["model"]["seq_len"])

    def longest(self, settings: Settings, corpus: Corpus) -> int:
        """Return the most tokens that are read in one go: bands end there."""
        return self.window(settings)

    def of_all(self) -> Self:
        """Return the same over all documents."""
        other = copy.copy(self)
        other.documents = None
        return other


@contextlib.contextmanager
def reading(model: Decoder, precision: str, *, length: int, trained: int) -> Iterator[torch.device]:
    """Enter `inference` with windows of `length` declared to the model's parts; yields the device."""
    with inference(model, precision) as device, declared(model, length, trained):
        yield device


@contextlib.contextmanager
def declared(model: Decoder, seq_len: int, trained: int) -> Iterator[None]:
    """Tell every part (`declare`) the length of this evaluation, and the trained one again afterwards."""
    parts = list(model.parts().values())
    try:
        for part in parts:
            part.declare(seq_len)
        yield
    finally:
        for part in parts:
            part.declare(trained)


def within(settings: Settings, corpus: Corpus, model: Decoder | None, length: int) -> None:
    """Refuse a part that cannot read `length` tokens in one go.

    Places that were trained are never too many: the model is asked, or made as a skeleton, only beyond them.
    """
    if length <= settings["model"]["seq_len"]:
        return
    for part in made(settings, corpus, model).parts().values():
        part.within(length - 1)


def made(settings: Settings, corpus: Corpus, model: Decoder | None) -> Decoder:
    """Return the model, or its skeleton where there is none yet."""
    return skeleton(settings["model"], vocab_size=corpus.vocab_size) if model is None else model


def at_least_one(*, documents: int | None, seq_len: int | None = None) -> None:
    """Refuse to score no document, or windows without a token; None asks for what is usual."""
    if documents is not None and documents < 1:
        raise ValueError(f"documents = {documents} scores nothing; give at least 1, or leave it out for all")
    if seq_len is not None and seq_len < 1:
        raise ValueError(f"seq_len = {seq_len} is no length; give at least 1, or leave it out for the trained one")


def sizes(**settings: int | None) -> None:
    """Refuse the first size below 1; None asks for what is usual."""
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value} is no size; give at least 1")


def sample(corpus: Corpus, documents: int | None) -> Corpus:
    """Return `corpus` with `documents` of its validation documents, in its order; all of them where None.

    Chosen are those of the smallest digests, so that a document's own content decides: every arm scores the same ones,
    whatever its tokenizer. ValueError where there are not so many.
    """
    if documents is None:
        return corpus
    return dataclasses.replace(corpus, valid=corpus.valid.some(chosen(corpus, documents)))


def input_lengths(corpus: Corpus, documents: int | None = None) -> list[int]:
    """Return the inputs of every document of that sample: all tokens but the last; 0 of an empty one. No text is read.

    ValueError as of `sample`.
    """
    found_D = np.maximum(0, np.diff(corpus.valid.starts) - 1)
    if documents is not None:
        found_D = found_D[chosen(corpus, documents)]
    lengths: list[int] = found_D.tolist()
    return lengths


def chosen(corpus: Corpus, documents: int) -> np.ndarray:
    """Return the numbers of these documents in the held-out text. ValueError as of `sample`."""
    if documents > len(corpus.valid):
        fault = f"documents = {documents} is more than the {len(corpus.valid)} held-out documents"
        raise ValueError(f"{fault}; give at most that, or leave it out for all")
    ranked = np.lexsort(corpus.valid.digests.T[::-1])
    return np.sort(ranked[:documents])
