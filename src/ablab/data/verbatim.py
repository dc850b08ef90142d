"""Held-out documents that stand word for word inside of longer training documents: a digest of the whole does not see them.

Windows of WIDTH bytes of each held-out document are looked for at every place of every training document, by a hash that
rolls: h(i) = sum over j of byte[i + j] r^j, modulo 2^64, from differences of one running sum.
"""

from __future__ import annotations

import functools

import numpy as np

WIDTH, PROBES = 64, 16  # bytes of a window, most windows of a document
LEAST = (
    256  # bytes of a document that is looked for; shorter ones are quoted everywhere, and equal ones have equal digests
)
MOST = (
    0.9  # share of its windows that a document may share with training text: a cut shares all, a licence's header few
)
_PIECE = 1 << 20  # bytes hashed at a time
_R = 0x9E3779B97F4A7C15  # odd, so that its powers can be undone modulo 2^64
_BITS = 20


class Verbatim:
    """Which of the held-out documents are cuts of training text; add the held-out ones first."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = []
        self._owners: list[np.ndarray] = []
        self._counts: list[int] = []
        self._table: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._hit: np.ndarray = np.zeros(0, bool)

    def hold(self, raw: bytes) -> None:
        """A held-out document; they are numbered as they come."""
        number, count = len(self._counts), 0
        if len(raw) >= LEAST:
            places = np.linspace(0, len(raw) - WIDTH, min(PROBES, len(raw) // WIDTH)).astype(np.int64)
            values = np.concatenate([_hashes(np.frombuffer(raw[at : at + WIDTH], np.uint8)) for at in places.tolist()])
            self._hashes.append(values)
            self._owners.append(np.full(len(values), number, np.int32))
            count = len(values)
        self._counts.append(count)

    def train(self, raw: bytes) -> None:
        """A training document: look for every window in it."""
        if not self._hashes or len(raw) < WIDTH:
            return
        hashes, seen, _ = self._ready()
        array = np.frombuffer(raw, np.uint8)
        for at in range(0, len(array) - WIDTH + 1, _PIECE):
            values = _hashes(array[at : at + _PIECE + WIDTH - 1])
            values = np.unique(values[seen[values >> np.uint64(64 - _BITS)]])  # most are none by their first bits
            places = np.searchsorted(hashes, values)
            ok = places < len(hashes)
            found = values[ok][hashes[places[ok]] == values[ok]]
            self._hit[np.isin(hashes, found)] = True

    def cuts(self) -> list[int]:
        """The numbers of held-out documents of which nearly all windows stand in training text."""
        if not self._hashes:
            return []
        owners = self._ready()[2]
        hits = np.bincount(owners[self._hit], minlength=len(self._counts))
        counts = np.array(self._counts)
        return np.flatnonzero((counts > 0) & (hits >= MOST * counts)).tolist()

    def _ready(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The windows' hashes in order, which first bits they have, and whose they are."""
        if self._table is None:
            hashes, owners = np.concatenate(self._hashes), np.concatenate(self._owners)
            order = np.argsort(hashes, kind="stable")
            seen = np.zeros(1 << _BITS, bool)
            seen[hashes >> np.uint64(64 - _BITS)] = True
            self._table = hashes[order], seen, owners[order]
            self._hit = np.zeros(len(order), bool)
        return self._table


def _hashes(array: np.ndarray) -> np.ndarray:
    """The hash of each window of `array` (uint8), uint64 (len - WIDTH + 1,)."""
    powers, back = _powers()
    sums = np.zeros(len(array) + 1, np.uint64)
    np.cumsum(array.astype(np.uint64) * powers[: len(array)], out=sums[1:])
    mixed = (sums[WIDTH:] - sums[:-WIDTH]) * back[: len(array) - WIDTH + 1]
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)  # the first bits depend on all: they choose what is looked up
    return mixed


@functools.cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """r^i, and r^-i, modulo 2^64."""
    size = _PIECE + WIDTH
    return tuple(  # type: ignore[return-value]
        np.concatenate([[np.uint64(1)], np.cumprod(np.full(size - 1, base, np.uint64))])
        for base in (_R, pow(_R, -1, 1 << 64))
    )
