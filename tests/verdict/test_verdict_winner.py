"""Who wins: candidates are ranked by their difference to the baseline, each over its own pairs."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import B, decision, live, near, run, runs_of, study, table_of

from ablab.verdict import ArmSpec, RunScore, judge
from ablab.verdict.replayed import replay_study
from ablab.verdict.tie import Contest, leader, needle_values, standing, trajectory_values

SELECTED = "lowest mean, selected and not shown"


def columns(**arms):
    """Runs of absolute metrics, arm by arm; a word is a status."""
    return [run(name.replace("_", " "), i, y) for name, column in arms.items() for i, y in enumerate(column)]


def test_the_lowest_is_lowest_by_difference_not_by_raw_means_of_shared_seeds():
    """Two seeds are shared by all; over them y looks lowest, but its own row says +.00163."""
    base = (3.20, 3.21, 3.19)
    y = (3.198, 3.2079, 3.199)
    x = (3.203, 3.2131, "failed")
    runs = columns(base=base, y=y, x=x)
    v = judge(decision(3, 3, matters=0.05, tie=("lowest",)), [ArmSpec("x"), ArmSpec("y")], range(3), runs)
    assert v.rows["y"].delta == near(0.00163333) and v.rows["x"].delta == near(0.00305)
    assert v.winner == "base"


def test_an_arm_that_settled_early_does_not_cut_the_seeds_of_the_others():
    """x stands at three seeds. Over those z leads y; over their own five the rows say y -.0023, z -.0007."""
    x = (0.0004, 0.0006, 0.0005)
    y = (0.0041, -0.0029, 0.0015, -0.0069, -0.0073)
    z = (-0.0032, 0.0024, -0.0006, -0.0014, -0.0007)
    v = study({"x": x, "y": y, "z": z}, 3, 5, matters=0.012, tie=("lowest",))
    assert (v.rows["x"].look, v.rows["x"].word) == (1, "equivalent")
    assert (v.rows["y"].seeds, v.rows["y"].delta) == (5, near(-0.0023))
    assert v.rows["z"].delta == near(-0.0007)
    assert (v.winner, v.decided_by) == ("y", SELECTED)


def test_of_arms_shown_better_the_one_of_lowest_difference_is_the_measure():
    """a gains .021 over its eight pairs and b .015 over its three; over those three alone a is behind."""
    base = (3.10, 3.11, 3.12, 3.20, 3.21, 3.22, 3.23, 3.24)
    a = [y - d for y, d in zip(base, (0.030, 0.004, 0.008, 0.028, 0.031, 0.016, 0.028, 0.024), strict=True)]
    b = [y - d for y, d in zip(base, (0.0150, 0.0152, 0.0151), strict=False)]
    v = judge(decision(3, 8), [ArmSpec("a"), ArmSpec("b")], range(8), columns(base=base, a=a, b=b))
    assert {x: (v.rows[x].word, v.rows[x].seeds) for x in "ab"} == {"a": ("better", 8), "b": ("better", 3)}
    assert v.winner == "a" and v.rows["a"].delta < v.rows["b"].delta


def probed(arm, seed, value, score, curve=None):
    return RunScore(
        arm, seed, "done", stages={"trained": value}, probe=None if score is None else (score, 0.5), trajectory=curve
    )


def test_needle_is_held_against_the_baseline_pair_by_pair():
    """x lost seed 2. Over the seeds that all share x leads; over their own pairs x gains .505 and y .600."""
    scores = {"base": (1.00, 1.02, 1.10), "x": (1.50, 1.53, None), "y": (1.40, 1.42, 2.10)}
    runs = [
        probed(arm, i, B[i] + (0.0001 * i if arm != "base" else 0), s) if s else RunScore(arm, i, "failed")
        for arm, column in scores.items()
        for i, s in enumerate(column)
    ]
    contest, found = contest_of(runs, "needle", ("base", "x", "y"))
    assert [standing(contest, found, x) for x in ("base", "x", "y")] == near((0.0, -0.505, -0.6))
    assert leader(contest, found, ("base", "x", "y")) == "y"


def contest_of(runs, rung, members, specs=None, **settings):
    """The contest that judge would hold, and the values of a rung."""
    d = decision(3, 3, matters=0.5, **settings)
    replayed = replay_study(d, specs or [ArmSpec(x) for x in members if x != "base"], range(3), runs)
    standings, family = replayed.family.standings, replayed.family
    places = {x: s.places for x, s in standings.items()} | {"base": replayed.evidence.common(["base"], range(3))}
    looks = {x: s.look for x, s in standings.items()}
    contest = Contest(replayed.evidence, places, looks, dict(zip(family.looks, family.weights, strict=True)))
    make = needle_values if rung == "needle" else trajectory_values
    return contest, make(contest, members)


def test_trajectory_is_held_against_the_baseline_pair_by_pair():
    """The seed that x lost is a hard one: by raw means x leads, by differences y does."""
    offsets = {"base": 0.0, "x": -0.001, "y": -0.004}
    level = (3.0, 3.1, 4.0)
    runs = [
        RunScore(arm, i, "failed")
        if (arm, i) == ("x", 2)
        else probed(arm, i, B[i], None, [(60.0, level[i] + off + 0.0001 * i), (100.0, level[i] + off)])
        for arm, off in offsets.items()
        for i in range(3)
    ]
    contest, found = contest_of(runs, "trajectory", ("base", "x", "y"), budget_tokens=100.0)
    assert [standing(contest, found, x) for x in ("base", "x", "y")] == near((0.0, -0.001, -0.004))
    assert leader(contest, found, ("base", "x", "y")) == "y"


def test_a_rung_whose_reference_has_no_values_is_skipped_with_a_note():
    runs = [probed("base", i, B[i], None) for i in range(3)]
    runs += [probed("x", i, B[i] + 0.0001 * i, 1.5 + 0.01 * i) for i in range(3)]
    contest, found = contest_of(runs, "needle", ("x",))
    assert found is None
    assert contest.notes == ["needle skipped: no pair with its reference has both values for x"]


def test_an_arm_on_an_arm_stands_by_the_sum_of_the_differences_that_the_rows_print():
    """b is -.004 from a and a is +.005 from the baseline: b is no gain; c at -.001 is the lowest."""
    a = (0.0050, 0.0052, 0.0048)
    b = tuple(x - d for x, d in zip(a, (0.0040, 0.0043, 0.0037), strict=True))
    c = (-0.0010, -0.0012, -0.0008)
    specs = [ArmSpec("a"), ArmSpec("b", on="a"), ArmSpec("c")]
    v = study({"a": a, "b": b, "c": c}, 3, 3, matters=0.05, tie=("lowest",), specs=specs)
    assert v.rows["b"].delta == near(-0.004) and v.rows["c"].delta == near(-0.001)
    assert (v.winner, v.decided_by) == ("c", SELECTED)


@pytest.mark.parametrize("probe", [0, 1])
def test_keep_ranks_by_the_difference_to_the_baseline(probe):
    """b differs from a by -.001 only, but a is far ahead: of a, b and c the lowest against the baseline are a and b."""
    a = (-0.0100, -0.0060, -0.0140, -0.0110, -0.0190, -0.0095)
    b = tuple(x - d for x, d in zip(a, (0.0010, -0.0020, 0.0035, 0.0001, 0.002, 0.001), strict=True))
    c = (-0.0030, -0.0005, -0.0062, -0.003, -0.004, -0.003)
    specs = [ArmSpec("a"), ArmSpec("b", on="a"), ArmSpec("c")]
    d = decision(3, 5, keep=2, probe=probe, matters=0.01)
    made, _ = live(d, specs, range(5 + probe), table_of({"a": a, "b": b, "c": c}))
    rows = judge(d, specs, range(5 + probe), made).rows
    dropped = "not promoted" if probe else "not kept"
    assert [x for x in "abc" if dropped in rows[x].notes] == ["c"]


def test_equal_differences_go_by_name_in_any_order():
    d = (0.0011, -0.0004, 0.0002)
    for order in itertools.permutations(range(3)):
        first, second = tuple(d), tuple(d[i] for i in order)
        v = study({"m": first, "k": second}, 3, 3, matters=0.05, tie=("prefer m", "lowest"))
        assert v.winner == "m"
        runs = runs_of({"m": first, "k": second}) + [run("z", i, B[i] + 0.001) for i in range(3)]
        specs = [ArmSpec(x, barred="over a limit" if x == "base" else "") for x in ("base", "m", "k", "z")]
        assert judge(decision(3, 3, matters=0.05, tie=("lowest",)), specs, range(3), runs).winner == "k"


@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.integers(-400, 400)), min_size=5, max_size=5), min_size=2, max_size=4
    ).filter(lambda arms: all(sum(x is not None for x in a) >= 2 for a in arms))
)
def test_lowest_always_names_the_lowest_printed_difference(arms):
    """Whatever seeds each arm lost: nothing in the contest stands below the winner's row."""
    named = {f"a{k}": [("failed" if x is None else x * 1e-5) for x in column] for k, column in enumerate(arms)}
    v = study(named, 5, 5, matters=0.5, tie=("lowest",))
    fit = {x: r.delta or 0.0 for x, r in v.rows.items() if r.word in ("baseline", "equivalent", "inconclusive")}
    if v.winner is not None and v.decided_by == SELECTED:
        assert fit[v.winner] <= min(fit.values()) + 1e-9
