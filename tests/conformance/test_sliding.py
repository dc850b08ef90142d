"""`sliding` equals one window at a time, one pass equals its windows, and what may look far is never read in one pass."""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tests import tiny
from tests.conformance.held_out import Stand, corpus_of

from ablab.data import Corpus
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model import decoder as decoder_module
from ablab.model import embeddings, positions
from ablab.model.decoder import Decoder, build
from ablab.model.parts.rotation import frequencies
from ablab.model.positions.rope import Rope
from ablab.model.shape import Shape
from ablab.scoring import cuts
from ablab.scoring.cuts import Cut
from ablab.scoring.evaluators import sliding as module
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.sliding import Sliding, n_windows, offsets
from ablab.scoring.legality import forward as legal
from ablab.scoring.receptive import receptive

SEQ_LEN, WINDOW = 24, 4
LENGTHS = [0, 1, 5, 23, 24, 25, 60, 83, 2]
BACK = positions.slot.names  # every scheme


def made(layers: str = "LL", dtype: torch.dtype = torch.float64, **changed: Any) -> Decoder:
    """A decoder that is no longer neutral: every part does something."""
    lever = changed.pop("position", "rope")
    kinds = {"L": tiny.kind("local", WINDOW, position=lever), "G": tiny.kind("global", None, position=lever)}
    model = tiny.model(layers=layers, kinds=kinds, seq_len=SEQ_LEN, init_std=0.2, **changed)
    decoder = build(model, vocab_size=tiny.VOCAB, seed=1, dtype=dtype)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            draw = torch.from_numpy(np.random.Generator(np.random.Philox(len(name))).standard_normal(parameter.shape))
            parameter += 0.1 * draw
    return decoder


def settings(seq_len: int = SEQ_LEN) -> dict[str, Any]:
    return {"model": {"seq_len": seq_len}}


def run(lever: Any, model: Any, corpus: Corpus, precision: str = "fp64") -> Any:
    return lever(model, corpus, settings(), seed=0, precision=precision)


@torch.no_grad()
def by_hand(model: Decoder, corpus: Corpus, seq_len: int, stride: int) -> tuple[np.ndarray, dict[int, int]]:
    """One window at a time: nats of each document, and how many were scored at each place of their window."""
    nats, places = np.zeros(len(corpus.valid)), dict[int, int]()
    for number, (ids, _, marks) in enumerate(corpus.valid):
        inputs, start = len(ids) - 1, 0
        while inputs > 0:
            window = torch.from_numpy(ids[start : start + seq_len + 1])
            tokens = window[None, :-1]
            log_p = model.logits(model(tokens, torch.zeros_like(tokens)))[0].log_softmax(-1)
            for place in range(seq_len - stride if start else 0, tokens.shape[1]):
                if marks[start + place + 1] != UNTRAINED:
                    nats[number] -= float(log_p[place, window[place + 1]])
                    places[place] = places.get(place, 0) + 1
            if start + seq_len >= inputs:
                break
            start += stride
    return nats, places


@pytest.mark.parametrize("layers", ["LL", "LG"])
@pytest.mark.parametrize("seq_len", [None, 7, 40])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_equals_one_window_at_a_time(stride: int, seq_len: int | None, layers: str) -> None:
    many = LENGTHS if stride > 1 else [0, 1, 33, 24]
    model, corpus = made(layers), corpus_of(many)
    found = run(Sliding(stride=stride, seq_len=seq_len), model, corpus)
    length = seq_len or SEQ_LEN
    nats, places = by_hand(model, corpus, length, stride)
    np.testing.assert_allclose(found.nats, nats, rtol=1e-12)
    assert found.tokens.tolist() == many and found.violations == [] and legal.complete(found, corpus) == []
    once = layers == "LL" and length - stride >= 2 * (WINDOW - 1)
    assert found.extra["way"] == ("one pass" if once else "windows")
    for i, (low, high) in enumerate(zip(found.bands["edges"], found.bands["edges"][1:])):
        assert found.bands["tokens"][i] == sum(n for place, n in places.items() if low <= place < high)
    assert found.bands["edges"][-1] == length


def test_at_full_stride_it_is_disjoint() -> None:
    for layers in ("LL", "LG"):
        model, corpus = made(layers), corpus_of(LENGTHS)
        one, other = run(Sliding(stride=SEQ_LEN), model, corpus), run(Disjoint(), model, corpus)
        np.testing.assert_allclose(one.nats, other.nats, rtol=1e-12)
        assert one.bands["tokens"] == other.bands["tokens"]


def test_more_context_changes_scores_behind_the_first_window_alone() -> None:
    model, corpus = made("LG"), corpus_of(LENGTHS)
    short, long = (run(Sliding(stride=s), model, corpus).nats for s in (3, SEQ_LEN))
    whole = np.array(LENGTHS) <= SEQ_LEN
    np.testing.assert_allclose(short[whole], long[whole], rtol=1e-12)
    assert (np.abs(short - long)[~whole] > 1e-6).all()


def test_masked_targets_are_context_only() -> None:
    corpus = corpus_of(LENGTHS)
    corpus.valid.marks[7:40] = UNTRAINED
    corpus.valid.marks[130:135] = UNTRAINED
    for layers in ("LL", "LG"):
        model = made(layers)
        found = run(Sliding(stride=5), model, corpus)
        np.testing.assert_allclose(found.nats, by_hand(model, corpus, SEQ_LEN, 5)[0], rtol=1e-12)
        assert found.violations == [] and legal.complete(found, corpus) == []


@given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.integers(1, 24), st.integers(0, 23))
@examples(deadline=None, max_examples=30)
def test_every_target_is_scored_once(lengths: list[int], seq_len: int, less: int) -> None:
    stride, corpus = max(1, seq_len - less), corpus_of(lengths)
    found = run(Sliding(stride=stride, seq_len=seq_len), Stand(tiny.VOCAB), corpus, "fp32")
    assert found.tokens.tolist() == lengths and found.violations == [] and legal.complete(found, corpus) == []
    np.testing.assert_allclose(found.nats, np.array(lengths) * math.log(tiny.VOCAB), rtol=1e-6)
    cuts_of = list(module.windows(lengths, seq_len, stride))
    assert len(cuts_of) == found.extra["windows"] == sum(n_windows(n, seq_len, stride) for n in lengths)
    assert found.extra["forwarded_tokens"] == sum(cut.stop - cut.start for cut in cuts_of)
    for cut in cuts_of:  # the windows agree with the formula of the bands
        inputs = np.arange(cut.first, cut.stop)
        assert (offsets(inputs, seq_len, stride) == inputs - cut.start).all() and len(inputs)


def test_golf_s_count_of_windows() -> None:
    assert n_windows(40_540_160, 2048, 64) == 633_409


def test_rows_of_a_forward_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for layers in ("LL", "LG"):
        model, corpus, sums = made(layers), corpus_of([*LENGTHS, 150]), []
        for tokens in (40, 100, 1 << 16):
            monkeypatch.setattr(decoder_module, "FORWARD_TOKENS", tokens)
            sums.append(run(Sliding(stride=5), model, corpus).nats)
        np.testing.assert_allclose(sums[1:], [sums[0]] * 2, rtol=1e-12)


def test_short_windows_share_rows() -> None:
    corpus = corpus_of([3] * 40)
    (batch,) = cuts.batches(corpus, module.windows([3] * 40, SEQ_LEN, 4), SEQ_LEN, 5 * SEQ_LEN)
    assert batch.tokens_BT.shape == (5, SEQ_LEN) and batch.tokens == 120
    assert len(np.unique(batch.ids_BT)) == 40


# ---- one pass


@pytest.mark.parametrize("lever", BACK)
def test_one_pass_equals_the_windows_for_every_relative_scheme(lever: str) -> None:
    """And only what says so takes it: what calls itself relative must be. A new scheme that says nothing takes windows."""
    model, corpus = made("LLL", position=lever), corpus_of(LENGTHS)
    relative = positions.slot.load(lever).relative
    assert receptive(model) == (3 * (WINDOW - 1) if relative else None)
    found = run(Sliding(stride=7), model, corpus)
    assert found.extra["way"] == ("one pass" if relative else "windows")
    np.testing.assert_allclose(found.nats, by_hand(model, corpus, SEQ_LEN, 7)[0], rtol=1e-12)


def test_which_schemes_are_relative() -> None:
    own = (
        "nope",
        "rope",
        "grape_m",
        "grape_a",
        "fox",
        "t5_buckets",
        "grape_m_rank2",
        "grape_m_basis",
        "grape_m_context",
    )
    assert all(positions.slot.load(lever).relative for lever in (*own, "grape_a_gated"))
    assert not positions.slot.load("grape_ap").relative


@pytest.mark.parametrize("lever", embeddings.slot.names)
def test_one_pass_counts_how_far_an_embedding_looks_back(lever: str) -> None:
    known = {"plain": 0, "norm": 0, "bigram_hash": 1, "smear_gate": 1, "learned": None}.get(lever)
    model = made("LLL", embedding=tiny.choice(embeddings.slot, lever))
    assert receptive(model) == (None if known is None else 9 + known)
    corpus = corpus_of([0, 5, 24, 60, 83])
    found = run(Sliding(stride=SEQ_LEN - 10), model, corpus)
    assert found.extra["way"] == ("windows" if known is None else "one pass")
    np.testing.assert_allclose(found.nats, by_hand(model, corpus, SEQ_LEN, SEQ_LEN - 10)[0], rtol=1e-12)


def test_several_levers_look_back_together() -> None:
    several = [tiny.choice(embeddings.slot, name) for name in ("bigram_hash", "norm", "smear_gate")]
    assert receptive(made(embedding=several)) == 2 * (WINDOW - 1) + 2
    unknown = [*several, tiny.choice(embeddings.slot, "learned")]
    assert receptive(made(embedding=unknown)) is None
    two = [tiny.choice(positions.slot, name) for name in ("grape_m", "fox")]
    assert receptive(made(position=two)) == 2 * (WINDOW - 1)
    assert receptive(made(position=[*two, tiny.choice(positions.slot, "grape_ap")])) is None


def test_loops_count_as_often_as_they_are_met() -> None:
    model = made("LL", loops=[[0, 2, 3]], loop_from=0.5)
    assert receptive(model) == 6 * (WINDOW - 1)
    model.at(0.0)
    assert receptive(model) == 2 * (WINDOW - 1)


def test_the_receptive_field_is_exact() -> None:
    """One token further back nothing is felt; the last token of it is."""
    model = made("LLL", embedding=tiny.choice(embeddings.slot, "smear_gate"))
    reach, tokens = receptive(model), torch.arange(40)[None] % 32
    assert reach == 10
    with torch.no_grad():
        plain = model(tokens, torch.zeros_like(tokens))[0, -1]
        moved = []
        for back in (reach, reach + 1):
            other = tokens.clone()
            other[0, -1 - back] = 3
            moved.append(float((model(other, torch.zeros_like(tokens))[0, -1] - plain).abs().max()))
    assert moved[0] > 1e-12 and moved[1] == 0.0


def test_one_layer_that_sees_everything_takes_windows() -> None:
    assert receptive(made("LGL")) is None and receptive(Stand(tiny.VOCAB)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("stride, way", [(18, "one pass"), (19, "windows")])
def test_one_pass_needs_its_context_inside_the_window(stride: int, way: str) -> None:
    found = run(Sliding(stride=stride), made("LL"), corpus_of(LENGTHS))
    assert found.extra["way"] == way


def test_one_pass_reads_long_documents_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "FORWARD_TOKENS", 32)
    model, corpus = made("LL"), corpus_of([300, 31, 32, 33])
    found = run(Sliding(stride=4), model, corpus)
    assert found.extra["way"] == "one pass" and 396 < found.extra["forwarded_tokens"] < 2 * 396
    np.testing.assert_allclose(found.nats, by_hand(model, corpus, SEQ_LEN, 4)[0], rtol=1e-12)


def test_one_pass_is_the_windows_in_fp32_up_to_rounding() -> None:
    model, corpus = made("LL", torch.float32), corpus_of(LENGTHS)
    found = run(Sliding(stride=4), model, corpus, "fp32")
    np.testing.assert_allclose(found.nats, by_hand(model.double(), corpus, SEQ_LEN, 4)[0], rtol=2e-6)


# ---- other lengths


def test_ntk_stretches_the_base() -> None:
    """parameter-golf's example: 4096 for 2048 with 16 rotated channels multiplies the base by 2.208."""
    sizes = {"d_model": 64, "n_heads": 1, "n_kv_heads": 1, "head_dim": 64, "vocab_size": 8, "n_layers": 1}
    rope = Rope(Shape(seq_len=2048, **sizes), fraction=0.25, ntk=True)
    rope.declare(4096)
    torch.testing.assert_close(rope.freq, frequencies(16, 10000.0 * 2 ** (16 / 14)).float())
    base = float(rope.freq[1]) ** -8  # freq_j = base^(-2j / 16)
    assert base / 10000.0 == pytest.approx(2.208, abs=5e-4)
    rope.declare(2048)
    torch.testing.assert_close(rope.freq, frequencies(16, 10000.0).float())


@pytest.mark.parametrize("layers", ["LL", "GG"])
def test_another_length_is_declared_and_taken_back(layers: str) -> None:
    corpus, scored = corpus_of([70, 100]), {}
    for ntk in (False, True):
        rope = {"name": "rope", "theta": 100.0, "fraction": 1.0, "ntk": ntk}
        model = made(layers, position=rope)
        for length in (None, 48):
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            scored[ntk, length] = run(Sliding(stride=8, seq_len=length), model, corpus).nats
            assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert np.array_equal(scored[False, None], scored[True, None])
    assert not np.allclose(scored[False, 48], scored[True, 48], rtol=1e-9)


# ---- settings


@pytest.mark.parametrize(
    "asked, text",
    [
        ({"stride": 0}, "stride = 0 never moves on; give at least 1"),
        (
            {"stride": 96, "seq_len": 64},
            "stride = 96 is more than seq_len 64; tokens between the windows would have no",
        ),
        ({"seq_len": 0, "stride": 1}, "seq_len = 0 is no length; give at least 1"),
        ({"documents": 0}, "documents = 0 scores nothing; give at least 1"),
    ],
)
def test_impossible_settings_are_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Sliding(**asked)


def test_a_stride_beyond_the_trained_length_is_refused_when_it_is_known() -> None:
    text = (
        f"stride = 25 is more than seq_len {SEQ_LEN}; tokens between the windows would have no score, so give at most"
    )
    with pytest.raises(ValueError, match=text):
        run(Sliding(stride=25), made(), corpus_of([3]))
    with pytest.raises(ValueError, match=text):
        Sliding(stride=25).rehearsal(settings())


def test_learned_places_reach_no_further_than_they_were_trained() -> None:
    model = made("GG", embedding=tiny.choice(embeddings.slot, "learned"))
    run(Sliding(stride=8), model, corpus_of([100]))
    with pytest.raises(
        ValueError, match=f"place {SEQ_LEN} is beyond the {SEQ_LEN} learned places; raise model.seq_len"
    ):
        run(Sliding(stride=8, seq_len=SEQ_LEN + 1), model, corpus_of([100]))


def test_a_rehearsal_slides() -> None:
    lever, size = Sliding(stride=5).rehearsal(settings())
    found = run(lever, made("LG"), corpus_of([size * 2 // 3 - 1]))
    assert found.extra["windows"] == 3


def test_a_miniature_keeps_its_proportions() -> None:
    asked = {"name": "sliding", "stride": 64, "seq_len": None, "documents": 9}
    assert Sliding.miniature(asked, 1 / 32) == {"documents": None, "seq_len": None, "stride": 2}
    assert Sliding.miniature(asked | {"seq_len": 4096}, 1 / 32) == {"documents": None, "seq_len": 128, "stride": 2}
    assert Sliding.miniature(asked | {"seq_len": 64}, 1 / 32)["stride"] <= 4


def test_a_tail_scored_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An early parameter-golf script let a window begin at every stride before the end, and scored each one's last places."""

    def every_start(lengths: list[int], seq_len: int, stride: int) -> Iterator[Cut]:
        for document, inputs in enumerate(lengths):
            for start in range(0, inputs, stride):
                stop = min(start + seq_len, inputs)
                yield Cut(document, start, stop, max(start, stop - stride) if start else 0)

    monkeypatch.setattr(module, "windows", every_start)
    found = run(Sliding(stride=6), made("LG"), corpus_of([60]))
    assert [violation.split(":")[0] for violation in found.violations] == [
        "C4 single pass"
    ] and "more than once" in found.violations[0]
    assert legal.complete(found, corpus_of([60]))[0].startswith("tokens: ")
