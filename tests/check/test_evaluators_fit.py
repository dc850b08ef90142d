"""What an evaluator cannot do at full size is said before anything is trained, with the numbers that were written."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from ablab.check import miniature
from ablab.check.miniature import Miniatures, _few, _fitted, _outcomes
from ablab.check.shrink import fit_evaluator
from ablab.core.fault import InvalidStudy
from ablab.data import Corpus, valid_rows
from ablab.data.corpus.corpus import Valid
from ablab.model.decoder import build
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.scoring import evaluators
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.ngram import Ngram
from ablab.scoring.evaluators.ttt_sgd import TttSgd
from ablab.study import load

STUDY = """
[study]
name = "fit"
[decision]
metric = "bits_per_byte"
stage = "plain"
matters = 0.01
seeds = 2
[budget]
tokens = 2048
batch_tokens = 264
[data]
source = "mock"
tokenizer = "bytes"
valid_bytes = 4096
[model]
layers = "MM"
d_model = 16
n_heads = 2
seq_len = 33
main.position = "rope"
[stage]
plain = { evaluate = "disjoint" }
other = { evaluate = EVALUATE }
[arm]
again.train.ema = 0.9
"""


def planned(folder: Path, evaluate: str, model: str = "") -> Plan:
    (folder / "study.toml").write_text(STUDY.replace("EVALUATE", evaluate).replace("layers =", f"{model}\nlayers ="))
    return planning.make(load(folder / "study.toml"), Store(folder / "runs"), say=lambda _: None)


def held(lengths: list[int]) -> Corpus:
    """Held-out documents of these many tokens, all of them."""
    tokens = np.arange(sum(lengths)).astype(np.uint16) % 32
    starts = np.cumsum([0, *lengths])[:-1].astype(np.int64)
    digests = np.arange(16 * len(lengths)).reshape(-1, 16).astype(np.uint8)
    return dataclasses.replace(tiny.corpus(), valid=Valid(tokens, np.ones(len(tokens), np.uint16), starts, digests))


def asked(**changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = tiny.choice(evaluators.slot, {"name": "ttt_sgd", **changed})
    return made


SGD, LORA = 'name = "ttt_sgd"', 'name = "ttt_lora"'


@pytest.mark.parametrize(
    "evaluate, text",
    [
        (
            'name = "sliding", stride = 34',
            "stride = 34 is more than seq_len 33; tokens between the windows would have no",
        ),
        ('name = "streaming", cache = 32', "cache = 32 is less than one stretch of 33; give at least 33, or a shorter"),
        (f"{SGD}, stride = 34", "stride = 34 is more than seq_len 33; give at most 33"),
        (f"{SGD}, chunk = 40", "chunk = 40 splits a window of 33 tokens; give a multiple of 33"),
        (f"{SGD}, batch_tokens = 32", "batch_tokens = 32 holds no window of 33 tokens; give at least 33"),
        (
            f"{SGD}, chunk = 330000000",
            "chunk = 330000000 holds the whole text, so nothing is adapted; give a smaller chunk",
        ),
        (
            f"{SGD}, seq_len = 1000000",
            "the text has fewer than two windows of 1000000 tokens, so nothing is adapted; give more held-out text",
        ),
        (f'{SGD}, freeze = ["layer5"]', "freeze: 'layer5' is no role and begins no parameter's name; roles: embedding"),
        (f"{LORA}, chunk = 34", "chunk = 34 is more than seq_len 33; give at most 33"),
        (
            f"{LORA}, seq_len = 2000000, chunk = 1000000",
            "no document is longer than chunk = 1000000, so nothing is adapted; give a smaller chunk",
        ),
        (
            f"{LORA}, phases = {{ count = 1, prefix_documents = 100000 }}",
            r"phases\.prefix_documents = 100000 is more than the \d+ held-out documents; give at most that",
        ),
        (
            f"{LORA}, adapters = 100000",
            r"adapters\.rank = 100000 is more than 16, the smaller side of layers\.0\.attn\.\S+; give at most 16",
        ),
        ('name = "needle", lags = [64]', "lags: 64 does not fit; give 8 to 25 for seq_len 33"),
    ],
    ids=str,
)
def test_what_an_evaluator_refuses_is_said_before_anything_runs(tmp_path: Path, evaluate: str, text: str) -> None:
    made = planned(tmp_path, f"{{ {evaluate} }}")
    with pytest.raises(InvalidStudy) as caught:
        miniature.fits(made)
    assert len(caught.value.faults) == 1  # the arm has the same
    expected = text if "\\" in text else re.escape(text)
    assert re.match(r"study\.toml: baseline: stage\.other\.evaluate: " + expected, str(caught.value))


def test_what_fits_passes(tmp_path: Path) -> None:
    for evaluate in (
        SGD,
        f"{LORA}, adapters = 16",
        f"{LORA}",
        'name = "streaming"',
        'name = "sliding", stride = 33',
        'name = "ngram"',
    ):
        miniature.fits(planned(tmp_path, f"{{ {evaluate} }}"))


def test_windows_beyond_learned_places_are_refused(tmp_path: Path) -> None:
    learned = 'embedding = "learned"'
    for name, text in (
        ('"disjoint", seq_len = 40', "place 39 is beyond the 33 learned places; raise model.seq_len"),
        (
            '"streaming"',
            r"a document of \d+ tokens: place \d+ is beyond the 33 learned places; set cache = 33, or raise",
        ),
    ):
        with pytest.raises(InvalidStudy, match=r"baseline: stage\.other\.evaluate: " + text):
            miniature.fits(planned(tmp_path, f"{{ name = {name} }}", learned))


def test_text_of_fewer_than_two_windows_names_no_chunk() -> None:
    settings = {"model": tiny.model(seq_len=1 << 20)}
    with pytest.raises(
        ValueError, match=r"^the text has fewer than two windows of 1048576 tokens, so nothing is adapted; "
    ):
        TttSgd().fit(settings, tiny.corpus())


def test_orders_have_an_end() -> None:
    assert Ngram(max_order=32).max_order == 32
    with pytest.raises(
        ValueError, match="max_order = 33 is more than 32, the longest grams counted; give at most that"
    ):
        Ngram(max_order=33)


def test_a_miniature_keeps_what_the_full_size_fits() -> None:
    """Windows stay whole (142 is no multiple of 47), chunks fit windows, ranks fit the narrowest matrix."""
    choice = asked(chunk=111)
    fit_evaluator(choice, 37, 1.28)
    assert choice["chunk"] == 3 * 47 and choice["seq_len"] is None
    choice = asked(name="ttt_lora", chunk=2048, adapters=96)
    fit_evaluator(choice, 2048, 1 / 32)
    assert choice["chunk"] == 32 and choice["adapters"]["rank"] == 3 and choice["seq_len"] is None
    choice = asked(name="ttt_lora", adapters=100)
    fit_evaluator(choice, 32, 2)
    assert choice["adapters"]["rank"] == 8


def test_a_miniature_has_a_long_document_where_there_is_one() -> None:
    corpus = held([3] * 1000 + [300, 0])
    assert max(len(ids) for ids, *_ in _few(corpus).valid) == 300
    same = held([100] * 40)
    assert len(_few(same).valid) == 21 and _few(same).valid.digests.shape == (21, 16)


def test_a_text_too_short_for_a_longer_miniature_passes(tmp_path: Path) -> None:
    """A text of two windows of 33 has one of the miniature's 64."""
    made = planned(tmp_path, f"{{ {SGD} }}")
    for key, corpus in list(made.corpora.items()):
        valid = corpus.valid
        first = Valid(valid.tokens[:60], valid.n_bytes[:60], valid.starts[:1], valid.digests[:1], valid.marks[:60])
        made.corpora[key] = dataclasses.replace(corpus, valid=first)
    miniature.fits(made)
    said: list[str] = []
    _outcomes(Miniatures(made, tmp_path), said.append)
    assert len(said) == 2 and not any("not tested" in line for line in said), "no miniature is longer than its study"


def test_what_only_a_miniature_refuses_is_said() -> None:
    """A stage whose evaluator does not fit the miniature's text is packed all the same, and scored by another."""
    settings = tiny.settings()
    settings["stage"] = {"a": {"evaluate": asked(chunk=4096)}, "b": {"evaluate": asked(chunk=64)}}
    said = _fitted(settings, tiny.corpus())
    text = "stage a: ttt_sgd was not tested, as it does not fit a text and a model this small: chunk = 4096 holds the whole"
    assert len(said) == 1 and said[0].startswith(text)
    assert [stage["evaluate"]["name"] for stage in settings["stage"].values()] == ["disjoint", "ttt_sgd"]


# ---- rows no wider than they need be


def test_rows_are_no_wider_than_the_longest_window() -> None:
    corpus = held([100] * 10 + [40, 60, 0])
    wide = valid_rows(corpus, 1_000_000)
    assert wide.tokens_RT.shape == (11, 99)  # 39 and 59 inputs share a row
    assert valid_rows(corpus, 1_000_000, windows=2).tokens_RT.shape == (6, 198)
    assert valid_rows(corpus, 64).tokens_RT.shape[1] == 64
    assert sorted(wide.offset_RT[wide.document_RT >= 0]) == sorted([*range(99)] * 10 + [*range(39), *range(59)])


def test_a_window_longer_than_the_text_scores_the_same() -> None:
    corpus, model = held([100] * 3 + [40]), tiny.model(seq_len=128, init_std=0.2)
    decoder = build(model, vocab_size=tiny.VOCAB, seed=1, dtype=torch.float64)
    how: dict[str, Any] = {"seed": 0, "precision": "fp64"}
    own, plain = (Disjoint(seq_len=n)(decoder, corpus, {"model": model}, **how) for n in (1_000_000, 128))
    np.testing.assert_allclose(own.nats, plain.nats, rtol=1e-12)
    assert own.bands["edges"][-1] == 1_000_000 and plain.bands["edges"][-1] == 128


@pytest.mark.parametrize("name", ["disjoint", "sliding", "streaming", "ngram", "ttt_sgd", "ttt_lora"])
def test_an_empty_document_at_the_end_passes(name: str) -> None:
    model = tiny.model(seq_len=16)
    decoder = build(model, vocab_size=tiny.VOCAB, seed=1, dtype=torch.float64)
    sizes = {"sliding": {"stride": 8}}.get(name, {})
    lever = evaluators.slot.build(tiny.choice(evaluators.slot, {"name": name, **sizes}))
    found = lever(decoder, held([40, 0, 30, 0]), {"model": model}, seed=0, precision="fp64")
    assert found.tokens.tolist() == [39, 0, 29, 0] and found.violations == []
