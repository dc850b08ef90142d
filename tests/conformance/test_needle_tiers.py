"""Natural recall and context gain: found by hand, exact on oracles, the same items for every arm, and never in the way."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.conformance.held_out import Recall, Stand, corpus_of, text_corpus

from ablab.core.rng import stream
from ablab.data import Corpus
from ablab.data.corpus.corpus import Valid
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model.decoder import build
from ablab.scoring.cuts import Cut
from ablab.scoring.evaluators.needle import Needle, far, natural

SEQ_LEN, SHORT = 64, 16
CPU = torch.device("cpu")


def words(documents: int = 30, length: int = 100, vocab: int = 2000) -> Corpus:
    """Random tokens, so that a pair is rare; in each document the pair at 5 comes again at 12, at 30 and at 90."""
    held = []
    for i in range(documents):
        ids = stream(5, "test", "words", i).integers(0, vocab - 1, length + 1)
        ids[0] = vocab - 1
        for again in (12, 30, 90):
            ids[again : again + 2] = ids[5:7]
        held.append(ids.astype(np.uint16))
    starts = np.cumsum([0, *map(len, held)])[:-1].astype(np.int64)
    flat = np.concatenate(held)
    valid = Valid(flat, np.ones(len(flat), np.uint16), starts, np.zeros((documents, 16), np.uint8))
    return dataclasses.replace(tiny.corpus(1), vocab_size=vocab, bos_id=vocab - 1, valid=valid, key="words")


def found_by(model: Any, corpus: Corpus, budget: int = 4000) -> dict[str, Any]:
    with torch.inference_mode():
        return far.measure(model, corpus, SEQ_LEN, SHORT, budget, CPU)


class Pairs(Recall):
    """Says what followed the last time that this token was there, if that was at most `reach` tokens ago."""

    least, reach = 1, 10**6

    def guess(self, row: np.ndarray) -> np.ndarray:
        found, seen = np.full(len(row), -1), dict[int, int]()
        for at, token in enumerate(row.tolist()):
            if token in seen and at - seen[token] <= self.reach:
                found[at] = row[seen[token] + 1]
            seen[token] = at
        return found


# ---- items


def test_hits_by_hand() -> None:
    """Rare pairs that come again, the first time and the last time before each."""
    corpus = words()
    rows = [Cut(0, 0, 100, 0), Cut(1, 20, 84, 20), Cut(2, 0, 64, 0)]
    for row, hits in zip(rows, natural.hits_of(corpus, rows)):
        ids = corpus.valid[row.document].ids[row.start : row.stop + 1].tolist()
        pairs = list(zip(ids, ids[1:]))
        every = [tuple(int(x) for x in pair) for d in corpus.valid for pair in zip(d.ids, d.ids[1:])]
        own = corpus.valid[row.document].ids
        mine = [tuple(int(x) for x in pair) for pair in zip(own, own[1:])]
        wanted = []
        for at, pair in enumerate(pairs):
            before = [i for i in range(at) if pairs[i] == pair]
            if before and every.count(pair) - mine.count(pair) <= natural.RARE * len(corpus.valid.tokens):
                wanted.append((at, before[0], at - before[-1]))
        assert list(zip(hits.at_N.tolist(), hits.first_N.tolist(), hits.distance_N.tolist())) == wanted
    first = natural.hits_of(corpus, rows)[0]
    assert first.at_N.tolist() == [12, 30, 90] and first.first_N.tolist() == [5, 5, 5]
    assert first.distance_N.tolist() == [7, 18, 60]


def test_a_pair_that_other_documents_have_is_not_rare() -> None:
    corpus = words()
    for d in (3, 4):
        begin = int(corpus.valid.starts[d])
        corpus.valid.tokens[begin + 40 : begin + 42] = corpus.valid[0].ids[5:7]
    assert natural.hits_of(corpus, [Cut(0, 0, 100, 0)])[0].at_N.tolist() == []


def test_rows_are_the_longest_documents_and_whole_where_they_are_short() -> None:
    corpus = corpus_of([10, 200, 64, 63, 0, 70, 64])
    rows = natural.rows_of(corpus, 64, 5)
    assert {row.document for row in rows} == {1, 2, 3, 5, 6} and len({row.document for row in rows}) == len(rows)
    assert [row.stop - row.start for row in rows] == [64, 64, 64, 64, 63]
    assert natural.rows_of(corpus_of([0, 0]), 64, 5) == []
    assert natural.rows_of(corpus, 64, 3) == rows[:3]


@pytest.mark.parametrize("seq_len, short", [(64, 16), (64, 63), (64, 1), (100, 7)])
def test_short_windows_lie_in_their_rows_and_reach_every_bin(seq_len: int, short: int) -> None:
    corpus = corpus_of([200, 150, 120])
    rows = natural.rows_of(corpus, seq_len, 3)
    windows, edges, run = (
        far.windows_of(corpus, rows, seq_len, short, 60),
        far.positions(seq_len, short),
        far.run_of(seq_len, short),
    )
    assert len(windows) == 60
    bins = set()
    for i, cut in windows:
        row = rows[i]
        assert row.start <= cut.start and cut.stop <= row.stop and cut.document == row.document
        assert cut.stop - cut.start == short and cut.stop - cut.first == run
        bins.add(int(np.searchsorted(edges, cut.first - row.start, side="right")) - 1)
    assert bins == set(range(len(edges) - 1))


def test_edges() -> None:
    assert natural.distances(2048) == [1, 16, 64, 256, 1024, 2048] and natural.distances(8) == [1, 8]
    assert far.positions(2048, 256) == [256, 512, 1024, 2048] and far.positions(64, 63) == [63, 64]


# ---- oracles


def test_perfect_recall_saves_every_nat_at_every_distance() -> None:
    corpus = words()
    found = found_by(Pairs(corpus.vocab_size), corpus, 6000)["natural"]
    known = [value for value in found["values"] if value is not None]
    assert len(known) >= 2 and sum(found["tokens"]) > 10
    np.testing.assert_allclose(known, found["mean"], atol=1e-5)
    np.testing.assert_allclose(found["nats"][: len(known)], 0, atol=1e-5)
    assert found["mean"] > np.log(corpus.vocab_size) - 1e-3


def test_a_memory_of_twenty_tokens_shows_it_by_distance() -> None:
    corpus = words()
    model = Pairs(corpus.vocab_size)
    model.reach = 16
    found = found_by(model, corpus, 6000)["natural"]
    near, middle = found["values"][:2]
    assert found["distances"] == [1, 16, 64] and near > 7 and abs(middle) < 0.5


def test_a_blind_model_saves_nothing() -> None:
    corpus = words()
    found = found_by(Stand(corpus.vocab_size), corpus)
    assert found["natural"]["mean"] == 0.0 and found["gain"]["mean"] == 0.0 and found["gain"]["key_share"] == 0.0


def test_gain_is_what_lies_beyond_the_short_window() -> None:
    """Documents that repeat 20 different tokens: only a memory of more than 16 finds them."""
    corpus = words(length=100)
    for d in range(len(corpus.valid)):
        begin = int(corpus.valid.starts[d])
        corpus.valid.tokens[begin + 1 : begin + 21] = 20 * d + np.arange(20)
        for at in range(21, 101):
            corpus.valid.tokens[begin + at] = corpus.valid.tokens[begin + at - 20]
    model = Pairs(corpus.vocab_size)
    found = found_by(model, corpus)["gain"]
    assert found["positions"] == [16, 32, 64] and found["short"] == 16
    assert found["values"][1] == pytest.approx(np.log(corpus.vocab_size), abs=1e-3) and found["key_share"] > 0.5
    assert min(found["tokens"]) > 20
    model.reach = 10
    assert abs(found_by(model, corpus)["gain"]["values"][1]) < 1e-3


def test_means_and_errors_by_hand() -> None:
    values = [np.array([1.0, 3.0, np.nan]), np.array([5.0]), np.array([])]
    bins = [np.array([0, 0, 1]), np.array([0]), np.array([], np.int64)]
    found = natural.means(values, bins, 2)
    assert found["values"] == [3.0, None] and found["tokens"] == [3, 0] and found["mean"] == 3.0
    # rows weigh by their tokens: residuals 4 - 6 and 5 - 3 of two rows
    assert found["se"] == [pytest.approx((((-2) ** 2 + 2**2) * 2) ** 0.5 / 3), None]
    assert natural.means([np.array([1.0])], [np.array([0])], 1)["se"] == [None]


def test_masked_targets_are_left_out() -> None:
    corpus = words()
    before = found_by(Stand(corpus.vocab_size), corpus)
    corpus.valid.marks[:] = UNTRAINED
    after = found_by(Stand(corpus.vocab_size), corpus)
    assert sum(before["natural"]["tokens"]) > 0 and sum(after["natural"]["tokens"]) == 0
    assert sum(after["gain"]["tokens"]) == 0 and after["gain"]["mean"] is None


# ---- in the probe


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return text_corpus(tmp_path_factory.mktemp("text"))


def probe(corpus: Corpus, seed: int = 1, **asked: Any) -> dict[str, Any]:
    model = build(tiny.model(seq_len=128), vocab_size=corpus.vocab_size, seed=seed)
    extra = Needle(items=4, **asked)(
        model, corpus, {"model": tiny.model(seq_len=128)}, seed=seed, precision="fp32"
    ).extra
    return extra


def test_items_are_the_same_for_every_arm_and_the_old_numbers_stay(text: Corpus) -> None:
    one, other, without = probe(text), probe(text, seed=5), probe(text, natural_tokens=0)
    assert one["natural_hash"] == other["natural_hash"] and one["gain"]["values"] != other["gain"]["values"]
    assert one["natural"]["tokens"] == other["natural"]["tokens"] and one["gain"]["tokens"] == other["gain"]["tokens"]
    new = {"natural", "gain", "natural_tokens", "natural_hash"}
    assert set(one) - set(without) == new and {k: v for k, v in one.items() if k not in new} == without
    assert one["natural_tokens"] <= 10_000 and one["gain"]["short"] == 32
    assert probe(dataclasses.replace(text, key="another"))["natural_hash"] != one["natural_hash"]


def test_sizes_can_be_set(text: Corpus) -> None:
    found = probe(text, natural_tokens=1024, short=64)
    assert found["gain"]["short"] == 64 and 900 < found["natural_tokens"] <= 1024 and found["natural"]["rows"] == 4


@pytest.mark.parametrize(
    "asked, text_of",
    [
        (
            {"natural_tokens": 511},
            "natural_tokens = 511 does not pay for two rows of 128 and as many tokens in short windows; give at least 512",
        ),
        ({"short": 128}, "short = 128 is no part of seq_len 128; give 1 to 127"),
        ({"short": 0}, "short = 0 is no window; give at least 1"),
        (
            {"short": 64, "natural_tokens": 0},
            "short = 64 acts on nothing with natural_tokens = 0; remove it, or give tokens",
        ),
        ({"natural_tokens": -1}, "natural_tokens = -1 is below 0; give 0 for none of it"),
    ],
)
def test_what_does_not_fit_is_refused(asked: dict[str, Any], text_of: str, text: Corpus) -> None:
    with pytest.raises(ValueError, match=re.escape(text_of)):
        probe(text, **asked)


def test_documents_that_are_too_short_leave_it_empty(tmp_path: Path) -> None:
    corpus = corpus_of([3, 0, 5])
    found = found_by(Stand(tiny.VOCAB), corpus)
    assert found["gain"]["mean"] is None and sum(found["gain"]["tokens"]) == 0 and found["natural"]["rows"] == 2
    assert sum(found_by(Stand(tiny.VOCAB), corpus_of([0, 0]))["natural"]["tokens"]) == 0
