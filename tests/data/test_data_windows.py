"""Validation rows: every target once, with its document, place and bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.data.tiny import texts

from ablab.data import Corpus, valid_rows


@pytest.fixture
def corpus(make: Callable[..., Corpus]) -> Corpus:
    return make(texts(80))


@pytest.mark.parametrize("seq_len", [1, 7, 16, 64, 1024])
def test_every_target_exactly_once(corpus: Corpus, seq_len: int) -> None:
    rows, longest = valid_rows(corpus, seq_len), max(len(ids) - 1 for ids, *_ in corpus.valid)
    assert rows.tokens_RT.shape[1] == min(seq_len, longest)
    scored = rows.targets_RT >= 0
    assert int(scored.sum()) == corpus.valid.n_targets
    for index, (ids, n_bytes, _) in enumerate(corpus.valid):
        here = rows.document_RT == index
        assert np.array_equal(here, here & scored)
        order = np.argsort(rows.place_RT[here])
        assert rows.place_RT[here][order].tolist() == list(range(len(ids) - 1))
        assert rows.tokens_RT[here][order].tolist() == ids[:-1].tolist()
        assert rows.targets_RT[here][order].tolist() == ids[1:].tolist()
        assert rows.n_bytes_RT[here][order].tolist() == n_bytes[1:].tolist()
        assert np.array_equal(rows.offset_RT[here], rows.place_RT[here] % seq_len)
    assert rows.n_bytes_RT.sum() == corpus.manifest["counts"]["valid_bytes"]


def test_a_window_lies_together_and_has_an_id_of_its_own(corpus: Corpus) -> None:
    rows = valid_rows(corpus, 16)
    scored, seen = rows.targets_RT >= 0, set()
    for row in range(len(rows)):
        cuts = np.flatnonzero(np.diff(rows.ids_RT[row])) + 1
        for piece in np.split(np.arange(16), cuts):
            ident = int(rows.ids_RT[row, piece[0]])
            assert ident not in seen  # nowhere else, in this row or another
            seen.add(ident)
            if scored[row, piece[0]]:
                assert rows.offset_RT[row, piece].tolist() == list(range(len(piece)))
                assert len(set(rows.document_RT[row, piece])) == 1
            else:
                assert piece[-1] == 15  # padding ends the row
                assert set(rows.document_RT[row, piece]) == {-1}
                assert set(rows.tokens_RT[row, piece]) == {corpus.bos_id}
                assert not rows.n_bytes_RT[row, piece].any()


def test_packing_wastes_little(corpus: Corpus) -> None:
    rows = valid_rows(corpus, 64)
    assert len(rows) <= -(-corpus.valid.n_targets // 64) + 2


def test_seq_len_must_be_positive(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="seq_len = 0 is no positive number"):
        valid_rows(corpus, 0)
