"""Whatever the runs hold: judge answers, its JSON is plain, order does not matter, wanted ends."""

from __future__ import annotations

import json
import math
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.verdict import ArmSpec, Bank, Decision, DocumentScores, Effect, RunScore, judge, two_by_two, unpaired, wanted

WORDS = {"baseline", "better", "worse", "equivalent", "inconclusive", "unstable", "invalid"}
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(3.19, 3.23)
ODD = (3.2, 0.0, -0.0, 1e-320, 1e300, -1e308, 1e308, math.nan, math.inf, -math.inf)
keys = st.integers(0, 2**64 - 1)  # one integer draws a whole study: hypothesis is slow at thousands of small draws


def number(r):
    return r.choice(ODD) if r.random() < 0.1 else r.uniform(3.19, 3.23) if r.random() < 0.5 else r.gauss(3.2, 1e-4)


def documents(r, value, tame):
    count = 3 if tame else r.choice([3] * 15 + [0, 1])
    nats = [value(r) * 10 for _ in range(count)]
    sizes = [10 if tame else r.choice([10] * 90 + [0, 11]) for _ in range(2 * count)]
    return DocumentScores(nats, sizes[:count], sizes[count:])


def score(r, arm, seed, kind, tame, effect):
    def value(r):
        return r.gauss(3.2 + (seed % 7) / 1e3 + effect, 3e-4) if tame else number(r)

    status = r.choices(["done", "diverged", "failed", "absent"], [80, 1, 2, 1] if tame else [8, 1, 1, 1])[0]
    stages = {
        x: documents(r, value, tame) if kind == "documents" else value(r) for x in ("s", "late") if r.random() < 0.97
    }
    trajectory = [(r.choice([1.0, 6.0, 9.0, math.nan]), number(r)) for _ in range(r.randrange(4))]
    return RunScore(
        arm,
        seed,
        status,
        hash=r.choice([None, *"xxxxxxxxxxxxxxx", *([] if tame else "y")]),
        violations=("causal",) if not tame and r.random() < 0.02 else (),
        stages=stages,
        trajectory=r.choice([None, trajectory]),
        probe=r.choice([None, (number(r), r.random()), (number(r), number(r))]),
        seconds=r.choice([None, number(r)]),
    )


def a_study(key):
    """Settings, arms, seeds, runs, bank, factorials; half of the studies are mostly sane, half are not."""
    r = Random(key)
    names = ["a", "b", "c", "d"][: r.randrange(5)]
    chained = r.random() < 0.4
    specs = [
        ArmSpec(
            x,
            on=r.choice(["baseline", *names[:i]]) if chained else "baseline",
            shares_weights=r.random() < 0.3,
            data_is_lever=r.random() < 0.3,
            barred=r.choice(["", "", "", "too large"]),
        )
        for i, x in enumerate(names)
    ]
    start, probe = r.randint(1, 4), r.choice([0, 0, 1, 2])
    bank = r.choice([None, Bank(r.choice([1e-300, 1e-3, 1e-3, 1e300]), r.choice([0.1, 9, 1e6]))])
    keeps = [None, 1, 2] + (["2 sigma"] if probe and bank else [])
    rungs = ["needle", "trajectory", "lowest", "prefer baseline", *(f"prefer {x}" for x in names)]
    decision = Decision(
        metric=r.choice(["nats_per_token", "bits_per_byte"]),
        stage="s",
        stages=("s", "late", "probe"),
        matters=r.choice([0.005, 0.005, 0.002, 1e-300, 1e300]),
        start=start,
        at_most=start + r.randrange(7),
        probe=probe,
        keep=r.choice(keeps),
        tie=tuple(r.sample(rungs, r.randrange(4))),
        budget_tokens=r.choice([0.0, 10.0]),
    )
    seeds = r.sample(range(100, 200), probe + decision.at_most)
    kind, tame, missing = r.choice(["numbers", "documents"]), r.random() < 0.7, r.choice([0.0, 0.0, 0.03, 0.5])
    effects = {x: r.choice([0.0, 0.0, 0.0005, -0.0005, -0.02, -0.0205, 0.02]) for x in names}
    factorials = []
    if len(names) >= 3 and decision.keep is None and not probe and not chained and r.random() < 0.5:
        factorials = [two_by_two("baseline", *names[:3])]
    runs = [
        score(r, x, s, kind, tame, effects.get(x, 0.0))
        for s in seeds
        for x in ("baseline", *names)
        if r.random() >= missing
    ]
    return decision, specs, seeds, runs, bank, factorials


def check_row(row, matters):
    """A word never contradicts its interval."""
    if row.low is None or row.high is None:
        assert row.word not in ("better", "worse")
        return
    assert row.low <= row.delta <= row.high
    inside = -matters < row.low and row.high < matters
    assert row.word is None or (row.word == "equivalent") == inside or row.delta == row.low == row.high == 0
    if row.word is None:
        return
    if row.word in ("better", "worse"):
        assert row.high < 0 if row.word == "better" else row.low > 0
    if row.word == "inconclusive":
        if isinstance(
            row, Effect
        ):  # a cell that diverged once takes either away, and a main effect needs a cell that is shown
            return
        once = any("diverged once in" in note for note in row.notes)  # that alone takes `better` away
        assert row.low <= 0 and (once or row.high >= 0)


@settings(max_examples=1000, deadline=None)
@given(keys)
def test_judge_always_answers_and_order_does_not_matter(key):
    decision, specs, seeds, runs, bank, factorials = a_study(key)
    random = Random(key)
    verdict = judge(decision, specs, seeds, runs, bank, factorials=factorials)
    plain = verdict.as_json()
    json.dumps(plain, allow_nan=False)
    effects = [effect for one in verdict.factorials for effect in one.effects]
    for row in (*verdict.rows.values(), *effects):
        assert row.word in WORDS or (row.word is None and row in effects)
        check_row(row, decision.matters)
    assert verdict.winner is None or verdict.winner in verdict.rows
    missing = wanted(decision, specs, seeds, runs, bank, factorials=factorials)
    assert bool(missing) == (verdict.decided_by == "not finished")
    specs, runs = list(specs), list(runs)
    random.shuffle(specs)
    random.shuffle(runs)
    again = judge(decision, specs, seeds, runs, bank, factorials=factorials)
    assert {x: r.as_json() for x, r in again.rows.items()} == {x: r.as_json() for x, r in verdict.rows.items()}
    assert again.factorials == verdict.factorials
    assert (again.winner, again.decided_by, again.looks) == (verdict.winner, verdict.decided_by, verdict.looks)
    assert set(wanted(decision, specs, seeds, runs, bank, factorials=factorials)) == set(missing)


@settings(max_examples=300, deadline=None)
@given(keys)
def test_wanted_makes_progress_and_ends(key):
    """Ended runs come back in any order and number; a killed study resumes to the same verdict."""
    decision, specs, seeds, runs, bank, factorials = a_study(key)
    random = Random(key)
    known = {(r.arm, r.seed): r for r in runs if r.status != "absent"}
    made: list[RunScore] = []
    turns = 0
    while missing := wanted(decision, specs, seeds, made, bank, factorials=factorials):
        assert not {(r.arm, r.seed) for r in made} & set(missing)
        places = [seeds.index(s) for _, s in missing]
        assert places == sorted(places)
        back = random.sample(missing, random.randint(1, len(missing)))  # the rest is lost in a crash
        made += [known.get(spot, RunScore(*spot, "failed")) for spot in back]
        turns += 1
    assert turns <= len(made) <= (1 + len(specs)) * len(seeds)
    assert judge(decision, specs, seeds, made, bank, factorials=factorials).decided_by != "not finished"


@settings(max_examples=300, deadline=None)
@given(keys)
def test_more_runs_of_settled_arms_change_nothing(key):
    """Runs beyond what was asked for do not move a finished verdict, unless one of them shows a fault."""
    decision, specs, seeds, runs, bank, factorials = a_study(key)
    runs = [r for r in runs if r.status == "done" and not r.violations]
    made: list[RunScore] = []
    known = {(r.arm, r.seed): r for r in runs}
    while missing := wanted(decision, specs, seeds, made, bank, factorials=factorials):
        made += [known.get(spot, RunScore(*spot, "failed")) for spot in missing]
    before = judge(decision, specs, seeds, made, bank, factorials=factorials)
    have = {(r.arm, r.seed) for r in made}
    after = judge(
        decision, specs, seeds, made + [r for r in runs if (r.arm, r.seed) not in have], bank, factorials=factorials
    )
    unfit = [{x: r.word for x, r in v.rows.items() if r.word in ("invalid", "unstable")} for v in (before, after)]
    if unfit[0] != unfit[1]:
        return  # the extra runs uncovered a fault; that may change the family
    for name, row in before.rows.items():
        later = after.rows[name]
        assert (row.word, row.look, row.m, row.low, row.high) == (
            later.word,
            later.look,
            later.m,
            later.low,
            later.high,
        )


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, max_size=5), st.lists(numbers, max_size=5), st.integers(1, 9))
def test_unpaired_always_answers(x, y, m):
    found = unpaired(x, y, matters=0.005, m=m)
    json.dumps(found.as_json(), allow_nan=False)
    assert found.word in WORDS
    if found.low is None:
        assert found.word == "inconclusive"
