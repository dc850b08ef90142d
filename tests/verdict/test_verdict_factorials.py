"""Factorials: cells keep their words, interactions take places in the family, main effects speak where they may."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.verdict.made_studies import V3, V4, B, decision, live, table_of

from ablab.verdict import (
    ArmSpec,
    Decision,
    DocumentScores,
    Factor,
    Factorial,
    RunScore,
    factorial,
    judge,
    two_by_two,
    wanted,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "factorial_qat_swa.json"
GAINS = {"x": -0.0073, "y": -0.0025, "xy": -0.0024}  # together they keep a quarter of the sum
NOISE = np.random.default_rng(5).normal(0, 0.0002, (4, 8))


def made(gains=GAINS, seeds=8, *, noise=NOISE):
    return [
        RunScore(arm, seed, "done", stages={"trained": B[seed] + gain + float(noise[k][seed])})
        for k, (arm, gain) in enumerate({"base": 0.0, **gains}.items())
        for seed in range(seeds)
    ]


def crossed(runs, d=None, specs=(), **more):
    """The verdict and its one factorial, base with x and y."""
    own = [spec for arm in GAINS for spec in ([s for s in specs if s.name == arm] or [ArmSpec(arm)])]
    cells = two_by_two("base", "x", "y", "xy", name="f", a="A", b="B")
    verdict = judge(d or decision(8, 8), own, range(8), runs, factorials=[cells], **more)
    return verdict, verdict.factorials[0]


def effects(found):
    return {effect.label: effect for effect in found.effects}


def test_public_two_by_two():
    """QAT and no SWA, two seeds: nothing is shown, whatever the README says."""
    said = json.loads(GOLDEN.read_text(encoding="utf-8"))
    runs = [
        RunScore(name, seed, "done", stages={"post": y})
        for name, column in said["cells"].items()
        for seed, y in zip(said["seeds"], column, strict=True)
    ]
    d = Decision(metric="bits_per_byte", stage="post", matters=0.001, start=2, at_most=2, baseline="control")
    cells = two_by_two("control", "qat_snap70", "no_swa", "no_swa_qat", name="golf", a="QAT", b="no SWA")
    rows = factorial(d, cells, said["seeds"], runs)
    for label, row in rows.items():
        assert (row.delta, row.low, row.high) == pytest.approx(said["expected"][label], abs=5.1e-7)
        assert (row.word, row.m) == (said["expected"]["word"], said["expected"]["m"])
    inside = judge(d, [ArmSpec(c) for c in said["cells"] if c != "control"], said["seeds"], runs, factorials=[cells])
    assert {row.m for name, row in inside.rows.items() if name != "control"} == {4}  # three cells and the interaction
    assert inside.rows["no_swa_qat"].word == "inconclusive" and inside.winner == "control"
    assert inside.factorials[0].sentence.startswith("Open: whether QAT=on and no SWA=on add up: about ")


def test_cells_are_arms_and_the_interaction_is_one_more_line():
    verdict, found = crossed(made())
    assert [(name, row.word) for name, row in verdict.rows.items()] == [
        ("base", "baseline"), ("x", "better"), ("y", "equivalent"), ("xy", "equivalent"),
    ]  # fmt: skip
    assert (verdict.winner, verdict.decided_by) == ("x", "loss")
    by = effects(found)
    assert list(by) == ["A=on", "B=on", "A=on x B=on"] and [e.order for e in found.effects] == [1, 1, 2]
    beyond = by["A=on x B=on"]
    d = [
        math.fsum(
            sign * (GAINS.get(a, 0.0) + NOISE[k][s])
            for sign, (k, a) in zip((1, -1, -1, 1), enumerate(("base", "x", "y", "xy")), strict=True)
        )
        for s in range(8)
    ]
    assert beyond.delta == pytest.approx(np.mean(d), rel=1e-9) and beyond.word == "worse"
    assert beyond.reading == "they interfere" and beyond.p < 0.05
    alone = [np.mean([GAINS[a] + NOISE[k][s] - NOISE[0][s] for s in range(8)]) for k, a in ((1, "x"), (2, "y"))]
    assert beyond.alone == pytest.approx(alone, rel=1e-9)
    assert beyond.share == pytest.approx(1 + np.mean(d) / sum(alone), rel=1e-9)
    assert found.sentence == f"They interfere: together they keep {beyond.share:.0%} of the sum (A=on and B=on)."
    assert [(cell.arm, cell.at) for cell in found.cells] == [
        ("base", (0, 0)),
        ("y", (0, 1)),
        ("x", (1, 0)),
        ("xy", (1, 1)),
    ]
    assert found.cells[2].mean == pytest.approx(verdict.rows["x"].mean)
    main = by["A=on"]
    assert main.word is None and main.notes == ("no word: it depends on the other factor (A=on x B=on)",)
    assert main.c == pytest.approx(stats.t.isf(0.05 / 8, 7)) and main.low < main.delta < main.high < 0
    json.dumps(verdict.as_json(), allow_nan=False)


def test_before_anything_is_shown_the_family_counts_cells_and_pairs():
    flat = {"x": 0.0, "y": 0.0, "xy": 0.0}
    verdict, found = crossed(made(flat, noise=NOISE * 30))
    rows = [verdict.rows[name] for name in flat] + [effects(found)["A=on x B=on"]]
    assert {row.m for row in rows} == {4} and rows[0].c == pytest.approx(stats.t.isf(0.05 / 8, 7))
    assert effects(found)["A=on"].c == rows[0].c


def test_additive_effects_speak_for_their_factor():
    verdict, found = crossed(made({"x": -0.0073, "y": -0.0025, "xy": -0.0098}))
    by = effects(found)
    assert by["A=on x B=on"].word == "equivalent" and by["A=on x B=on"].reading == "additive within matters"
    assert by["A=on"].word == "better" and by["B=on"].word == "equivalent"
    assert found.sentence == "Additive: what A=on and B=on do beyond their sum is within 0.005."
    assert verdict.winner == "xy"


def test_more_than_the_sum_and_costs():
    _, found = crossed(made({"x": -0.003, "y": -0.003, "xy": -0.018}))
    assert found.sentence.startswith("Together more than the sum: together they gain 3")
    _, found = crossed(made({"x": 0.006, "y": 0.006, "xy": 0.036}))
    assert found.sentence.startswith("They interfere: together they cost 299% of the sum")
    _, found = crossed(made({"x": -0.008, "y": -0.008, "xy": 0.004}))
    assert found.sentence == "They interfere: together nothing is left of what each gains alone (A=on and B=on)."
    _, found = crossed(made({"x": -0.008, "y": 0.008, "xy": 0.02}))
    assert found.sentence.startswith("They interfere (A=on and B=on): +0.0") and "beyond their sum" in found.sentence


def test_a_main_effect_needs_a_difference_that_is_shown():
    """Averaged over the other factor its interval is narrower; alone that would be one more line beside the family."""
    u, v = NOISE[1] * 60, NOISE[2] * 60
    noise = np.stack([NOISE[0], u, v, v - u])  # each difference is loud, but what they average to is quiet
    verdict, found = crossed(made({"x": -0.006, "y": 0.0, "xy": -0.006}, noise=noise))
    main, pair = effects(found)["A=on"], effects(found)["A=on x B=on"]
    assert main.high < 0 and {row.word for row in (pair, verdict.rows["x"], verdict.rows["xy"])} == {"inconclusive"}
    assert main.word == "inconclusive" and main.notes == (
        "0 is outside, but no difference that it is made of is shown",
    )


def test_a_missing_cell_is_named_and_simple_effects_go_on():
    torn = [r if (r.arm, r.seed) not in (("xy", 1), ("xy", 4)) else RunScore("xy", r.seed, "diverged") for r in made()]
    verdict, found = crossed(torn)
    assert (verdict.rows["x"].word, verdict.rows["xy"].word) == ("better", "unstable")
    for effect in found.effects:
        assert (effect.word, effect.delta, effect.needs) == (None, None, ("xy",))
        assert effect.notes == ("needs xy (diverged at seeds 1, 4)",)
    assert found.sentence == "Unknown for 1 of 1 pairs: needs xy."
    assert [cell.mean is None for cell in found.cells] == [False, False, False, True]
    failed = [r if r.arm != "xy" else RunScore("xy", r.seed, "failed") for r in made()]
    assert effects(crossed(failed)[1])["A=on x B=on"].notes == ("needs xy (failed)",)
    verdict, found = crossed(made(), specs=[ArmSpec("xy", barred="12 bytes above the limit")])
    assert effects(found)["A=on x B=on"].notes == ("needs xy (barred: 12 bytes above the limit)",)
    assert verdict.winner == "x"


def test_a_cell_that_diverged_once_takes_the_sign_it_favours():
    once = [r if (r.arm, r.seed) != ("x", 2) else RunScore("x", 2, "diverged") for r in made()]
    pair = effects(crossed(once)[1])["A=on x B=on"]  # x alone looks better than it is, so what both add looks worse
    assert pair.low > 0 and pair.word == "inconclusive"
    assert any("x diverged once in 8 seeds, so it is not called worse" in note for note in pair.notes)
    assert pair.more_seeds is None and "a cell diverged once" in " ".join(pair.notes)
    other = [r if (r.arm, r.seed) != ("xy", 2) else RunScore("xy", 2, "diverged") for r in made()]
    assert effects(crossed(other)[1])["A=on x B=on"].word == "worse"


def test_wanted_asks_for_cells_until_the_interaction_is_settled():
    columns = {"x": V4, "y": tuple(-0.01 + y for y in V4[::-1]), "xy": tuple(-0.01 + 2 * y for y in V4), "other": V3}
    table = table_of({k: (*v, *V3[len(v) :]) for k, v in columns.items()})
    specs = [ArmSpec(a) for a in columns]
    cells = [two_by_two("base", "x", "y", "xy", name="f")]
    runs, batches = live(decision(3, 8), specs, range(8), table, factorials=cells)
    assert len(batches[0]) == 15
    verdict = judge(decision(3, 8), specs, range(8), runs, factorials=cells)
    assert verdict.winner is not None and not wanted(decision(3, 8), specs, range(8), runs, factorials=cells)
    at = {name: row.look for name, row in verdict.rows.items() if row.look}
    pair = effects(verdict.factorials[0])["A=on x B=on"]
    done = {arm: max(r.seed for r in runs if r.arm == arm) + 1 for arm in columns}
    assert at["y"] <= pair.look == 2 and {done[arm] for arm in ("x", "y", "xy")} == {pair.seeds}
    assert effects(verdict.factorials[0])["B=on"].seeds == pair.seeds


def three_by_two_by_two():
    factors = (Factor("A", ("0", "1", "2")), Factor("B", ("off", "on")), Factor("C", ("off", "on")))
    cells = {
        at: "base" if not any(at) else "c" + "".join(map(str, at))
        for at in itertools.product(range(3), range(2), range(2))
    }
    return Factorial("f", factors, cells)


def test_any_number_of_levels_and_factors():
    cells, rng = three_by_two_by_two(), np.random.default_rng(7)
    y = {at: rng.normal(3, 0.01, 5) for at in cells.cells}
    runs = [
        RunScore(arm, s, "done", stages={"trained": float(y[at][s])})
        for at, arm in cells.cells.items()
        for s in range(5)
    ]
    specs = [ArmSpec(arm) for arm in cells.cells.values() if arm != "base"]
    verdict = judge(decision(5, 5), specs, range(5), runs, factorials=[cells])
    by = effects(verdict.factorials[0])

    def mean(**at):  # of the cells at these levels, over every level of the other factors
        return np.mean([y[k] for k in y if all(k["ABC".index(f)] == level for f, level in at.items())], axis=0)

    assert [e.order for e in by.values()] == [1] * 4 + [2] * 5 + [3] * 2
    assert by["A=2"].delta == pytest.approx(np.mean(mean(A=2) - mean(A=0)))
    pair = mean(A=2, C=1) - mean(A=2, C=0) - mean(A=0, C=1) + mean(A=0, C=0)
    assert by["A=2 x C=on"].delta == pytest.approx(np.mean(pair)) and by["A=2 x C=on"].s == pytest.approx(
        pair.std(ddof=1)
    )
    third = sum((-1) ** (3 - a - b - c) * y[(a, b, c)] for a, b, c in itertools.product(range(2), repeat=3))
    assert by["A=1 x B=on x C=on"].delta == pytest.approx(np.mean(third)) and by["A=1 x B=on x C=on"].word is None
    assert {row.m for row in verdict.rows.values() if row.word == "inconclusive"} == {11 + 5}
    assert by["A=1"].m == by["A=1 x B=on"].m == 16
    lost = [r if r.arm != "c211" else RunScore("c211", r.seed, "failed") for r in runs]
    by = effects(judge(decision(5, 5), specs, range(5), lost, factorials=[cells]).factorials[0])
    assert {label for label, effect in by.items() if effect.needs} == {
        "A=2", "B=on", "C=on", "A=2 x B=on", "A=2 x C=on", "B=on x C=on", "A=2 x B=on x C=on",
    }  # fmt: skip


def test_a_cell_or_an_interaction_of_two_factorials_has_one_place():
    two = [two_by_two("base", "x", "y", "xy", name=name) for name in ("f", "again")]
    specs = [ArmSpec(arm) for arm in GAINS]
    verdict = judge(
        decision(8, 8), specs, range(8), made({"x": 0.0, "y": 0.0, "xy": 0.0}, noise=NOISE * 30), factorials=two
    )
    assert {row.m for name, row in verdict.rows.items() if name != "base"} == {4}
    first, second = (effects(one)["A=on x B=on"] for one in verdict.factorials)
    assert (first.low, first.high, first.m) == (second.low, second.high, 4)


def test_one_checkpoint_is_judged_over_documents():
    """Cells that share their weights: the interaction's interval is over the documents, as the arms' are."""
    rng = np.random.default_rng(11)
    size = np.full(64, 100)

    def documents(gain):
        return DocumentScores(300 + gain * 100 + rng.normal(0, 0.5, 64), size, size * 4)

    runs = [RunScore(arm, 0, "done", stages={"trained": documents(g)}) for arm, g in {"base": 0.0, **GAINS}.items()]
    specs = [ArmSpec(arm, shares_weights=True) for arm in GAINS]
    cells = [two_by_two("base", "x", "y", "xy", name="f")]
    verdict = judge(decision(1, 1), specs, range(1), runs, factorials=cells)
    pair = effects(verdict.factorials[0])["A=on x B=on"]
    nats = {r.arm: r.stages["trained"].nats for r in runs}
    e = (nats["xy"] - nats["x"] - nats["y"] + nats["base"]) / 100
    assert pair.delta == pytest.approx(e.mean())
    half = stats.t.isf(0.05 / (2 * pair.m), 63) * math.sqrt(((e - e.mean()) ** 2).sum()) / (1 - 1 / 64) / 64
    assert (pair.low, pair.high) == pytest.approx((e.mean() - half, e.mean() + half), rel=1e-9)
    assert pair.word == "inconclusive" or pair.low * pair.high > 0
