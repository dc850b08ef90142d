"""Every evaluator changes nothing and repeats. `disjoint` equals brute force. `needle`: zero untrained, exact on oracles."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from tests.conformance.held_out import Lag, Recall, Stand, corpus_of, text_corpus

from ablab.core.fault import CheckFailed
from ablab.data import Corpus
from ablab.data.bands import band_edges
from ablab.model import decoder as decoder_module
from ablab.model.decoder import Decoder, build
from ablab.scoring import evaluators
from ablab.scoring.evaluators import disjoint
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.needle import Needle, induction, local_reach, passkey, wilson
from ablab.scoring.ledger import Ledger
from ablab.scoring.legality import forward, replay
from ablab.scoring.scores import Scores

LEVERS = evaluators.slot.names
SEQ_LEN = 128
SMALL: dict[str, dict[str, Any]] = {"sliding": {"stride": 4}, "ngram": {"chunk": 4, "weight": 0.5}}  # for seq_len 16
ASKED: dict[str, Any] = {"model": tiny.model(seq_len=SEQ_LEN)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return text_corpus(tmp_path_factory.mktemp("text"))


def decoder(corpus: Corpus, dtype: torch.dtype = torch.float32, **changed: Any) -> Decoder:
    return build(ASKED["model"] | changed, vocab_size=corpus.vocab_size, seed=1, dtype=dtype)


def score(lever: Any, model: Any, corpus: Corpus, precision: str = "fp32", seed: int = 0) -> Scores:
    found = lever(model, corpus, ASKED, seed=seed, precision=precision)
    assert isinstance(found, Scores)
    return found


@pytest.mark.parametrize("name", LEVERS)
def test_repeats_exactly_and_changes_nothing(name: str, corpus: Corpus) -> None:
    lever = evaluators.slot.build(tiny.choice(evaluators.slot, name))
    model = decoder(corpus).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one, two = score(lever, model, corpus), score(lever, model, corpus, seed=9)
    assert np.array_equal(one.nats, two.nats) and one.extra == two.extra and one.bands == two.bands
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("name", LEVERS)
def test_says_whether_it_may_decide(name: str) -> None:
    assert evaluators.slot.load(name).decides is (name != "needle")


@pytest.mark.parametrize("name", LEVERS)
def test_unknown_precision_is_refused(name: str, corpus: Corpus) -> None:
    lever = evaluators.slot.build(tiny.choice(evaluators.slot, name))
    with pytest.raises(ValueError, match="no precision is called 'fp8'; choose fp32, bf16 or fp64"):
        score(lever, decoder(corpus), corpus, precision="fp8")


@pytest.mark.parametrize("name", [name for name in LEVERS if evaluators.slot.load(name).decides])
def test_a_replay_finds_nothing(name: str) -> None:
    """Later tokens move no earlier score, bit for bit, and what is scored is one distribution."""
    asked = {"model": tiny.model(seq_len=16)}
    model = build(asked["model"], vocab_size=tiny.VOCAB, seed=1, executor="reference")
    lever = evaluators.slot.build(tiny.choice(evaluators.slot, {"name": name, **SMALL.get(name, {})}))
    how: dict[str, Any] = {"seed": 0, "precision": "fp32", "executor": "reference"}
    found, checked = replay.check(lever, model, tiny.corpus(), asked, **how)
    assert found == [] and checked["replayed"] == checked["at"] == 0.0
    assert checked["mass"] < 1e-5 and checked["score"] < 1e-4


# ---- disjoint


def brute_force(model: Decoder, corpus: Corpus) -> tuple[np.ndarray, dict[int, list[float]]]:
    """Document by document, window by window, target by target."""
    nats, places = np.zeros(len(corpus.valid)), dict[int, list[float]]()
    with torch.no_grad():
        for number, (ids, *_) in enumerate(corpus.valid):
            for start in range(0, len(ids) - 1, SEQ_LEN):
                window = torch.from_numpy(ids[start : start + SEQ_LEN + 1])[None]
                tokens = window[:, :-1]
                logits = model.logits(model(tokens, torch.zeros_like(tokens)))
                own = -logits.log_softmax(-1).gather(-1, window[:, 1:, None])[0, :, 0].numpy()
                nats[number] += own.sum()
                for place, value in enumerate(own.tolist()):
                    places.setdefault(place, []).append(value)
    return nats, places


def test_disjoint_equals_brute_force(corpus: Corpus) -> None:
    model = decoder(corpus, torch.float64, init_std=0.2)
    found, (nats, places) = score(Disjoint(), model, corpus, "fp64"), brute_force(model, corpus)
    np.testing.assert_allclose(found.nats, nats, rtol=1e-12)
    assert found.tokens.tolist() == [len(ids) - 1 for ids, *_ in corpus.valid]
    assert found.bytes.tolist() == [int(n.sum()) for _, n, _ in corpus.valid]
    for i, (low, high) in enumerate(zip(found.bands["edges"], found.bands["edges"][1:])):
        here = [v for place, values in places.items() if low <= place < high for v in values]
        assert found.bands["tokens"][i] == len(here)
        assert found.bands["nats"][i] == pytest.approx(sum(here), rel=1e-12)
    assert found.violations == [] and forward.complete(found, corpus) == []
    assert found.nats_per_token == pytest.approx(nats.sum() / corpus.valid.n_targets)
    assert found.bits_per_byte == pytest.approx(nats.sum() / math.log(2) / found.bytes.sum())


def test_disjoint_does_not_depend_on_rows_per_forward(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sums = decoder(corpus), []
    for tokens in (1, 3 * SEQ_LEN, 1 << 20):
        monkeypatch.setattr(decoder_module, "FORWARD_TOKENS", tokens)
        sums.append(score(Disjoint(), model, corpus).nats)
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-6)
    np.testing.assert_allclose(sums[2], sums[0], rtol=1e-6)


def test_disjoint_scores_in_bf16_what_it_scores_in_fp32(corpus: Corpus) -> None:
    model = decoder(corpus)
    one, other = (score(Disjoint(), model, corpus, p).nats for p in ("fp32", "bf16"))
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(other, one, rtol=1e-2)


def test_disjoint_takes_the_first_documents(corpus: Corpus) -> None:
    model = decoder(corpus)
    few, every = score(Disjoint(documents=3), model, corpus), score(Disjoint(), model, corpus)
    np.testing.assert_allclose(few.nats, every.nats[:3], rtol=1e-6)
    assert few.violations == [] and forward.complete(few, corpus, 3) == []
    assert forward.complete(few, corpus)[0] == f"tokens: 3 documents were scored, the corpus has {len(corpus.valid)}"
    with pytest.raises(ValueError, match="documents = 0 scores nothing; give at least 1"):
        Disjoint(documents=0)
    more, there = len(corpus.valid) + 1, f"is more than the {len(corpus.valid)} held-out documents; give at most that"
    for ask in (Disjoint(documents=more).fit, lambda asked, text: score(Disjoint(documents=more), model, text)):
        with pytest.raises(ValueError, match=f"documents = {more} {there}"):
            ask({"model": {"seq_len": 32}}, corpus)


@given(st.lists(st.integers(0, 80), min_size=1, max_size=12), st.sampled_from([1, 2, 5, 32]))
@settings(deadline=None, max_examples=60)
def test_disjoint_counts_every_target_once(lengths: list[int], seq_len: int) -> None:
    corpus = corpus_of(lengths)
    found = Disjoint()(Stand(tiny.VOCAB), corpus, {"model": {"seq_len": seq_len}}, seed=0, precision="fp32")  # type: ignore[arg-type]
    assert found.tokens.tolist() == lengths and found.violations == [] and forward.complete(found, corpus) == []
    assert sum(found.bands["tokens"]) == sum(lengths)
    np.testing.assert_allclose(found.nats, np.array(lengths) * math.log(tiny.VOCAB), rtol=1e-6)
    if not sum(lengths):
        assert found.nats_per_token is None and found.bits_per_byte is None


def test_disjoint_declares_its_length_and_takes_it_back() -> None:
    """A longer evaluation reaches rope's ntk; without ntk, or at the trained length, nothing moves."""
    scored = {}
    for ntk in (False, True):
        model_settings = tiny.model(seq_len=16)
        for kind in model_settings["kinds"].values():
            kind["window"], kind["position"] = None, {"name": "rope", "theta": 100.0, "fraction": 1.0, "ntk": ntk}
        model = build(model_settings, vocab_size=tiny.VOCAB, seed=0)
        for length in (None, 64):
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            found = Disjoint(seq_len=length)(model, tiny.corpus(), {"model": model_settings}, seed=0, precision="fp32")
            scored[ntk, length] = found.nats
            assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert np.array_equal(scored[False, None], scored[True, None])
    assert not np.array_equal(scored[False, 64], scored[True, 64])


@pytest.mark.parametrize("seq_len, edges", [(1, [0, 1]), (2, [0, 1, 2]), (6, [0, 1, 2, 4, 6]), (8, [0, 1, 2, 4, 8])])
def test_band_edges(seq_len: int, edges: list[int]) -> None:
    assert band_edges(seq_len) == edges


# ---- checks: what is illegal is found


class Leak(Decoder):
    """Adds a little of the next token's logits: every nll is a proper distribution that has seen the future."""

    share = 0.01

    def forward(self, tokens_BT: torch.Tensor, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        same = (ids_BT == ids_BT.roll(-1, 1))[..., None]
        return super().forward(tokens_BT, ids_BT, *rest) + self.share * same * self.embed(tokens_BT.roll(-1, 1))


class Crossing(Decoder):
    """Adds the row's first token everywhere: the past, but of another document."""

    def forward(self, tokens_BT: torch.Tensor, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        return super().forward(tokens_BT, ids_BT, *rest) + 0.5 * self.embed(tokens_BT[:, :1])


class Unnormalised(Decoder):
    """Every nll is too small: the distribution sums to e."""

    def nll(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        return super().nll(tokens_BT, targets_BT, ids_BT) - (targets_BT >= 0).float()


class Widening(Leak):
    """Leaks in bf16 alone, as a kernel of that precision might."""

    def forward(self, tokens_BT: torch.Tensor, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.share = 10.0 if torch.is_autocast_enabled("cpu") else 0.0
        return super().forward(tokens_BT, ids_BT, *rest)


def violations(kind: type[Decoder], corpus: Corpus, precision: str = "fp32", executor: str = "lift") -> list[str]:
    model = build(ASKED["model"], vocab_size=corpus.vocab_size, seed=1, executor=executor)
    model.__class__ = kind
    return forward.check(model, corpus, ASKED, precision=precision, executor=executor)[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gates_pass_a_legal_model(precision: str, corpus: Corpus) -> None:
    assert violations(Decoder, corpus, precision) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "kind, named",
    [(Leak, ["C1 causal"]), (Crossing, ["C1 documents"]), (Unnormalised, ["C2 normalised", "C2 scorer"])],
    ids=["future", "other document", "sum"],
)
def test_gates_name_what_is_violated(kind: type[Decoder], named: list[str], precision: str, corpus: Corpus) -> None:
    found = violations(kind, corpus, precision)
    assert [violation.split(":")[0] for violation in found] == named


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("executor", ["lift", "reference"])
@pytest.mark.parametrize("share", [0.1, 0.01, 1e-3, 1e-4, 1e-5])
def test_no_precision_rounds_a_leak_away(share: float, executor: str, precision: str, corpus: Corpus) -> None:
    """1% of the next token moves an nll by 1.6e-4 in fp32 and by 7e-6 in bf16, where the C1 check once looked alone."""
    kind = type("Little", (Leak,), {"share": share})
    found = violations(kind, corpus, precision, executor)
    assert [violation.split(":")[0] for violation in found] == ["C1 causal"]


def test_a_leak_that_only_bf16_has_is_found(corpus: Corpus) -> None:
    assert [violations(Widening, corpus, word) for word in ("fp32", "fp64")] == [[], []]
    assert [violation.split(":")[0] for violation in violations(Widening, corpus, "bf16")] == ["C1 causal"]


def test_gates_find_the_sum_in_a_large_vocabulary(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "SUMMED_VOCABULARY", 10)
    assert violations(Decoder, corpus) == []
    assert [violation.split(":")[0] for violation in violations(Unnormalised, corpus)] == ["C2 scorer"]


def test_gates_hold_bit_for_bit_in_the_reference_executor(corpus: Corpus) -> None:
    model = build(ASKED["model"], vocab_size=corpus.vocab_size, seed=1, executor="reference")
    found, checked = forward.check(model, corpus, ASKED, precision="fp32", executor="reference")
    assert found == [] and checked["causal"] == checked["documents"] == 0.0


@pytest.mark.parametrize("kind, named", [(Decoder, []), (Leak, ["C1 causal"]), (Crossing, ["C1 documents"])])
@pytest.mark.parametrize("executor", ["lift", "reference"])
def test_gates_of_a_mixture(kind: type[Decoder], named: list[str], executor: str, corpus: Corpus) -> None:
    """Who shares an expert changes rounding, no more."""
    kinds = {letter: tiny.kind(letter, None, mlp={"name": "moe", "n_experts": 4, "shared": 1.0}) for letter in "LG"}
    model = build(ASKED["model"] | {"kinds": kinds}, vocab_size=corpus.vocab_size, seed=1, executor=executor)
    model.__class__ = kind
    found, _ = forward.check(model, corpus, ASKED, precision="fp32", executor=executor)
    assert [violation.split(":")[0] for violation in found] == named and model.embed.weight.dtype == torch.float32


def test_gates_fail_on_nan(corpus: Corpus) -> None:
    model = decoder(corpus)
    with torch.no_grad():
        model.embed.weight.fill_(math.nan)
    found = forward.check(model, corpus, ASKED, precision="fp32", executor="lift")[0]
    assert [violation.split(":")[0] for violation in found] == [
        "C1 causal",
        "C1 documents",
        "C2 normalised",
        "C2 scorer",
    ]


def test_gates_sample_rows_with_several_documents(corpus: Corpus) -> None:
    rows = forward.sample(corpus, SEQ_LEN)
    assert len(rows) == forward.ROWS
    windows = [len(np.unique(ids[targets >= 0])) for ids, targets in zip(rows.ids_RT, rows.targets_RT)]
    assert sum(count > 1 for count in windows) >= forward.ROWS // 2


def test_gates_need_something_to_score() -> None:
    with pytest.raises(CheckFailed, match="data: the first 16 validation documents are empty; remove empty documents"):
        forward.sample(corpus_of([0] * 20), SEQ_LEN)


def test_a_target_scored_257_times_is_scored_more_than_once() -> None:
    ledger = Ledger(text := corpus_of([3]))
    for _ in range(257):
        ledger.score(np.zeros(3, int), np.arange(1, 4), np.zeros(3, int), np.ones(3))
    assert ledger.violations() == ["C4 single pass: 0 targets were never scored, 3 more than once"]
    ledger = Ledger(text)
    ledger.score(np.zeros(4, int), np.array([1, 2, 3, 3]), np.zeros(4, int), np.ones(4))
    assert ledger.violations() == ["C4 single pass: 0 targets were never scored, 1 more than once"]


def test_missing_and_repeated_targets_are_named(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = disjoint.valid_rows

    def broken(corpus: Corpus, seq_len: int) -> Any:
        rows = real(corpus, seq_len)
        rows.targets_RT[0, 0] = -1
        rows.place_RT[1, 1] = rows.place_RT[1, 0]
        return rows

    monkeypatch.setattr(disjoint, "valid_rows", broken)
    found = score(Disjoint(), decoder(corpus), corpus)
    assert found.violations == ["C4 single pass: 2 targets were never scored, 1 more than once"]
    assert forward.complete(found, corpus)[0].startswith("tokens: ")


# ---- needle

CELLS = (0.0, 0.5, 1.0)


def test_needle_is_zero_untrained(corpus: Corpus) -> None:
    found = score(Needle(items=24), decoder(corpus), corpus).extra
    assert abs(found["score"]) < 5 * found["score_se"] + 1e-3 and abs(found["score"]) < 0.05
    assert not found["above_floor"] and found["below_ceiling"]
    assert found["acc"] < 0.15 and found["chance"] == 1 / 32
    for value, se in zip(found["induction"]["values"], found["induction"]["se"]):
        assert abs(value) < 5 * se + 1e-3 and abs(value) < 0.05
    assert found["tokens"] <= 50_000


def test_recall_is_at_the_maximum_everywhere(corpus: Corpus) -> None:
    model = Recall(corpus.vocab_size)
    found = score(Needle(items=8, depths=CELLS), model, corpus).extra
    assert found["acc"] == 1.0 and found["prior_acc"] < 0.2 and not found["below_ceiling"] and found["above_floor"]
    assert found["passkey"]["lengths"] == [32, 64, 128] and found["passkey"]["depths"] == list(CELLS)
    np.testing.assert_allclose(found["passkey"]["score"], np.full((3, 3), model.margin), atol=1e-9)
    assert found["passkey"]["acc"] == [[1.0] * 3] * 3
    assert found["score"] == pytest.approx(model.margin) and found["acc_low"] < 1.0


def test_perfect_copying_saves_every_nat(corpus: Corpus) -> None:
    segment = induction.segment_of(SEQ_LEN)
    found = score(Needle(items=4), Lag(corpus.vocab_size, segment), corpus).extra["induction"]
    np.testing.assert_allclose(found["values"], math.log(corpus.vocab_size), atol=1e-5)
    assert found["lags"] == [16, 32, 64, 112] and found["items"] == 4


def test_a_blind_model_scores_nothing(corpus: Corpus) -> None:
    found = score(Needle(items=4), Stand(corpus.vocab_size), corpus).extra
    assert found["score"] == 0.0 and found["acc"] == 0.0 and found["induction"]["values"] == [0.0] * 4


def test_a_model_that_forgets_shows_it_by_depth_and_lag(corpus: Corpus) -> None:
    class Short(Recall):
        def guess(self, row: np.ndarray) -> np.ndarray:
            return np.where(np.arange(len(row)) < 40, super().guess(row), super().guess(row[-40:])[-1])

    found = score(Needle(items=4, depths=(0.0, 1.0), lengths=(128,)), Short(corpus.vocab_size), corpus).extra
    assert found["passkey"]["acc"] == [[0.0, 1.0]]


def test_items_are_the_same_for_every_run_and_change_with_the_corpus(corpus: Corpus) -> None:
    lever = Needle(items=4)
    one = score(lever, decoder(corpus), corpus, seed=0).extra["items_hash"]
    other = build(ASKED["model"], vocab_size=corpus.vocab_size, seed=5)
    assert score(lever, other, corpus, seed=5).extra["items_hash"] == one
    elsewhere = dataclasses.replace(corpus, key="another")
    assert score(lever, decoder(corpus), elsewhere).extra["items_hash"] != one


def test_more_items_keep_the_first(corpus: Corpus) -> None:
    text = np.delete(corpus.valid.tokens, corpus.valid.starts[:-1]).astype(np.int64)
    phrase = passkey.phrase_of(lambda t: corpus.tokenizer.encode(t)[0].tolist(), 32)
    few, many = (passkey.items_of(phrase, text, 256, 64, CELLS, 32, n, "key") for n in (2, 5))
    assert np.array_equal(few.rows_IDT, many.rows_IDT[:2]) and np.array_equal(few.true_I, many.true_I[:2])


def test_needle_rows_read_as_text(corpus: Corpus) -> None:
    text = np.delete(corpus.valid.tokens, corpus.valid.starts[:-1]).astype(np.int64)
    encode = corpus.tokenizer.encode
    phrase = passkey.phrase_of(lambda t: encode(t)[0].tolist(), 32)
    made = passkey.items_of(phrase, text, corpus.bos_id, 64, CELLS, 32, 3, "key")
    for rows, candidates, true in zip(made.rows_IDT, made.candidates_IK, made.true_I):
        value = corpus.tokenizer.decode(candidates[[true]])
        shown = [corpus.tokenizer.decode(row) for row in rows]
        assert all(row[0] == corpus.bos_id for row in rows) and all(s.endswith(" key is ") for s in shown)
        assert [s.find(f" key is {value}.") for s in shown] == [0, 22, 45, -1]
        hay = [s.replace(f" key is {value}.", "", 1) for s in shown[:3]]
        assert hay[0] == hay[1] == hay[2] and shown[3].startswith(hay[0][:-8])
        assert len(set(candidates.tolist())) == 32 and value in passkey.VALUES


def test_budget_reduces_items_and_is_never_exceeded(corpus: Corpus) -> None:
    for budget in (10_000, 20_000, 33_333):
        found = score(Needle(tokens_budget=budget), Stand(corpus.vocab_size), corpus).extra
        assert 0.5 * budget < found["tokens"] <= budget
        assert found["items"] < 64
    with pytest.raises(ValueError, match="tokens_budget = 100 does not pay for two items; give at least 3360"):
        score(Needle(tokens_budget=100), Stand(corpus.vocab_size), corpus)
    score(Needle(tokens_budget=3360), Stand(corpus.vocab_size), corpus)


@pytest.mark.parametrize(
    "asked, text",
    [
        ({"lengths": (256,)}, "lengths: 256 is more than seq_len 128; give lengths the model was trained on"),
        ({"lengths": (20,)}, "lengths: 20 cannot hold a needle; give at least 27"),
        ({"lags": (120,)}, "lags: 120 does not fit; give 16 to 112 for seq_len 128"),
        (
            {"candidates": 500},
            "this tokenizer has only 62 values of one token for 500 candidates; set candidates <= 62",
        ),
    ],
)
def test_needle_refuses_what_does_not_fit(asked: dict[str, Any], text: str, corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=text):
        score(Needle(**asked), Stand(corpus.vocab_size), corpus)


@pytest.mark.parametrize(
    "asked, text",
    [
        ({"depths": (1.5,)}, "must lie in 0 to 1"),
        ({"depths": ()}, "must lie in 0 to 1"),
        ({"items": 1}, "items = 1 is too few; give at least 2"),
        ({"candidates": 1}, "candidates = 1 is too few"),
        ({"lengths": ()}, "must be positive numbers"),
        ({"lags": (0,)}, "must be positive numbers"),
        ({"tokens_budget": 0}, "tokens_budget = 0 pays for nothing"),
    ],
)
def test_needle_refuses_impossible_settings(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Needle(**asked)


def test_needle_says_that_a_row_is_too_short(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="seq_len 16 cannot hold a needle; it takes 27 tokens"):
        Needle()(Stand(257), corpus, {"model": tiny.model(seq_len=16)}, seed=0, precision="fp32")  # type: ignore[arg-type]


@pytest.mark.parametrize("vocab_size", [300, 330])
def test_needle_finds_values_of_one_piece(vocab_size: int, tmp_path: Path) -> None:
    pieces = text_corpus(tmp_path, {"name": "sentencepiece", "vocab_size": vocab_size})
    encode = pieces.tokenizer.encode
    phrase = passkey.phrase_of(lambda text: encode(text)[0].tolist(), 20)
    texts = {pieces.tokenizer.decode([*phrase.before, value, *phrase.after]) for value in phrase.values}
    assert len(texts) == len(phrase.values) >= 20
    model = Recall(pieces.vocab_size)
    model.least = len(phrase.before)
    assert score(Needle(items=3, candidates=20), model, pieces).extra["acc"] == 1.0


def test_local_reach_counts_windowed_layers() -> None:
    kinds = {"L": {"window": 8}, "G": {"window": None}}
    assert local_reach({"layers": "LLG", "kinds": kinds}) == 14
    assert local_reach({"layers": "GG", "kinds": kinds}) == 0


def test_wilson() -> None:
    low, high = wilson(8, 10)  # Wilson 1927; 0.4902 to 0.9433 in every table
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
