"""Batches: the same tokens for every seq_len, targets inside documents, O(1) access."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.data.tiny import texts

from ablab.data import Batch, Corpus, Feed, Stream, chain
from ablab.data.bands import trained_in_bands
from ablab.data.batches.ahead import Ahead

BOS = 256


@pytest.fixture
def corpus(make: Callable[..., Corpus]) -> Corpus:
    return make(texts(60))


def stream(corpus: Corpus, **changed: object) -> Stream:
    sizes: dict = {"seed": 3, "span": 64, "batch_tokens": 128, "seq_len": 32} | changed
    return Stream(corpus, **sizes)


def test_shapes_and_types(corpus: Corpus) -> None:
    batch = stream(corpus).batch(0)
    for tensor in batch:
        assert tensor.shape == (4, 32)
        assert tensor.dtype == torch.int64
        assert tensor.is_contiguous()


def test_a_batch_depends_on_seed_and_step_alone(corpus: Corpus) -> None:
    one = stream(corpus)
    forward = [one.batch(step) for step in range(200)]
    for step in (150, 7, 199, 0):  # another object, another order of calls, across epochs
        again = stream(corpus).batch(step)
        assert all(torch.equal(a, b) for a, b in zip(forward[step], again))
    assert not torch.equal(forward[0].tokens_BT, stream(corpus, seed=4).batch(0).tokens_BT)
    assert not torch.equal(forward[0].tokens_BT, stream(corpus, salt="a").batch(0).tokens_BT)


def test_arms_of_different_seq_len_see_the_same_tokens(corpus: Corpus) -> None:
    hashes, flat = set(), []
    for seq_len in (8, 16, 64):
        arm, rolling, tokens = stream(corpus, seq_len=seq_len), "", []
        for step in range(50):
            batch = arm.batch(step)
            rolling = chain(rolling, batch)
            tokens += batch.tokens_BT.flatten().tolist()
        hashes.add(rolling)
        flat.append(tokens)
    assert len(hashes) == 1
    assert flat[0] == flat[1] == flat[2]


def test_the_hash_covers_every_token_and_the_past(corpus: Corpus) -> None:
    batch = stream(corpus).batch(0)
    changed = batch.tokens_BT.clone()
    changed[-1, -1] += 1
    assert chain("", batch) != chain("", batch._replace(tokens_BT=changed))
    assert chain("", batch) != chain("x", batch)


def test_the_hash_is_pinned() -> None:
    from ablab.data import Batch

    tokens = torch.arange(8).reshape(2, 4)
    # blake2b-128 of "" and of the eight numbers as little-endian int64
    assert chain("", Batch(tokens, tokens, tokens, tokens)) == "eec355880b2f43a220bbeccbbdfbfab0"


def test_targets_are_the_next_tokens_and_never_bos(corpus: Corpus) -> None:
    arm = stream(corpus, seq_len=64)  # rows are chunks
    for step in range(30):
        tokens, targets, *_ = arm.batch(step)
        following = tokens[:, 1:]
        inside = targets[:, :-1]
        assert torch.equal(inside[following != BOS], following[following != BOS])
        assert bool((inside[following == BOS] == -1).all())
        assert not bool((targets == BOS).any())


def test_ids_name_documents(corpus: Corpus) -> None:
    arm, starts = stream(corpus), corpus.documents
    text_of = {
        index: corpus.tokens[start:stop].tobytes()
        for index, (start, stop) in enumerate(zip(starts, np.append(starts[1:], corpus.n_train)))
    }
    for step in range(60):
        for tokens, ids in zip(arm.batch(step).tokens_BT.numpy(), arm.batch(step).ids_BT.numpy()):
            cuts = np.flatnonzero(np.diff(ids)) + 1
            assert set(cuts) == set(np.flatnonzero(tokens == BOS)) - {0}  # a new id at every BOS and nowhere else
            for piece, ident in zip(np.split(tokens, cuts), ids[np.r_[0, cuts]]):
                held = text_of[int(ident) % len(starts)]
                assert piece.astype(corpus.tokens.dtype).tobytes() in held


def test_an_epoch_gives_every_target_at_most_once_and_nearly_all(corpus: Corpus) -> None:
    arm = stream(corpus, batch_tokens=64, seq_len=64)
    steps = arm.tokens_per_epoch // 64
    for epoch in (0, 1):
        starts = [int(arm._row_starts(epoch * steps + step)[0]) for step in range(steps)]
        covered = Counter((start + i) % corpus.n_train for start in starts for i in range(64))
        assert max(covered.values()) == 1
        assert len(covered) == arm.tokens_per_epoch > corpus.n_train - 64


def test_epochs_differ_in_order_and_offset(corpus: Corpus) -> None:
    arm = stream(corpus)
    first, second = arm._order(0), arm._order(1)
    assert not np.array_equal(first, second)
    assert first[0] % 64 != second[0] % 64
    assert sorted(np.diff(np.sort(first)).tolist()) == [64] * (len(first) - 1)


def test_a_batch_may_lie_across_epochs(corpus: Corpus) -> None:
    small = stream(corpus, batch_tokens=64, seq_len=64)
    steps = small.tokens_per_epoch // 64
    large = stream(corpus, batch_tokens=64 * (steps + 3), seq_len=64)
    wide = large.batch(0).tokens_BT
    for row in (0, steps - 1, steps, steps + 2):
        assert torch.equal(wide[row], small.batch(row).tokens_BT[0])


def test_one_document_read_on_a_circle_keeps_its_ends_apart(make: Callable[..., Corpus]) -> None:
    tokens = np.r_[np.uint16(BOS), np.arange(99, dtype=np.uint16)]
    single = dataclasses.replace(make(texts(40)), tokens=tokens, documents=np.array([0]))
    seen = 0
    for step in range(40):
        row, targets, ids, _ = Stream(single, seed=1, span=100, batch_tokens=100, seq_len=100).batch(step)
        at = int((row[0] == BOS).nonzero()[0, 0])
        if at:
            seen += 1
            assert ids[0, at - 1] != ids[0, at]
            assert targets[0, at - 1] == -1
    assert seen


def test_epochs_of_a_budget(corpus: Corpus) -> None:
    arm = stream(corpus)
    assert arm.epochs(arm.tokens_per_epoch * 3) == 3.0
    assert arm.tokens_per_epoch == corpus.n_train // 64 * 64


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"seq_len": 24}, "seq_len = 24 does not divide data.span = 64; make span a multiple of every seq_len"),
        ({"batch_tokens": 100}, "batch_tokens = 100 is no multiple of seq_len = 32; set budget.batch_tokens to 128"),
        ({"seq_len": 0}, "seq_len = 0 is no positive number; give tokens"),
        ({"span": 1 << 20}, "fewer than one span of 1048576; give more text or a smaller seq_len and data.span"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(corpus: Corpus, sizes: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        stream(corpus, **sizes)
    assert message in str(caught.value)


def test_negative_steps_are_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="step = -1 is negative; the first step is 0"):
        stream(corpus).batch(-1)


def test_batches_are_quick(corpus: Corpus) -> None:
    arm = stream(corpus, batch_tokens=512)
    arm.batch(0)
    best = 1.0
    for _ in range(20):
        begun = time.thread_time()  # of this thread alone: what else runs on the machine does not count
        arm.batch(1)
        best = min(best, time.thread_time() - begun)
    assert best < 1e-3


class Told:
    """A stream that writes down who asked for which step, and has none from `end` on."""

    def __init__(self, batches: Stream, end: int = 99) -> None:
        self.batches, self.end = batches, end
        self.asked: list[tuple[int, bool]] = []

    def batch(self, step: int) -> Batch:
        self.asked.append((step, threading.current_thread() is threading.main_thread()))
        if step >= self.end:
            raise ValueError(f"there is no step {step}")
        return self.batches.batch(step)


@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_fed_is_the_same_whoever_prepares_it(corpus: Corpus, ahead: bool) -> None:
    plain, told = stream(corpus), Told(stream(corpus))
    feed, before = Ahead(told, pinned=False) if ahead else Feed(told), ""
    for step in (0, 1, 2, 3, 7, 8):  # after 3 another place, as where a run is resumed
        fed, batch = feed.take(step, before), plain.batch(step)
        assert all(torch.equal(a, b) for a, b in zip(fed.batch, batch, strict=True))
        before = chain(before, batch)
        assert fed.token_hash == before
        assert fed.positions == trained_in_bands(batch.ids_BT.numpy(), batch.targets_BT.numpy()).tolist()
    if not ahead:
        assert told.asked == [(step, True) for step in (0, 1, 2, 3, 7, 8)]
        return
    assert isinstance(feed, Ahead) and feed._next is not None
    feed._next[0].join()
    assert [step for step, here in told.asked if here] == [0, 7], "all others were prepared by a thread, once each"
    assert [step for step, here in told.asked if not here] == [1, 2, 3, 4, 8, 9]


def test_what_a_thread_could_not_prepare_is_raised_where_it_is_taken_and_nowhere_else(corpus: Corpus) -> None:
    feed = Ahead(Told(stream(corpus), end=1), pinned=False)
    first = feed.take(0, "")
    with pytest.raises(ValueError, match="there is no step 1"):
        feed.take(1, first.token_hash)
    assert feed.take(0, "").token_hash == first.token_hash
