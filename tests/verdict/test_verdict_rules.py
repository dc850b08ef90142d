"""The rules around the interval: who is wanted next, probes, keep, references, prices, winners, refusals."""

from __future__ import annotations

import pytest
from made_studies import V3, V4, V5A, V5B, V6, B, decision, live, near, run, runs_of, study, table_of

from ablab.verdict import ArmSpec, Bank, RunScore, judge, wanted


def test_wanted_goes_seed_by_seed_baseline_first():
    specs = [ArmSpec(x) for x in "abc"]
    made, batches = live(decision(), specs, range(8), table_of(V6))
    first = [(arm, s) for s in range(3) for arm in ("base", "a", "b", "c")]
    assert batches[0] == first
    assert batches[1] == [(arm, s) for s in (3, 4) for arm in ("base", "a", "b", "c")]
    assert batches[2] == [(arm, s) for s in (5, 6, 7) for arm in ("base", "b", "c")]  # a is settled
    assert (
        judge(decision(), specs, range(8), made).as_json() == judge(decision(), specs, range(8), runs_of(V6)).as_json()
    )


def test_wanted_asks_only_for_what_is_missing():
    d, specs = decision(), [ArmSpec("a")]
    made = [run("base", 1, B[1]), run("a", 2, 3.2)]
    assert wanted(d, specs, range(8), made) == [("base", 0), ("a", 0), ("a", 1), ("base", 2)]


def test_settled_given_up_invalid_and_unstable_arms_get_no_more_seeds():
    columns = {
        "settled": (-0.0241, -0.0252, -0.0236),
        "torn": (-0.01, "diverged", "diverged"),
        "noisy": V5A,
        "open": V3,
    }
    specs = [ArmSpec(x) for x in columns]
    _, batches = live(decision(), specs, range(8), table_of(columns))
    assert [{arm for arm, _ in batch} for batch in batches[1:]] == [{"base", "noisy", "open"}, {"base", "open"}]


def test_an_arm_that_waits_leaves_the_study_unfinished():
    v = study({"a": (-0.0241, -0.0252, -0.0236), "b": (0.001, None, 0.002)})
    assert (v.rows["a"].word, v.rows["b"].word, v.winner, v.decided_by) == (
        "better",
        "inconclusive",
        None,
        "not finished",
    )
    b = v.rows["b"]
    assert (b.seeds, b.look, b.delta, "waiting" in b.notes, b.more_seeds, b.price.runs) == (0, None, None, True, 3, 1)
    assert v.sentence.startswith("No winner (not finished), 1 runs to the next look; shown better: a, at least 0.0164 ")
    assert "; inconclusive: b (" in v.sentence


def test_one_diverged_baseline_seed_does_not_end_a_study():
    """Invalid for want of a done run is only final once the first look is complete."""
    base = ("diverged", *B[1:])
    columns = {"a": (0.0, -0.0241, -0.0252, -0.0236, -0.0239, -0.024, -0.0243, -0.0242)}
    d, specs = decision(), [ArmSpec("a")]
    made = [table_of(columns, base)("base", 0)]
    assert judge(d, specs, range(8), made).rows["a"].word == "invalid"
    assert wanted(d, specs, range(8), made)[0] == ("a", 0)
    made, _ = live(d, specs, range(8), table_of(columns, base))
    row = judge(d, specs, range(8), made).rows["a"]
    assert row.word == "better"
    assert "seed 0: no pair, base diverged" in row.notes


def test_precedence_of_faults():
    diverged = {("a", 1): {"violations": ("normalised",)}}
    v = study((-0.01, "diverged", -0.01), parts=diverged)
    assert (v.rows["a"].word, v.rows["a"].notes[0]) == ("invalid", "rule violated by a: normalised")
    v = study({"a": V3, "b": V4}, parts={("base", 0): {"violations": ("causal",)}})
    assert {v.rows[x].word for x in "ab"} == {"invalid"}
    v = study(("failed", "failed", "failed"))
    assert (v.rows["a"].word, v.rows["a"].notes[0]) == ("invalid", "all runs of a failed")
    v = study(("failed", "diverged", "diverged"))
    assert v.rows["a"].word == "unstable"
    v = study(("diverged", -0.01, -0.011), base=("diverged", *B[1:]))  # both: no pair, no blame
    assert (v.rows["a"].word, v.rows["a"].seeds) == ("inconclusive", 2)


def test_unstable_after_a_settled_look_stays_unstable():
    v = study((-0.0241, -0.0252, -0.0236, "diverged", "diverged"))
    assert (v.rows["a"].word, v.rows["a"].low, v.rows["a"].seeds) == ("unstable", None, 3)


def test_done_without_the_deciding_stage_gives_no_pair():
    runs = [RunScore("base", i, "done", stages={"trained": B[i]}) for i in range(3)]
    runs += [RunScore("a", i, "done", stages={"trained": B[i] - 0.02 - i / 1e4} if i else {}) for i in range(3)]
    row = judge(decision(), [ArmSpec("a")], range(8), runs).rows["a"]
    assert (row.seeds, row.look) == (2, 1)
    assert "seed 0: no pair, a failed" in row.notes


def test_probe_promotes_and_fresh_seeds_test():
    columns = {
        "a": (-0.010, -0.0100, -0.0113, -0.0094, -0.0107, -0.0101),
        "b": (-0.001, 0.0, 0.0, 0.0, 0.0, 0.0),
        "c": (-0.012, 0.0008, -0.0006, 0.0013, -0.0003, 0.0004),
    }
    d = decision(3, 5, probe=1, keep=2)
    specs = [ArmSpec(x) for x in columns]
    made, batches = live(d, specs, range(6), table_of(columns))
    assert batches[0] == [(x, 0) for x in ("base", "a", "b", "c")]
    assert batches[1] == [(x, s) for s in (1, 2, 3) for x in ("base", "a", "c")]
    v = judge(d, specs, range(6), made)
    a, b, c = (v.rows[x] for x in "abc")
    assert (a.word, a.m, a.seeds, v.looks) == ("better", 2, 3, (3, 5))
    assert (b.word, b.seeds, b.look, b.low, b.fresh, b.notes) == (
        "inconclusive",
        0,
        None,
        None,
        True,
        ("not promoted", "noise unknown"),
    )
    assert b.delta == near(-0.001)
    assert c.word == "equivalent" and c.delta == near(0.0005)  # not the probe's flattering -0.012
    assert v.winner == "a"
    early = judge(d, specs, range(6), made[:3])
    assert early.rows["a"].notes == ("probe not finished",) and early.decided_by == "not finished"
    assert "c (1 seed to the end of its probe: 1 run)" in early.sentence


def test_what_settles_an_arm_that_was_not_promoted_is_said_only_where_the_noise_is_known():
    columns = {"a": (-0.010, *V3), "b": (-0.001, *V3)}
    d, specs = decision(3, 3, probe=1, keep=1), [ArmSpec(x) for x in columns]
    made, _ = live(d, specs, range(4), table_of(columns))
    blind = judge(d, specs, range(4), made)
    assert "noise unknown" in blind.rows["b"].notes
    assert "b (noise unknown; 3 fresh seeds would measure it: 6 runs)" in blind.sentence
    known = judge(d, specs, range(4), made, Bank(0.01, 9))
    assert known.rows["b"].notes == ("not promoted",)
    assert f"b (about {known.rows['b'].more_seeds} more fresh seeds: " in known.sentence
    shared = [ArmSpec("a"), ArmSpec("b", shares_weights=True)]  # a bank of trainings says nothing of it
    row = judge(d, shared, range(4), made, Bank(0.01, 9)).rows["b"]
    assert row.notes == ("not promoted", "noise unknown") and (row.more_seeds, row.fresh) == (3, True)


def test_two_sigma_promotion():
    columns = {"a": (-0.010, *V3), "b": (-0.0019, *V3)}
    d = decision(3, 3, probe=1, keep="2 sigma")
    specs = [ArmSpec(x) for x in columns]
    _, batches = live(d, specs, range(9), table_of(columns, (*B, 3.2)), Bank(0.001, 10))
    assert {x for x, _ in batches[1]} == {"base", "a"}
    made, batches = live(d, specs, range(9), table_of(columns), Bank(0.1, 10))
    assert len(batches) == 1  # nobody promoted: the study is over
    v = judge(d, specs, range(9), made, Bank(0.1, 10))
    assert (v.winner, v.decided_by) == ("base", "nothing shown better")
    with pytest.raises(ValueError, match='"2 sigma" needs a bank'):
        wanted(d, specs, range(9), [])


def test_a_fault_after_the_probe_promotes_nobody_else():
    columns = {"a": (-0.010, "diverged", -0.01, "diverged"), "b": (-0.001, -0.01, -0.011, -0.012)}
    d, specs = decision(3, 3, probe=1, keep=1), [ArmSpec("a"), ArmSpec("b")]
    made, batches = live(d, specs, range(4), table_of(columns))
    assert {arm for batch in batches[1:] for arm, _ in batch} == {"base", "a"}
    v = judge(d, specs, range(4), made)
    assert (v.rows["a"].word, v.rows["b"].notes) == ("unstable", ("not promoted", "noise unknown"))


def test_keep_without_probe():
    columns = {"a": V3, "b": V5B, "c": (0.004, 0.001, 0.006, 0.002, 0.003)}
    d, specs = decision(3, 8, keep=1), [ArmSpec(x) for x in columns]
    made, batches = live(d, specs, range(8), table_of(columns))
    assert {arm for arm, _ in batches[1]} == {"base", "a"}
    v = judge(d, specs, range(8), made)
    assert "not kept" in v.rows["b"].notes and v.rows["b"].fresh
    assert v.rows["a"].m == 3  # the family is what was declared
    # until every open arm has reached the first look nobody is chosen
    partial = [r for r in runs_of(columns) if not (r.arm == "c" and r.seed == 2)]
    v = judge(d, specs, range(8), partial)
    assert {v.rows[x].look for x in "ab"} == {1} and v.decided_by == "not finished"


def test_selecting_studies_end_in_a_rung():
    """Two seeds for the best, then a rung: a ranking that says it is one."""
    columns = {"a": (-0.004, -0.003), "b": (-0.001, 0.0)}
    d = decision(1, 2, keep=1, tie=("trajectory", "needle", "prefer b"), matters=0.005)
    made, _ = live(d, [ArmSpec("a"), ArmSpec("b")], range(2), table_of(columns))
    assert len(made) == 5
    v = judge(d, [ArmSpec("a"), ArmSpec("b")], range(2), made)
    assert (v.winner, v.decided_by) == ("b", "prefer b")
    assert len(v.notes) == 2 and v.notes[0].startswith("trajectory skipped") and v.notes[1].startswith("needle skipped")


def test_references_may_be_arms():
    columns = {"a": tuple(-0.02 + x / 10 for x in V4), "b": tuple(-0.03 + x / 7 for x in V5B[:5])}
    specs = [ArmSpec("a"), ArmSpec("b", on="a")]
    v = study(columns, specs=specs)
    assert (v.rows["a"].on, v.rows["b"].on) == ("base", "a")
    row = v.rows["b"]
    assert row.delta == near(sum(columns["b"][i] - columns["a"][i] for i in range(row.seeds)) / row.seeds)
    # b's own runs and its reference's are asked for, even where the reference is settled
    columns = {"a": (-0.0241, -0.0252, -0.0236, -0.024, -0.0245), "b": tuple(x - 0.024 for x in V3)}
    _, batches = live(decision(3, 5), specs, range(5), table_of(columns))
    assert batches[1] == [(x, s) for s in (3, 4) for x in ("a", "b")]
    # b is better than a, but a is worse than the baseline: b may not win by that alone
    v = study({"a": (0.0241, 0.0252, 0.0236), "b": (0.0141, 0.0151, 0.0137)}, specs=specs)
    assert (v.rows["b"].word, v.winner, v.decided_by) == ("better", "base", "nothing shown better")


def test_prefer_by_value_and_its_refusals():
    specs = [
        ArmSpec("base", setting_value="nope"),
        ArmSpec("a", setting_value="rope"),
        ArmSpec("b", setting_value="alibi"),
    ]
    columns = {"a": V4, "b": tuple(-x for x in V4)}
    assert study(columns, specs=specs, tie=("prefer rope",)).winner == "a"
    v = study(columns, specs=specs, tie=("prefer nope",))
    assert (v.winner, v.decided_by) == ("base", "prefer nope")
    assert study(columns, specs=specs, tie=("prefer baseline",)).winner == "base"
    with pytest.raises(ValueError, match=r"decision.tie: 'prefer yarn' matches no arm; name one arm: base, a, b"):
        study(columns, specs=specs, tie=("prefer yarn",))
    twice = [ArmSpec("a", setting_value="rope"), ArmSpec("b", setting_value="rope")]
    with pytest.raises(ValueError, match="matches a, b"):
        study(columns, specs=twice, tie=("prefer rope",))
