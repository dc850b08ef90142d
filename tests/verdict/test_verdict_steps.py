"""Gaps between stages: paired within the runs, with intervals of the arm's own and against its reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_studies import B, decision, near, run, study
from scipy import stats

from ablab.verdict import ArmSpec, DocumentScores, RunScore, judge

STAGES = ("trained", "packed", "late")
CHAIN = {"late": "packed"}
GAP = {"base": (0.0300, 0.0304, 0.0298, 0.0301, 0.0303), "a": (0.0350, 0.0349, 0.0355, 0.0352, 0.0347)}
LATE = {"base": (-0.0400, -0.0403, -0.0399, -0.0402, -0.0398), "a": (-0.0290, -0.0295, -0.0293, -0.0288, -0.0291)}
D = (-0.0041, -0.0043, -0.0039, -0.0042, -0.0040)


def parts():
    found = {}
    for i in range(5):
        for arm, first in (("base", B[i]), ("a", B[i] + D[i])):
            packed = first + GAP[arm][i]
            found[arm, i] = {"stages": {"packed": packed, "late": packed + LATE[arm][i]}}
    return found


def made(**settings):
    return study(D, 5, 5, parts=parts(), stages=STAGES, chain=CHAIN, **settings)


def t_interval(x, alpha):
    x = np.asarray(x)
    return stats.ttest_1samp(x, 0).confidence_interval(1 - alpha)


def test_each_stage_against_the_one_it_stands_on():
    row = made().rows["a"]
    packed, late = row.steps["packed"], row.steps["late"]
    assert (packed.before, late.before, packed.over) == ("trained", "packed", "seeds")
    assert packed.gap == near(np.mean(GAP["a"])) and late.gap == near(np.mean(LATE["a"]))
    own, apart = t_interval(GAP["a"], 0.05), t_interval(np.subtract(GAP["a"], GAP["base"]), 0.05)
    assert (packed.gap_low, packed.gap_high) == (near(own.low), near(own.high))
    assert (packed.delta, packed.low, packed.high) == (near(0.00494), near(apart.low), near(apart.high))
    assert packed.delta == row.gaps["packed"].delta and late.delta != row.gaps["late"].delta


def test_the_baselines_own_gap_has_an_interval_too():
    base = made().rows["base"]
    own = t_interval(GAP["base"], 0.05)
    step = base.steps["packed"]
    assert (step.gap, step.gap_low, step.gap_high) == (near(np.mean(GAP["base"])), near(own.low), near(own.high))
    assert (step.delta, step.low, step.high) == (None, None, None) and base.steps["late"].before == "packed"


def test_without_a_chain_every_stage_stands_on_the_first():
    row = study(D, 5, 5, parts=parts(), stages=STAGES).rows["a"]
    assert {step.before for step in row.steps.values()} == {"trained"}
    for stage, gap in row.gaps.items():
        step = row.steps[stage]
        assert (step.delta, step.low, step.high) == (gap.delta, gap.low, gap.high) and step.gap == near(gap.gap)


def test_a_chain_through_a_probe_reaches_the_scored_stage_below_it():
    chain = {"late": "probe", "probe": "packed"}
    row = study(D, 5, 5, parts=parts(), stages=("trained", "packed", "probe", "late"), chain=chain).rows["a"]
    assert row.steps["late"].before == "packed" and "probe" not in row.steps


def test_an_arm_whose_stage_stands_elsewhere_has_a_gap_of_its_own_only():
    row = study(D, 5, 5, parts=parts(), stages=STAGES, chain=CHAIN, specs=[ArmSpec("a", chain={})]).rows["a"]
    late, both = row.steps["late"], np.add(GAP["a"], LATE["a"])
    assert (late.before, late.gap, late.delta, late.low) == ("trained", near(np.mean(both)), None, None)
    own = t_interval(both, 0.05)
    assert (late.gap_low, late.gap_high) == (near(own.low), near(own.high))
    assert "stage late: stands on trained, in base on packed; their gaps do not compare" in row.notes
    assert row.steps["packed"].delta == near(0.00494)


def test_a_chain_must_name_stages():
    with pytest.raises(
        ValueError, match=r"decision\.chain: late -> nowhere names no stage; known: trained, packed, late"
    ):
        decision(stages=STAGES, chain={"late": "nowhere"})


def test_a_change_of_sides_between_two_later_stages_is_an_inversion():
    """Worse as trained, better packed, worse late: from the first stage to the last nothing turns."""
    found = {}
    for i in range(5):
        wobble = (0.0002, -0.0001, 0.0001, -0.0002, 0.0)[i]
        found["base", i] = {"stages": {"packed": B[i] + 0.03, "late": B[i] - 0.01}}
        found["a", i] = {"stages": {"packed": B[i] + 0.03 - 0.008 + wobble, "late": B[i] - 0.01 + 0.007 - wobble}}
    up = tuple(0.006 + 0.0001 * k for k in (0, 1, -1, 2, -2))
    row = study(up, 5, 5, parts=found, stages=STAGES, chain=CHAIN).rows["a"]
    pairs = {(x.first, x.stage): x for x in row.inversions}
    assert set(pairs) == {("trained", "packed"), ("packed", "late")}
    assert pairs["packed", "late"].kind == "shown" and pairs["packed", "late"].over == "seeds"
    assert pairs["packed", "late"].delta_first == near(-0.008) and pairs["packed", "late"].delta == near(0.007)
    assert [(x.first, x.stage) for x in study(up, 5, 5, parts=found, stages=STAGES).rows["a"].inversions] == [
        ("trained", "packed")
    ]


def test_a_turn_that_its_step_does_not_show_is_none():
    noisy = parts()
    for i in range(5):
        packed = noisy["a", i]["stages"]["packed"]
        noisy["a", i] = {"stages": {"packed": packed, "late": packed - 0.04 + (0.09, -0.08, 0.05, -0.07, 0.01)[i]}}
    row = study(D, 5, 5, parts=noisy, stages=STAGES, chain=CHAIN).rows["a"]
    assert not any((x.first, x.stage) == ("packed", "late") for x in row.inversions)


# one seed: documents

TOKENS, SIZE = np.tile([100, 300, 50, 150, 80], 6), np.tile([430, 1240, 215, 640, 300], 6)
NATS = np.tile([330.1, 951.2, 170.4, 480.9, 260.0], 6)
PACKED = np.tile([0.030, 0.031, 0.029, 0.032, 0.030], 6)
SHIFT = np.tile([-0.020, -0.021, -0.019, -0.022, -0.0195], 6)
PACKED_SHIFT = np.tile([0.011, 0.012, 0.010, 0.0125, 0.011], 6)


def one_checkpoint(shares_weights=True, late_tokens=TOKENS, first=None, groups=None):
    def score(rates):
        mine = None if groups is None else groups[:first]
        return DocumentScores((NATS + TOKENS * rates)[:first], TOKENS[:first], SIZE[:first], mine, "site")

    base = {"trained": score(0 * SHIFT), "packed": score(PACKED)}
    arm = {"trained": score(SHIFT), "packed": score(PACKED + PACKED_SHIFT)}
    arm["late"] = base["late"] = DocumentScores(NATS[: len(late_tokens)], late_tokens, SIZE[: len(late_tokens)])
    runs = [RunScore(name, 0, "done", stages=stages) for name, stages in (("base", base), ("a", arm))]
    how = decision(1, 1, stages=STAGES, chain=CHAIN)
    return judge(how, [ArmSpec("a", shares_weights=shares_weights)], [0], runs).rows


def over_documents(rates):
    """By hand: se over documents of a ratio of sums, residuals over 1 - leverage, t with the effective number less one."""
    total = TOKENS.sum()
    delta = (TOKENS * rates).sum() / total
    residual = (TOKENS * rates - delta * TOKENS) / (1 - TOKENS / total)
    half = stats.t.isf(0.025, total**2 / (TOKENS**2).sum() - 1) * math.sqrt((residual**2).sum()) / total
    return near(delta), near(delta - half), near(delta + half)


def test_one_seed_has_gaps_over_documents_for_these_weights():
    rows = one_checkpoint()
    step = rows["a"].steps["packed"]
    assert step.over == "documents"
    assert (step.gap, step.gap_low, step.gap_high) == over_documents(PACKED + PACKED_SHIFT - SHIFT)
    assert (step.delta, step.low, step.high) == over_documents(PACKED_SHIFT - SHIFT)
    base = rows["base"].steps["packed"]
    assert (base.gap, base.gap_low, base.gap_high) == over_documents(PACKED) and base.over == "documents"


def test_one_seed_of_shared_weights_has_every_stage_over_documents():
    row = one_checkpoint()["a"]
    assert row.shares_weights and row.notes[0] == "for these weights"
    packed = row.stages["packed"]
    assert (packed.delta, packed.low, packed.high) == over_documents(PACKED_SHIFT)
    assert [(x.first, x.stage, x.kind, x.over) for x in row.inversions if x.stage == "packed"] == [
        ("trained", "packed", "shown", "documents")
    ]


def test_one_seed_over_a_handful_of_documents_has_gaps_without_intervals_and_says_so():
    for shares_weights in (True, False):
        rows = one_checkpoint(shares_weights, first=25)
        few = "no word over documents: one document is 9% of the text; 25 count as 17.6, 20 are needed"
        for name in ("a", "base"):
            step = rows[name].steps["packed"]
            assert (step.over, step.said, step.gap_low, step.low) == ("documents", few, None, None)
        assert rows["a"].steps["packed"].delta == near((TOKENS * (PACKED_SHIFT - SHIFT)).sum() / TOKENS.sum())
        assert not any(turn.kind == "shown" for turn in rows["a"].inversions)


def test_gaps_over_groups_are_as_wide_as_the_groups_make_them():
    alone = one_checkpoint()["a"].steps["packed"]
    of_one = one_checkpoint(groups=np.arange(len(TOKENS)))["a"].steps["packed"]
    assert (of_one.low, of_one.high) == (near(alone.low), near(alone.high))
    assert alone.said == "documents taken as independent" and of_one.said == "30 groups by site taken as independent"
    five = one_checkpoint(groups=np.arange(len(TOKENS)) % 5)["a"].steps["packed"]
    assert five.low is None and five.said.startswith(
        "no word over documents: one group by site is 44% of the text; 5 groups"
    )


def test_one_seed_of_other_weights_has_no_interval_of_levels():
    row = one_checkpoint(shares_weights=False)["a"]
    assert row.word == "inconclusive" and row.stages["packed"].low is None
    assert row.steps["packed"].over == "documents" and row.steps["packed"].low is not None
    assert [x.kind for x in row.inversions if x.stage == "packed"] == ["likely"]


def test_stages_of_other_texts_have_no_gap_and_say_so():
    row = one_checkpoint(late_tokens=TOKENS[:3])["a"]
    assert "late" not in row.steps
    assert "stage late: scored on other documents than packed, no gap between them" in row.notes


def test_several_seeds_of_shared_weights_are_paired_by_seed():
    v = study(D, 5, 5, parts=parts(), stages=STAGES, chain=CHAIN, specs=[ArmSpec("a", shares_weights=True)])
    assert v.rows["a"].shares_weights and v.rows["a"].seeds == 5 and "for these weights" not in v.rows["a"].notes
    plain = made().rows["a"]
    assert (v.rows["a"].low, v.rows["a"].high, v.rows["a"].steps) == (plain.low, plain.high, plain.steps)


# divergence


def test_a_stage_that_diverged_is_said_and_the_others_stay():
    lost = parts()
    lost["a", 3]["stages"]["late"] = math.nan
    lost["a", 3]["faults"] = {"late": "the loss of chunk 7 is not finite"}
    row = study(D, 5, 5, parts=lost, stages=STAGES, chain=CHAIN, matters=0.002).rows["a"]
    assert row.word == "better" and set(row.stages) == {"trained", "packed"} and set(row.steps) == {"packed"}
    assert row.unstable == {"late": "diverged at seed 3 (the loss of chunk 7 is not finite)"}
    said = "stage late: unstable, diverged at seed 3 (the loss of chunk 7 is not finite); its other stages stand"
    assert said in row.notes


@pytest.mark.parametrize("seeds", [(1, 3), range(5)])
def test_at_the_deciding_stage_the_word_is_unstable_and_the_other_stages_stay(seeds):
    nats = {arm: NATS + TOKENS * shift for arm, shift in (("base", 0.0), ("a", -0.02))}
    runs = []
    for i in range(5):
        for arm in ("base", "a"):
            early = DocumentScores(nats[arm] + 0.1 * i + (0.01 * i if arm == "a" else 0), TOKENS, SIZE)
            late = np.full(len(TOKENS), np.nan) if arm == "a" and i in seeds else nats[arm] - 4 - 0.1 * i
            faults = {"late": "loss"} if arm == "a" and i in seeds else {}
            stages = {"trained": early, "late": DocumentScores(late, TOKENS, SIZE)}
            runs.append(RunScore(arm, i, "done", stages=stages, faults=faults))
    how = decision(5, 5, stage="late", stages=("trained", "late"))
    row = judge(how, [ArmSpec("a")], range(5), runs).rows["a"]
    assert row.word == "unstable" and row.low is None and "late" in row.unstable
    assert row.stages["trained"].delta < 0 and row.stages["trained"].low is None
    assert ("late" in row.stages) == (len(seeds) == 2)  # over the pairs left, where there are any


def test_a_run_that_diverged_in_training_has_no_unstable_stage():
    row = study((-0.02, "diverged", -0.021, "diverged", -0.02), 5, 5).rows["a"]
    assert row.word == "unstable" and row.unstable == {}


def test_a_span_that_no_token_lies_in_did_not_diverge():
    empty = DocumentScores(np.zeros(2), np.zeros(2), np.zeros(2))
    runs = [
        run(arm, i, B[i] + (0.01 + i / 1e4) * (arm == "a"), stages={"late": empty})
        for arm in ("base", "a")
        for i in range(5)
    ]
    row = judge(decision(5, 5, stages=("trained", "late")), [ArmSpec("a")], range(5), runs).rows["a"]
    assert row.unstable == {} and "late" not in row.stages
