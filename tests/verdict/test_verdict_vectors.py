"""The procedure's worked examples, number by number (recipe: see made_studies)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_studies import V3, V4, V5A, V5B, V6, B, decision, near, run, runs_of, study

from ablab.verdict import (
    ArmSpec,
    Bank,
    DocumentScores,
    RunScore,
    bits_per_nat,
    chance,
    factorial,
    judge,
    looks,
    mde,
    mde_one_seed,
    power,
    record,
    seeds_needed,
    smallest_tie,
    two_by_two,
    unpaired,
    weights,
)
from ablab.verdict.spending import t_isf

W = 39 / 64


@pytest.mark.parametrize(
    ("start", "at_most", "numbers", "shares"),
    [
        (3, 8, (3, 5, 8), (0.140625, 0.25, 0.609375)),
        (2, 3, (2, 3), (0.444444, 0.555556)),
        (1, 8, (1, 3, 8), (0, 0.140625, 0.859375)),
        (1, 2, (1, 2), (0, 1)),
        (3, 16, (3, 7, 16), (0.0351562, 0.15625, 0.808594)),
        (3, 5, (3, 5), (0.36, 0.64)),
        (3, 3, (3,), (1,)),
    ],
)
def test_v1_looks_and_weights(start, at_most, numbers, shares):
    assert looks(start, at_most) == numbers
    assert weights(start, at_most) == near(shares)


def test_v1_critical_values_and_planning():
    for m, row in {
        1: (11.8627, 4.31466, 2.70385),
        3: (20.6196, 5.88531, 3.48798),
        7: (31.5287, 7.39235, 4.13936),
    }.items():
        found = [t_isf(0.05 * w / (2 * m), n - 1) for n, w in zip((3, 5, 8), weights(3, 8), strict=True)]
        assert found == near(row)
    assert mde(1, 8, W, 1) == near(1.28612)
    assert mde(0.004, 5, 0.25, 3) == near(0.0132349)
    assert mde_one_seed(0.002, 2) == near(0.00616605)
    assert power(0.006, 0.004, 8, W, 1) == near(0.907463)
    assert smallest_tie(1, 8, W, 1) == near(1.45621)
    assert seeds_needed(0.0023, 0.0034, 0.005, W) == 17
    assert chance(0.0023, 0.0034, 5, 8, W, 1, matters=0.005) == near(0.471659)


def test_v2_better_at_the_first_look():
    v = study((-0.0241, -0.0252, -0.0236))
    a = v.rows["a"]
    assert (a.word, a.look, a.seeds, v.winner, v.decided_by) == ("better", 1, 3, "a", "loss")
    assert (a.delta, a.s, a.low, a.high, a.p, a.mde) == near(
        (-0.0243, 0.000818535, -0.0299061, -0.0186939, 0.00268802, 0.00714674)
    )
    assert (a.more_seeds, a.chance, a.price) == (0, None, None)


def test_v3_better_at_the_last_look():
    v = study(V3)
    a = v.rows["a"]
    assert (a.word, a.seeds, a.look, a.lower, v.winner) == ("better", 8, 3, 7, "a")
    assert (a.delta, a.s, a.low, a.high, a.p, a.mde) == near(
        (-0.0041625, 0.00307429, -0.00710138, -0.00122362, 0.0106028, 0.00395390)
    )
    v = study(V3[:5])
    a = v.rows["a"]
    assert (a.word, a.more_seeds, a.fresh, a.price.runs, v.winner) == ("inconclusive", 3, False, 6, None)
    assert v.decided_by == "not finished"
    assert (a.low, a.high, a.p, a.chance) == near((-0.0108826, 0.00324261, 0.319711, 0.656366))
    a = study(V3[:3]).rows["a"]
    assert (a.chance, a.mde) == near((0.998554, 0.0228849))
    assert a.more_seeds == 5


@pytest.mark.parametrize(("seeds", "look"), [(3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3)])
def test_only_complete_looks_count(seeds, look):
    assert study(V3[:seeds]).rows["a"].look == look


def test_v4_equivalent_at_the_second_look():
    v = study(V4)
    a = v.rows["a"]
    assert (a.word, a.look, v.winner, v.decided_by) == ("equivalent", 2, "base", "nothing shown better")
    assert (a.delta, a.s, a.low, a.high, a.p) == near((0.00032, 0.000779102, -0.00118333, 0.00182333, 1))
    assert study(V4[:3]).rows["a"].word == "inconclusive"


def test_v5_inconclusive_given_up_and_at_the_end():
    v = study(V5A)
    a = v.rows["a"]
    assert (a.word, a.look, a.more_seeds, a.fresh, a.price.runs) == ("inconclusive", 2, 137, True, 274)
    assert (a.chance, a.delta, a.s, a.low, a.high) == near((0.0253135, 0.0006, 0.0169499, -0.0321061, 0.0333061))
    assert "unlikely to be settled by 8 seeds" in a.notes
    v = study(V5B)
    a = v.rows["a"]
    assert (a.word, a.look, a.seeds, a.more_seeds, a.fresh, a.price.runs, a.lower) == (
        "inconclusive",
        3,
        8,
        17,
        True,
        34,
        6,
    )
    assert (a.delta, a.s, a.low, a.high, a.p, a.mde) == near(
        (-0.0023, 0.00341760, -0.00556708, 0.000967077, 0.161965, 0.00439544)
    )


def test_v6_three_arms_holm():
    v = study(V6)
    a, b, c = (v.rows[x] for x in "abc")
    assert [(r.word, r.seeds, r.m) for r in (a, b, c)] == [("better", 5, 3), ("worse", 8, 2), ("better", 8, 1)]
    assert (a.low, a.high, a.p) == near((-0.0122071, -0.00839294, 7.00652e-05))
    assert (b.delta, b.low, b.high, b.p) == near((0.0059375, 0.00313788, 0.00873712, 0.000854319))
    assert (c.delta, c.low, c.high, c.p) == near((-0.0038125, -0.00735431, -0.000270691, 0.0371601))
    assert (v.winner, v.decided_by) == ("a", "lowest mean, selected and not shown")


TOKENS, BYTES = (100, 300, 50, 150), (430, 1240, 215, 640)
V7_BASE = ((330.1, 951.2, 170.4, 480.9), (331.0, 949.8, 171.2, 482.2), (329.4, 950.6, 170.9, 481.1))
V7_ARM = ((327.9, 946.5, 169.0, 478.3), (329.3, 944.9, 169.6, 479.6), (327.1, 946.8, 169.9, 478.0))


def document_study(base=V7_BASE, arm=V7_ARM, tokens=TOKENS, **settings):
    d = decision(3, 3, **settings)
    rows = [("base", x, TOKENS) for x in base], [("a", x, tokens) for x in arm]
    runs = [
        RunScore(name, i, "done", stages={"trained": DocumentScores(nats, counts, BYTES)})
        for side in rows
        for i, (name, nats, counts) in enumerate(side)
    ]
    return judge(d, [ArmSpec("a")], range(3), runs)


def test_v7_documents():
    v = document_study()
    a = v.rows["a"]
    metrics = [DocumentScores(x, TOKENS, BYTES).metric("nats_per_token") for x in V7_BASE]
    assert metrics == near((3.221, 3.2236667, 3.22))
    arm = [DocumentScores(x, TOKENS, BYTES).metric("nats_per_token") for x in V7_ARM]
    assert np.subtract(arm, metrics) == near((-0.0181667, -0.018, -0.017))
    assert a.word == "better"
    assert (a.delta, a.s, a.low, a.high, a.p) == near((-0.0177222, 0.000630990, -0.0192897, -0.0161548, 0.000422291))
    assert (a.se_doc, a.low_text, a.high_text) == near((0.00301558, -0.0316128, -0.00383164))
    weights = np.array(TOKENS, float)
    assert a.text_documents == near(weights.sum() ** 2 / (weights @ weights))
    few = f"no word over documents: one document is {weights.max() / weights.sum():.0%} of the text; "
    assert a.text_said.startswith(few) and f"for new text: {a.text_said}" in a.notes
    assert v.bits_per_nat == near(0.342819)
    a = document_study(metric="bits_per_byte", matters=0.001).rows["a"]
    assert (a.delta, a.low, a.high, a.se_doc) == near((-0.00607551, -0.00661286, -0.00553815, 0.00090799))


ALIKE = " score every document exactly alike: the same run twice, or weights that say nothing"


def test_v7_refusals():
    a = document_study(tokens=(90, 310, 50, 150)).rows["a"]
    assert a.word == "invalid"
    assert a.notes[0] == "seed 0: tokens per document differ between a and base: use bits_per_byte"
    assert document_study(tokens=(90, 310, 50, 150), metric="bits_per_byte", matters=0.001).rows["a"].word == "better"
    a = document_study(arm=(V7_ARM[0], V7_ARM[0], V7_ARM[2])).rows["a"]
    assert (a.word, a.notes[0]) == ("invalid", "a: seeds 0 and 1" + ALIKE)
    a = document_study(base=(V7_BASE[0], V7_BASE[1], V7_BASE[1])).rows["a"]
    assert (a.word, a.notes[0]) == ("invalid", "base: seeds 1 and 2" + ALIKE)


def test_v8_one_seed():
    a = study((-0.0048,), 1, 8, bank=Bank(0.002, 20)).rows["a"]
    assert (a.word, a.low, a.more_seeds, a.price.runs, a.look) == ("inconclusive", None, 7, 14, 1)
    assert a.mde == near(0.00560317)
    a = study((-0.0048,), 1, 8).rows["a"]
    assert (a.mde, a.more_seeds, a.fresh) == (None, 2, False)
    a = study((-0.0048,), 1, 1).rows["a"]
    assert (a.more_seeds, a.fresh) == (3, True)


def test_v8_no_variance():
    a = study((0.0, 0.0, 0.0)).rows["a"]
    assert (a.word, a.delta, a.low, a.high, a.p) == ("equivalent", 0, 0, 0, 1)
    assert a.notes == ("identical scores",)
    a = study((-0.01, -0.01, -0.01)).rows["a"]
    assert (a.word, a.low, a.notes) == (
        "invalid",
        None,
        ("the same difference at every seed: not independent runs",),
    )


def test_v8_missing_pairs_and_early_looks():
    a = study((-0.0120, -0.0131, "failed", -0.0117, -0.0128)).rows["a"]
    assert (a.word, a.seeds, a.look) == ("better", 4, 2)
    assert (a.delta, a.s, a.c, a.low, a.high, a.p) == near(
        (-0.0124, 0.000658281, 5.39195, -0.0141747, -0.0106253, 0.000164554)
    )
    assert "seed 2: no pair, a failed" in a.notes
    assert study((-0.0120, -0.0131, "failed")).rows["a"].seeds == 2
    a = study((-0.0120, -0.0131), 2, 3).rows["a"]
    assert (a.word, a.more_seeds) == ("inconclusive", 1)
    assert (a.c, a.low, a.high, a.chance) == near((28.6363, -0.0282999, 0.00319994, 0.999601))


@pytest.mark.parametrize("last", ["diverged", math.nan, math.inf])
def test_v9_unstable(last):
    """Once is no habit: the pairs are read, a note says it; a second divergence makes the arm unstable."""
    v = study((-0.0241, -0.0252, last))
    a = v.rows["a"]
    assert (a.word, a.seeds, a.look, v.winner, v.decided_by) == ("inconclusive", 2, 1, None, "not finished")
    assert (a.delta, a.c) == near((-0.02465, 90.5378)) and a.low < 0 < a.high
    assert a.notes[0].startswith("diverged once in 3 seeds")
    v = study((-0.0241, -0.0252, last, "diverged", -0.0236))
    a = v.rows["a"]
    assert (a.word, a.low, a.high, a.p, v.winner) == ("unstable", None, None, None, "base")
    assert a.delta == near(-0.0243)


def test_v9_baseline_diverged():
    base = (B[0], "diverged", *B[2:])
    v = study((-0.0241, 0.0, -0.0236, -0.0247, -0.0239), base=base)
    a = v.rows["a"]
    assert (a.word, a.look, a.seeds) == ("better", 1, 2)
    assert (a.c, a.low, a.high, a.p) == near((90.5378, -0.0464844, -0.00121555, 0.0474519))
    v = study((-0.0241, -0.02, -0.0236), base=("diverged",) * 3)
    assert (v.rows["a"].word, v.winner, v.decided_by) == ("invalid", None, "invalid")


def test_v9_hashes():
    parts = {("base", i): {"hash": "x"} for i in range(3)} | {("a", i): {"hash": "xyx"[i]} for i in range(3)}
    v = study((-0.0241, -0.0252, -0.0236), parts=parts)
    assert (v.rows["a"].word, v.winner, v.decided_by) == ("invalid", None, "invalid")
    assert v.rows["a"].delta is None
    v = study((-0.0241, -0.0252, -0.0236), parts=parts, specs=[ArmSpec("a", data_is_lever=True)])
    assert v.rows["a"].word == "better"


V10 = {"e": V4, "f": (-0.0011, 0.0002, -0.0006, 0.0009, -0.0014)}
SCORES = {
    "base": ((0.42, 0.55, 0.47, 0.51, 0.44), 0.31),
    "e": ((1.31, 1.52, 1.36, 1.49, 1.33), 0.62),
    "f": ((0.50, 0.61, 0.45, 0.58, 0.52), 0.33),
}


def v10(tie, minus=0.0):
    parts = {(x, i): {"probe": (s - minus, acc)} for x, (scores, acc) in SCORES.items() for i, s in enumerate(scores)}
    return study(V10, matters=0.008, tie=tie, parts=parts)


def test_v10_needle():
    v = v10(("needle", "prefer base"))
    e, f = v.rows["e"], v.rows["f"]
    assert [(r.word, r.seeds, r.m) for r in (e, f)] == [("equivalent", 5, 2), ("equivalent", 3, 2)]
    assert (e.low, e.high, f.low, f.high) == near((-0.00151308, 0.00215308, -0.00686832, 0.00586832))
    assert (v.winner, v.decided_by) == ("e", "needle")
    v = v10(("needle", "prefer f"), minus=1.4)
    assert (v.winner, v.decided_by, v.notes[0]) == ("f", "prefer f", "probe uninformative at this scale")
    assert [note.split(",")[0] for note in v.notes[1:]] == [
        "decided by prefer f"
    ]  # matters is 7.5 times what e lets be shown
    assert (v10(()).winner, v10(()).decided_by) == ("base", "nothing shown better")
    v = v10(("lowest",))
    assert (v.winner, v.decided_by) == ("f", "lowest mean, selected and not shown")


def test_v10_the_rungs_own_intervals():
    from ablab.verdict.interval import read, summary

    e, base, f = (np.array(SCORES[x][0]) for x in ("e", "base", "f"))
    assert e.mean() - t_isf(0.025, 4) * e.std(ddof=1) / math.sqrt(5) == near(1.28245)
    d = (e - base).tolist()
    i = read(summary(d, e.tolist()), matters=0.0, alpha=0.05, w=0.25, m=3)
    assert (i.d, i.low, i.high) == near((0.924, 0.801111, 1.04689))
    d = (e - f)[:3].tolist()
    i = read(summary(d, e[:3].tolist()), matters=0.0, alpha=0.05, w=9 / 64, m=3)
    assert (i.d, i.low, i.high) == near((0.876667, 0.189347, 1.56399))


V11 = {
    "base": (3.2124, 3.2176, 3.2101, 3.2150, 3.2138),
    "y10": (3.2051, 3.2109, 3.2030, 3.2071, 3.2067),
    "y01": (3.2101, 3.2148, 3.2079, 3.2125, 3.2118),
    "y11": (3.2098, 3.2157, 3.2085, 3.2120, 3.2121),
}


def test_v11_factorial():
    runs = [run(name, i, y) for name, column in V11.items() for i, y in enumerate(column)]
    rows = factorial(decision(5, 5, matters=0.002), two_by_two("base", "y10", "y01", "y11"), range(5), runs)
    a, b, i = rows["A=on"], rows["B=on"], rows["A=on x B=on"]
    assert [(r.word, r.m, r.seeds) for r in (a, b, i)] == [("better", 3, 5), ("equivalent", 3, 5), ("worse", 3, 5)]
    assert a.c == near(3.96079)
    assert (a.delta, a.low, a.high) == near((-0.00351, -0.00440096, -0.00261904))
    assert (b.delta, b.low, b.high) == near((0.00135, 0.000804043, 0.00189596))
    assert (i.delta, i.low, i.high) == near((0.00742, 0.00694471, 0.00789529))


def test_v11_stages():
    sliding = {
        "base": (3.2231, 3.2286, 3.2209, 3.2260, 3.2243),
        "a": (3.2292, 3.2341, 3.2266, 3.2322, 3.2299),
    }
    trained = {"base": V11["base"], "a": (3.2070, 3.2118, 3.2051, 3.2095, 3.2090)}
    runs = [run(x, i, trained[x][i], stages={"sliding": sliding[x][i]}) for x in trained for i in range(5)]
    a = judge(decision(5, 5, stages=("trained", "sliding")), [ArmSpec("a")], range(5), runs).rows["a"]
    t, s, g = a.stages["trained"], a.stages["sliding"], a.gaps["sliding"]
    assert a.word == "better"
    assert (t.delta, t.low, t.high) == near((-0.0053, -0.00579667, -0.00480333))
    assert (s.delta, s.low, s.high) == near((0.00582, 0.00543329, 0.00620671))
    assert (g.gap, g.delta, g.low, g.high) == near((0.02192, 0.01112, 0.0104376, 0.0118024))
    assert [(i.stage, i.kind) for i in a.inversions] == [("sliding", "shown")]


def test_v12_logs_of_others():
    x, y = (1.07901, 1.07869, 1.07894), (1.08079, 1.08112, 1.08061)
    sizes = {"metric": "bits_per_byte", "bits_per_nat": bits_per_nat(40_540_160, 151_078_222)}
    assert sizes["bits_per_nat"] == near(0.387131)
    strict = record("golf-strict", x, y, **sizes)
    assert (strict.margin, strict.t, strict.df, strict.p) == near((0.00193566, -0.136659, 3.43525, 0.449463))
    assert not strict.record
    frontier = record("golf-frontier", x, y, **sizes)
    assert (frontier.t, frontier.p) == near((-11.0027, 0.000424092))
    assert frontier.record
    u = unpaired(x, y, matters=0.001)
    assert (u.delta, u.se, u.c, u.low, u.high, u.p) == near(
        (-0.00196, 0.000178139, 2.96606, -0.00248837, -0.00143163, 0.000848185)
    )
    assert (u.word, u.nx, u.ny) == ("better", 3, 3)
    runs = (3.2771, 3.2786, 3.2769, 3.2792, 3.2780)
    speedrun, track3 = record("speedrun", runs), record("track3", runs)
    assert (speedrun.t, speedrun.p, track3.value) == near((-4.67271, 0.00474956, 0.00456158))
    assert speedrun.record and track3.record
    assert speedrun.target == track3.target == 3.28
    medium = tuple(v - 0.36 for v in runs)  # the medium track holds against 2.92: the same runs, 0.36 lower
    shifted, value = record("speedrun", medium, target=2.92), record("track3", medium, target=2.92).value
    assert (shifted.t, shifted.p, value, shifted.target) == near((-4.67271, 0.00474956, 0.00456158, 2.92))
    assert shifted.record and not record("speedrun", runs, target=2.92).record
    assert not record("speedrun", runs, target=3.2785).record and record("speedrun", medium).record


def test_vectors_survive_the_order_of_arms_and_runs():
    d = decision()
    forward = judge(d, [ArmSpec(x) for x in "abc"], range(8), runs_of(V6))
    backward = judge(d, [ArmSpec(x) for x in "cab"], range(8), runs_of(V6)[::-1])
    assert {x: r.as_json() for x, r in forward.rows.items()} == {x: r.as_json() for x, r in backward.rows.items()}
    assert (forward.winner, forward.decided_by) == (backward.winner, backward.decided_by)
