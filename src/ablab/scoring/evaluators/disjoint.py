"""Non-overlapping windows: the plain score of held-out text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from ablab.data import Corpus, valid_rows
from ablab.data.bands import band_edges
from ablab.model import inference
from ablab.model.decoder import Decoder
from ablab.scoring.ledger import Ledger
from ablab.scoring.receptive import within
from ablab.scoring.scores import Scores
from ablab.scoring.subset import at_least_one, input_lengths, sample


class Disjoint:
    """Scores held-out documents in windows of seq_len that do not overlap; every target once (the field's usual loss).

    `documents` scores a sample of that many, the same for all arms (default: all). `seq_len` is the window's length
    (default: the trained one), declared to the position schemes, so that rope's ntk can stretch. Sums are float64. The
    result does not depend on the number of rows per forward beyond the rounding of the model's own products (fp32: below
    1e-6 relative per document).
    """

    source = "the usual held-out loss"
    revision: ClassVar[int] = 1
    decides: ClassVar[bool] = True

    def __init__(self, *, documents: int | None = None, seq_len: int | None = None) -> None:
        at_least_one(documents=documents, seq_len=seq_len)
        self.documents, self.seq_len = documents, seq_len

    @staticmethod
    def miniature(choice: dict[str, Any], long: float) -> dict[str, Any]:
        """The settings for lengths that are `long` times these."""
        length = choice["seq_len"]
        return {"documents": None, "seq_len": None if length is None else max(4, round(length * long))}

    def rehearsal(self, settings: Mapping[str, Any]) -> tuple[Disjoint, int]:
        """The same on little text, and how many tokens of it."""
        seq_len = self.seq_len or settings["model"]["seq_len"]
        return Disjoint(seq_len=seq_len), 2 * seq_len

    def fit(self, settings: Mapping[str, Any], corpus: Corpus, model: Decoder | None = None) -> None:
        """ValueError where a window reaches beyond the model's places; only lengths and sizes are read."""
        within(
            settings,
            corpus,
            model,
            min(self.seq_len or settings["model"]["seq_len"], max(input_lengths(corpus, self.documents), default=0)),
        )

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
        rows = valid_rows(corpus, seq_len)
        step = max(1, inference.FORWARD_TOKENS // rows.tokens_RT.shape[1])
        with inference.inference(model, precision) as device, declared(model, seq_len, trained):
            for at in range(0, len(rows), step):
                here = slice(at, at + step)
                tokens, targets, ids = (
                    torch.from_numpy(part[here]).to(device) for part in (rows.tokens_RT, rows.targets_RT, rows.ids_RT)
                )
                places = rows.document_RT[here], rows.place_RT[here] + 1, rows.offset_RT[here]
                ledger.score_by(model, tokens, targets, ids, *places)
        return ledger.scores(band_edges(seq_len))


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
