"""Copies of one training under several seeds are found, near ones too; independent trainings are not accused."""

from __future__ import annotations

import numpy as np
import pytest

from ablab.verdict import ArmSpec, Decision, DocumentScores, RunScore, judge
from ablab.verdict.copies import _distances, _norm

TOKENS = np.full(24, 400)
RULE = Decision(stage="s", matters=0.005, start=3, at_most=5)


def trainings(arm: str, seeds: int = 5, spread: float = 2.0) -> list[np.ndarray]:
    """Nats of 24 documents: those of the text, and of each training its own."""
    text = 1200 + 100 * np.random.default_rng(0).standard_normal(24)
    return [text + spread * np.random.default_rng([7, seed, len(arm)]).standard_normal(24) for seed in range(seeds)]


def verdict(arm: list[np.ndarray], baseline: list[np.ndarray]) -> tuple[str | None, str]:
    runs = [
        RunScore(
            name,
            seed,
            "done",
            f"h{seed}",
            stages={"s": DocumentScores(nats, TOKENS[: len(nats)], 4 * TOKENS[: len(nats)])},
        )
        for name, every in (("arm", arm), ("baseline", baseline))
        for seed, nats in enumerate(every)
    ]
    row = judge(RULE, [ArmSpec("arm")], range(5), runs).rows["arm"]
    return row.word, "; ".join(row.notes)


def test_independent_trainings_are_not_accused() -> None:
    assert verdict(trainings("arm"), trainings("baseline"))[0] in ("inconclusive", "equivalent", "better", "worse")
    assert verdict(trainings("arm", spread=0.2), trainings("baseline"))[0] != "invalid"  # a quieter arm is no copy


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize("who", ["arm", "baseline"])
def test_a_copy_under_another_seed_is_found(who: str, noise: float) -> None:
    runs = {name: trainings(name) for name in ("arm", "baseline")}
    runs[who][3] = runs[who][1] + noise * np.random.default_rng(1).standard_normal(24)
    word, said = verdict(runs["arm"], runs["baseline"])
    assert word == "invalid" and f"{who}: seeds 1 and 3 score every document" in said


@pytest.mark.parametrize("digits", [6, 4, 3, 2])
def test_a_copy_that_was_printed_is_found(digits: int) -> None:
    arm = trainings("arm")
    arm[4] = np.round(arm[0], digits)
    assert verdict(arm, trainings("baseline"))[0] == "invalid"


def test_one_training_under_every_seed_is_found_beside_a_reference_that_has_five() -> None:
    rng = np.random.default_rng(3)
    arm = [trainings("arm")[0] + 1e-3 * rng.standard_normal(24) for _ in range(5)]
    assert verdict(arm, trainings("baseline"))[0] == "invalid"


def test_copies_everywhere_are_found_by_their_rounding_alone() -> None:
    arm, baseline = ([one[0] + 1e-4 * k for k in range(5)] for one in (trainings("arm"), trainings("baseline")))
    assert verdict(arm, baseline)[0] == "invalid"


def test_a_run_of_the_reference_under_a_seed_of_the_arm_is_found() -> None:
    arm, baseline = trainings("arm"), trainings("baseline")
    arm[2] = baseline[4] + 1e-3
    word, said = verdict(arm, baseline)
    assert word == "invalid" and "arm, seed 2, and baseline, seed 4," in said


def test_the_rate_of_false_alarms_is_as_stated() -> None:
    """2,000 arms of 8 seeds that differ in a level and in two directions around it: 8.4e-5 of them are accused on average."""
    rng, accused = np.random.default_rng(11), 0
    at = np.triu_indices(8, 1)
    for _ in range(2000):
        level, around = rng.standard_normal((8, 1)), rng.standard_normal((8, 2))
        near = np.ones(len(at[0]), bool)
        for x in (level, around):
            apart = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))[at]
            near &= apart <= 0.02 * np.median(apart)
        accused += bool(near.any())
    assert accused <= 2  # Poisson with mean 0.17: more than 2 in one of 1,400


def test_trainings_that_differ_by_their_level_alone_are_not_accused() -> None:
    """One direction is not enough: two of them lie close by chance too often."""
    rng = np.random.default_rng(5)
    text, accused = 1200 + 100 * rng.standard_normal(24), 0
    for _ in range(40):
        arm = [text + rng.standard_normal() + 0.01 * rng.standard_normal(24) for _ in range(5)]
        accused += verdict(arm, trainings("baseline"))[0] == "invalid"
    assert accused == 0


@pytest.mark.parametrize(("seeds", "documents"), [(5, 24), (2, 24), (2, 4), (3, 3)])
@pytest.mark.parametrize("noise", [1e-9, 1e-5])
def test_one_training_under_all_seeds_is_found_by_what_trainings_differ_by_at_least(
    seeds: int, documents: int, noise: float
) -> None:
    """In both arms, so that no pair of seeds shows how far trainings lie apart; also two seeds, and few documents."""
    rng = np.random.default_rng(11)

    def copied(arm: str) -> list[np.ndarray]:
        one = trainings(arm)[0][:documents]
        return [one * (1 + noise * rng.standard_normal(documents)) for _ in range(seeds)]

    word, said = verdict(copied("arm"), copied("baseline"))
    assert word == "invalid" and "one training under two seeds" in said
    real = [[one[:documents] for one in trainings(name, seeds)] for name in ("arm", "baseline")]
    assert verdict(*real)[0] != "invalid"


def numbers(arm: list[float], baseline: list[float]) -> tuple[str | None, str]:
    runs = [
        RunScore(name, seed, "done", f"h{seed}", stages={"s": value})
        for name, every in (("arm", arm), ("baseline", baseline))
        for seed, value in enumerate(every)
    ]
    row = judge(RULE, [ArmSpec("arm")], range(5), runs).rows["arm"]
    return row.word, "; ".join(row.notes)


def test_plain_numbers_that_stand_twice_in_both_arms_are_found() -> None:
    rng = np.random.default_rng(2)
    baseline = (3.2 + 0.001 * rng.standard_normal(5)).tolist()
    arm = (np.array(baseline) - 0.02 + 0.0003 * rng.standard_normal(5)).tolist()
    assert numbers(arm, baseline)[0] == "better"
    arm[3], baseline[3] = arm[0], baseline[0]
    assert numbers(arm, baseline) == (
        "invalid",
        "arm and baseline: seeds 0 and 3 score exactly alike in both: one training under two seeds",
    )
    assert numbers([round(x, 6) for x in arm], [round(x, 6) for x in baseline])[0] == "invalid"
    for digits in (3, 4, 5):  # rounding, perhaps
        assert numbers([round(x, digits) for x in arm], [round(x, digits) for x in baseline])[0] != "invalid"
    half = [np.float16(x).astype(float).tolist() for x in ([3.18, 3.16, 3.17, 3.18, 3.1], [3.2, 3.19, 3.21, 3.2, 3.2])]
    assert numbers(*half)[0] != "invalid"  # of 11 bits: rounding, too
    baseline[3] += 1e-4  # in one of the two alone it may be an arm that does not depend on the seed
    assert numbers(arm, baseline)[0] != "invalid"


def test_the_largest_numbers_are_held_side_by_side_without_overflow() -> None:
    with np.errstate(all="raise"):
        huge = [1e308 * (1 + 1e-3 * one / 1200) for one in trainings("arm")]
        assert _norm(huge[0] - huge[1]) > 0 and _distances(huge[0], huge[1])[1] > 0
