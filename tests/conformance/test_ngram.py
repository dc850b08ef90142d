"""`ngram` is one distribution, counts only what was scored, and equals a dictionary of counts kept by hand."""

import dataclasses
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tests import tiny
from tests.conformance.held_out import Stand, corpus_of
from tests.conformance.test_sliding import made, settings

from ablab.data import Corpus
from ablab.data.corpus.tokens import UNTRAINED
from ablab.scoring.evaluators import ngram as module
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.grams import Grams
from ablab.scoring.evaluators.ngram import Ngram
from ablab.scoring.ledger import Ledger
from ablab.scoring.legality import forward as legal
from ablab.scoring.legality import replay

LENGTHS = [0, 1, 5, 60, 83, 2]


def run(lever: Any, model: Any, corpus: Corpus, ledger: Ledger | None = None) -> Any:
    return lever(model, corpus, settings(), seed=0, precision="fp64", ledger=ledger)


def by_hand(corpus: Corpus, alone: np.ndarray, lever: Ngram) -> np.ndarray:
    """Nats of every token: dictionaries, one target and one order at a time."""
    found, counts, waiting = np.full(len(alone), np.nan), Counter[tuple[int, ...]](), list[tuple[int, ...]]()
    starts, since = corpus.valid.starts, 0
    for document in range(len(corpus.valid)):
        ids = corpus.valid[document].ids
        if not lever.carry:
            counts, waiting, since = Counter(), [], 0
        for place in range(1, len(ids)):
            if corpus.valid.marks[starts[document] + place] == UNTRAINED:
                since += not lever.carry
                continue
            p_model = math.exp(-alone[starts[document] + place])
            p, grams = p_model, []
            for order in range(1, lever.max_order + 1):
                if place < order - 1:
                    continue
                gram = tuple(int(x) for x in ids[place - order + 1 : place + 1])
                grams.append(gram)
                after = {g[-1]: n for g, n in counts.items() if len(g) == order and g[:-1] == gram[:-1]}
                if total := sum(after.values()):
                    own = max(after.get(gram[-1], 0) - lever.discount, 0)
                    p = (own + lever.discount * len(after) * p) / total
            found[starts[document] + place] = -math.log((1 - lever.weight) * p_model + lever.weight * p)
            waiting += grams
            since += 1
            if since % lever.chunk == 0:
                counts.update(waiting)
                waiting = []
    return found


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize(
    "asked", [{"chunk": 7}, {"chunk": 1, "max_order": 1}, {"chunk": 10, "max_order": 5, "weight": 0.9}]
)
def test_equals_dictionaries_of_counts(asked: dict[str, Any], carry: bool) -> None:
    model, corpus, lever = made("LG"), corpus_of(LENGTHS), Ngram(carry=carry, discount=0.6, **asked)
    plain, mixed = Ledger(corpus), Ledger(corpus)
    run(Disjoint(), model, corpus, plain)
    found = run(lever, model, corpus, mixed)
    np.testing.assert_allclose(mixed.trace(), by_hand(corpus, plain.trace(), lever), rtol=1e-12)
    assert found.violations == [] and found.tokens.tolist() == LENGTHS and legal.complete(found, corpus) == []
    assert found.extra["model_nats_per_token"] == pytest.approx(np.nanmean(plain.trace()), rel=1e-12)
    assert found.extra["updates"] == mixed.updates > 1 and 0 < found.extra["known"] < 1


@pytest.mark.parametrize("carry", [False, True])
def test_blocks_and_masks_do_not_matter(carry: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, corpus, lever = made("LG"), corpus_of(LENGTHS), Ngram(carry=carry, chunk=1)
    corpus.valid.marks[20:40] = UNTRAINED
    plain, mixed = Ledger(corpus), Ledger(corpus)
    run(Disjoint(), model, corpus, plain)
    monkeypatch.setattr(module, "BLOCK", 10)
    found = run(lever, model, corpus, mixed)
    np.testing.assert_allclose(mixed.trace(), by_hand(corpus, plain.trace(), lever), rtol=1e-12)
    assert found.violations == [] and legal.complete(found, corpus) == []


@pytest.mark.parametrize("carry", [False, True])
def test_what_is_watched_sums_to_one_and_holds_the_score(carry: bool) -> None:
    model, corpus = made("LG"), corpus_of([60, 83])
    watch = [(0, 1), (0, 2), (0, 40), (1, 1), (1, 50), (1, 83)]
    ledger = Ledger(corpus, watch=watch)
    run(Ngram(weight=0.9, chunk=5, carry=carry), model, corpus, ledger)
    for (document, place), log_p in ledger.seen.items():
        at = int(corpus.valid.starts[document]) + place
        assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
        assert -log_p[corpus.valid.tokens[at]] == pytest.approx(ledger.trace()[at], rel=1e-12)
    assert len(ledger.seen) == len(watch)


def test_repeated_text_is_cheaper_the_second_time() -> None:
    corpus, model = corpus_of([60]), Stand(tiny.VOCAB)
    twice = corpus.valid.tokens.copy()
    twice[31:61] = twice[1:31]
    corpus.valid.tokens[:] = twice
    nats = {}
    for chunk in (5, 1000):
        ledger = Ledger(corpus)
        run(Ngram(weight=0.5, chunk=chunk), model, corpus, ledger)
        nats[chunk] = ledger.trace()[1:]
    np.testing.assert_allclose(nats[1000], math.log(tiny.VOCAB), rtol=1e-6)
    assert nats[5][36:].mean() < nats[5][:5].mean() - 0.5


def test_a_carried_count_helps_the_next_document() -> None:
    corpus = corpus_of([40, 40])
    corpus.valid.tokens[41:] = corpus.valid.tokens[:41]
    scored = {
        carry: run(Ngram(carry=carry, weight=0.5, chunk=4), Stand(tiny.VOCAB), corpus).nats for carry in (False, True)
    }
    assert scored[False][0] == pytest.approx(scored[False][1]) and scored[True][1] < scored[True][0] - 5


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.integers(1, 4), st.floats(0.05, 0.95))
@examples(deadline=None, max_examples=40)
def test_a_plus_b_is_one_at_every_place(ids: list[int], max_order: int, discount: float) -> None:
    tokens = np.array(ids)
    grams = Grams(
        tokens, np.zeros(len(ids), int), np.zeros(len(ids), int), max_order=max_order, discount=discount, vocab_size=6
    )
    for at in range(1, len(ids)):
        a_V, b = grams.spread(at)
        assert a_V.min() >= 0 and a_V.sum() + b == pytest.approx(1, abs=1e-12)
        (a,), (same,) = grams.mix(np.array([at]))
        assert a == pytest.approx(a_V[ids[at]], abs=1e-12) and same == pytest.approx(b, abs=1e-12)
        grams.learn(np.array([at]))


def test_a_replay_finds_nothing() -> None:
    corpus = corpus_of([200, 150])
    model = made("LG")
    for carry in (False, True):
        found, checked = replay.check(
            Ngram(carry=carry, chunk=4, weight=0.5),
            model,
            corpus,
            settings(),
            seed=0,
            precision="fp64",
            executor="lift",
        )
        assert found == [] and checked["mass"] < 1e-9


class Early(Ngram):
    """Counts a target before it is scored."""

    def _mix(
        self, ledger: Ledger, model: Any, corpus: Corpus, grams: Grams, alone_T: Any, at_N: Any, *rest: Any
    ) -> int:
        grams.learn(at_N)
        return super()._mix(ledger, model, corpus, grams, alone_T, at_N, *rest)

    def rehearsal(self, asked: Any) -> Any:
        return Early(chunk=4, weight=self.weight), super().rehearsal(asked)[1]


def test_a_replay_finds_counts_that_come_too_early() -> None:
    found, _ = replay.check(
        Early(weight=0.5), made("LG"), corpus_of([200, 150]), settings(), seed=0, precision="fp64", executor="lift"
    )
    assert any(violation.startswith("C1 causal") for violation in found)


@pytest.mark.parametrize(
    "asked, text",
    [
        ({"max_order": 0}, "max_order = 0 counts nothing; give at least 1 (single tokens)"),
        ({"weight": 0.0}, "weight = 0 is no share; give more than 0 and less than 1"),
        ({"weight": 1.0}, "weight = 1 is no share; give more than 0 and less than 1"),
        ({"discount": 1.5}, "discount = 1.5 is no share"),
        ({"chunk": 0}, "chunk = 0 never learns; give at least 1"),
        ({"seq_len": 0}, "seq_len = 0 is no length"),
        ({"documents": 0}, "documents = 0 scores nothing"),
    ],
)
def test_impossible_settings_are_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Ngram(**asked)


def test_empty_documents_pass() -> None:
    for carry in (False, True):
        found = run(Ngram(carry=carry), made(), corpus_of([0, 0]))
        assert found.tokens.tolist() == [0, 0] and found.violations == [] and found.extra["known"] is None


def test_a_rehearsal_learns_and_a_miniature_keeps_its_proportions() -> None:
    lever, size = Ngram(chunk=512, weight=0.3).rehearsal(settings())
    assert lever.weight == 0.3
    assert run(lever, Stand(tiny.VOCAB), corpus_of([size * 2 // 3 - 1])).extra["updates"] >= 3
    asked = {"name": "ngram", "chunk": 64, "seq_len": None}
    assert Ngram.miniature(asked, 1 / 32) == {"seq_len": None, "chunk": 2}


def test_a_large_vocabulary_does_not_overflow() -> None:
    corpus = dataclasses.replace(corpus_of([50]), vocab_size=201_088)
    found = run(Ngram(max_order=6, chunk=3, carry=True), Stand(201_088), corpus)
    assert np.isfinite(found.nats).all()
