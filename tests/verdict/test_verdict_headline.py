"""The first sentence says no more than was shown."""

from __future__ import annotations

import pytest
from bench.verdict_simulations import Cell, exaggeration
from made_studies import V3, V4, V5B, B, study

from ablab.verdict import ArmSpec, Bank

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
    v = study(V4, tie=("prefer a",))
    assert v.sentence == "The winner is a (prefer a; no arm is shown better)."


def test_a_better_arm_that_may_not_win_is_not_forgotten():
    v = study(BETTER, specs=[ArmSpec("a", barred="12 bytes above the limit")])
    assert v.sentence.startswith("No winner: no arm that may win is shown better; the baseline stays")


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
    assert v.winner == "a" and v.notes == ("decided by prefer a, where matters = 0.5 is 0.16 of the metric",)
    fine = study((0.0011, -0.0012, 0.0004, -0.0009, 0.0006, 0.0010, -0.0013, 0.0003), matters=0.004)
    assert not any("matters" in note for note in fine.rows["a"].notes)
    assert 0.01 * B[0] > 0.005


def test_what_was_selected_for_looking_good_looks_too_good():
    assert 1.05 < exaggeration(Cell((-1.0,)), studies=300, seed=3) < 1.5
