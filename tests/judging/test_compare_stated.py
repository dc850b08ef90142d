"""A claim's numbers: which line, mean, difference or p each of them is, and what is none."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

import pytest

from ablab.core.fault import CheckFailed
from ablab.judging.compare.claims import hold
from ablab.judging.compare.stated import LONGEST
from ablab.judging.compare.words import compare
from ablab.records.comparison import Comparison
from ablab.records.log import Level, LoggedRun

RATIO = 0.5922578960


def level(bpb: float) -> Level:
    return Level(round(bpb / RATIO, 8), round(bpb, 8), 8, 50)


def runs(values: tuple[float, ...], name: str) -> list[LoggedRun]:
    """Runs with a score over sliding windows and one .01 lower after test-time training."""
    scores = [{"sliding": level(value), "final_ttt": level(value - 0.01)} for value in values]
    return [
        LoggedRun(Path(f"{name}{i}.log"), 1, one, seed=i, steps=100, val_tokens=62_021_632)
        for i, one in enumerate(scores, 1)
    ]


X, Y = runs((1.12508120, 1.12437394, 1.12675014), "x"), runs((1.12922988, 1.12888882, 1.13002032), "y")


def held(claim: str) -> Comparison:
    return hold(compare(X, Y, presets=("golf-frontier",)), X, Y, claim)


def matches(claim: str) -> list[str | None]:
    return [one["match"] for one in held(claim)["claims"]]


def kinds(claim: str) -> list[str]:
    return [flag["kind"] for flag in held(claim)["flags"] if "claim" in flag["kind"] or "called" in flag["kind"]]


def test_a_number_finds_its_line() -> None:
    [one] = held("we reach 1.11437394 val_bpb")["claims"]
    assert one["match"] == "one run of x (seed 2), final_ttt, in bits per byte" and one["where"] == "x2.log:50"
    assert matches("sliding only: 1.12437394") == ["one run of x (seed 2), sliding, in bits per byte"]
    assert kinds("we reach val_bpb: 1.11437394") == ["claim_of_some_runs"]


def test_means_of_all_runs_and_of_the_lowest_are_told_apart() -> None:
    mean = (1.11508120 + 1.11437394 + 1.11675014) / 3
    assert matches(f"{mean:.5f} bpb") == ["the mean of all 3 runs of x, ttt, in bits per byte"] and not kinds(
        f"{mean:.5f} bpb"
    )
    low = (1.11508120 + 1.11437394) / 2
    assert matches(f"val_bpb = {low:.6f}") == ["the mean of the 2 lowest of 3 runs of x, ttt, in bits per byte"]
    assert kinds(f"val_bpb = {low:.6f}") == ["claim_of_some_runs"]


def test_a_difference_has_its_unit_and_may_be_turned() -> None:
    welch = compare(X, Y)["unpaired"]
    assert welch is not None and welch["delta"] is not None and welch["p"] is not None
    bpb, nats = abs(welch["delta"]), abs(welch["delta"]) / RATIO
    assert matches(f"better by {bpb:.6f} bpb and {nats:.6f} nats") == [
        "the difference of the means, in bits per byte", "the difference of the means, in nats per token",
    ]  # fmt: skip
    assert kinds(f"a gain of {bpb:.6f} nats") == ["bpb_called_nats"]
    assert kinds(f"a gain of {nats:.6f} bpb") == ["nats_called_bpb"]
    assert matches(f"p = {welch['p']:.6f}") == ["p of the two-sided Welch test"]
    assert matches(f"p={welch['p'] / 2:.6f}") == ["p of the Welch test on the one side of x"]


def test_what_is_nothing_is_said_and_what_is_no_score_is_left_alone() -> None:
    assert kinds("we get 1.0901 bpb") == ["claim_in_no_log"] and matches("we get 1.0901 bpb") == [None]
    assert matches("torch 2.9.1, 8 GPUs, 600 s, rope 0.25, 2026-04-18") == []
    assert kinds("a new record, 1.10901!") == ["claim_in_no_log"] and kinds("a ratio of 0.98765") == []
    assert kinds("worth it for >= 0.0051 nats") == []


def test_a_bound_on_p_holds_or_does_not() -> None:
    assert matches("Welch p 0.51") == [None] and kinds("Welch p 0.51") == ["claim_in_no_log"]
    assert matches("p < 0.05") == ["p of the two-sided Welch test"]
    assert matches("p < 0.0000001") == matches("p < 1e-7") == [None]
    assert kinds("p < 0.0000001") == ["claim_in_no_log"]


def test_runs_that_are_listed_beside_their_mean_are_no_choice() -> None:
    scores = [one.stages["final_ttt"].bpb or 0 for one in X]
    listed = ", ".join(f"{score:.8f} bpb" for score in scores)
    assert kinds(listed) == ["claim_of_some_runs"] * 3
    assert kinds(f"{listed}; mean {sum(scores) / 3:.5f} bpb") == []


def test_spreads_steps_and_logs_that_are_not_independent() -> None:
    scores = [one.stages["final_ttt"].bpb or 0 for one in X]
    assert matches(f"std {statistics.stdev(scores):.6f}") == ["the sd of the runs of x, ttt, in bits per byte"]
    assert matches(f"std {statistics.pstdev(scores):.6f}") == [
        "the sd of the runs of x with n in place of n - 1, ttt, in bits per byte"
    ]
    nats = 0.01 / RATIO
    assert matches(f"a gain of {nats:.8f} nats") == ["the step of the mean of x from sliding to ttt, in nats per token"]
    assert kinds(f"a gain of {nats:.8f} bpb") == ["claim_in_no_log"], "by chance some step is as large in another unit"
    assert matches("a gain of 0.01000000 bpb") == ["the step of the mean of x from sliding to ttt, in bits per byte"]
    one = [dataclasses.replace(run, seed=7) for run in X]
    [bound] = hold(compare(one, Y), one, Y, "p < 0.01")["claims"]
    assert bound["match"] is None, "one run that stands three times has no p"
    [found] = hold(compare(one, None), one, [], f"{statistics.fmean(scores):.5f} bpb")["claims"]
    assert found["match"] == "the mean of all 3 runs of x, 1 of them independent, ttt, in bits per byte"


def test_a_submission_is_held_key_by_key() -> None:
    mean = sum(one.stages["final_ttt"].bpb or 0 for one in X) / 3
    claim = {
        "val_bpb": round(mean, 8), "val_loss": round(mean / RATIO, 8), "seeds": [1, 2, 3], "bytes_total": 15_990_000,
        "runs": {"2": {"val_bpb": 1.11437394, "val_loss": 1.99999999}}, "blurb": "improves 1.11437394 a lot",
    }  # fmt: skip
    answer = held(json.dumps(claim))
    found = {one["stated"].partition(":")[0]: one["match"] for one in answer["claims"]}
    assert found["val_bpb"] == "the mean of all 3 runs of x, ttt, in bits per byte"
    assert found["val_loss"] == "the mean of all 3 runs of x, ttt, in nats per token"
    assert found["runs.2.val_bpb"] == found["blurb"] == "one run of x (seed 2), final_ttt, in bits per byte"
    assert found["runs.2.val_loss"] is None and found.keys() >= {"runs.2.val_loss"} and "bytes_total" not in found
    flags = {flag["kind"]: flag["said"] for flag in answer["flags"]}
    assert flags["claim_of_no_export"].startswith("runs.2: val_bpb / val_loss = 0.557187")
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize("claim", ["{", '{"val_bpb": 1.1', "1.0 " * LONGEST])
def test_what_is_no_claim_is_refused(claim: str) -> None:
    with pytest.raises(CheckFailed):
        held(claim)


def test_a_number_of_few_digits_is_not_matched_by_chance() -> None:
    assert matches("0.011 and 0.005") == [None, None]
    welch = compare(X, Y)["unpaired"]
    assert welch is not None and welch["delta"] is not None
    assert matches(f"a gain of {abs(welch['delta']):.4f}") == ["the difference of the means, in bits per byte"]
    sd = statistics.stdev([one.stages["final_ttt"].bpb or 0 for one in X])
    assert matches(f"std {sd:.4f}") == ["the sd of the runs of x, ttt, in bits per byte"]
    assert matches(f"std {X[1].stages['final_ttt'].bpb:.8f}") == [None], "what is called a spread is none of a run"


def test_a_test_against_a_stated_reference_is_found_and_what_it_takes_for_granted_is_said() -> None:
    scores = [one.stages["final_ttt"].bpb or 0 for one in X]
    t = (statistics.fmean(scores) - 1.1194) / (statistics.stdev(scores) / 3**0.5)
    found = held(f"better than 1.1194: t = {abs(t):.4f}")["claims"]
    assert found[-1]["match"] == "t of a one-sample test of x against 1.1194, which takes that as exact"
    assert matches("better than 1.1194: t = 77.1234")[-1] is None


def test_a_mean_of_the_other_side_comes_before_a_choice_of_runs() -> None:
    mean = statistics.fmean(one.stages["final_ttt"].bpb or 0 for one in Y)
    assert matches(f"{mean:.4f}") == ["the mean of all 3 runs of y, ttt, in bits per byte"]


SCORES = tuple(one.stages["final_ttt"].bpb or 0 for one in X)


def not_here(claim: str) -> list[str]:
    return [flag["said"] for flag in held(claim)["flags"] if flag["kind"] == "claim_of_runs_not_here"]


def test_runs_that_a_claim_tells_of_and_that_are_not_here_are_said_once() -> None:
    """A page that lists five runs and has the logs of three of them: the three lowest."""
    every = {"1": SCORES[0], "2": SCORES[1], "3": SCORES[2], "77": 1.11751234, "9999": 1.11791234}
    mean, sd = statistics.fmean(every.values()), statistics.stdev(every.values())
    told = {"all_val_bpb": every, "mean_val_bpb": round(mean, 5), "std_val_bpb": round(sd, 5)}
    rows = "".join(f"| {seed} | {one:.5f} | **{one / RATIO:.5f}** |\n" for seed, one in every.items())
    table = f"| seed | val_bpb | val_loss |\n|---|---|---|\n{rows}| Mean | {mean:.5f} | {mean / RATIO:.5f} |\n"
    for claim, place in ((json.dumps(told), "all_val_bpb"), (table, "val_bpb")):
        assert not_here(claim) == [
            f"{place} tells of 5 runs, and 3 of them are here, which are the 3 lowest; not here: "
            + ("77: 1.11751234, 9999: 1.11791234" if claim.startswith("{") else "77: 1.11751, 9999: 1.11791")
        ]
        assert "claim_in_no_log" not in kinds(claim)
    matched = [one["match"] or "" for one in held(json.dumps(told))["claims"]]
    assert matched[3] == "a run that the claim tells of and that is not here (77)"
    assert matched[-2] == "the mean of the 5 runs that the claim tells of, 2 of which are not here"
    assert matched[-1] == "the sd of the 5 runs that the claim tells of, 2 of which are not here"
    middle = {**every, "77": 1.11471234}
    assert "lowest" not in not_here(json.dumps({"val_bpb": middle}))[0]


def test_lists_of_runs_that_are_all_here_or_of_others_are_no_such_thing() -> None:
    both = [*SCORES, *(one.stages["final_ttt"].bpb for one in Y)]
    for claim in (
        {"val_bpb": [*SCORES]},
        {"val_bpb": both},
        {"val_bpb": {"ours": SCORES[0], "theirs": 1.1188, "a record": 1.1190}},
        {"a": {"val_bpb": SCORES[0], "steps_per_s": 1.118}, "b": {"val_bpb": SCORES[1], "steps_per_s": 1.118}},
    ):
        assert not_here(json.dumps(claim)) == []


def test_the_margin_of_a_rule_is_no_result() -> None:
    said = f"the 0.005-nat record bar (0.005 nats, {0.005 * RATIO:.5f} bpb)"
    assert kinds(said) == [] and {*matches(said)} - {None} == {
        "the margin of the rule golf-strict", "the margin of the rule golf-strict, in bits per byte"
    }  # fmt: skip
    assert kinds("we gain 0.005 nats") == ["claim_in_no_log"]
