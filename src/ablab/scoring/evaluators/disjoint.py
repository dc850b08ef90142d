"""Non-overlapping windows: the plain score of held-out text."""

from __future__ import annotations

import torch

from ablab.data import Corpus, valid_rows
from ablab.model import decoder
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.scoring.evaluators.evaluator import Evaluator, reading
from ablab.scoring.ledger import Ledger


class Disjoint(Evaluator):
    """Scores held-out documents in windows of seq_len that do not overlap; every target once (the field's usual loss).

    Sums are float64. The result does not depend on the number of rows per forward beyond the rounding of the model's own
    products (fp32: below 1e-6 relative per document).

    documents: of the held-out text, a sample that is the same for all arms; default: all
    seq_len (tokens): of a window, declared to the position schemes, so that rope's ntk can stretch; default: the trained
        one
    """

    source = "the usual held-out loss"

    def __init__(self, *, documents: int | None = None, seq_len: int | None = None) -> None:
        super().__init__(documents=documents, seq_len=seq_len)

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand every target's score to the ledger, window by window."""
        seq_len, trained = self.window(settings), settings["model"]["seq_len"]
        rows = valid_rows(corpus, seq_len)
        step = max(1, decoder.FORWARD_TOKENS // rows.tokens_RT.shape[1])
        with reading(model, precision, length=seq_len, trained=trained) as device:
            for at in range(0, len(rows), step):
                here = slice(at, at + step)
                tokens, targets, ids = (
                    torch.from_numpy(part[here]).to(device) for part in (rows.tokens_RT, rows.targets_RT, rows.ids_RT)
                )
                places = rows.document_RT[here], rows.place_RT[here] + 1, rows.offset_RT[here]
                ledger.score_by(model, tokens, targets, ids, *places)
        return {}
