"""What arms cost, beside their references and under the limits, as verdict.json says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import finished_store as made

from ablab.core.fault import CheckFailed
from ablab.core.sealed import sealed
from ablab.judging import collect, cost, judge
from ablab.report import costs as costs_of
from ablab.report import html
from ablab.report.view import View
from ablab.report.words import Style

DECIDES_RAW = ('stage = "sliding"', 'stage = "pre_quant"')
INT5 = ("[arm.int5]\nstage.post_quant.compress.bits = 5\n", "[arm.int5]\nmodel.d_model = 24\n")


def seeds(*values: float) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


def theirs(
    train: tuple[float, ...] = (100.0,) * 3, late: tuple[float, ...] = (10.0,) * 3, speed: tuple[float, ...] = (50.0,) * 3,
    **changed: Any,
) -> dict[str, Any]:  # fmt: skip
    clocks = {
        "train_seconds": seeds(*train),
        "tokens_per_second": seeds(*speed),
        "stage_seconds": {"late": seeds(*late)},
    }
    return {"bytes": 1000, "clocks": clocks, "stages": {"late": {"peak_bytes": 100.0}}, **changed}


@pytest.mark.parametrize(
    ("mine", "free"),
    [
        ({}, True),
        ({"bytes": 999}, True),
        ({"bytes": 1001}, False),
        ({"train": (105.0,) * 3}, True),
        ({"train": (105.1,) * 3}, False),
        ({"late": (10.5,) * 3}, True),
        ({"late": (10.6,) * 3}, False),
        ({"stages": {"late": {"peak_bytes": 900.0}}}, True),  # shown, not counted
        ({"bytes": None}, None),
        ({"train": ()}, None),
        ({"late": ()}, None),
        ({"train": (117.5,)}, None),  # one busy clock
        ({"train": (117.5, 118.0)}, None),  # two of them
        ({"train": (90.0, 101.0, 118.0)}, None),  # clocks that waver tell neither
        ({"train": (99.0, 101.0, 150.0)}, None),
        ({"train": (117.0, 118.0, 119.0)}, False),
        ({"late": (9.9, 10.0, 10.1)}, True),
        ({"late": (9.9, 10.0, 10.1), "train": (99.0, 117.0, 108.0)}, None),
    ],
)
def test_free_is_no_more_bytes_and_no_longer_where_clocks_tell(mine: dict[str, Any], free: bool | None) -> None:
    assert cost.against(theirs(**mine), theirs(), "late", timed=False)["free"] is free


def test_times_are_compared_seed_by_seed() -> None:
    busy = (100.0, 230.0, 100.0, 410.0)  # a neighbour came for the second and the fourth seed, of both arms
    mine = theirs(train=tuple(1.2 * t for t in busy), late=(19.0, 20.0, 22.0), stages={"late": {"peak_bytes": 150.0}})
    found = cost.against({**mine, "bytes": 1114}, theirs(train=busy), "late", timed=False)
    assert (found["bytes"], found["train_time"], found["stage_time"]) == (114, pytest.approx(1.2), 2.0)
    assert found["peak_bytes"] == 1.5 and found["free"] is False
    spread = found["stage_spread"]
    assert (spread["low"], spread["high"], spread["pairs"]) == (1.9, pytest.approx(2.2), 3)
    assert spread["sure_low"] < 1.9 and spread["sure_high"] > 2.2
    alone = cost.against(theirs(train=(120.0,)), theirs(), "late", timed=False)["train_spread"]
    assert (alone["pairs"], alone["sure_low"], alone["sure_high"]) == (1, None, None)
    other = cost.times({"7": 3.0}, {"8": 2.0})
    assert other is None, "runs of other seeds are no pair"
    slow = theirs(speed=(40.0,) * 3)
    assert cost.against(slow, theirs(), "late", timed=True)["train_time"] == pytest.approx(1.25)  # wall clock: speed
    assert cost.against(slow, theirs(), "late", timed=False, same_weights=True)["train_time"] == 1.0


def test_a_busy_clock_calls_no_equal_arm_costly() -> None:
    """Two arms of one cost on a machine whose speed wavers by 20%, 1,000 studies of each size."""
    draw = np.random.default_rng(3)
    for n in (1, 2, 3, 8):
        said = []
        for _ in range(1000):
            mine, other = (tuple(100 * np.exp(0.2 * draw.standard_normal(n))) for _ in range(2))
            said.append(cost.against(theirs(train=mine), theirs(train=other), "late", timed=False)["free"])
        assert said.count(False) <= 0.025 * 1000, n
        assert n > 2 or set(said) == {None}


def test_every_limit_is_measured_by_itself_and_no_other_is(tmp_path: Path) -> None:
    """A limit that nothing measured was once held against the seconds of the slowest stage."""
    plan = made.fill(made.plan(tmp_path))
    values = {what: cost._measured(plan, "wide", what) for what in cost.LIMITS}
    assert None not in values.values() and len(set(values.values())) == len(values)
    with pytest.raises(ValueError, match=r"nothing measures limits\.cache"):
        cost._measured(plan, "wide", "cache")


def test_margins_and_words_of_limits(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    margins = cost.margins(plan, "wide")
    largest = 16_020 + 2 + made.CODE  # of the third seed: each must fit
    assert margins["bytes"] == {"limit": 16_000, "value": largest, "margin": 16_000 - largest}
    assert margins["seconds"] == {"limit": 600.0, "value": 640.0, "margin": -40.0}
    assert margins["stage_seconds"]["value"] == 12.0  # packing and evaluating, not the checks
    assert margins["memory"] == {"limit": 2_000_000_000, "value": 1_000_000_002, "margin": 999_999_998}
    assert cost.over_limits(plan, "wide") == (
        "bytes of the artifact 16,135 is 135 over the limit of 16,000; "
        "seconds of training 640 is 40 over the limit of 600"
    )
    assert cost.over_limits(plan, "int5") == ""
    path = plan.store.train(plan.runs["wide", 1].train_key) / "done.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "seconds": 590.0})))
    assert cost.over_limits(plan, "wide").endswith("is 40 over the limit of 600 (590 to 640 over 3 runs)")
    assert {spec.name: bool(spec.barred) for spec in collect.asked(plan).arms} == {
        "baseline": False,
        "int5": False,
        "wide": True,
    }


@pytest.mark.parametrize(("pack", "free"), [(2.0, True), (2.6, True), (2.8, False)])
def test_packing_of_the_stage_below_counts_where_the_decider_only_loads(
    tmp_path: Path, pack: float, free: bool
) -> None:
    def change(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if arm == "int5" and stage == "post_quant":
            result["timing"]["pack"] = pack

    arms = judge.conclude(made.fill(made.plan(tmp_path), change))["arms"]
    beside = next(arm["cost_against"] for arm in arms if arm["name"] == "int5")
    assert beside["stage_time"] == pytest.approx((pack + 12.0) / 14.0) and beside["free"] is free


@pytest.mark.parametrize(("seconds", "said"), [((576.0,) * 3, True), ((576.0, 700.0, 560.0), None)])
def test_a_report_shows_times_with_their_spread_and_no_percentages(
    tmp_path: Path, seconds: tuple[float, ...], said: bool | None
) -> None:
    plan = made.fill(made.plan(tmp_path))
    for seed, took in enumerate(seconds):
        path = plan.store.train(plan.runs["wide", seed].train_key) / "done.json"
        done = {**json.loads(path.read_text()), "seconds": took, "tokens_per_second": 4096 / took}
        path.write_text(json.dumps(sealed(done)))
    answer = judge.conclude(plan)
    assert next(arm for arm in answer["arms"] if arm["name"] == "wide")["cost_against"]["train_spread"]["pairs"] == 3
    view, style = View(answer), Style()
    costs, beside = costs_of.cost_table(view, style), costs_of.beside_table(view, style)
    assert costs is not None and beside is not None
    row = next(row for row in costs.rows if row[0] == "wide")
    timed = [cell for (label, _), cell in zip(costs.head, row) if label in ("tokens/s", "step", "training time")]
    assert len(timed) == 3 and not any("%" in cell for cell in timed)
    assert timed[2] == f"9.6 min ({'9.6 min to 9.6' if said else '9.33 min to 11.7'} min over 3 runs)"
    told = next(row for row in beside.rows if row[0].startswith("wide"))
    assert " over 3 pairs" in told[2] and told[-1] == "unknown", "it is over a limit"
    assert next(arm for arm in answer["arms"] if arm["name"] == "int5")["cost_against"]["free"] is True
    assert said or answer["arms"][2]["cost_against"]["train_spread"]["sure_high"] > 1.05


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ([DECIDES_RAW], 16_020 + 2 + made.CODE),  # weights that are kept raw are no artifact
        ([DECIDES_RAW, ('compress = { name = "rtn", bits = 6 }, ', ""), INT5], 16_020 + 2 + made.CODE),
        ([DECIDES_RAW, ('compress = { name = "rtn", bits = 6 }, codec = "brotli", ', ""), INT5], 60_000),
    ],
    ids=["kept raw decides", "only a codec", "nothing compresses"],
)
def test_bytes_are_held_against_the_largest_artifact_that_is_compressed(
    tmp_path: Path, changes: list[tuple[str, str]], value: int
) -> None:
    text = made.STUDY
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    assert cost.margins(made.fill(made.plan(tmp_path, text)), "wide")["bytes"]["value"] == value


def test_a_limit_that_nothing_can_be_held_against_bars_nobody(tmp_path: Path) -> None:
    assert cost.margins(made.plan(tmp_path), "wide") == {}


def test_no_arm_over_a_limit_wins_not_even_the_baseline(tmp_path: Path) -> None:
    text = made.STUDY.replace("bytes = 16_000", "bytes = 14_500")
    answer = judge.conclude(made.fill(made.plan(tmp_path, text)))
    over = {arm["name"]: bool(arm["over_limits"]) for arm in answer["arms"]}
    assert over == {"baseline": True, "int5": False, "wide": True}
    assert answer["winner"] not in ("baseline", "wide")
    assert any(note.startswith("baseline: cannot win, bytes of the artifact 15,115") for note in answer["notes"])


def test_verdict_json_holds_costs_positions_bands_and_artifacts(tmp_path: Path) -> None:
    answer = judge.conclude(made.fill(made.plan(tmp_path)))
    arms = {arm["name"]: arm for arm in answer["arms"]}
    stage = arms["int5"]["cost"]["stages"]["sliding"]
    assert stage == {
        "seconds": 20.0, "peak_bytes": 1_000_000_001, "bytes": 14_001 + made.CODE, "model_bytes": 14_001,
        "code_bytes": made.CODE, "pack": 2.0, "check": 8.0, "evaluate": 10.0, "root_pack": 2.0,
        "spread": {"low": 20.0, "high": 20.0, "runs": 3},
    }  # fmt: skip
    assert arms["int5"]["cost"]["stage_seconds"]["sliding"] == 20.0
    point = {"median": 1.0, "low": 1.0, "high": 1.0, "sure_low": 1.0, "sure_high": 1.0}
    assert arms["int5"]["cost_against"] == {
        "bytes": -1000, "train_time": 1.0, "stage_time": 1.0, "peak_bytes": 1.0, "free": True,
        "train_spread": {**point, "pairs": 0}, "stage_spread": {**point, "pairs": 3},
    }  # fmt: skip
    assert arms["int5"]["shares_weights"] and not arms["wide"]["shares_weights"]
    assert arms["baseline"]["cost_against"] is None
    assert answer["positions"]["wide"]["edges"][-1] == 64 and sum(answer["positions"]["wide"]["trained"]) == 4096
    band = answer["bands"]["sliding"]["int5"]
    assert len(band["tokens"]) == len(band["nats_per_token"]) == len(band["edges"]) - 1 and band["tokens"][5] == 40
    assert list(answer["artifacts"]) == ["post_quant"]  # sliding and ttt stand on it, pre_quant keeps the weights
    one = answer["artifacts"]["post_quant"]["int5"]
    assert (one["least"], one["bytes"], one["most"], one["seeds"]) == (14_113, 14_114, 14_115, 3)
    assert one["schemes"]["rtn int5"]["tensors"] == 20 and one["codec"] == "brotli"
    assert arms["int5"]["steps"]["sliding"]["before"] == arms["int5"]["steps"]["ttt"]["before"] == "post_quant"
    assert {(i["first"], i["stage"]) for i in arms["wide"]["inversions"]} >= {("post_quant", "sliding")}
    assert json.loads((made_directory(tmp_path) / "verdict.json").read_text()) == json.loads(json.dumps(answer))
    assert "changes sides" in html.page(answer)


def made_directory(folder: Path) -> Path:
    return folder / "runs" / "studies" / "stages"


def test_a_run_whose_numbers_were_changed_is_not_believed(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    path = plan.store.train(plan.runs["wide", 0].train_key) / "done.json"
    whole = path.read_text()
    path.write_text(whole.replace('"seconds": 640.0', '"seconds": 64.0'))
    assert path.read_text() != whole
    with pytest.raises(
        CheckFailed, match=r"done\.json: was changed after it was written .*; delete .* to have the run made"
    ):
        judge.conclude(plan)


def test_results_of_older_versions_lack_parts_and_still_conclude(tmp_path: Path) -> None:
    def change(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        for key in ("timing", "peak_bytes", "model_bytes", "code_bytes", "extra"):
            del result[key]
        result["artifact"] = {}

    plan = made.fill(made.plan(tmp_path, made.STUDY.replace("memory = 2_000_000_000\n", "")), change)
    for run in plan.runs.values():
        path = plan.store.train(run.train_key) / "done.json"
        done = json.loads(path.read_text())
        done.pop("positions", None)  # arms that share weights share the file
        path.write_text(json.dumps(sealed(done)))
    answer = judge.conclude(plan)
    assert answer["positions"] == {} and answer["artifacts"] == {}
    assert answer["arms"][1]["cost_against"]["stage_time"] == 1.0
    html.page(answer)


def test_a_stage_that_diverged_is_unstable_and_the_others_stay(tmp_path: Path) -> None:
    def change(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if arm == "wide" and stage == "ttt" and seed == 1:
            scores.nats[:] = float("nan")
            result["metrics"] = {"nats_per_token": None, "bits_per_byte": None}
            result["bands"]["nats"][3] = None
            result["diverged"] = "chunk 3 of the text: the loss is not finite"

    answer = judge.conclude(made.fill(made.plan(tmp_path), change))
    wide = next(arm for arm in answer["arms"] if arm["name"] == "wide")
    assert wide["word"] == "worse" and set(wide["stages"]) == {"pre_quant", "post_quant", "sliding"}
    assert wide["unstable"] == {"ttt": "diverged at seed 1 (chunk 3 of the text: the loss is not finite)"}
    assert answer["bands"]["ttt"]["wide"]["nats_per_token"][3] is None
    page = html.page(answer)
    assert "Unstable stage" in page and "its other stages are kept" in page
