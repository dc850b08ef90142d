"""Numbers beside the word: stages, trajectory, one checkpoint, price, bank, limits, factorials inside a study."""

from __future__ import annotations

import math

import pytest
from made_studies import V3, V4, V6, B, decision, near, run, runs_of, study

from ablab.verdict import ArmSpec, Bank, DocumentScores, RunScore, judge


def test_trajectory_index_rung_and_late_crossing():
    def curve(shift):
        return {"trajectory": [(10.0, 9.0), (60.0, 3.5 + shift), (100.0, 3.3 + shift)]}

    parts = {("base", i): curve(0.0) for i in range(5)} | {("a", i): curve(0.01 + i / 1e4) for i in range(5)}
    row = study((-0.0241, -0.0252, -0.0236), parts=parts, budget_tokens=100.0).rows["a"]
    assert row.word == "better" and row.notes == ("late crossing",)
    assert row.trajectory.delta == near(0.0101)
    assert study((-0.0241, -0.0252, -0.0236), parts=parts).rows["a"].trajectory is None  # no budget, no half
    v = study(V4, parts=parts, budget_tokens=100.0, tie=("trajectory",))
    assert (v.winner, v.decided_by) == ("base", "trajectory")


def test_stages_gap_and_likely_inversion():
    stages = {("base", i): {"stages": {"late": 3.0 + i / 1e3}} for i in range(5)}
    stages |= {("a", i): {"stages": {"late": 3.0 + i / 1e3 + (0.02, -0.001, 0.03, -0.002, 0.02)[i]}} for i in range(5)}
    row = study(V6["a"][:5], 5, 5, parts=stages, stages=("trained", "late", "never")).rows["a"]
    assert set(row.stages) == {"trained", "late"} and set(row.gaps) == {"late"}
    assert [i.kind for i in row.inversions] == ["likely"]
    assert row.stages["late"].low < 0 < row.stages["late"].high
    row = study((*V6["a"][:4], "failed"), 5, 5, parts=stages, stages=("trained", "late")).rows["a"]
    assert row.stages["late"].delta == near((0.02 - 0.001 + 0.03 - 0.002) / 4)


def test_a_stage_scored_on_other_documents_has_no_row():
    text = DocumentScores([3.0, 6.1], [1, 2], [4, 8])
    other = DocumentScores([3.0, 6.1], [1, 2], [4, 9])
    runs = [run("base", i, B[i], stages={"late": text}) for i in range(3)]
    runs += [run("a", i, B[i] - 0.02 - i / 1e4, stages={"late": other}) for i in range(3)]
    row = judge(decision(stages=("trained", "late")), [ArmSpec("a")], range(8), runs).rows["a"]
    assert row.word == "better" and "late" not in row.stages
    assert "stage late: documents differ, not compared" in row.notes


def one_checkpoint(shift, times=8):
    tokens, size = [100, 300, 50, 150, 80] * times, [430, 1240, 215, 640, 300] * times
    nats = [330.1, 951.2, 170.4, 480.9, 260.0] * times
    arm = [x + t * s for x, t, s in zip(nats, tokens, shift * times, strict=True)]
    runs = [
        RunScore(name, 0, "done", stages={"trained": DocumentScores(y, tokens, size)})
        for name, y in (("base", nats), ("a", arm))
    ]
    return judge(decision(1, 1), [ArmSpec("a", shares_weights=True)], [0], runs).rows["a"]


def test_one_checkpoint_is_judged_over_documents():
    row = one_checkpoint((-0.020, -0.021, -0.019, -0.022, -0.0195))
    assert (row.word, row.seeds, row.notes[0]) == ("better", 1, "for these weights")
    assert row.high - row.delta == near(2.0512925 * row.se_doc)  # t.isf(.025, 27.15): 40 documents count as 28.15
    assert row.notes[1] == "documents taken as independent"
    assert one_checkpoint((0.0,) * 5).word == "equivalent"
    assert one_checkpoint((0.001, -0.001, 0.0, 0.001, 0.0)).word == "equivalent"
    assert one_checkpoint((-0.3, 0.3, 0.2, -0.1, 0.0)).word == "inconclusive"


def test_a_handful_of_documents_has_no_word():
    row = one_checkpoint((-0.020, -0.021, -0.019, -0.022, -0.0195), times=5)
    assert (row.word, row.low, row.p, row.low_text, row.mde) == ("inconclusive", None, None, None, None)
    assert row.delta == near(-0.02075) and row.se_doc > 0
    assert row.notes[1] == "no word over documents: one document is 9% of the text; 25 count as 17.6, 20 are needed"
    assert one_checkpoint((0.0,) * 5, times=1).word == "equivalent"  # identical scores are no estimate


def test_price_counts_what_is_really_paid():
    parts = {(x, i): {"seconds": 100.0 + i if x == "base" else 300.0 + i} for x in ("base", "a") for i in range(5)}
    row = study(V3[:5], parts=parts, budget_tokens=1e6).rows["a"]
    assert (row.price.runs, row.price.tokens, row.price.seconds) == (6, 6e6, 3 * 102.0 + 3 * 302.0)
    row = study(V3[:5], parts=parts, budget_tokens=1e6, specs=[ArmSpec("a", shares_weights=True)]).rows["a"]
    assert (row.price.runs, row.price.seconds) == (3, 3 * 102.0)
    row = study(V3[:5]).rows["a"]
    assert (row.price.runs, row.price.tokens, row.price.seconds) == (6, None, None)
    runs = [*runs_of({"a": V3[:5]}), run("base", 5, B[5])]
    row = judge(decision(), [ArmSpec("a")], range(8), runs).rows["a"]
    assert row.price.runs == 5


def test_bank_plans_and_never_decides():
    with_bank = study(V3[:3], bank=Bank(1e-6, 50)).rows["a"]
    without = study(V3[:3]).rows["a"]
    assert (with_bank.low, with_bank.word, with_bank.p) == (without.low, without.word, without.p)
    assert any(n.startswith("noise is ") and n.endswith(" of the bank's") for n in with_bank.notes)
    pooled = Bank.pooled([(0.001, 2), (0.003, 4)])
    assert (pooled.sd, pooled.df) == (near(math.sqrt((2e-6 + 36e-6) / 6)), 6)
    with pytest.raises(ValueError, match="bank: no degrees of freedom"):
        Bank.pooled([])


def test_barred_arms_cannot_win():
    v = study((-0.0241, -0.0252, -0.0236), specs=[ArmSpec("a", barred="12 bytes above the limit")])
    assert (v.rows["a"].word, v.winner, v.notes) == ("better", "base", ("a: cannot win, 12 bytes above the limit",))


def test_noise_of_trainings_plans_no_seeds_of_shared_weights():
    """Two pairs that nearly agree, and a bank whose trainings differ a hundred times more."""
    bank, spec = Bank(0.3, 40), ArmSpec("a", shares_weights=True)
    quiet = study(V3[:2], 2, 2, bank=bank, specs=[spec]).rows["a"]
    loud = study(V3[:2], 2, 2, bank=bank).rows["a"]
    assert loud.more_seeds > 100 > quiet.more_seeds
