"""First reading: which documents are duplicates, which are held out, and a sample to train a tokenizer on.

A document is held out iff the first 8 bytes of blake2b(content), big endian, are below valid_fraction * 2^64: membership
depends on the content alone, never on order, file or what else is there. A source may hold out its short documents only, and
these more readily (`Held`); that too depends on the content alone.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.data.corpus import checks
from ablab.data.corpus.verbatim import WIDTH, Verbatim
from ablab.data.sources.sources import Source

DROPPED, TRAIN, HELD = 0, 1, 2


def digest_of(text: bytes) -> bytes:
    """Hash a document to its identity: 16 bytes of blake2b; their order is the hash order."""
    return blake2b(text, digest_size=16).digest()


class LeastDigests:
    """The texts of lowest digest while their characters sum to at most `limit`: the same in whatever order they come.

    No document gives more than a sixteenth of the limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._longest, self._total = limit, max(1, limit // 16), 0
        self._heap: list[tuple[int, str]] = []  # the highest digest first
        self._held: set[int] = set()
        self._ceiling = 1 << 128  # the lowest digest that was given up; what follows it stays out, however short

    def add(self, digest: bytes, text: str) -> None:
        """Offer a document; the same digest counts once."""
        rank, text = int.from_bytes(digest, "big"), text[: self._longest]
        if rank in self._held or rank >= self._ceiling:
            return
        heapq.heappush(self._heap, (-rank, text))
        self._held.add(rank)
        self._total += len(text)
        while self._total > self.limit:
            negative, text = heapq.heappop(self._heap)
            self._ceiling = -negative
            self._held.remove(self._ceiling)
            self._total -= len(text)

    @property
    def texts(self) -> list[str]:
        """The sample in hash order."""
        return [text for _, text in sorted(self._heap, reverse=True)]


class Copies:
    """Documents held out by their content, and which of them stand for the most part in training documents.

    These are in neither part: what is trained on is a function of each document alone, what is scored is no copy of it.
    """

    def __init__(self, width: int = WIDTH) -> None:
        self._verbatim, self._sizes, self._digests = Verbatim(width), array("q"), list[bytes]()

    def hold(self, values: np.ndarray, digest: bytes) -> None:
        """Take up a held-out document."""
        self._verbatim.hold(values)
        self._sizes.append(len(values))
        self._digests.append(digest)

    def train(self, values: np.ndarray) -> None:
        """Look for a training document among the held-out ones; call it after all of those."""
        self._verbatim.train(values)

    def digests(self, say: Callable[[str], object]) -> set[bytes]:
        """Return the digests of the copies; CheckFailed where they are more than half of the held-out part."""
        cuts, sizes = self._verbatim.cuts(common=False), np.array(self._sizes, np.int64)
        size, of = int(sizes[cuts].sum()), int(sizes.sum())
        what = f"{len(cuts):,} of {counted(len(sizes), 'held-out document')} ({100 * size / max(of, 1):.1f} % of their text)"
        if 2 * size > of:
            fault = f"{what} stand for the most part, word for word, in training documents: near copies"
            cure = "remove the copies from the sources, or name a held-out part of its own in data.valid_source"
            raise CheckFailed(Fault("data.source", fault, cure))
        if cuts:
            say(f"data: {what} stand for the most part, word for word, in training documents, and are left out")
        return {self._digests[number] for number in cuts}


def counted(number: int, what: str) -> str:
    """Spell `1 document`, `1,000 documents`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass
class Scan:
    """The record of the first reading. One entry of `digests` and `roles` per document that has text, in source order."""

    digests: np.ndarray  # (documents, 16) uint8
    roles: np.ndarray  # DROPPED (duplicate), TRAIN or HELD
    sample: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    copies: Copies | None = None  # of a split by content; the second reading shows it the training documents


def scan(
    sources: Sequence[Source],
    valid_fraction: float,
    sample_chars: int,
    say: Callable[[str], object],
    held: Sequence[Source] = (),
) -> Scan:
    """Read everything once. Memory: 16 bytes per document plus the sample. CheckFailed where a split would be empty.

    Where `held` names held-out sources, they are the validation split and `sources` the training split, whatever the
    documents' digests; a held-out document that is trained on too, as it is or word for word inside of a longer one, is
    left out and counted, and CheckFailed where that is more than half of them (in bytes).
    """
    threshold = 0 if held else int(valid_fraction * 2**64)
    thresholds = array("Q")
    digests, sample, n_bytes, empty, undecodable = bytearray(), LeastDigests(sample_chars), 0, 0, 0
    train_documents, verbatim, sizes, copies = 0, Verbatim(), array("q"), Copies()
    for raw in (text.encode() for source in held for _, text in source.documents() if text):
        verbatim.hold(np.frombuffer(raw, np.uint8))
        sizes.append(len(raw))
    for number, source in enumerate([*sources, *held]):
        if number == len(sources):
            train_documents = len(digests) // 16
        for _, text in source.documents():
            if not text:
                empty, undecodable = empty + (text is not None), undecodable + (text is None)
                continue
            raw = text.encode()
            digest = digest_of(raw)
            digests += digest
            n_bytes += len(raw)
            if held and number < len(sources):
                verbatim.train(np.frombuffer(raw, np.uint8))
            thresholds.append(below := _threshold(source, threshold, len(raw)))
            outside = int.from_bytes(digest[:8], "big") >= below
            if not held and not outside:
                copies.hold(np.frombuffer(raw, np.uint8), digest)
            if sample_chars and number < len(sources) and outside:
                sample.add(digest, text)
    table = np.frombuffer(bytes(digests), np.uint8).reshape(-1, 16)
    roles = roles_of(table, np.array(thresholds, np.uint64))
    documents, left_out = len(roles), 0
    if held:
        roles[train_documents:] = HELD  # all of it, as it was named: repeats too
        left_out = _leave_out(table, roles, train_documents, sizes, verbatim.cuts())
    duplicates = int((roles == DROPPED).sum()) - left_out
    counts = {
        "documents": documents,
        "bytes": n_bytes,
        "duplicates": duplicates,
        "empty": empty,
        "undecodable": undecodable,
    } | ({"also_trained_documents": left_out} if held else {})
    if left_out:
        many = "document is" if left_out == 1 else "documents are"
        say(f"data: {left_out:,} held-out {many} also trained on, and left out")
    again = counted(duplicates, "exact duplicate")
    say(f"data: {counted(documents, 'document')}, {n_bytes / 1e6:.1f} MB, {again} removed")
    _check_roles(roles, valid_fraction, bool(held))
    return Scan(table, roles, sample.texts, counts, None if held else copies)


def _leave_out(table: np.ndarray, roles: np.ndarray, first: int, sizes: Sequence[int], cuts: Sequence[int]) -> int:
    """Take the role from held-out documents (from the `first` on) that are trained on too; how many there are."""
    trained = np.zeros(len(table) - first, bool)
    if len(trained) != len(sizes):
        raise CheckFailed(
            Fault("data.valid_source", "changed while it was read", "run again when nothing writes to it")
        )
    whole = np.ascontiguousarray(table).view("V16").ravel()
    trained[:] = np.isin(whole[first:].view("S16"), whole[:first].view("S16"))
    trained[list(cuts)] = True
    count, length = int(trained.sum()), np.array(sizes, np.int64)
    checks.few_shared(count, len(trained), int(length[trained].sum()), int(length.sum()))
    roles[first:][trained] = DROPPED
    return count


def _threshold(source: Source, threshold: int, n_bytes: int) -> int:
    """Return the digest below which a document of so many bytes of this source is held out."""
    rule = source.held
    if rule is None:
        return threshold
    return min(rule.readier * threshold, 2**64 - 1) if n_bytes <= rule.longest else 0


def roles_of(digests: np.ndarray, threshold: int | np.ndarray) -> np.ndarray:
    """Return DROPPED, TRAIN or HELD for each of (documents, 16) digests: held out below `threshold`, dropped when seen before.

    threshold: one, or (documents,) uint64.
    """
    halves = np.ascontiguousarray(digests).view(">u8").astype(np.uint64)
    high, low = halves[:, 0], halves[:, 1]
    order = np.lexsort((low, high))  # stable: of equal documents the first in source order comes first
    again = np.zeros(len(order), bool)
    again[1:] = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    roles = np.where(high < np.asarray(threshold, np.uint64), HELD, TRAIN).astype(np.uint8)
    roles[order[again]] = DROPPED
    return roles


def _check_roles(roles: np.ndarray, valid_fraction: float, named: bool) -> None:
    distinct, held = int((roles != DROPPED).sum()), int((roles == HELD).sum())
    if distinct < 2:
        what = "no document with text" if not distinct else "one distinct document only"
        raise CheckFailed(
            Fault("data.source", f"the sources hold {what}", "give at least two, to train and to validate")
        )
    if named and (not held or held == distinct):
        place, what = ("data.valid_source", "held-out") if not held else ("data.source", "training")
        raise CheckFailed(Fault(place, f"holds no {what} document with text", "give files with text"))
    if not held:
        fault = f"none of {distinct} documents falls into the validation split of {valid_fraction:g}"
        raise CheckFailed(Fault("data.valid_fraction", fault, "raise data.valid_fraction or give more documents"))
    if held == distinct:
        fault = f"all {distinct} documents fall into the validation split of {valid_fraction:g}"
        raise CheckFailed(Fault("data.valid_fraction", fault, "lower data.valid_fraction or give more documents"))
