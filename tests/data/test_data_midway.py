"""The part of the held-out text that a run is scored on while it trains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tests import tiny
from tests.study.written import edited, read

from ablab.core.fault import InvalidStudy
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.data.corpus.midway import ROWS, default_bytes, midway
from ablab.data.corpus.tokens import UNTRAINED
from ablab.data.spans import FINAL, REASONING
from ablab.report import curves, markdown
from ablab.report.view import View
from ablab.runs.store import read_lines


def corpus(*sizes: int, per_token: int = 1, marks: np.ndarray | None = None) -> Corpus:
    """Documents of so many bytes of text; token 32 begins each, the others are `per_token` bytes long."""
    ids = [np.concatenate([[32], (np.arange(size // per_token) + 7 * at) % 32]) for at, size in enumerate(sizes)]
    n_bytes = np.concatenate([[0, *[per_token] * (len(one) - 1)] for one in ids]).astype(np.uint16)
    digests = np.random.default_rng(5).integers(0, 256, (len(sizes), 16), np.uint8)
    starts = np.cumsum([0, *map(len, ids)])[:-1]
    valid = Valid(np.concatenate(ids).astype(np.uint16), n_bytes, starts, digests, marks)
    return dataclasses.replace(tiny.corpus(), valid=valid)


def test_a_part_is_no_larger_than_asked_and_no_document_fills_it() -> None:
    whole = corpus(*[400] * 60, 90_000)
    part = midway(whole, 6_000, span=64)
    assert 0.8 * 6_000 <= part.valid.n_bytes.sum() <= 6_000
    assert len(part.valid) >= 15, "excerpts of 4 rows, not one long document"
    assert np.diff(part.valid.starts).max() <= ROWS * 64 + 1
    assert part.valid.n_targets == sum(len(one.ids) - 1 for one in part.valid)


def test_few_documents_give_longer_excerpts() -> None:
    part = midway(corpus(50_000, 30_000, 800), 9_000, span=32)
    sizes = [int(one.n_bytes.sum()) for one in part.valid]
    assert len(sizes) == 3 and sum(sizes) <= 9_000 and sorted(sizes)[0] == 800 and max(sizes) > ROWS * 32


@pytest.mark.parametrize("asked", [None, 10**9])
def test_all_of_it_is_the_corpus_itself(asked: int | None) -> None:
    whole = corpus(300, 500)
    assert midway(whole, asked, span=64) is whole


def test_another_tokenizer_reads_the_same_text() -> None:
    fine, coarse = (midway(corpus(*[960] * 40, 30_000, per_token=size), 4_000, span=32) for size in (1, 4))
    assert np.array_equal(fine.valid.digests, coarse.valid.digests)
    for one, other in zip(fine.valid, coarse.valid):
        assert abs(int(one.n_bytes.sum()) - int(other.n_bytes.sum())) <= 8, "up to a token at each end"


def test_text_without_counted_bytes_is_measured_in_tokens() -> None:
    whole = corpus(*[500] * 30)
    bare = Valid(whole.valid.tokens, np.zeros_like(whole.valid.n_bytes), whole.valid.starts[:-1], whole.valid.digests)
    part = midway(dataclasses.replace(whole, valid=bare), 2_000, span=32)
    assert 1_000 <= len(part.valid.tokens) <= 2_000


def test_every_span_has_targets_in_the_part() -> None:
    marks = np.full(40 * 401, UNTRAINED, np.uint8)
    marks[401 * 7 + 380 : 401 * 7 + 400] = REASONING  # in one document of 40, near its end
    marks[401 * 21 + 200 : 401 * 21 + 210] = FINAL
    part = midway(corpus(*[400] * 40, marks=marks), 200, span=8)
    assert {REASONING, FINAL} <= set(np.unique(part.valid.marks).tolist())


def test_a_run_scores_its_part_on_the_way_at_every_point(tmp_path: Path) -> None:
    whole, settings = tiny.corpus(), tiny.settings()
    settings["train"]["validate_bytes"] = 150
    done = tiny.trained(tmp_path, settings, whole)
    part = midway(whole, 150, settings["data"]["span"]).valid
    told = {"documents": len(part), "tokens": part.n_targets, "bytes": part.n_scored_bytes, "whole": False}
    assert done["validated"] == told and part.n_scored_bytes <= 150
    assert (done["untrained"]["tokens"], done["untrained"]["bytes"]) == (part.n_targets, part.n_scored_bytes)
    other = tiny.trained(tmp_path / "whole", tiny.settings(), whole)
    assert other["validated"]["whole"] and other["weights"] == done["weights"], "training does not hear of it"
    losses = [[row["loss"] for row in read_lines(out / "metrics.jsonl") if "loss" in row]
              for out in (tmp_path, tmp_path / "whole")]  # fmt: skip
    assert losses[0] == losses[1]


def test_by_default_validations_cost_less_than_a_twentieth_of_training(tmp_path: Path) -> None:
    arms = "\n[arm.longer]\nbudget.tokens = 400_000\n[arm.rows]\nmodel.seq_len = 128\n"
    study = read(tmp_path, edited(more=arms))
    every = study.baseline.settings["train"]["validate_every"]
    asked = {one.settings["train"]["validate_bytes"] for one in (study.baseline, *study.arms.values())}
    assert asked == {default_bytes(every)}, "one text for all arms, whatever their budget"
    points = study.baseline.settings["budget"]["tokens"] // every + 1  # with the one before the first step
    assert points * default_bytes(every) <= 0.05 * 3 * study.baseline.settings["budget"]["tokens"]


def test_how_often_and_how_much_are_two_settings(tmp_path: Path) -> None:
    study = read(tmp_path, edited(("[train]", "[train]\nvalidate_every = 51_200\nvalidate_bytes = 7_000_000")))
    train = study.baseline.settings["train"]
    assert (train["validate_every"], train["validate_bytes"]) == (51_200, 7_000_000)
    with pytest.raises(
        InvalidStudy, match=r"arm\.x: train\.validate_bytes: differs between arms, .*; set it in \[train\]"
    ):
        read(tmp_path, edited(more="\n[arm.x]\ntrain.validate_bytes = 500\n"))


@pytest.mark.parametrize("whole", [False, True])
def test_a_report_says_which_text_its_curves_are_of(whole: bool) -> None:
    part = {"documents": 3, "tokens": 1137, "bytes": 1137, "whole": whole}
    verdict = json.loads((Path(__file__).parents[1] / "golden" / "verdict_example.json").read_text())
    view = View({**verdict, "validated": {"baseline": part}})
    drawing = curves.trajectories(view)
    assert drawing is not None
    for text in (str(drawing.caption), markdown.page({**verdict, "validated": {"baseline": part}})):
        assert ("the same 3 excerpts of held-out documents, 1,137 tokens in all" in text) is not whole
