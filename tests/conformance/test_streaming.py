"""`streaming` equals one long forward, whatever the stretch; what cannot reach that far refuses; a small cache is told."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.conformance.held_out import corpus_of
from tests.conformance.test_sliding import SEQ_LEN, made, settings

from ablab.data import Corpus
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model import decoder as decoder_module
from ablab.model import embeddings, positions
from ablab.model.decoder import Decoder
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.streaming import Streaming
from ablab.scoring.legality import forward as legal

LENGTHS = [0, 1, 5, 23, 24, 25, 60, 83, 2, 70]


def run(lever: Any, model: Any, corpus: Corpus, precision: str = "fp64") -> Any:
    return lever(model, corpus, settings(), seed=0, precision=precision)


@torch.no_grad()
def by_hand(model: Decoder, corpus: Corpus, cache: int | None = None) -> np.ndarray:
    """Each document in one forward, from an empty start every `cache` inputs."""
    nats = np.zeros(len(corpus.valid))
    for number, (ids, _, marks) in enumerate(corpus.valid):
        for start in range(0, len(ids) - 1, cache or len(ids)):
            part = torch.from_numpy(ids[start : start + (cache or len(ids)) + 1])
            tokens = part[None, :-1]
            log_p = model.logits(model(tokens, torch.zeros_like(tokens)))[0].log_softmax(-1)
            own = -log_p.gather(-1, part[1:, None])[:, 0].numpy()
            nats[number] += own[marks[start + 1 : start + len(own) + 1] != UNTRAINED].sum()
    return nats


@pytest.mark.parametrize("position", ["nope", "grape_ap", "fox", "grape_m_context", "t5_buckets", "rope"])
@pytest.mark.parametrize("stretch", [None, 7, 200])
def test_equals_one_long_forward(stretch: int | None, position: str) -> None:
    lever = [tiny.choice(embeddings.slot, name) for name in ("bigram_hash", "smear_gate")]
    model, corpus = made("LGL", position=position, embedding=lever), corpus_of(LENGTHS)
    found = run(Streaming(stretch=stretch), model, corpus)
    np.testing.assert_allclose(found.nats, by_hand(model, corpus), rtol=1e-11)
    assert found.tokens.tolist() == LENGTHS and found.violations == [] and legal.complete(found, corpus) == []
    assert found.extra["restarts"] == 0 and found.extra["longest"] == 83 and "notes" not in found.extra
    assert found.extra["stretches"] == sum(-(-n // (stretch or SEQ_LEN)) for n in LENGTHS)
    edges = found.bands["edges"]
    assert edges[-1] == 83
    for i, (low, high) in enumerate(zip(edges, edges[1:])):
        assert found.bands["tokens"][i] == sum(max(0, min(high, n) - low) for n in LENGTHS)


def test_token_by_token() -> None:
    lever = [tiny.choice(embeddings.slot, name) for name in ("bigram_hash", "smear_gate")]
    model, corpus = made("LGL", position="fox", embedding=lever), corpus_of([0, 1, 5, 20])
    np.testing.assert_allclose(run(Streaming(stretch=1), model, corpus).nats, by_hand(model, corpus), rtol=1e-11)


@pytest.mark.parametrize("name", positions.slot.names)
def test_every_scheme_can_be_carried(name: str) -> None:
    model, corpus = made("LG", position=name), corpus_of([100, 60])
    np.testing.assert_allclose(run(Streaming(), model, corpus).nats, by_hand(model, corpus), rtol=1e-11)


def test_global_layers_see_what_windows_do_not() -> None:
    model, corpus = made("LG"), corpus_of(LENGTHS)
    one, other = run(Streaming(), model, corpus).nats, run(Disjoint(), model, corpus).nats
    short = np.array(LENGTHS) <= SEQ_LEN
    np.testing.assert_allclose(one[short], other[short], rtol=1e-12)
    assert (np.abs(one - other)[~short] > 1e-9).all()


def test_rows_beside_each_other_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, corpus, sums = made("LG"), corpus_of([*LENGTHS, 150]), []
    for tokens in (1, 50, 1 << 14):
        monkeypatch.setattr(decoder_module, "FORWARD_TOKENS", tokens)
        sums.append(run(Streaming(stretch=7), model, corpus).nats)
    np.testing.assert_allclose(sums[1:], [sums[0]] * 2, rtol=1e-12)


def test_masked_targets_are_context_only() -> None:
    model, corpus = made("LG"), corpus_of(LENGTHS)
    corpus.valid.marks[7:40] = UNTRAINED
    found = run(Streaming(stretch=5), model, corpus)
    np.testing.assert_allclose(found.nats, by_hand(model, corpus), rtol=1e-11)
    assert found.violations == [] and legal.complete(found, corpus) == []


def test_in_fp32_up_to_rounding() -> None:
    model, corpus = made("LG", torch.float32), corpus_of(LENGTHS)
    found = run(Streaming(stretch=9), model, corpus, "fp32")
    np.testing.assert_allclose(found.nats, by_hand(model.double(), corpus), rtol=2e-6)


# ---- a cache that is too small


def test_a_document_longer_than_the_cache_starts_afresh_and_says_so() -> None:
    model, corpus = made("LG"), corpus_of(LENGTHS)
    found = run(Streaming(stretch=10, cache=30), model, corpus)
    np.testing.assert_allclose(found.nats, by_hand(model, corpus, 30), rtol=1e-11)
    assert found.extra["restarts"] == 5 and found.extra["longest"] == 30 and found.violations == []
    assert found.extra["notes"] == ["3 documents are longer than cache = 30: they start afresh there, 5 times in all"]
    assert not np.allclose(found.nats, run(Streaming(), model, corpus).nats, rtol=1e-9)


def test_a_cache_that_suffices_says_nothing() -> None:
    model, corpus = made("LG"), corpus_of(LENGTHS)
    found = run(Streaming(cache=83), model, corpus)
    assert found.extra["restarts"] == 0 and "notes" not in found.extra
    np.testing.assert_allclose(found.nats, run(Streaming(), model, corpus).nats, rtol=1e-12)


# ---- what does not reach


def test_learned_places_refuse_long_documents_and_say_the_cure() -> None:
    model = made("LG", embedding=tiny.choice(embeddings.slot, "learned"))
    text = (
        "a document of 25 tokens: place 24 is beyond the 24 learned places; "
        "set cache = 24, or raise model.seq_len, or use a position lever that reaches further"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        run(Streaming(), model, corpus_of([3, 25]))
    run(Streaming(), model, corpus_of([3, 24]))
    corpus = corpus_of(LENGTHS)
    np.testing.assert_allclose(
        run(Streaming(cache=24), model, corpus).nats, run(Disjoint(), model, corpus).nats, rtol=1e-12
    )


def test_ntk_needs_a_length() -> None:
    rope = {"name": "rope", "theta": 100.0, "fraction": 1.0, "ntk": True}
    model, corpus = made("LG", position=rope), corpus_of([100])
    with pytest.raises(
        ValueError,
        match="rope's ntk needs the length that will be read, and without a cache streaming has none; set cache",
    ):
        run(Streaming(), model, corpus)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    one, other = run(Streaming(cache=100), model, corpus).nats, run(Streaming(cache=200), model, corpus).nats
    assert not np.allclose(one, other, rtol=1e-9)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


# ---- settings


@pytest.mark.parametrize(
    "asked, text",
    [
        ({"stretch": 0}, "stretch = 0 reads nothing; give at least 1"),
        ({"cache": 0}, "cache = 0 keeps nothing; give at least one stretch"),
        (
            {"stretch": 64, "cache": 63},
            "cache = 63 is less than one stretch of 64; give at least 64, or a shorter stretch",
        ),
        ({"documents": 0}, "documents = 0 scores nothing; give at least 1"),
    ],
)
def test_impossible_settings_are_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Streaming(**asked)


def test_a_cache_below_the_trained_length_is_refused_when_it_is_known() -> None:
    text = f"cache = 23 is less than one stretch of {SEQ_LEN}"
    with pytest.raises(ValueError, match=text):
        run(Streaming(cache=23), made(), corpus_of([3]))
    with pytest.raises(ValueError, match=text):
        Streaming(cache=23).rehearsal(settings())


def test_empty_documents_pass() -> None:
    found = run(Streaming(), made(), corpus_of([0, 0, 0]))
    assert found.tokens.tolist() == [0, 0, 0] and found.violations == [] and found.nats_per_token is None


@pytest.mark.parametrize("asked, restarts", [({}, 0), ({"cache": 2048}, 1)])
def test_a_rehearsal_reads_on(asked: dict[str, int], restarts: int) -> None:
    lever, size = Streaming(**asked).rehearsal(settings())
    found = run(lever, made("LG"), corpus_of([size * 2 // 3 - 1]))
    assert found.extra["stretches"] == 3 and found.extra["restarts"] == restarts


def test_a_miniature_keeps_its_proportions() -> None:
    asked = {"name": "streaming", "stretch": None, "cache": None, "documents": 9}
    assert Streaming.miniature(asked, 1 / 32) == {"documents": None, "stretch": None, "cache": None}
    sizes = Streaming.miniature(asked | {"stretch": 2048, "cache": 8192}, 1 / 32)
    assert sizes == {"documents": None, "stretch": 64, "cache": 256}
