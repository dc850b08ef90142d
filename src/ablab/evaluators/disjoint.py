"""Non-overlapping windows: the plain score of held-out text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from ablab.data import Corpus, valid_rows
from ablab.data.tokens import UNTRAINED
from ablab.evaluators import inference
from ablab.evaluators.subset import first
from ablab.model import Decoder
from ablab.scores import Scores
from ablab.spans import SPANS


class Disjoint:
    """Scores held-out documents in windows of seq_len that do not overlap; every target once (the field's usual loss).

    `documents` scores only the first that many (default: all). `seq_len` is the window's length (default: the trained one),
    declared to the position schemes, so that rope's ntk can stretch. Sums are float64. The result does not depend on the number
    of rows per forward beyond the rounding of the model's own products (fp32: below 1e-6 relative per document).
    """

    source = "the usual held-out loss"
    revision: ClassVar[int] = 1
    decides: ClassVar[bool] = True

    def __init__(self, *, documents: int | None = None, seq_len: int | None = None) -> None:
        if documents is not None and documents < 1:
            raise ValueError(f"documents = {documents} scores nothing; give at least 1, or leave it out for all")
        if seq_len is not None and seq_len < 1:
            raise ValueError(f"seq_len = {seq_len} is no length; give at least 1, or leave it out for the trained one")
        self.documents, self.seq_len = documents, seq_len

    @staticmethod
    def miniature(choice: dict[str, Any], long: float) -> dict[str, Any]:
        """The settings for lengths that are `long` times these."""
        length = choice["seq_len"]
        return {"documents": None, "seq_len": None if length is None else max(4, round(length * long))}

    def __call__(
        self, model: Decoder, corpus: Corpus, settings: Mapping[str, Any], *, seed: int, precision: str
    ) -> Scores:
        """Scores per document. `seed` is not used: nothing here is drawn."""
        trained = settings["model"]["seq_len"]
        seq_len = self.seq_len or trained
        corpus = first(corpus, self.documents)
        rows = valid_rows(corpus, seq_len)
        nats_RT = np.zeros(rows.tokens_RT.shape)
        step = max(1, inference.FORWARD_TOKENS // seq_len)
        with inference.inference(model, precision) as device, declared(model, seq_len, trained):
            for at in range(0, len(rows), step):
                batch = [
                    torch.from_numpy(part[at : at + step]).to(device)
                    for part in (rows.tokens_RT, rows.targets_RT, rows.ids_RT)
                ]
                nats_RT[at : at + step] = model.nll(*batch).double().cpu().numpy()
        scored = rows.targets_RT >= 0
        document, nats = rows.document_RT[scored], nats_RT[scored]
        count = len(corpus.valid)
        edges = band_edges(seq_len)
        band = np.searchsorted(edges, rows.offset_RT[scored], side="right") - 1
        return Scores(
            nats=np.bincount(document, nats, count),
            tokens=np.bincount(document, minlength=count),
            bytes=np.bincount(document, rows.n_bytes_RT[scored], count),
            bands={
                "edges": edges,
                "nats": np.bincount(band, nats, len(edges) - 1).tolist(),
                "tokens": np.bincount(band, minlength=len(edges) - 1).tolist(),
            },
            gates=_once(corpus, document, rows.place_RT[scored] + 1),
            spans=by_span(document, nats, rows.spans_RT[scored], count) if corpus.valid.spans else {},
        )


def by_span(document: np.ndarray, nats: np.ndarray, spans: np.ndarray, count: int) -> dict[str, dict[str, np.ndarray]]:
    """nats and tokens per document of the targets in each span."""
    found = {}
    for name, mark in SPANS.items():
        inside = spans == mark
        here = document[inside]
        tokens = np.bincount(here, minlength=count)
        found[name] = {"nats": np.bincount(here, nats[inside], count), "tokens": tokens}
    return found


@contextlib.contextmanager
def declared(model: Decoder, seq_len: int, trained: int) -> Iterator[None]:
    """Tell every part that asks (`declare`) the length of this evaluation, and the trained one again afterwards."""
    parts = [declare for part in model.modules() if callable(declare := getattr(part, "declare", None))]
    try:
        for declare in parts:
            declare(seq_len)
        yield
    finally:
        for declare in parts:
            declare(trained)


def band_edges(seq_len: int) -> list[int]:
    """0, 1, 2, 4, 8, ... seq_len: band i holds positions edges[i] <= position < edges[i + 1]."""
    edges, edge = [0], 1
    while edge < seq_len:
        edges.append(edge)
        edge *= 2
    return [*edges, seq_len]


def _once(corpus: Corpus, document: np.ndarray, place: np.ndarray) -> list[str]:
    """Empty where every token that the corpus marks as scored was a target exactly once; else the violation in words."""
    starts = corpus.valid.starts
    times = np.bincount(starts[document] + place, minlength=int(starts[-1]))
    wanted = (corpus.valid.marks != UNTRAINED).astype(np.int64)
    missed, again = int((times < wanted).sum()), int((times > wanted).sum())
    return [f"scored once: {missed} targets were never scored, {again} more than once"] if missed or again else []
