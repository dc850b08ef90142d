"""Groups of documents that a study declares, from its file to the row of its verdict and its page."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests import tiny

from ablab.core.fault import InvalidStudy
from ablab.core.rng import stream
from ablab.data.corpus.groups import Groups
from ablab.judging import history, judge
from ablab.launch import work
from ablab.report import markdown
from ablab.runs import corpora, planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.scoring.scores import Scores
from ablab.study import load

STUDY = """
[study]
name = "groups"
[decision]
metric = "bits_per_byte"
stage = "post_quant"
matters = 0.01
seeds = 1
[budget]
tokens = 2048
batch_tokens = 256
[data]
source = "train.jsonl"
valid_source = "valid.jsonl"
tokenizer = "bytes"
groups = "site"
[model]
layers = "M"
d_model = 16
n_heads = 2
seq_len = 64
main.position = "rope"
[stage]
pre_quant = { evaluate = "disjoint" }
post_quant = { compress = { name = "rtn", bits = 6, small = 64 }, codec = "brotli", evaluate = "disjoint" }
[arm]
bits3.stage.post_quant.compress.bits = 3
"""
PLAIN = STUDY.replace('groups = "site"\n', "")
GROUPS = 40


def lines(path: Path, count: int) -> None:
    words = ["abcdefghijklmnopqrstuvwxyz "[int(x * 27)] for x in stream(3, path.stem).random(count * 60)]
    rows = [{"text": f"{i} {''.join(words[60 * i : 60 * i + 30 + i % 30])}", "site": i % GROUPS} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def planned(folder: Path, text: str) -> Plan:
    (folder / "study.toml").write_text(text)
    return planning.make(load(folder / "study.toml"), Store(folder / "runs"), say=lambda _: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    lines(folder / "train.jsonl", 120)
    lines(folder / "valid.jsonl", 2 * GROUPS)
    made = planned(folder, PLAIN)
    history.record(made)
    how: dict[str, Any] = {"store": made.store, "where": made.where, "mirrors": (), "stop": lambda: False}
    for run in made.runs.values():
        assert work.do(run, say=lambda _: None, **how) == "done"
    return folder


def row_of(answer: dict[str, Any], name: str = "bits3") -> dict[str, Any]:
    return next(row for row in answer["arms"] if row["name"] == name)


def by_hand(made: Plan, grouped: bool) -> tuple[float, float]:
    """The interval of bits3, from the stored scores and the rows' sites."""
    keys = [made.runs[arm, 0].score_keys["post_quant"] for arm in ("bits3", "baseline")]
    scores = [Scores.load(made.store.score(key), made.store.scored(key) or {}) for key in keys]
    e, w = scores[0].nats - scores[1].nats, scores[1].bytes * math.log(2)
    corpus = made.corpus(made.runs["bits3", 0])
    site = [int(bytes(int(i) for i in one.ids[1:]).decode().split()[0]) % GROUPS for one in corpus.valid]
    if grouped:
        e, w = (np.bincount(site, x, GROUPS) for x in (e, w))
    delta = e.sum() / w.sum()
    error = math.sqrt((((e - delta * w) / (1 - w / w.sum())) ** 2).sum()) / w.sum()
    half = stats.t.isf(0.025, w.sum() ** 2 / (w * w).sum() - 1) * error
    return float(delta - half), float(delta + half)


def test_the_verdict_and_its_page_take_declared_groups_as_independent(finished: Path) -> None:
    alone = planned(finished, PLAIN)
    first = judge.conclude(alone)
    made = planned(finished, STUDY)
    assert {run.train_key for run in made.runs.values()} == {run.train_key for run in alone.runs.values()}
    assert [run.score_keys for run in made.runs.values()] == [run.score_keys for run in alone.runs.values()]
    answer = judge.conclude(made)
    for verdict, grouped, said in (
        (first, False, "documents taken as independent"),
        (answer, True, "40 groups by site taken as independent"),
    ):
        row = row_of(verdict)
        assert (row["low"], row["high"]) == pytest.approx(by_hand(made, grouped), rel=1e-9)
        assert said in row["notes"] and row["text_said"] == said
        page = markdown.page(verdict)
        assert f"with a t interval over documents ({said})" in page
        assert (
            f"bits3: {said}" in page and said[0].upper() + said[1:] in page
        )  # the row's note, and the note of the steps
    assert row_of(first)["text_documents"] > 2 * GROUPS * 0.9 > row_of(answer)["text_documents"]
    status = history.statuses(made, history.rows(made))["bits3"]
    assert status.kind == "exploratory" and "changed: data.groups none -> site" in status.because
    assert history.statuses(alone, history.rows(alone))["bits3"].kind == "declared"


def test_data_that_cannot_be_read_any_more_keeps_its_groups(finished: Path) -> None:
    made, said = planned(finished, STUDY), list[str]()
    kept = (finished / "valid.jsonl").read_text()
    (finished / "valid.jsonl").unlink()
    try:
        recalled = planning.make(made.study, made.store, say=lambda _: None, recall=said.append)
        numbers = [one.corpus(one.runs["baseline", 0]).groups for one in (made, recalled)]
        assert said and numbers[0] and numbers[1] and np.array_equal(numbers[0].numbers, numbers[1].numbers)
        other = load(finished / "study.toml")
        other.baseline.settings["data"]["groups"] = "other"
        with pytest.raises(InvalidStudy, match="matches no file"):
            planning.make(other, made.store, say=lambda _: None, recall=said.append)
    finally:
        (finished / "valid.jsonl").write_text(kept)


def test_too_few_groups_are_warned_of_although_the_documents_are_many() -> None:
    corpus = tiny.corpus()
    few = replace(corpus, groups=Groups("site", np.array([0, 0, 0, 1, 1, 1])))
    said = corpora.few_documents(few)
    assert "the held-out text is 6 documents in 2 groups by site that count as " in said
    assert "hold out documents of more groups" in said
    assert "the held-out text is 6 documents that count as " in corpora.few_documents(corpus)
