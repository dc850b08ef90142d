"""Tells adaptation that diverged from text that is hard, and accounts for what is then not scored."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ablab.data import Corpus
from ablab.data.corpus.tokens import UNTRAINED
from ablab.scoring.ledger import Ledger

HARD = 1.1  # times the level so far: from here on the same tokens are looked at with the weights before adapting
FAR = 1.15  # times what those weights say: this is no adaptation any more
SLACK = 0.05  # nats per token on top: of text known by heart, 15% are nothing
FEW = 4.0  # nats per token over sqrt(tokens): a few tokens say little


class Watch:
    """Looks at each chunk's scores.

    Diverged is a score that is not finite, or a mean above 1.15 times that of the same tokens under the weights before
    adapting, + 0.05 nats + 4 / sqrt(tokens). Those weights are asked only where a chunk lies above 1.1 times the mean so
    far, so that a hard chunk costs one more forward pass and is never taken for divergence, and calm ones cost nothing. (The
    runs that parameter-golf's pages call diverged ended about 23% and 35% above their start: #1334, #1718. An absolute bound
    such as ln V would have let both pass.) Weights that were bad before cannot be told from weights that got lost.
    """

    def __init__(self) -> None:
        self.nats, self.tokens = 0.0, 0

    def see(self, nats_N: np.ndarray, before: Callable[[], np.ndarray]) -> str:
        """Say why these scores have diverged, or nothing. before(): the same tokens' nats under the weights before adapting."""
        count = len(nats_N)
        if not count:
            return ""
        if not np.isfinite(nats_N).all():
            return "a score is not finite"
        mean, few = float(nats_N.mean()), FEW / math.sqrt(count)
        level = self.nats / self.tokens if self.tokens else mean
        self.nats, self.tokens = self.nats + float(nats_N.sum()), self.tokens + count
        if mean <= HARD * level + few:
            return ""
        start = float(before().mean())
        if mean <= FAR * start + SLACK + few:
            return ""
        return f"{mean:.3g} nats per token over {count} tokens, where the weights before adapting have {start:.3g}"


def forfeit(ledger: Ledger, corpus: Corpus, seq_len: int, why: str) -> None:
    """Say that scores mean nothing from here on, and hand in NaN for every target that has none yet."""
    ledger.diverge(why)
    wanted = corpus.valid.marks != UNTRAINED
    wanted[ledger.order()] = False
    at = np.flatnonzero(wanted)
    document = np.searchsorted(corpus.valid.starts, at, side="right") - 1
    place = at - corpus.valid.starts[document]
    ledger.score(document, place, (place - 1) % seq_len, np.full(len(at), np.nan))
