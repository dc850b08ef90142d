"""What check says a study can show, from the noise of each arm's own kind."""

from __future__ import annotations

import math
import shutil
import statistics
from pathlib import Path

import pytest
from tests import finished_store as made
from tests.judging.test_price import forget

from ablab.check import facts as check
from ablab.check import quote
from ablab.judging import collect
from ablab.runs.plan import Plan
from ablab.verdict import planning as reckoning


def own(plan: Plan, arm: str) -> list[float]:
    scores = {(run.arm, run.seed): plan.metric(run) for run in collect.collect(plan) if run.status == "done"}
    return [
        scores[arm, s] - scores["baseline", s] for s in plan.seeds if (arm, s) in scores and ("baseline", s) in scores
    ]


def test_the_stores_own_pairs_say_the_spread_of_each_arm(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    found = check.reach(plan)["arms"]
    for arm in ("int5", "wide"):
        sd = statistics.stdev(own(plan, arm))
        assert found[arm]["sd"] == pytest.approx(sd) and found[arm]["source"] == f"sd {sd:.4g} of its own 3 pairs"
        plain = reckoning.plan(3, 3, 2, plan.study.decision["matters"], sd)
        assert (found[arm]["mde"], found[arm]["tie"]) == (pytest.approx(plain.mde), pytest.approx(plain.tie))


def test_noise_of_trainings_is_not_that_of_shared_weights(tmp_path: Path) -> None:
    plan = made.plan(tmp_path)
    blind = check.reach(plan)["arms"]
    assert all(one["sd"] is None and one["in_units_of_s"] for one in blind.values())
    assert "3 pairs of its own" in blind["int5"]["source"] and "3 baseline seeds" in blind["wide"]["source"]
    made.fill(plan)
    kept = {key for run in plan.runs.values() if run.arm == "baseline" for key in run.score_keys.values()}
    for run in plan.runs.values():
        for key in set(run.score_keys.values()) - kept:
            shutil.rmtree(plan.store.score(key))
    found = check.reach(plan)["arms"]
    assert found["int5"]["sd"] is None, "three baseline seeds say nothing of what is done to one training"
    assert found["wide"]["sd"] > 0 and "an upper bound" in found["wide"]["source"]
    said = check.reach_text(check.reach(plan), quote.bounds(plan))
    assert "int5: smallest effect" in said and "wide: smallest effect" in said


def test_a_lost_seed_leaves_two_pairs_which_say_nothing(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    forget(plan, plan.seeds[1])
    assert check.reach(plan)["arms"]["int5"]["sd"] is None


LARGE = (
    made.STUDY.replace("d_model = 32\nn_heads = 2", "d_model = 1536\nn_heads = 12")
    .replace('name = "stages"', 'name = "large"')
    .replace("model.d_model = 40", "model.d_model = 1560")
)


def test_before_any_seed_the_shipped_bank_says_what_can_be_shown(tmp_path: Path) -> None:
    """A model of 115M parameters is like modded-nanogpt's; the text says whose noise it is and what it is not."""
    plan = made.plan(tmp_path, LARGE)
    found = check.reach(plan)["arms"]
    valid = plan.corpus(plan.runs["baseline", 0]).valid
    ratio = valid.n_targets / (valid.n_scored_bytes * math.log(2))
    sd = math.sqrt(2) * 0.0016 * ratio
    plain = reckoning.plan(3, 3, 2, plan.study.decision["matters"], sd)
    assert (found["wide"]["sd"], found["wide"]["mde"]) == (pytest.approx(sd), pytest.approx(plain.mde))
    assert found["int5"]["sd"] is None, "what is done to one training differs by far less than trainings"
    for said in (
        "modded_124m_2025 (models of this size; KellerJordan/modded-nanogpt)",
        "none of this study's",
        "pairing",
    ):
        assert said in found["wide"]["source"]
    assert collect.bank(plan) is None, "it plans, and chooses nothing"


def test_a_stores_own_noise_comes_before_the_shipped(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path, LARGE))
    assert "of its own 3 pairs" in check.reach(plan)["arms"]["wide"]["source"]


def test_a_factorial_counts_its_interactions_and_says_the_smallest_that_can_be_shown(tmp_path: Path) -> None:
    """A 2x2 interaction is of four runs, a difference of two; averaged over a third factor it is as quiet as an arm."""
    square = "[factorial.two]\nmodel.qk_norm = [true, false]\nmodel.softcap = [0, 15]\n"
    plan = made.plan(tmp_path, made.STUDY + square)
    found = check.reach(plan)
    alone = reckoning.plan(
        3, 3, 2 + 3 + 1, plan.study.decision["matters"], None
    )  # two arms, three cells, their interaction
    assert found["mde"] == pytest.approx(alone.mde) and found["interaction"] == pytest.approx(math.sqrt(2) * alone.mde)
    said = check.reach_text(found, quote.bounds(plan))
    assert f"smallest interaction of two shown with power 0.8: {found['interaction']:.4g} s" in said
    (tmp_path / "cube").mkdir()
    cube = check.reach(made.plan(tmp_path / "cube", f"{made.STUDY}{square}train.ema = [0, 0.9]\n"))
    assert cube["interaction"] == pytest.approx(cube["mde"])
    assert check.reach(made.plan(tmp_path / "cube", made.STUDY))["interaction"] is None
