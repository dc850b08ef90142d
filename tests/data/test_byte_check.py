"""The check of bytes: what it finds in planted faults of the kind that was found in the field."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import tiny

from ablab.core.fault import CheckFailed
from ablab.data import byte_check
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.training.learner import Learner


def doubled(corpus: Corpus, factor: int) -> Corpus:
    """Every token of the held-out text counted `factor` times: spaces counted twice, or another tokenizer's table."""
    valid = corpus.valid
    return replace(corpus, valid=Valid(valid.tokens, valid.n_bytes * factor, valid.starts[:-1], valid.digests))


@pytest.mark.parametrize(
    "loss, bits",
    [
        (2.81014279, 1.08789385),  # before compression
        (2.83957454, 1.09928779),  # after it
        (2.79659675, 1.08264975),  # in a sliding window
        (2.79281076, 1.08118408),  # after test-time training
    ],
)
def test_implied_bytes_of_a_real_log(loss: float, bits: float) -> None:
    """parameter-golf #1493, seed 999, as logged: every stage implies the bytes of the same 40,540,160 tokens."""
    assert byte_check.implied_bytes(loss, bits, 40_540_160) == pytest.approx(151_078_222, abs=25)


def test_scores_of_another_byte_count_are_told() -> None:
    corpus = tiny.corpus()
    nats, tokens = 2.5, corpus.valid.n_targets
    bits = nats * tokens / (math.log(2) * corpus.valid.n_scored_bytes)
    assert byte_check.told({"nats_per_token": nats, "bits_per_byte": bits}, corpus.valid) == []
    wrong = byte_check.told({"nats_per_token": nats, "bits_per_byte": bits / 1.167}, corpus.valid)
    size = corpus.valid.n_scored_bytes
    assert wrong == [
        f"bytes: the scores imply {size * 1.167:,.0f} bytes, the held-out text has {size:,} (ratio 1.1670)"
    ]


def test_training_records_the_fingerprint_of_an_untrained_model(tmp_path: Path) -> None:
    corpus = tiny.corpus()
    done = tiny.trained(tmp_path, None, corpus)
    found = done["untrained"]
    assert found["nats_per_token"] == pytest.approx(math.log(tiny.VOCAB), rel=0.02)
    assert found["bits_per_byte"] == pytest.approx(found["nats_per_token"] / math.log(2)), "each token is one byte here"
    assert found["bits_per_byte_of_ln_vocab"] == pytest.approx(math.log2(tiny.VOCAB))
    assert (found["tokens"], found["bytes"]) == (corpus.valid.n_targets, corpus.valid.n_scored_bytes)


def test_rows_that_count_other_bytes_than_the_corpus_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the rows' table of bytes is not the one that the corpus was counted with."""
    corpus = tiny.corpus()
    begin = Learner.__init__

    def other(self: Learner, *parts: Any, **how: Any) -> None:
        begin(self, *parts, **how)
        self.valid.n_bytes_RT[:] *= 2

    monkeypatch.setattr(Learner, "__init__", other)
    with pytest.raises(
        CheckFailed, match=r"the scores imply .* bytes, the held-out text has .* \(ratio 2\.0000\); token files"
    ):
        tiny.trained(tmp_path, None, corpus)
    assert not (tmp_path / "done.json").exists()


def test_weights_that_know_the_text_before_training_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knowing(self: Learner) -> dict[str, float]:
        nats, valid = 0.5, self.corpus_of_test.valid  # type: ignore[attr-defined]
        return {"nats_per_token": nats, "bits_per_byte": nats * valid.n_targets / (math.log(2) * valid.n_scored_bytes)}

    corpus = tiny.corpus()
    monkeypatch.setattr(Learner, "corpus_of_test", corpus, raising=False)
    monkeypatch.setattr(Learner, "validate", knowing)
    with pytest.raises(
        CheckFailed, match=r"scores 0\.5000 nats per token before its first step, where ln V = 3\.4965; its"
    ):
        tiny.trained(tmp_path, None, corpus)


def test_a_whole_corpus_counted_twice_is_not_what_the_study_declares() -> None:
    from ablab.data.corpus import checks

    corpus = tiny.corpus()
    checks.whole_text(corpus.valid.n_scored_bytes, corpus.valid.n_scored_bytes)
    with pytest.raises(CheckFailed, match=r"\(ratio 2\.0000\)"):
        checks.whole_text(doubled(corpus, 2).valid.n_scored_bytes, corpus.valid.n_scored_bytes)
    assert np.array_equal(doubled(corpus, 2).valid.marks, corpus.valid.marks)


def test_a_miniature_of_a_large_vocabulary_keeps_its_text_and_its_documents() -> None:
    from types import SimpleNamespace

    from ablab.check.miniature import FOLDED, LARGE, folded
    from ablab.data import Stream

    plain = tiny.corpus()
    assert folded(plain) is plain, "a small vocabulary stays as it is"
    tokens, valid = np.asarray(plain.tokens).astype(np.uint32) * 5_000, plain.valid
    held = Valid(valid.tokens.astype(np.uint32) * 5_000, valid.n_bytes, valid.starts[:-1], valid.digests, valid.marks)
    large = replace(plain, vocab_size=LARGE + 100_000, bos_id=tiny.BOS * 5_000, tokens=tokens, valid=held)
    large.__dict__["tokenizer"] = SimpleNamespace(encode=lambda text: (np.array([9_000]), np.array([len(text)])))
    small = folded(large)
    assert (small.vocab_size, small.bos_id) == (FOLDED, tiny.BOS * 5_000 % FOLDED)
    assert folded(large, "megatron") is large, "that order reads its files itself"
    how = {"seed": 1, "span": 32, "batch_tokens": 64, "seq_len": 32}
    for mine, whole in zip(Stream(small, **how).batch(3), Stream(large, **how).batch(3)):
        wanted = whole.numpy()
        assert np.array_equal(mine.numpy(), np.where(wanted < 0, wanted, wanted % FOLDED))
    assert np.array_equal(small.valid.tokens, held.tokens % FOLDED) and np.array_equal(small.valid.marks, held.marks)
    assert small.tokenizer.encode("abc")[0].tolist() == [9_000 - FOLDED]
