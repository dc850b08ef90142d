"""Held-out documents that stand word for word inside of training documents: a digest of the whole does not see them.

Windows of each held-out document (bytes of text, or token ids) are looked for at every place of every training document, by
a hash that rolls: h(i) = sum over j of value[i + j] r^j, modulo 2^64, from differences of one running sum.
"""

from __future__ import annotations

import functools

import numpy as np

WIDTH = (
    48  # bytes of a window: some nine English words, which no two writers choose alike; shorter documents are not seen
)
REVISION = 2  # raised when other documents would be left out
_TOKENS = ((512, 48), (8192, 24))  # vocabularies up to so many ids: tokens of a window
_FEWER = 16  # of larger ones: some 60 bytes of English
_PROBES = 32  # most windows of a document: its share is known to +- .18
_MOST = 0.5  # share of its windows in training text from which on a document is no news
COMMON = 8  # training documents from which on text is a header, a licence, a prompt: what many have is no cut of one
PIECE = 1 << 20  # values hashed at a time
_R = 0x9E3779B97F4A7C15  # odd, so that its powers can be undone modulo 2^64


def width_of(vocab_size: int) -> int:
    """Return the tokens of a window over ids of such a vocabulary."""
    return next((width for most, width in _TOKENS if vocab_size <= most), _FEWER)


class Verbatim:
    """Which of the held-out documents are cuts of training text; add the held-out ones first.

    Documents are arrays of whole numbers, bytes (uint8) or token ids. Those shorter than `width` are never cuts.
    """

    def __init__(self, width: int = WIDTH) -> None:
        self.width = width
        self._hashes: list[np.ndarray] = []
        self._counts: list[int] = []
        self._table: tuple[Sought, np.ndarray] | None = None
        self._found: np.ndarray = np.zeros(0, np.int32)  # in how many training documents each window stands
        self._waiting: list[np.ndarray] = []
        self._length = 0

    def hold(self, values: np.ndarray) -> None:
        """Take up a held-out document; they are numbered as they come."""
        count = 0
        if len(values) >= self.width:
            last = len(values) - self.width
            places = np.unique(np.linspace(0, last, min(_PROBES, 2 + 4 * last // self.width)).astype(np.int64))
            windows = np.stack([values[at : at + self.width] for at in places.tolist()])
            self._hashes.append(hashes(windows.ravel(), self.width)[:: self.width])
            count = len(places)
        self._counts.append(count)

    def train(self, values: np.ndarray) -> None:
        """Look for every window in a training document."""
        if not self._hashes or len(values) < self.width:
            return
        if len(values) >= PIECE:
            self._look()  # alone, and not copied
        self._waiting.append(values)
        self._length += len(values)
        if self._length >= PIECE:
            self._look()

    def cuts(self, *, common: bool = True) -> list[int]:
        """List the numbers of held-out documents that training text holds for the most part, or as a whole.

        For the most part: more than half of their windows stand in 1 to 7 training documents. What stands in more of them is a
        header that many share, and counts only where it is all that a document has, and only if `common`.
        """
        if not self._hashes:
            return []
        self._look()
        owners, times = self._ready()[1], self._found
        counts = np.array(self._counts)
        rare, all_of = (
            np.bincount(owners[hit], minlength=len(counts)) for hit in ((times > 0) & (times < COMMON), times > 0)
        )
        return np.flatnonzero((counts > 0) & ((rare > _MOST * counts) | (common & (all_of == counts)))).tolist()

    def _look(self) -> None:
        """Look through the training documents that wait, laid end to end."""
        if not self._waiting:
            return
        seen, _ = self._ready()
        ends = np.cumsum([len(one) for one in self._waiting])
        array = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._waiting, self._length = [], 0
        hits = []  # (window, document)
        for at in range(0, len(array) - self.width + 1, PIECE):
            values = hashes(np.asarray(array[at : at + PIECE + self.width - 1]), self.width)
            where, places = seen.places(values)
            documents = np.searchsorted(ends, at + where, "right")
            hits.append(np.stack([places, documents], 1))
        pairs = np.unique(np.concatenate(hits), axis=0)
        first = np.bincount(pairs[:, 0], minlength=len(seen.hashes)).astype(np.int32)
        self._found += first[np.searchsorted(seen.hashes, seen.hashes)]  # equal windows have one place, their first

    def _ready(self) -> tuple[Sought, np.ndarray]:
        """Return the windows' hashes in order, and whose they are."""
        if self._table is None:
            values = np.concatenate(self._hashes)
            owners = np.repeat(np.arange(len(self._counts), dtype=np.int32), self._counts)
            order = np.argsort(values, kind="stable")
            self._table = Sought(values[order]), owners[order]
            self._found = np.zeros(len(order), np.int32)
        return self._table


class Sought:
    """Hashes to look for, in order; most values are none of them by their first bits."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes
        bits = min(27, max(16, len(hashes).bit_length() + 5))  # one in 32 or fewer is looked up in vain
        self._bits, self._shift = np.zeros(1 << bits, bool), np.uint64(64 - bits)
        self._bits[hashes >> self._shift] = True

    def places(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell which of `values` are among the hashes, and their place there (of equal ones the first)."""
        where = np.flatnonzero(self._bits[values >> self._shift])
        places = np.searchsorted(self.hashes, values[where])
        ok = places < len(self.hashes)
        where, places = where[ok], places[ok]
        ok = self.hashes[places] == values[where]
        return where[ok], places[ok]


def hashes(array: np.ndarray, width: int) -> np.ndarray:
    """Hash each window of `array`, uint64 (len - width + 1,)."""
    powers, back = _powers()
    sums = np.zeros(len(array) + 1, np.uint64)
    np.cumsum(array.astype(np.uint64) * powers[: len(array)], out=sums[1:])
    mixed = (sums[width:] - sums[:-width]) * back[: len(array) - width + 1]
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)  # the first bits depend on all: they choose what is looked up
    out: np.ndarray = mixed
    return out


@functools.cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Compute r^i, and r^-i, modulo 2^64."""
    size = PIECE + 64  # windows are shorter
    return tuple(  # type: ignore[return-value]
        np.concatenate([[np.uint64(1)], np.cumprod(np.full(size - 1, base, np.uint64))])
        for base in (_R, pow(_R, -1, 1 << 64))
    )
