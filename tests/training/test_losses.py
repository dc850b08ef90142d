"""Losses over spans: the numbers of the original's rule, and that only the batch decides, never the micro-batch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from ablab.core.fault import InvalidStudy
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.data.corpus.marks import Marks
from ablab.runs.store import read_lines
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.scores import Scores
from ablab.training.learner import Learner, named, spanned
from ablab.training.losses.mean import Mean
from ablab.training.losses.spans import Spans

# Eight targets, in the words of vpareek2/vpMoE's pretrain_gpt.py: nats, loss mask, span (facts computed in fp64).
NATS = torch.tensor([[2, 1, 3, 0.5, 0.25, 4, 1, 0.5]], dtype=torch.float64)
TARGETS = torch.tensor([[-1, -1, 5, 5, 5, 5, 5, -1]])
SPAN = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 0]])


def value(loss: Any, nats: torch.Tensor, targets: torch.Tensor, spans: torch.Tensor) -> float:
    weight, divisor = loss.weigh(targets, spans)
    nats = nats * (targets >= 0)
    return float((nats if weight is None else nats * weight).sum()) / divisor


@pytest.mark.parametrize("reasoning, wanted", [(1.0, 3.75), (0.5, 3.125), (0.0, 2.5)])
def test_span_means_are_weighed_as_told(reasoning: float, wanted: float) -> None:
    assert value(Spans(reasoning=reasoning), NATS, TARGETS, SPAN) == wanted


def test_a_span_without_targets_adds_nothing() -> None:
    none_final = torch.where(SPAN == 2, -1, TARGETS)
    assert value(Spans(), NATS, none_final, SPAN) == 1.25
    assert value(Mean(), NATS, TARGETS, SPAN) == 1.75, "the mean over all targets"


def test_groups_of_rows_are_the_original_micro_batches() -> None:
    """Rows of other lengths: the mean of each group's means is not the mean over the batch."""
    nats = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], dtype=torch.float64)
    targets = torch.tensor([[1, 1, 1, 1], [1, -1, -1, 1]])
    spans = torch.tensor([[1, 1, 1, 2], [1, 1, 2, 2]])
    assert value(Spans(), nats, targets, spans) == pytest.approx((1 + 2 + 3 + 5) / 4 + (4 + 8) / 2)
    groups = ((2 + 4) + (5 + 8)) / 2
    assert value(Spans(group_rows=1), nats, targets, spans) == pytest.approx(groups)
    assert value(Spans(group_rows=2), nats, targets, spans) == value(Spans(), nats, targets, spans)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"reasoning": -1.0}, "reasoning = -1 is below 0; give a weight"),
        ({"reasoning": 0.0, "final": 0.0}, "reasoning and final are both 0: nothing is trained"),
        ({"group_rows": -1}, "group_rows = -1 is no number of rows"),
    ],
)
def test_settings_that_mean_nothing_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Spans(**asked)


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="group_rows = 2 does not divide the 3 rows of a batch; choose a divisor"):
        Spans(group_rows=2).weigh(torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long))


def test_sums_by_span() -> None:
    found = named(spanned(NATS, TARGETS, SPAN))
    assert found == {"reasoning": 1.25, "reasoning_targets": 3.0, "final": 2.5, "final_targets": 2.0}
    assert named(spanned(NATS, torch.full_like(TARGETS, -1), SPAN)) == {"reasoning_targets": 0.0, "final_targets": 0.0}


def spans_of(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A span for each token: the first five of a document none, then reasoning, the last third final."""
    found = np.zeros(len(tokens), np.uint8)
    for start, end in zip(starts, [*starts[1:], len(tokens)]):
        length = end - start
        found[start + 5 : start + 2 * length // 3] = 1
        found[start + 2 * length // 3 : end] = 2
    return found


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The tiny corpus with spans."""
    plain = tiny.corpus()
    span = spans_of(np.asarray(plain.tokens), plain.documents)
    aligned = np.append(span[1:], 0)
    aligned[plain.documents[1:] - 1] = 0  # the last token of a document has no target
    valid = plain.valid
    marks = spans_of(valid.tokens, valid.starts[:-1])
    return replace(
        plain,
        marks=Marks([(aligned > 0).astype(np.uint8)], [aligned]),
        valid=Valid(valid.tokens, valid.n_bytes, valid.starts[:-1], valid.digests, marks),
    )


def learner(corpus: Corpus, loss: Any, *, micro_rows: int = 4) -> Learner:
    how: dict[str, Any] = {"precision": "fp64", "executor": "reference", "device": "cpu"}
    return Learner(tiny.settings(loss=loss), corpus, seed=1, micro_rows=micro_rows, **how)


@pytest.mark.parametrize("loss", ["mean", {"name": "spans", "reasoning": 0.5}, {"name": "spans", "group_rows": 1}])
def test_the_gradient_is_that_of_the_whole_batch(corpus: Corpus, loss: Any) -> None:
    whole, pieces = learner(corpus, loss), learner(corpus, loss, micro_rows=1)
    batch = whole.stream.batch(0)
    assert whole.gradients(batch) == pytest.approx(pieces.gradients(batch), rel=1e-12)
    for name, parameter in whole.parameters.items():
        assert torch.allclose(parameter.grad, pieces.parameters[name].grad, rtol=1e-9, atol=1e-12), name  # type: ignore
    assert whole.spanned == pytest.approx(pieces.spanned)


def test_the_loss_is_the_weighed_mean_of_what_is_logged(corpus: Corpus) -> None:
    one = learner(corpus, {"name": "spans", "reasoning": 0.25, "final": 2.0})
    batch = one.stream.batch(0)
    loss = one.gradients(batch)
    assert loss == pytest.approx(0.25 * one.spanned["reasoning"] + 2.0 * one.spanned["final"], rel=1e-12)
    assert one.spanned["reasoning_targets"] == int((batch.spans_BT == 1).sum())
    assert int((batch.targets_BT >= 0).sum()) == int((batch.spans_BT > 0).sum()), "what is masked is no target"


def test_a_loss_over_spans_needs_spans() -> None:
    with pytest.raises(
        InvalidStudy, match=r"train\.loss: weighs spans, and no token of this data lies in one; use data"
    ):
        learner(tiny.corpus(), "spans")


def test_training_logs_and_scores_spans(corpus: Corpus, tmp_path: Path) -> None:
    settings = tiny.settings(loss="spans")
    done = tiny.trained(tmp_path, settings, corpus)
    rows = [row for row in read_lines(tmp_path / "metrics.jsonl") if "loss" in row]
    assert all(row["loss"] == pytest.approx(row["loss_reasoning"] + row["loss_final"], rel=1e-5) for row in rows)
    last = done["trajectory"][-1]
    one = learner(corpus, "spans")
    scores = Disjoint()(one.model, corpus, settings, seed=0, precision="fp64")
    assert set(scores.metrics) == {
        "nats_per_token", "bits_per_byte", "nats_per_reasoning_token", "nats_per_final_token",
    } == set(last) - {"step", "tokens"}  # fmt: skip
    both = [scores.spans[name] for name in ("reasoning", "final")]
    assert np.array_equal(sum(part["tokens"] for part in both), scores.tokens)
    assert np.allclose(sum(part["nats"] for part in both), scores.nats, rtol=1e-12)
    assert one.validate() == pytest.approx(scores.metrics, rel=1e-9)
    assert last["nats_per_reasoning_token"] < done["untrained"]["ln_vocab"] == math.log(tiny.VOCAB)


def test_spans_of_scores_come_back_from_disk(tmp_path: Path) -> None:
    part = {"nats": np.array([1.0, 2.0]), "tokens": np.array([1, 3])}
    scores = Scores([1.0, 2.0], [1, 3], [5, 6], spans={"reasoning": part})  # type: ignore[arg-type]
    again = Scores.load(tmp_path, {"scores": scores.save(tmp_path)})
    assert again.metrics["nats_per_reasoning_token"] == 0.75 and set(again.spans) == {"reasoning"}
    nats, tokens, size = again.of_metric("nats_per_reasoning_token")
    assert (nats.tolist(), tokens.tolist(), size.tolist()) == ([1.0, 2.0], [1, 3], [0, 0])
    with pytest.raises(KeyError):
        again.of_metric("nats_per_final_token")
