"""The first sentence says no more than was shown."""

from __future__ import annotations

import numpy as np
import pytest
from bench.verdict_simulations import Cell, exaggeration
from made_studies import V3, V4, V5B, B, decision, study

from ablab.core.rng import stream
from ablab.verdict import ArmSpec, Bank, DocumentScores, RunScore, judge
from ablab.verdict.spending import weights
from ablab.verdict.visible import smallest_tie


def _diverged(*places: int) -> list[float | str]:
    """The baseline's column, lost at these seeds."""
    return ["diverged" if i in places else x for i, x in enumerate(B)]


BETTER, WORSE = (-0.0241, -0.0252, -0.0236), (0.0241, 0.0252, 0.0236)


def test_one_seed_ahead_by_far_is_no_winner_and_the_noise_is_unknown():
    v = study((-0.05,), 1, 1)
    assert v.sentence == (
        "No winner: nothing is shown to differ; the baseline stays; "
        "inconclusive: a (noise unknown; 3 fresh seeds would measure it: 6 runs)."
    )
    assert "noise unknown" in v.rows["a"].notes and v.rows["a"].mde is None
    v = study((-0.05,), 1, 8)
    assert v.sentence.endswith("inconclusive: a (noise unknown; 2 seeds would measure it: 4 runs).")
    assert "noise unknown" not in study((-0.05,), 1, 1, bank=Bank(0.002, 9)).rows["a"].notes


def test_a_better_arm_comes_with_the_near_end_of_its_interval():
    v = study(BETTER)
    assert v.sentence == "The winner is a (loss): at least 0.0187 nats/token better than base (best guess 0.0243)."
    v = study({"a": BETTER, "b": tuple(x - y for x, y in zip(BETTER, (0.02, 0.0205, 0.0198), strict=True))},
              specs=[ArmSpec("a"), ArmSpec("b", on="a")])  # fmt: skip
    assert v.winner == "b" and "better than a (best guess 0.0201)" in v.sentence


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": V4}, "No winner: nothing is shown to differ; the baseline stays"),
        ({"a": V5B}, "No winner: nothing is shown to differ; the baseline stays"),
        ({"a": WORSE}, "The winner is the baseline (every arm is shown worse)"),
        ({"a": WORSE, "b": V5B}, "No winner: no arm is shown better; the baseline stays"),
        (
            {"a": (-0.0010, -0.0011, -0.0012)},
            "No winner: nothing is shown to differ by what matters; the baseline stays",
        ),
    ],
)
def test_a_baseline_that_is_left_wins_only_over_arms_shown_worse(arms, said):
    v = study(arms)
    assert v.winner == "base" and v.sentence.startswith(said)
    assert study(arms, tie=("prefer base",)).sentence.startswith(said)


def test_an_arm_that_only_a_rung_chose_is_said_to_be_shown_nothing():
    v = study(V4, tie=("prefer a",), matters=0.003)
    assert v.sentence == "The winner is a (prefer a; no arm is shown better)."


def test_a_better_arm_that_may_not_win_is_not_forgotten():
    v = study(BETTER, specs=[ArmSpec("a", barred="12 bytes above the limit")])
    assert v.sentence.startswith("No winner: no arm that may win is shown better; the baseline stays")


def test_every_arm_shown_better_comes_with_its_near_end():
    """The winner's first; of an arm that may not win, and before there is a winner, too; of many the three lowest."""
    b = tuple(x + 0.012 + y for x, y in zip(BETTER, (0, 0.0004, -0.0003), strict=True))
    v = study({"a": BETTER, "b": b})
    assert v.winner == "a" and v.sentence.startswith(
        "The winner is a (loss): at least 0.0164 nats/token better than base"
    )
    assert (
        f"; shown better too: b, at least {-v.rows['b'].high:.3g} nats/token better than base (best guess" in v.sentence
    )
    v = study(BETTER, specs=[ArmSpec("a", barred="12 bytes above the limit")])
    assert (
        "the baseline stays; shown better: a, at least 0.0187 nats/token better than base (best guess 0.0243)."
        in v.sentence
    )
    v = study({"a": BETTER, "c": (-0.001, 0.002, -0.0015)}, start=3, at_most=8)
    assert v.winner is None and "; shown better: a, at least" in v.sentence and "The winner" not in v.sentence
    many = {f"a{i}": tuple(x - 0.05 * i for x in BETTER) for i in range(6)}
    v = study(many)
    assert v.sentence.count("at least") == 4 and ", and 2 more." in v.sentence


def test_an_unfinished_study_has_no_winner():
    assert study(V3[:5]).sentence.startswith(
        "No winner (not finished), 6 runs to the next look; inconclusive: a (about 3"
    )


def test_a_margin_that_no_arm_could_miss_is_warned_of_beside_the_tie():
    """An arm truly .004 behind is a tie at matters = .5, and `prefer` makes it the winner."""
    behind = (0.0041, 0.0038, 0.0043, 0.0040, 0.0037)
    v = study(behind, matters=0.5, tie=("prefer a",))
    (said,) = [note for note in v.rows["a"].notes if note.startswith("warning: matters")]
    assert said.startswith("warning: matters = 0.5 is 0.16 of the metric and ")
    assert said.endswith("times the smallest tie that this noise lets be shown; this tie says little")
    (chosen,) = v.notes
    assert v.winner == "a" and chosen.startswith("decided by prefer a, where matters = 0.5 is 0.16 of the metric and ")
    assert v.sentence == (
        f"The winner is a ({chosen.removeprefix('decided by ')}; no arm is shown better; "
        "a is shown behind, by less than matters)."
    )
    fine = study((0.0011, -0.0012, 0.0004, -0.0009, 0.0006, 0.0010, -0.0013, 0.0003), matters=0.004)
    assert not any("matters" in note for note in fine.rows["a"].notes)
    assert 0.01 * B[0] > 0.005


def test_a_margin_is_held_against_the_smallest_tie_alone():
    """Below 1% of the metric, and 4 to 40 times what the noise lets be shown: beside the tie and beside the choice."""
    noise = (0.0011, -0.0012, 0.0004, -0.0009, 0.0006, 0.0010, -0.0013, 0.0003)
    tie = smallest_tie(float(np.std(noise, ddof=1)), 8, weights(5, 8)[-1])
    assert 0.0012 < tie < 0.002
    for matters, loose in ((2.9 * tie, False), (3.1 * tie, True), (0.025, True)):
        v = study(noise, start=5, matters=matters, tie=("prefer a",))
        assert v.rows["a"].word == "equivalent" and matters < 0.01 * B[0]
        said = [note for note in (*v.rows["a"].notes, *v.notes, v.sentence) if "times the smallest tie" in note]
        assert len(said) == (3 if loose else 0), (matters, said)


@pytest.mark.parametrize("matters", [0.5, 0.03])
def test_a_margin_is_warned_of_over_the_documents_of_one_checkpoint(matters):
    draws = stream(3, "test", "documents")
    nats = draws.normal(320, 5, 100)
    sizes = np.full(100, 100), np.full(100, 400)
    runs = [
        RunScore(name, 0, "done", stages={"trained": DocumentScores(x, *sizes)})
        for name, x in (("base", nats), ("a", nats + 0.4 + draws.normal(0, 0.5, 100)))
    ]
    v = judge(decision(1, 1, matters=matters), [ArmSpec("a", shares_weights=True)], [0], runs)
    assert v.rows["a"].word == "equivalent"
    (said,) = [note for note in v.rows["a"].notes if note.startswith("warning: matters")]
    assert "times the smallest tie" in said and ("of the metric" in said) == (matters == 0.5)


@pytest.mark.parametrize("tie", [("lowest",), ("prefer e",), ()])
@pytest.mark.parametrize("base", [False, True])
def test_a_better_arm_over_a_limit_is_not_called_not_better(tie, base):
    barred = [ArmSpec("big", barred="9 bytes over"), *([ArmSpec("base", barred="3 bytes over")] if base else [])]
    arms = {"big": (*BETTER, -0.0247, -0.0239), "e": (-0.0010, -0.0012, -0.0008, -0.0011, -0.0009)}
    v = study(arms, start=5, at_most=5, tie=tie, specs=[*barred, ArmSpec("e")])
    assert (v.rows["big"].word, v.rows["e"].word) == ("better", "equivalent")
    assert "no arm is shown better" not in v.sentence and "nothing shown better" not in v.sentence
    if v.winner is not None:
        assert "no arm that may win is shown better" in v.sentence


def test_what_was_selected_for_looking_good_looks_too_good():
    assert 1.05 < exaggeration(Cell((-1.0,)), studies=300, seed=3) < 1.5


def test_the_lowest_is_said_to_be_so_among_those_that_could_be_picked():
    """a stands far below b and is not shown to: it is no candidate, and b does not read like the best of all."""
    v = study({"a": (-0.2,), "b": (-0.002,)}, 1, 1, tie=("lowest",), matters=0.05)
    assert (v.winner, v.decided_by) == ("b", "lowest mean, selected and not shown")
    assert v.sentence.startswith(
        "The winner is b (lowest mean of those not apart by 0.05, selected and not shown; "
        "lower and left out: a (inconclusive, -0.2); no arm is shown better); "
    )
    v = study({"a": (-0.2,), "b": (0.002,)}, 1, 1, tie=("lowest",), matters=0.05)
    assert v.sentence.startswith(
        "No winner: nothing is shown to differ; the baseline stays (lowest mean of those not apart by 0.05, "
        "selected and not shown; lower and left out: a (inconclusive, -0.2)); "
    )
    v = study({"a": (-0.002,), "b": (-0.001,)}, 1, 1, tie=("lowest",), matters=0.05)
    assert v.sentence.startswith("The winner is a (lowest mean, selected and not shown; no arm is shown better)")


def test_what_stands_lower_by_way_of_another_arm_or_may_not_win_is_named_too():
    v = study({"a": (-0.01,), "b": (-0.21,)}, 1, 1, tie=("needle", "lowest"), matters=0.05,
              specs=[ArmSpec("a"), ArmSpec("b", on="a")])  # fmt: skip
    assert "of those not apart by 0.05 that the earlier rungs left" in v.sentence
    assert "lower and left out: b (inconclusive, -0.21)" in v.sentence
    v = study({"a": (-0.02,), "b": (-0.01,)}, 1, 1, tie=("lowest",), matters=0.05,
              specs=[ArmSpec("a", barred="12 bytes above the limit"), ArmSpec("b")])  # fmt: skip
    assert v.winner == "b" and "lower and left out: a (inconclusive, -0.02, cannot win)" in v.sentence
    better = {"a": (-0.0241, -0.0252, -0.0236), "b": (-0.0242, -0.0251, -0.0236), "c": (-0.05, -0.01, -0.06)}
    v = study(better, 3, 3, tie=("lowest",))
    assert v.winner in "ab" and v.decided_by == "lowest mean, selected and not shown"
    assert "(lowest mean of the arms shown better, selected and not shown; lower and left out: c" in v.sentence


def test_arms_that_could_not_be_judged_are_not_counted_as_worse():
    lost = ("diverged", "diverged", -0.001)
    v = study({"a": (0.0241, 0.0252, 0.0236), "b": lost}, 3, 3)
    assert v.rows["b"].word == "unstable"
    assert v.sentence == (
        "The winner is the baseline (every arm that could be judged is shown worse; not judged: b unstable)."
    )
    said = study({"b": lost}, 3, 3).sentence
    assert said == "No winner: no arm could be judged; the baseline stays; not judged: b unstable."


def test_a_baseline_that_stays_says_that_it_diverged():
    """At two seeds and more in the sentence, at one in the notes."""
    holes = ("diverged", "diverged", -0.0006, 0.0013, -0.0003)
    v = study({"a": holes}, 5, 5, base=_diverged(0, 1))
    often = "the baseline diverged at 2 of 5 seeds (40%, interval 5% to 85%)"
    assert v.sentence.startswith(f"No winner: nothing is shown to differ; the baseline stays; {often}.")
    assert often in v.notes
    v = study({"a": (0.0241, 0.0252, 0.0236, 0.0249)}, 4, 4, base=_diverged(0))
    assert v.sentence == "The winner is the baseline (every arm is shown worse)."
    assert v.notes == ("the baseline diverged at 1 of 4 seeds (25%, interval 1% to 81%)",)


def test_a_probe_without_a_pair_promotes_nobody_and_says_so():
    v = study({"a": ("diverged", -0.001, -0.001)}, 1, 2, probe=1, base=_diverged(0, 1))
    assert v.rows["a"].notes[0] == "not promoted"
    assert v.notes[0] == "probe without keep: every arm with a sound pair in it goes on; a had none"
    assert v.sentence.startswith(
        "No winner: no arm has a pair with its reference; the baseline stays; the baseline diver"
    )
    fine = study({"a": (0.001, -0.001, 0.001)}, 1, 2, probe=1)
    assert fine.notes[0] == "probe without keep: every arm goes on"
