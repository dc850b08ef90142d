"""Test-time training equals the same thing written out plainly, scores before it learns, and stops where it diverges."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from torch.func import functional_call

from ablab.core import rng
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model.decoder import Decoder, build
from ablab.scoring import evaluators
from ablab.scoring.evaluators import ttt_sgd
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.sliding import Sliding
from ablab.scoring.evaluators.ttt import descent, lora
from ablab.scoring.evaluators.ttt.lora import TARGETS, matrices
from ablab.scoring.evaluators.ttt.watch import Watch
from ablab.scoring.ledger import Ledger
from ablab.scoring.legality import replay
from ablab.scoring.scores import Scores

SEQ_LEN, V = 16, tiny.VOCAB
SGD: dict[str, Any] = {"name": "ttt_sgd", "chunk": 32, "optimizer": 0.1}
LORA: dict[str, Any] = {"name": "ttt_lora", "chunk": 6, "optimizer": 1e-2, "adapters": 3}
ttt = functools.partial(tiny.lever, evaluators.slot)


def corpus_of(lengths: list[int], name: str = "ttt", period: int | None = None) -> Corpus:
    """Documents with these many tokens after BOS; drawn, or the same `period` tokens again and again."""
    held = []
    for i, n in enumerate(lengths):
        drawn = rng.stream(0, "test", name, 0 if period else i).integers(0, 32, period or n)
        held.append(np.concatenate([[tiny.BOS], np.resize(drawn, n)]).astype(np.uint16))
    flat = np.concatenate(held)
    starts = np.cumsum([0, *map(len, held)])[:-1].astype(np.int64)
    digests = rng.stream(0, "test", "digests").integers(0, 256, (len(held), 16)).astype(np.uint8)
    valid = Valid(flat, (flat != tiny.BOS).astype(np.uint16), starts, digests)
    return dataclasses.replace(tiny.corpus(), valid=valid)


CORPUS = corpus_of([22, 0, 17, 3, 45, 8, 1, 20])


def asked_of(**changed: Any) -> dict[str, Any]:
    return {"model": tiny.model(seq_len=SEQ_LEN, init_std=0.2, **changed)}


def decoder(dtype: torch.dtype = torch.float64, executor: str = "lift", **changed: Any) -> Decoder:
    return build(asked_of(**changed)["model"], vocab_size=V, seed=1, dtype=dtype, executor=executor)


def score(
    lever: Any, model: Decoder, corpus: Corpus = CORPUS, precision: str = "fp64", seed: int = 0, **more: Any
) -> Scores:
    found: Scores = lever(model, corpus, asked_of(), seed=seed, precision=precision, **more)
    return found


def traced(lever: Any, model: Decoder, corpus: Corpus = CORPUS, precision: str = "fp64") -> np.ndarray:
    ledger = Ledger(corpus)
    found = score(lever, model, corpus, precision, ledger=ledger)
    assert found.violations == []
    return ledger.trace()


# ---- nothing learned, nothing changed


@pytest.mark.parametrize(
    "idle, dtype, precision, most",
    [({"optimizer": 0.0}, torch.float64, "fp64", 1e-12), ({"epochs": 0}, torch.float32, "fp32", 1e-6)],
    ids=["no rate", "no epoch"],
)
def test_sgd_that_does_not_move_is_disjoint_and_sliding(
    idle: dict[str, Any], dtype: torch.dtype, precision: str, most: float
) -> None:
    model = decoder(dtype)
    own, plain = (score(lever, model, CORPUS, precision) for lever in (ttt(**SGD | idle), Disjoint()))
    np.testing.assert_allclose(own.nats, plain.nats, rtol=most)
    assert own.tokens.tolist() == plain.tokens.tolist() and own.bands["tokens"] == plain.bands["tokens"]
    own, plain = (score(e, model, CORPUS, precision) for e in (ttt(**SGD | idle, stride=4), Sliding(stride=4)))
    np.testing.assert_allclose(own.nats, plain.nats, rtol=most)
    assert own.bands["tokens"] == plain.bands["tokens"]


def context(model: Decoder, ids: np.ndarray, begin: int, end: int, weights: Mapping[str, Any] | None = None) -> Any:
    """nll of the targets of inputs begin to end, read behind up to SEQ_LEN tokens that end there."""
    start = max(0, end - SEQ_LEN)
    row = torch.from_numpy(ids[start:end])[None]
    hidden = functional_call(model, dict(weights or {}), (row, torch.zeros_like(row)))[0]
    z = hidden @ (model.embed.weight if weights is None else weights["head"]).T
    return -z.log_softmax(-1).gather(-1, torch.from_numpy(ids[start + 1 : end + 1])[:, None])[begin - start :, 0]


def test_lora_that_does_not_move_is_the_model_in_chunks() -> None:
    model, expected = decoder(), []
    for ids, *_ in CORPUS.valid:
        n = len(ids) - 1
        parts = [context(model, ids, at, min(at + 6, n)).sum().item() for at in range(0, n, 6)]
        expected.append(sum(parts))
    found = score(ttt(**LORA | {"optimizer": 0.0}), model)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-12)
    assert found.tokens.tolist() == [len(ids) - 1 for ids, *_ in CORPUS.valid]


# ---- equal to the same thing written out


def test_sgd_equals_a_plain_loop() -> None:
    """Window by window, with torch's own clip: momentum and rate go on from chunk to chunk."""
    corpus, model = corpus_of([64, 48]), decoder()
    found = traced(ttt(**SGD | {"epochs": 2, "optimizer": {"lr": 0.1, "momentum": 0.8, "clip": 0.5}}), model, corpus)
    own = decoder()
    optimizer = torch.optim.SGD(own.parameters(), lr=1.0, momentum=0.8)
    windows = [ids[at : at + SEQ_LEN + 1] for ids, *_ in corpus.valid for at in range(0, len(ids) - 1, SEQ_LEN)]
    chunks, expected = [windows[0:2], windows[2:4], windows[4:6], windows[6:7]], []
    for c, chunk in enumerate(chunks):

        def nll(window: np.ndarray) -> torch.Tensor:
            row = torch.from_numpy(window)[None]
            return own.nll(row[:, :-1], row[:, 1:], torch.zeros_like(row[:, 1:]))[0]

        with torch.no_grad():
            expected += [nll(window).numpy() for window in chunk]
        for _ in range(2 if c < 3 else 0):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * c / 3))
            torch.cat([nll(window) for window in chunk]).mean().backward()
            torch.nn.utils.clip_grad_norm_(own.parameters(), 0.5)
            optimizer.step()
    np.testing.assert_allclose(found[~np.isnan(found)], np.concatenate(expected), rtol=1e-5)


def adapted(model: Decoder, pairs: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Weights with their adapters multiplied out."""
    weights = dict(model.named_parameters())
    made = {
        f"{path}.weight": weights[f"{path}.weight"] + scale * (a @ b).T
        for path, (a, b) in pairs.items()
        if path != "head"
    }
    a, b = pairs["head"]
    return made | {"head": weights["embed.weight"] + scale * (a @ b).T}


def test_lora_equals_a_plain_loop() -> None:
    """Document by document, adapters multiplied into the weights, torch's own AdamW."""
    model = decoder().requires_grad_(False)
    how: dict[str, Any] = {"betas": (0.5, 0.9), "eps": 1e-6, "weight_decay": 0.3, "lr": 1e-2}
    found = traced(ttt(**LORA | {"optimizer": how, "adapters": {"rank": 3, "alpha": 6.0}}), decoder())
    sizes = {path: m.weight.shape for path, (m, _) in matrices(model, TARGETS).items()} | {
        "head": model.embed.weight.shape
    }
    expected = []
    for ids, *_ in CORPUS.valid:
        pairs = {}
        for path, (d_out, d_in) in sizes.items():
            draws = rng.stream(0, "ttt", "lora", path, 0).random((d_in, 3), dtype=np.float32)
            a = torch.from_numpy((2 * draws - 1) * np.float32(d_in**-0.5)).double().requires_grad_()
            pairs[path] = a, torch.zeros(3, d_out, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW([x for pair in pairs.values() for x in pair], **how)
        n = len(ids) - 1
        for at in range(0, n, 6):
            nats = context(model, ids, at, min(at + 6, n), adapted(model, pairs, 2.0))
            expected += nats.tolist()
            if at + 6 < n:
                optimizer.zero_grad()
                nats.mean().backward()
                optimizer.step()
    np.testing.assert_allclose(found[~np.isnan(found)], expected, rtol=1e-9)


@pytest.mark.parametrize("reset, same", [("document", True), ("b", False)])
def test_documents_side_by_side_do_not_know_each_other(reset: str, same: bool) -> None:
    model = decoder()
    alone, few, many = (score(ttt(**LORA, reset=reset, batch_documents=n), model).nats for n in (1, 3, 64))
    assert np.allclose(alone, many, rtol=1e-9) == same and np.allclose(few, many, rtol=1e-9) == same


def test_fewer_side_by_side_than_asked_is_said_and_refused_where_scores_depend_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = decoder()
    plain = score(ttt(**LORA), model)
    assert plain.extra["side_by_side"] == len(CORPUS.valid)
    monkeypatch.setattr(lora, "MOST", 3 * plain.extra["adapted"]["numbers"])
    few = score(ttt(**LORA), model)
    assert few.extra["side_by_side"] == 3 and np.allclose(few.nats, plain.nats, rtol=1e-9)
    fault = (
        r'^8 adapters of [0-9,]+ numbers do not fit side by side, and under reset = "b" scores depend on how many do; '
    )
    with pytest.raises(ValueError, match=fault + "give batch_documents = 3$"):
        score(ttt(**LORA, reset="b"), model)
    assert score(ttt(**LORA, reset="b", batch_documents=3), model).extra["side_by_side"] == 3


def test_without_the_first_document_the_others_score_the_same() -> None:
    fewer = dataclasses.replace(CORPUS, valid=CORPUS.valid.some(range(1, len(CORPUS.valid))))
    whole, rest = (score(ttt(**LORA), decoder(), corpus).nats for corpus in (CORPUS, fewer))
    np.testing.assert_allclose(rest, whole[1:], rtol=1e-9)


def test_each_meeting_with_a_looped_layer_has_its_own_adapter() -> None:
    model = decoder(loops=[[0, 2, 2]])
    found = score(ttt(**LORA | {"adapters": {"rank": 3, "targets": ["attn"]}}), model)
    assert found.extra["adapted"]["tensors"] == 2 * 4 * 4  # q, k, v, o; two layers, twice each
    sizes = {path: (m.weight.shape, n) for path, (m, n) in matrices(model, ("attn",)).items()}
    assert found.extra["adapted"]["numbers"] == sum(3 * (a + b) * n for (a, b), n in sizes.values())
    still, plain = (score(ttt(**LORA | {"optimizer": lr}), model).nats for lr in (0.0, 1e-2))
    assert not np.allclose(still, plain) and found.violations == []


# ---- score first


@pytest.mark.parametrize(
    "lever",
    [
        ttt(**SGD),
        ttt(**SGD, stride=4, batch_tokens=16),
        ttt(**LORA),
        ttt(**LORA, phases={"count": 2, "prefix_documents": 3}, reset="b", batch_documents=2),
    ],
    ids=["sgd", "stride", "lora", "phases"],
)
def test_a_later_token_moves_no_earlier_score(lever: Any) -> None:
    """Bit for bit in the reference executor: the tail of one document, and whatever is scored after it."""
    model, lengths = decoder(torch.float32, "reference"), np.diff(CORPUS.valid.starts)
    ledgers = []
    turn = (4, 30)
    for corpus in (CORPUS, replay.with_another_tail(CORPUS, turn)):
        ledgers.append(Ledger(corpus))
        score(lever, model, corpus, "fp32", ledger=ledgers[-1])
        assert ledgers[-1].violations() == [] and ledgers[-1].updates > 2
    still = replay.before(ledgers[0], CORPUS, turn)
    one, other = (ledger.trace() for ledger in ledgers)
    assert still.sum() > 60 and lengths[4] > 40
    assert np.array_equal(one[still], other[still], equal_nan=True)
    assert not np.array_equal(one[~still], other[~still], equal_nan=True)


@pytest.mark.parametrize(
    "asked",
    [SGD, SGD | {"stride": 4}, LORA, LORA | {"phases": {"count": 2, "prefix_documents": 3}}, LORA | {"reset": "b"}],
    ids=["sgd", "stride", "lora", "phases", "b"],
)
def test_the_gates_find_it_legal(asked: dict[str, Any]) -> None:
    how: dict[str, Any] = {"seed": 0, "precision": "fp32", "executor": "lift"}
    found, seen = replay.check(ttt(**asked), decoder(torch.float32), CORPUS, asked_of(), **how)
    assert found == [] and seen["mass"] < 1e-9


def test_learning_before_scoring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ttt_sgd.scored

    def late(model: Decoder, corpus: Corpus, cuts: Any, *rest: Any) -> np.ndarray:
        *_, precision, ledger = rest
        moving = descent.movable(model, ())
        taught = descent.Descent(model, moving, ledger, momentum=0.0, clip=0.0, precision=precision)
        taught.learn(descent.split(corpus, cuts, SEQ_LEN, None, moving), 0.1, 1)
        return real(model, corpus, cuts, *rest)

    monkeypatch.setattr(ttt_sgd, "scored", late)
    found = score(ttt(**SGD), decoder())
    assert found.violations and found.violations[0].startswith("C3 score before update: ")


def test_the_model_stays_as_it_was_and_the_seed_does_not_matter() -> None:
    corpus = corpus_of([40, 23, 30])
    for asked in (SGD, LORA | {"phases": {"count": 1, "prefix_documents": 2}}):
        model = decoder().train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        one, two = (score(ttt(**asked), model, corpus, seed=seed) for seed in (0, 9))
        assert np.array_equal(one.nats, two.nats) and one.extra == two.extra
        assert list(before) == list(model.state_dict()) and model.training
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert all(getattr(part, "adapter", None) is None for part in model.modules())


# ---- it learns


def test_a_text_that_repeats_is_learned() -> None:
    model, again = decoder(torch.float32), corpus_of([128, 128], period=32)
    plain = score(Disjoint(), model, again, "fp32").nats
    sgd = score(ttt(**SGD | {"optimizer": 0.3}), model, again, "fp32")
    assert sgd.nats.sum() < 0.8 * plain.sum()
    assert sgd.extra["chunk_nats"][-1] < 0.6 * sgd.extra["chunk_nats"][0]
    assert sgd.extra["chunks"] == 8 and sgd.extra["steps"] == 21 == sgd.extra["updates"]
    lora = score(ttt(**LORA | {"optimizer": 0.05}), decoder(), again)
    assert (lora.nats < 0.95 * plain).all() and "diverged" not in lora.extra
    assert lora.nats[0] == pytest.approx(lora.nats[1], rel=1e-9)  # the second starts as the first did
    bands = lora.extra["chunk_nats"]
    assert sum(bands["tokens"]) == 256 and sum(bands["nats"]) == pytest.approx(lora.nats.sum())


def test_the_chunk_left_to_ablab_fits_the_text() -> None:
    for lengths, chunks in (([70, 60], 4), ([16 * 16 * 3 + 100], 5), ([16 * 16 * 6], 4), ([20], 2)):
        assert score(ttt("ttt_sgd", optimizer=0.0, epochs=0), decoder(), corpus_of(lengths)).extra["chunks"] == chunks
    for seq_len, chunk in ((2048, 32_768), (4096, 32_768), (3000, 30_000), (65_536, 65_536)):
        assert (
            ttt("ttt_sgd")._chunk(seq_len, [40_000_000]) == chunk
        )  # tokens, whatever the window: no second lever in seq_len
    with pytest.raises(
        ValueError, match="the text has fewer than two windows of 16 tokens, so nothing is adapted; give more held-out"
    ):
        score(ttt("ttt_sgd"), decoder(), corpus_of([15]))


def test_steps_within_a_chunk() -> None:
    found = score(ttt(**SGD, epochs=1, batch_tokens=16), decoder(), corpus_of([64, 64]))
    assert found.extra["chunks"] == 4 and found.extra["steps"] == 6


def test_what_is_frozen_stays_and_what_adapts_is_said() -> None:
    model = decoder()
    roles, sizes = model.roles(), {name: p.numel() for name, p in model.named_parameters()}
    kept = [name for name in roles if roles[name] not in ("scalar", "embedding") and not name.startswith("layers.0")]
    found = score(ttt(**SGD, freeze=("scalar", "embedding", "layers.0")), model)
    assert found.extra["adapted"] == {"tensors": len(kept), "numbers": sum(sizes[name] for name in kept)}
    every = score(ttt(**SGD), model)
    assert every.extra["adapted"] == {"tensors": len(sizes), "numbers": sum(sizes.values())}
    assert not np.allclose(every.nats, found.nats)
    moving = descent.movable(model, ("embed", "layers.1"))
    assert "embed.weight" not in moving and all(p.requires_grad == (n in moving) for n, p in model.named_parameters())


def test_phases_move_the_weights_for_later_documents_only() -> None:
    model = decoder()
    plain = score(ttt(**LORA), model).nats
    phased = score(ttt(**LORA, phases={"count": 2, "prefix_documents": 5, "lr": 0.1}), model)
    assert phased.extra["phases"] == {"documents": [2, 5], "steps": 2}
    np.testing.assert_allclose(phased.nats[:2], plain[:2], rtol=1e-9)
    assert all(abs(a - b) > 1e-6 for a, b in zip(phased.nats[2:], plain[2:]))
    still = score(ttt(**LORA, phases={"count": 2, "prefix_documents": 5, "lr": 0.0}), model).nats
    np.testing.assert_allclose(still, plain, rtol=1e-9)
    last = score(ttt(**LORA, phases={"count": 1, "prefix_documents": 8, "lr": 0.1}), model)
    assert last.extra["phases"]["steps"] == 0  # nothing follows
    np.testing.assert_allclose(last.nats, plain, rtol=1e-9)


def test_another_length_is_declared_and_taken_back() -> None:
    kinds = {k: tiny.kind(k, None, position={"name": "rope", "ntk": True}) for k in "LG"}
    model = decoder(kinds=kinds)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = score(ttt(**SGD | {"optimizer": 0.0, "chunk": 64}, seq_len=32), model).nats
    np.testing.assert_allclose(found, score(Disjoint(seq_len=32), model).nats, rtol=1e-9)
    score(ttt(**LORA, seq_len=32), model)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("asked", [SGD, LORA], ids=["sgd", "lora"])
def test_bf16_is_near_fp32(asked: dict[str, Any]) -> None:
    model = decoder(torch.float32)
    one, other = (score(ttt(**asked), model, CORPUS, precision).nats for precision in ("fp32", "bf16"))
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(other, one, rtol=5e-2)


# ---- other models


def test_mixtures_keep_their_routers_biases_and_experts() -> None:
    mlp = {"name": "moe", "n_experts": 4, "shared": 1.0, "balance": "sequence"}
    kinds = {k: tiny.kind(k, None, mlp=mlp, router="deepseek_v3") for k in "LG"}
    model = decoder(kinds=kinds)
    assert score(ttt(**SGD | {"optimizer": 0.0}), model).nats == pytest.approx(score(Disjoint(), model).nats, rel=1e-9)
    found = score(ttt(**LORA), model)
    assert found.extra["not_adapted"] == "16 matrices of experts" and found.violations == []
    assert sorted(path.split(".")[-1] for path in matrices(model, ("mlp",))) == [
        "down_proj",
        "down_proj",
        "up_proj",
        "up_proj",
    ]
    bare = decoder(kinds={k: tiny.kind(k, None, mlp={"name": "moe", "n_experts": 4}) for k in "LG"})
    with pytest.raises(ValueError, match="targets: 'mlp' finds no matrix: stacked experts, routers and gates are not"):
        score(ttt(**LORA), bare)


def test_every_matrix_of_a_projection_is_adapted() -> None:
    kinds = {k: tiny.kind(k, None, projection="tpa", gate="attn_out_gate") for k in "LG"}
    found = sorted({path.split(".")[-1] for path in matrices(decoder(kinds=kinds), ("attn",))})
    assert found == ["a_k", "a_q", "a_v", "b_k", "b_q", "b_v", "o_proj"]
    head = score(ttt(**LORA | {"adapters": {"rank": 3, "targets": ["head"]}}), decoder(tied=False, softcap=5.0))
    assert head.extra["adapted"] == {"tensors": 2, "numbers": 3 * (32 + V), "per": "document"}


# ---- divergence


@pytest.mark.parametrize("asked", [SGD, LORA], ids=["sgd", "lora"])
def test_a_rate_that_is_too_high_is_unstable_and_complete(asked: dict[str, Any]) -> None:
    model = decoder(torch.float32)
    found = score(ttt(**asked | {"optimizer": 1e3}), model, CORPUS, "fp32")
    assert "the weights before adapting have" in found.extra["diverged"] or "not finite" in found.extra["diverged"]
    assert np.isnan(found.nats).all() and found.violations == []
    assert found.tokens.tolist() == [len(ids) - 1 for ids, *_ in CORPUS.valid]
    assert found.bytes.tolist() == [int(n.sum()) for _, n, _ in CORPUS.valid]
    assert sum(found.bands["tokens"]) == found.tokens.sum()


@pytest.mark.parametrize("asked", [SGD, LORA], ids=["sgd", "lora"])
def test_a_rehearsal_that_diverges_is_no_violation(asked: dict[str, Any]) -> None:
    how: dict[str, Any] = {"seed": 0, "precision": "fp32", "executor": "lift"}
    for lr in (300.0, 1e30):  # scores of a million nats, and none
        found, _ = replay.check(ttt(**asked | {"optimizer": lr}), decoder(torch.float32), CORPUS, asked_of(), **how)
        assert found == []


def test_a_phase_that_diverges_is_said() -> None:
    found = score(ttt(**LORA, phases={"count": 1, "prefix_documents": 4, "lr": 1e6}), decoder())
    assert "diverged" in found.extra and found.violations == []


def test_divergence_is_told_from_hard_text() -> None:
    easy, hard, calls = np.full(1000, 2.0), np.full(1000, 6.0), []

    def before(nats: np.ndarray) -> Any:
        return lambda: (calls.append(1), nats)[1]

    watch = Watch()
    assert watch.see(easy, before(easy)) == "" and watch.see(easy * 1.05, before(easy)) == ""
    assert not calls  # calm chunks cost nothing
    assert watch.see(hard, before(hard * 1.02)) == "" and len(calls) == 1
    assert Watch().see(easy, before(easy)) == Watch().see(np.zeros(0), before(easy)) == ""
    watch = Watch()
    watch.see(easy, before(easy))
    assert watch.see(easy[:4] * 1.9, before(easy[:4])) == ""  # four tokens say little
    text = "3 nats per token over 1000 tokens, where the weights before adapting have 2"
    assert watch.see(easy * 1.5, before(easy)) == text
    assert Watch().see(np.array([1.0, math.nan]), before(easy)) == "a score is not finite"
    watch, drift = Watch(), ""
    for chunk in range(200):  # a slow drift is found on its way
        drift = drift or watch.see(easy * 1.005**chunk, before(easy))
    assert drift


def test_a_gradient_that_is_not_finite_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = descent.loss_of
    monkeypatch.setattr(descent, "loss_of", lambda *parts: real(*parts) * math.nan)
    found = score(ttt(**SGD), decoder())
    assert found.extra["diverged"] == "at chunk 1 of 4: the gradient norm is nan" and found.violations == []


# ---- sizes and bad input


@pytest.mark.parametrize(
    "choice",
    [
        {"name": "ttt_sgd"},
        {"name": "ttt_sgd", "chunk": 1024, "stride": 16, "batch_tokens": 256, "seq_len": 64},
        {"name": "ttt_sgd", "chunk": 4096, "batch_tokens": 2048},
        {"name": "ttt_lora"},
        {"name": "ttt_lora", "chunk": 24, "adapters": 80, "phases": {"count": 3, "prefix_documents": 2000}},
    ],
    ids=str,
)
def test_miniatures_and_rehearsals_can_be_built(choice: dict[str, Any]) -> None:
    full = tiny.choice(evaluators.slot, choice)
    small = full | evaluators.slot.load(full["name"]).miniature(full, 1 / 4)
    corpus = corpus_of([120, 90, 200, 200, 200])
    for given in (small, full):
        lever = evaluators.slot.build(given)
        rehearsed, tokens = lever.rehearsal({"model": {"seq_len": 32}})
        found = score(rehearsed, decoder(), replay.excerpt(corpus, tokens))
        assert tokens <= 4 * (full["seq_len"] or 32) and found.extra["updates"] > 0
    found = evaluators.slot.build(small)(decoder(), corpus, {"model": {"seq_len": 32}}, seed=0, precision="fp64")
    assert found.violations == [] and found.extra["updates"] > 0


def test_documents_take_a_sample() -> None:
    found = score(ttt(**LORA, documents=3), decoder())
    assert len(found.nats) == 3 and found.violations == []


@pytest.mark.parametrize("lengths", [[0, 0, 0], [0, 1, 0], [5, 40, 0], [2]], ids=str)
def test_documents_that_are_empty_or_shorter_than_a_chunk(lengths: list[int]) -> None:
    still = {} if max(lengths) > 16 else {"optimizer": 0.0}
    found = score(ttt(**LORA | {"chunk": 16} | still), decoder(), corpus_of(lengths))
    assert found.tokens.tolist() == lengths and found.violations == [] and np.isfinite(found.nats).all()
    idle = score(ttt(**SGD | {"optimizer": 0.0}), decoder(), corpus_of(lengths))
    assert idle.tokens.tolist() == lengths and idle.violations == []


@pytest.mark.parametrize(
    "asked, text",
    [
        ({"chunk": 0}, "chunk = 0 is no size; give at least 1"),
        ({"documents": 0}, "documents = 0 scores nothing; give at least 1"),
        ({"seq_len": 0}, "seq_len = 0 is no length"),
        ({"stride": 0}, "stride = 0 is no size"),
        ({"batch_tokens": 0}, "batch_tokens = 0 is no size"),
        ({"epochs": -1}, "epochs = -1 is no number of epochs; give 0 or more"),
        ({"optimizer": -0.1}, "optimizer.lr = -0.1 is negative; choose 0 or more"),
        ({"optimizer": {"clip": -1.0}}, "optimizer.clip = -1.0 is negative"),
        ({"optimizer": {"momentum": 1.0}}, "optimizer.momentum = 1.0 is no decay; choose a number from 0 to below 1"),
        (LORA | {"adapters": 0}, "adapters.rank = 0 is no size; give at least 1"),
        (LORA | {"batch_documents": 0}, "batch_documents = 0 is no size"),
        (LORA | {"adapters": {"alpha": 0.0}}, "adapters.alpha = 0.0 is not positive; give a number above 0"),
        (LORA | {"optimizer": {"eps": 0.0}}, "optimizer.eps = 0.0 is not positive"),
        (LORA | {"optimizer": {"betas": [0.0, 1.0]}}, "optimizer.betas = [0.0, 1.0] are no two decays"),
        (LORA | {"optimizer": {"weight_decay": -1.0}}, "optimizer.weight_decay = -1.0 is negative"),
        (
            LORA | {"adapters": {"targets": ["attn", "router"]}},
            "adapters.targets: 'router' is no target; choose among attn, mlp, head",
        ),
        (LORA | {"adapters": {"targets": []}}, "adapters.targets: each target stands once, and there is one at least"),
        (LORA | {"adapters": {"targets": ["mlp", "mlp"]}}, "adapters.targets: each target stands once"),
        (LORA | {"phases": 3}, "phases.count = 3 go over no documents; give phases.prefix_documents = 3 or more"),
        (LORA | {"phases": -1}, "phases.count = -1 is no number of phases; give 0 or more"),
        (
            LORA | {"phases": {"prefix_documents": 9}},
            "phases.prefix_documents = 9 acts on nothing without phases; add phases.count = 1",
        ),
        (LORA | {"phases": {"lr": 0.1}}, "phases.lr = 0.1 acts on nothing without phases"),
        (
            LORA | {"phases": {"count": 3, "prefix_documents": 2}},
            "phases.prefix_documents = 2 leaves a phase of 3 without a document",
        ),
        ({"seq_len": 64, "chunk": 100}, "chunk = 100 splits a window of 64 tokens; give a multiple of 64"),
        ({"seq_len": 64, "stride": 65}, "stride = 65 is more than seq_len 64; give at most 64"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        ttt(**{"name": "ttt_sgd"} | asked)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "asked, text",
    [
        (SGD | {"chunk": 40}, "chunk = 40 splits a window of 16 tokens; give a multiple of 16"),
        (SGD | {"chunk": 8}, "chunk = 8 splits a window of 16 tokens; give a multiple of 16"),
        (SGD | {"stride": 17}, "stride = 17 is more than seq_len 16; give at most 16"),
        (SGD | {"batch_tokens": 8}, "batch_tokens = 8 holds no window of 16 tokens; give at least 16"),
        (SGD | {"batch_tokens": 48}, "batch_tokens = 48 is more than a chunk of 32; give at most 32"),
        (SGD | {"chunk": 1024}, "chunk = 1024 holds the whole text, so nothing is adapted; give a smaller chunk"),
        (
            SGD | {"freeze": ("layer5",)},
            "freeze: 'layer5' is no role and begins no parameter's name; roles: embedding, matrix, ",
        ),
        (
            SGD | {"freeze": ("embed", "layers", "scalar", "final")},
            "freeze leaves nothing to adapt; take something out",
        ),
        (LORA | {"chunk": 17}, "chunk = 17 is more than seq_len 16; give at most 16"),
        (LORA | {"adapters": 33}, "adapters.rank = 33 is more than 16, the smaller side of layers.0.attn.projection."),
        (
            LORA | {"adapters": {"rank": 33, "targets": ["head"]}},
            "adapters.rank = 33 is more than 32, the smaller side of head; give at most 32",
        ),
        (
            LORA | {"phases": {"count": 1, "prefix_documents": 9}},
            "phases.prefix_documents = 9 is more than the 8 held-out documents",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_or_the_text_is_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        score(ttt(**asked), decoder())
    assert text in str(caught.value)


@pytest.mark.parametrize("asked", [SGD | {"chunk": 40}, LORA | {"chunk": 17}], ids=["sgd", "lora"])
def test_a_rehearsal_refuses_what_the_whole_would_refuse(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give (a multiple of|at most) 16"):
        ttt(**asked).rehearsal(asked_of())
