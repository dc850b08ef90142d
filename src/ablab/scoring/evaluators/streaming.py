"""Whole documents, stretch by stretch: a cache carries what earlier stretches left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ablab.core.lever import Choice, value_or_none
from ablab.data import Corpus
from ablab.model import decoder
from ablab.model.cache import Cache
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.scoring.cuts import Cut, batch_of, batches, hidden_of, score
from ablab.scoring.evaluators.evaluator import Evaluator, input_lengths, made, reading, within
from ablab.scoring.ledger import Ledger


class Restart(NamedTuple):
    """Inputs [start, stop) of a document, read from an empty cache."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Streaming(Evaluator):
    """Reads each document from its start to its end in stretches over a cache: global layers see all of it.

    The scores are those of one forward over the document. extra: {"restarts", "stretches", "longest", "notes"}. Bands are
    places since the last start. Without `cache` position schemes are told the trained length; with it, `cache` where that
    is more. ValueError where a document is longer than its places reach, and where a scheme needs the length that `cache`
    says.

    stretch (tokens): read at once; it changes memory and time, no score; default: as model.seq_len
    cache (tokens): the most that are kept; a longer document starts afresh there; default: the whole document
    documents: of the held-out text, a sample that is the same for all arms; default: all
    """

    source = "Dai et al. 2019 (Transformer-XL), arXiv 1901.02860, with the whole past kept"

    def __init__(self, *, stretch: int | None = None, cache: int | None = None, documents: int | None = None) -> None:
        if stretch is not None and stretch < 1:
            raise ValueError(f"stretch = {stretch} reads nothing; give at least 1, or leave it out for seq_len")
        if cache is not None and cache < 1:
            raise ValueError(
                f"cache = {cache} keeps nothing; give at least one stretch, or leave it out for everything"
            )
        super().__init__(documents=documents)
        if stretch is not None and cache is not None:
            _fits(cache, stretch)
        self.stretch, self.cache = stretch, cache

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for lengths that are `long` times these."""
        stretch, cache = value_or_none(choice, "stretch", int), value_or_none(choice, "cache", int)
        stretch = None if stretch is None else max(1, round(stretch * long))
        cache = None if cache is None else max(stretch or 4, round(cache * long))
        return {"documents": None, "stretch": stretch, "cache": cache}

    def rehearsal(self, settings: Settings) -> tuple[Evaluator, int]:
        """Return the same on little text, and how many tokens of it: a document of three stretches, and past a small cache.

        It is no longer than the model was trained on: whether places reach further is for the text itself to show.
        """
        trained = settings["model"]["seq_len"]
        stretch = self.stretch or trained
        few = max(1, min(stretch, 64, trained // 3))
        cache = None if self.cache is None else min(_fits(self.cache, stretch), 2 * few)
        return Streaming(stretch=few, cache=cache), 3 * (5 * few // 2 + 2) // 2

    def fit(self, settings: Settings, corpus: Corpus, model: Decoder | None = None) -> None:
        """Refuse a cache that holds no stretch, or a document that outreaches the model's places; only sizes are read."""
        trained = settings["model"]["seq_len"]
        if self.cache is not None:
            _fits(self.cache, self.stretch or trained)
        elif any(layer.attn.position.needs_length for layer in made(settings, corpus, model).stack()):
            raise ValueError(
                "rope's ntk needs the length that will be read, and without a cache streaming has none; "
                "set cache = the most tokens of a document that are read in one go"
            )
        longest = max((run.length for run in self._runs(corpus)), default=1)
        try:
            within(settings, corpus, model, longest)
        except ValueError as error:
            fault, _, cure = str(error).partition("; ")
            raise ValueError(f"a document of {longest} tokens: {fault}; set cache = {trained}, or {cure}") from error

    def longest(self, settings: Settings, corpus: Corpus) -> int:
        """Return the most tokens that are read without a break."""
        return max((run.length for run in self._runs(corpus)), default=1)

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand every target's score to the ledger, stretch by stretch."""
        trained = settings["model"]["seq_len"]
        stretch, runs = self.stretch or trained, self._runs(corpus)
        length = max(trained, self.cache or 0)
        with reading(model, precision, length=length, trained=trained) as device:
            read = _read_at_once(model, corpus, [run for run in runs if run.length <= stretch], stretch, ledger, device)
            for group in _groups([run for run in runs if run.length > stretch], stretch):
                read += _read_on(model, corpus, group, stretch, ledger, device)
        restarts = sum(run.start > 0 for run in runs)
        extra: dict[str, object] = {"restarts": restarts, "stretches": read, "longest": self.longest(settings, corpus)}
        if not restarts:
            return extra
        cut = sum(inputs > (self.cache or 0) for inputs in input_lengths(corpus))
        note = f"{cut} documents are longer than cache = {self.cache}: they start afresh there, {restarts} times in all"
        return {**extra, "notes": [note]}

    def _runs(self, corpus: Corpus) -> list[Restart]:
        """List what is read without a break, the longest first: alike are neighbours."""
        runs = [
            Restart(document, start, min(inputs, start + (self.cache or inputs)))
            for document, inputs in enumerate(input_lengths(corpus, self.documents))
            for start in range(0, inputs, self.cache or max(1, inputs))
        ]
        return sorted(runs, key=lambda run: (-run.length, run))


def _fits(cache: int, stretch: int) -> int:
    if cache < stretch:
        raise ValueError(
            f"cache = {cache} is less than one stretch of {stretch}; give at least {stretch}, or a shorter stretch"
        )
    return cache


def _groups(runs: list[Restart], stretch: int) -> Iterator[list[Restart]]:
    """Yield runs read beside each other, one a row: as many as a forward holds, none less than half as long as another."""
    group = list[Restart]()
    for run in runs:
        full = len(group) >= max(1, decoder.FORWARD_TOKENS // stretch)
        if group and (full or 2 * run.length < group[0].length):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _read_at_once(
    model: Decoder, corpus: Corpus, runs: list[Restart], stretch: int, ledger: Ledger, device: torch.device
) -> int:
    """Score runs of one stretch, several in a row, without a cache; returns how many there were."""
    cuts = (Cut(run.document, run.start, run.stop, run.start) for run in runs)
    for batch in batches(corpus, cuts, stretch):
        hidden_ND = hidden_of(model, batch, device)
        score(ledger, model, hidden_ND, batch, batch.offset_N, corpus.vocab_size)
    return len(runs)


def _read_on(
    model: Decoder, corpus: Corpus, group: list[Restart], stretch: int, ledger: Ledger, device: torch.device
) -> int:
    """Score runs beside each other over one cache, each a row of its own; those that have ended go on as padding.

    Returns how many stretches were read.
    """
    kept, read, longest = Cache(model, min(group[0].length, 4 * stretch)), 0, group[0].length
    for at in range(0, longest, stretch):
        cuts = []
        for run in group:
            here = min(run.start + at, run.stop)
            cuts.append([Cut(run.document, here, min(here + stretch, run.stop), here)])
            read += cuts[-1][0].stop > here
        batch = batch_of(corpus, cuts)
        hidden = model(batch.tokens_BT.to(device), batch.ids_BT.to(device), cache=kept).flatten(0, 1)
        hidden_ND = hidden[torch.from_numpy(batch.at_N).to(device)]
        score(ledger, model, hidden_ND, batch, batch.offset_N + at, corpus.vocab_size)
    return read
