"""One look at a store: each record is read once, and the look is of one state of the store."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made

from ablab.core import opened
from ablab.core.fault import CheckFailed
from ablab.judging import collect, judge
from ablab.runs.plan import Look, Plan, Readings

RECORDS = ("done.json", "result.json", "scores.npz")
ARMS = made.STUDY + "\n[arm.narrow]\nmodel.d_model = 24\n"


class Forgetful(Look):
    """A look that remembers nothing: every function asks the files anew."""

    def once(self, path: str, what: str, reader: Any) -> Any:
        return reader(Path(path)) if Path(path).exists() else None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each record's file has been opened."""
    found, real = Counter[Path](), opened.opened

    def counted(path: Path | str) -> Any:
        if Path(path).name in RECORDS:
            found[Path(path)] += 1
        return real(path)

    monkeypatch.setattr(opened, "opened", counted)
    return found


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setitem(made.EFFECT, "narrow", dict.fromkeys(made.STAGES, 0.02))
    monkeypatch.setitem(made.BYTES, "narrow", 13_000)
    found = made.plan(tmp_path, ARMS)
    judge.decisions(found)
    return made.fill(found)


def untimed(answer: Any) -> Any:
    """An answer without the time at which it was given."""
    if isinstance(answer, dict):
        return {key: untimed(value) for key, value in answer.items() if key not in ("judged", "when")}
    return [untimed(one) for one in answer] if isinstance(answer, list) else answer


def test_judging_reads_each_record_once(plan: Plan, reads: Counter[Path]) -> None:
    judge.conclude(plan)
    keys = {key for run in plan.runs.values() for key in run.steps}
    scored = sum(len(run.score_keys) - 1 for run in plan.runs.values())  # a probe's scores are empty, and nobody's
    assert set(reads.values()) == {1} and len(reads) == len(keys) + scored


def test_an_answer_is_that_of_reading_again_and_again(plan: Plan, reads: Counter[Path]) -> None:
    once = untimed(judge.conclude(plan))
    read = reads.total()
    again = untimed(judge.conclude(replace(plan, store=Forgetful(plan.store.root))))
    assert reads.total() - read > 4 * read, "the way that it is compared with"
    assert once == again and len({row["word"] for row in once["arms"]}) > 2


def test_what_ends_during_a_look_belongs_to_the_next(plan: Plan) -> None:
    late = plan.runs["wide", 2]
    done = plan.store.train(late.train_key) / "done.json"
    record = done.read_bytes()
    done.unlink()
    look = plan.look()
    assert look.store.trained(late.train_key) is None and look.store.since(str(done)) is None
    done.write_bytes(record)
    assert [(run.arm, run.seed) for run in collect.wanted(look)] == [("wide", 2)], "still the state of its beginning"
    assert collect.wanted(plan) == []


def test_a_later_look_reads_what_is_new_alone(plan: Plan, reads: Counter[Path]) -> None:
    kept, key = Readings(), plan.runs["wide", 1].score_keys["ttt"]
    collect.collect(plan.look(kept))
    reads.clear()
    before = plan.look(kept)
    assert collect.collect(before) and not reads
    result = plan.store.score(key) / "result.json"
    other = plan.store.score(plan.runs["wide", 0].score_keys["ttt"]) / "result.json"
    result.unlink()
    result.write_bytes(other.read_bytes())
    with pytest.raises(CheckFailed, match="is of another stage"):
        collect.collect(plan.look(kept))
    assert set(reads) == {result}
    assert before.store.scored(key), "an earlier look stands"


def test_a_record_that_rots_is_refused_by_the_next_look(plan: Plan) -> None:
    kept, done = Readings(), plan.store.train(plan.runs["wide", 1].train_key) / "done.json"
    collect.collect(plan.look(kept))
    done.write_text(json.dumps({**json.loads(done.read_text()), "seconds": 1.0}))
    with pytest.raises(CheckFailed, match="was changed after it was written"):
        collect.collect(plan.look(kept))


def test_scores_that_are_missing_are_refused(plan: Plan) -> None:
    key = plan.runs["int5", 0].score_keys["sliding"]
    (plan.store.score(key) / "scores.npz").unlink()
    with pytest.raises(CheckFailed, match=r"scores\.npz: cannot be read"):
        collect.collect(plan)
