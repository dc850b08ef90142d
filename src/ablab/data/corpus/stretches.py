"""How much of the held-out text stands in training, stretch by stretch: `verbatim` sees documents, and this what is glued.

Held-out text may lie in training without its borders: in one long document, behind another, with a blank put before it. So
it is cut into stretches of 50 tokens, whose rolling hashes are looked for at every place of the training tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.data.corpus.corpus import Valid
from ablab.data.corpus.tokens import UNTRAINED
from ablab.data.corpus.verbatim import COMMON, PIECE, Sought, hashes

WIDTH = 50  # tokens of a stretch
# What texts share by nature was 2.2 % of Python's library under 4,096 pieces and 8.0 % of it in bytes, near copies left out
# before (licences, repeated tests): a split of which a quarter is known has been mixed. Less is said, and counted.
MOST = 0.25
FEW = 20  # stretches, of which no share is concluded
_AT_ONCE = 1 << 20  # stretches; of more text a sample, evenly spread


def share(valid: Valid, training: Iterable[np.ndarray]) -> tuple[int, int]:
    """Count the stretches that stand once in the held-out text, and those of them in `training`, arrays of ids, too.

    What stands there COMMON times and more is a form that many texts fill in, and no copy of this one.
    The documents' first tokens are left out, and stretches of which less than half is scored. Memory: 16 bytes a stretch, and
    some 100 MB; every training token is read once.
    """
    places = _places(valid)
    if not len(places):
        return 0, 0
    size = PIECE // WIDTH
    windows = (valid.tokens[places[i : i + size, None] + np.arange(WIDTH)] for i in range(0, len(places), size))
    wanted = np.concatenate([hashes(np.ascontiguousarray(some).ravel(), WIDTH)[::WIDTH] for some in windows])
    values, times = np.unique(wanted, return_counts=True)
    seen = Sought(values[times == 1])  # what the held-out text itself repeats is a refrain, a licence, a form
    counts = np.zeros(len(seen.hashes), np.int64)
    for part in training:
        for at in range(0, len(part) - WIDTH + 1, PIECE):
            places = seen.places(hashes(np.asarray(part[at : at + PIECE + WIDTH - 1]), WIDTH))[1]
            counts += np.bincount(places, minlength=len(counts))
    return len(counts), int(((counts > 0) & (counts < COMMON)).sum())


def check(many: int, copied: int) -> str:
    """Say what is to be said of a share; "" where there is none. CheckFailed where it is more than MOST."""
    if not copied:
        return ""
    part = f"{100 * copied / many:.1f} % of the held-out text ({copied:,} of {many:,} stretches of {WIDTH} tokens)"
    if many >= FEW and copied > MOST * many:
        fault = f"{part} stands word for word in training; at most {100 * MOST:g} % may"
        cure = "take it out of the training sources, or name a held-out part that they do not contain"
        raise CheckFailed(Fault("data.source", fault, cure))
    return f"data: {part} also stands in training"


def _places(valid: Valid) -> np.ndarray:
    """Find where stretches begin: one behind another from the second token of each document on."""
    starts, sizes = valid.starts[:-1], np.diff(valid.starts)
    counts = np.maximum(0, sizes - 1) // WIDTH
    first = np.repeat(starts + 1, counts)
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    places: np.ndarray = first + WIDTH * number
    scored = np.concatenate([[0], np.cumsum(valid.marks != UNTRAINED)])
    places = places[2 * (scored[places + WIDTH] - scored[places]) >= WIDTH]
    return places[:: -(-len(places) // _AT_ONCE)] if len(places) else places
