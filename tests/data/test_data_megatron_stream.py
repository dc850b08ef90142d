"""Batches in Megatron's order: its very samples, with ablab's documents and targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.test_data_tokenised import made, masked, megatron, shard

from ablab.data import Corpus
from ablab.data.batches.megatron_order import MegatronOrder
from ablab.data.batches.megatron_stream import MegatronStream
from ablab.data.formats.indexed import open_indexed

LENGTHS = [5, 3, 8, 2, 6]  # the example of the facts: T = 4, seed 1234, six samples
EXPECTED = {"documents": [4, 0, 1, 2, 3, 3, 2, 1, 0, 4], "shuffle": [2, 0, 4, 3, 1, 6, 10, 7, 5, 9, 8]}


def corpus(tmp_path: Path, *, prefixes: int = 1) -> Corpus:
    """Documents whose tokens say where they are from: 10 * document + place (+ 100 for each further file)."""
    names = []
    for number in range(prefixes):
        rows = [np.arange(n) + 10 * i + 100 * number for i, n in enumerate(LENGTHS)]
        names.append(megatron(tmp_path / f"t{number}", rows))
    return made(tmp_path, *names, valid=megatron(tmp_path / "v", [np.array([250, 251, 252])]))


def stream(corpus: Corpus, *, n_rows: int, rows: int = 2, weights: list[float] | None = None) -> MegatronStream:
    return MegatronStream(corpus, seed=1234, weights=weights, batch_tokens=4 * rows, seq_len=4, n_rows=n_rows)


def test_rows_are_the_samples_of_the_facts(tmp_path: Path) -> None:
    one = stream(corpus(tmp_path), n_rows=6)
    order = one._order.orders[0]
    assert order.document_index.tolist() == EXPECTED["documents"]
    assert order.shuffle_index.tolist() == EXPECTED["shuffle"]
    laid = np.concatenate([np.arange(LENGTHS[d]) + 10 * d for d in EXPECTED["documents"]])
    for step in range(3):
        tokens, targets, ids, spans = (part.numpy() for part in one.batch(step))
        for row in range(2):
            start = 4 * EXPECTED["shuffle"][2 * step + row]
            assert tokens[row].tolist() == laid[start : start + 4].tolist()
            following = laid[start + 1 : start + 5]
            first = following % 10 == 0  # a document's first token is no target
            assert targets[row].tolist() == np.where(first, -1, following).tolist()
            assert (np.diff(ids[row]) == first[:-1]).all() and not spans.any()


def test_the_blend_is_megatrons(tmp_path: Path) -> None:
    both = corpus(tmp_path, prefixes=2)
    one = stream(both, n_rows=8, weights=[0.7, 0.3])
    order = MegatronOrder([open_indexed(tmp_path / f"t{i}") for i in (0, 1)], [0.7, 0.3], seq_len=4, num_samples=8)
    assert order.dataset_index is not None
    got = np.concatenate([one.batch(step).tokens_BT.numpy() for step in range(4)])
    assert [row.tolist() for row in got] == [order.tokens(k)[:4].tolist() for k in range(8)]
    assert (got[:, 0] // 100).tolist() == order.dataset_index[:8].tolist()


def test_masks_follow_the_samples(tmp_path: Path) -> None:
    rows = [([10 * i + k for k in range(9)], [0, 0, 0, 1, 1, 1, 2, 2, 0]) for i in range(6)]
    held = masked(tmp_path, "v", [([200, 201, 202], [0, 1, 2])])
    one = stream(made(tmp_path, masked(tmp_path, "t", rows), valid=held), n_rows=12)
    wanted = {2: (3, 1), 3: (4, 1), 4: (5, 1), 5: (6, 2), 6: (7, 2)}
    seen = set()
    for step in range(6):
        tokens, targets, _, spans = (part.numpy().flatten().tolist() for part in one.batch(step))
        for token, target, span in zip(tokens, targets, spans):
            place, span_of = wanted.get(token % 10, (None, 0))
            assert (target, span) == (-1 if place is None else token // 10 * 10 + place, span_of)
            seen.add(token % 10)
    assert seen == set(range(9))


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    both = corpus(tmp_path, prefixes=2)
    with pytest.raises(
        ValueError, match=r"takes 100 rows, and without weights each sample is read once: \d+; give data"
    ):
        stream(both, n_rows=100)
    with pytest.raises(ValueError, match="1 weights for 2 token files; give one for each, or none"):
        stream(both, n_rows=4, weights=[1.0])
    (tmp_path / "golf").mkdir()
    golf = made(
        tmp_path, shard(tmp_path / "golf" / "t.bin", ["one text"] * 3), valid=shard(tmp_path / "golf" / "v.bin", ["x"])
    )
    with pytest.raises(ValueError, match=r"t\.bin is no Megatron prefix; use order = 'chunks'"):
        stream(golf, n_rows=1)
    copied = made(tmp_path, megatron(tmp_path / "all", [np.arange(9) + n for n in range(40)]))
    with pytest.raises(ValueError, match=r"a copy of its own; name Megatron prefixes, and the held-out ones"):
        stream(copied, n_rows=1)
