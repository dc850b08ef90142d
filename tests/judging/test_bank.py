"""The bank holds like with like, and the one that chose stays with the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made

from ablab.core.fault import InvalidStudy
from ablab.judging import collect, judge
from ablab.verdict import ArmSpec, Decision, RunScore
from ablab.verdict import judge as verdict_of

ONE = made.STUDY.replace("\n[arm.int5]\nstage.post_quant.compress.bits = 5\n", "")


def renamed(text: str, name: str) -> str:
    return text.replace('name = "stages"', f'name = "{name}"')


def finish(folder: Path, text: str) -> dict[str, Any]:
    plan = made.plan(folder, text)
    judge.decisions(plan)
    made.fill(plan)
    return judge.conclude(plan)


def row(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in answer["arms"] if one["name"] == name)


def test_the_bank_takes_arms_that_train_and_no_others(tmp_path: Path) -> None:
    """`int5` shares the baseline's weights: its differences are another kind of number."""
    answer = finish(tmp_path, made.STUDY)
    assert row(answer, "int5")["s"] and row(answer, "int5")["shares_weights"]
    bank = collect.bank(made.plan(tmp_path, renamed(ONE, "next")))
    assert bank is not None and (bank.sd, bank.df) == (pytest.approx(row(answer, "wide")["s"]), 2)


@pytest.mark.parametrize(
    "change",
    [
        {},  # nothing changed: taken
        {"word": "unstable"},
        {"word": "invalid"},
        {"seeds": 2},
        {"on": "wide"},
        {"s": None},
        {"shares_weights": True},
        {"changes": [{"path": "data.source", "before": "a", "after": "b"}]},
        {"changes": [{"path": "budget.tokens", "before": 1, "after": 2}]},
    ],
)
def test_rows_of_another_kind_are_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    finish(tmp_path, ONE)
    path = tmp_path / "runs/studies/stages/verdict.json"
    answer = json.loads(path.read_text())
    row(answer, "wide").update(change)
    path.write_text(json.dumps(answer))
    other = renamed(ONE, "next").replace("matters = 0.05", "matters = 0.04")  # or its bank would be the recorded one
    assert (collect.bank(made.plan(tmp_path, other)) is None) == bool(change)


def test_a_contrast_that_two_studies_judged_counts_once(tmp_path: Path) -> None:
    finish(tmp_path, ONE)
    finish(tmp_path, renamed(ONE, "again"))
    bank = collect.bank(made.plan(tmp_path, renamed(ONE, "next").replace("matters = 0.05", "matters = 0.04")))
    assert bank is not None and bank.df == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_a_stage_that_stands_on_another_packing_is_another_kind(tmp_path: Path, bits: int) -> None:
    finish(tmp_path, ONE)
    other = ONE.replace('name = "rtn", bits = 6', f'name = "rtn", bits = {bits}')
    assert collect.bank(made.plan(tmp_path, renamed(other, "next"))) is None


def test_arms_of_shared_weights_read_no_bank(tmp_path: Path) -> None:
    finish(tmp_path, ONE)
    shared = renamed(made.STUDY.replace("\n[arm.wide]\nmodel.d_model = 40\n", ""), "next")
    assert collect.bank(made.plan(tmp_path, shared)) is None
    both = finish(tmp_path, renamed(made.STUDY, "both"))
    assert both["bank"] is not None
    assert not any("of the bank's" in note for note in row(both, "int5")["notes"])


def test_a_finished_verdict_does_not_change_when_another_study_ends(tmp_path: Path) -> None:
    text = renamed(ONE, "first").replace("seeds = 3", "seeds = 1")
    before = finish(tmp_path, text)
    finish(tmp_path, renamed(ONE, "second"))
    after = judge.conclude(made.plan(tmp_path, text))
    assert before["bank"] is after["bank"] is None
    told = ("word", "delta", "mde", "more_seeds", "notes", "price", "chance")
    assert [{k: a[k] for k in told} for a in before["arms"]] == [{k: a[k] for k in told} for a in after["arms"]]


def test_the_bank_that_chose_stays_with_the_study(tmp_path: Path) -> None:
    finish(tmp_path, renamed(ONE, "first"))
    probe = 'seeds = { start = 3, at_most = 3, probe = 1, keep = "2 sigma" }'
    chooses = renamed(ONE, "second").replace("seeds = 3", probe)
    before = finish(tmp_path, chooses)
    path = tmp_path / "runs/studies/first/verdict.json"
    answer = json.loads(path.read_text())
    row(answer, "wide")["s"] *= 1000
    path.write_text(json.dumps(answer))  # as if a noisier study had ended meanwhile
    plan = made.plan(tmp_path, chooses)
    assert collect.bank(plan).sd == before["bank"]["sd"]
    after = judge.conclude(plan)
    assert row(after, "wide")["word"] == row(before, "wide")["word"]
    assert row(after, "wide")["notes"] == row(before, "wide")["notes"]
    for file in (tmp_path / "runs").glob("decisions.jsonl"):
        file.unlink()  # the study's own copy holds it too
    assert judge.conclude(plan)["bank"] == before["bank"]


def test_two_sigma_is_refused_for_arms_of_shared_weights(tmp_path: Path) -> None:
    finish(tmp_path, renamed(ONE, "first"))
    plan = made.plan(tmp_path, made.STUDY.replace("seeds = 3", 'seeds = { probe = 1, keep = "2 sigma" }'))
    with pytest.raises(InvalidStudy, match="int5 shares its reference's weights; keep a number of arms"):
        collect.measurable(plan)


def test_families_are_replayed_by_themselves() -> None:
    """An arm of a later family takes no share of the first one's alpha, and the other way round."""
    d = {
        "a": (-0.012, -0.0131, -0.0117, -0.0128),
        "b": (0.004, -0.003, 0.001, -0.002),
        "c": (-0.002, -0.0031, -0.0017, -0.004),
    }
    runs = [
        RunScore(arm, s, "done", f"h{s}", stages={"s": 3.2 + 0.01 * s + (d[arm][s] if arm in d else 0.0)})
        for arm in ("baseline", *d)
        for s in range(4)
    ]
    rule = Decision(stage="s", matters=0.001, start=4, at_most=4)
    first = verdict_of(rule, [ArmSpec("a"), ArmSpec("b")], range(4), runs).rows
    both = verdict_of(rule, [ArmSpec("a"), ArmSpec("b"), ArmSpec("c", family=1)], range(4), runs).rows
    alone = verdict_of(rule, [ArmSpec("c")], range(4), runs).rows
    assert (both["a"], both["b"], both["c"]) == (first["a"], first["b"], alone["c"])


@pytest.mark.parametrize("twins", [1, 2, 3])
def test_a_repeated_contrast_takes_one_place(twins: int) -> None:
    d = {"a": (-0.002, -0.0031, -0.0017, -0.004), "b": (0.004, -0.003, 0.001, -0.002)}
    names = ["a", *(f"a{i}" for i in range(twins)), "b", "same"]
    value = {name: d.get(name[0], (0.0,) * 4) for name in ("baseline", *names)} | {
        "baseline": (0.0,) * 4,
        "same": (0.0,) * 4,
    }
    runs = [
        RunScore(arm, s, "done", f"h{s}", stages={"s": 3.2 + 0.01 * s + of[s]})
        for arm, of in value.items()
        for s in range(4)
    ]
    rule = Decision(stage="s", matters=0.001, start=4, at_most=4)
    two = verdict_of(rule, [ArmSpec("a"), ArmSpec("b")], range(4), runs).rows
    specs = [ArmSpec(x, same_as="a" if x[0] == "a" and x != "a" else "baseline" if x == "same" else "") for x in names]
    more = verdict_of(rule, specs, range(4), runs).rows
    for name in ("a", "b"):
        assert (more[name].m, more[name].low, more[name].high) == (two[name].m, two[name].low, two[name].high)
    assert more["a0"].low == more["a"].low and more["same"].word == "equivalent"
