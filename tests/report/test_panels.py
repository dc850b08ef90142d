"""What the report draws is like beside like: levels over shared seeds, differences over an arm's own pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import finished_store

from ablab.core.sealed import sealed
from ablab.judging import cost, judge
from ablab.report import html, markdown
from ablab.runs.plan import Plan

SEEDS = "seeds = { start = 3, at_most = 6 }"


def shifted(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
    """Late seeds are far worse and far slower: what compares arms over unequal seeds is off by that much."""
    if seed >= 3 and result["bands"]:
        result["bands"] = {**result["bands"], "nats": [n * 1.5 for n in result["bands"]["nats"]]}
    result["bytes"] += 1000 * (seed >= 3)


def unequal(folder: Path) -> Plan:
    """Six seeds of the baseline and of `wide`, three of `int5`; the probe's map says the seed, and in `wide` 0.5 more."""
    plan = finished_store.fill(finished_store.plan(folder, finished_store.STUDY.replace("seeds = 3", SEEDS)), shifted)
    for (arm, seed), run in plan.runs.items():
        if arm == "int5" and seed >= 3:
            for key in run.score_keys.values():
                (plan.store.score(key) / "result.json").unlink()
            continue
        file = plan.store.score(run.score_keys["needle"]) / "result.json"
        found = json.loads(file.read_text())
        grid = [[float(seed**2) + 0.5 * (arm == "wide"), None]]
        found["probe"]["passkey"] = {"lengths": [64], "depths": [0.0, 1.0], "score": grid, "acc": [[0.5, 0.5]]}
        file.write_text(json.dumps(sealed(found)))
        trained = plan.store.train(run.train_key) / "done.json"
        done = json.loads(trained.read_text())
        if arm != "int5":  # which shares the baseline's training
            trained.write_text(json.dumps(sealed({**done, "seconds": done["seconds"] * (1 + (seed >= 3))})))
    return plan


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Any]]:
    plan = unequal(tmp_path_factory.mktemp("uneven"))
    return plan, judge.conclude(plan)


def rows(answer: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in answer["arms"]}


def test_a_row_names_the_seeds_of_its_pairs(uneven: tuple[Plan, dict[str, Any]]) -> None:
    assert rows(uneven[1])["int5"]["pairs"] == [0, 1, 2] and rows(uneven[1])["baseline"]["pairs"] == []


@pytest.mark.parametrize("stage", finished_store.STAGES)
def test_loss_by_position_is_the_paired_difference(uneven: tuple[Plan, dict[str, Any]], stage: str) -> None:
    plan, answer = uneven
    bands = answer["bands"][stage]
    for name in ("int5", "wide"):
        pairs = rows(answer)[name]["pairs"]
        assert bands[name]["pairs"] == pairs
        runs = [(plan.runs[name, s].score_keys[stage], plan.runs["baseline", s].score_keys[stage]) for s in pairs]
        for band, tokens in enumerate(bands[name]["tokens"]):
            sides = [[plan.store.scored(key)["bands"] for key in column] for column in zip(*runs, strict=True)]
            rates = [
                sum(r["nats"][band] for r in side) / sum(r["tokens"][band] for r in side) if tokens else None
                for side in sides
            ]
            expected = rates[0] - rates[1] if tokens else None
            assert bands[name]["difference"][band] == pytest.approx(expected, abs=1e-12)
        # levels beside one another speak of the same seeds, so a reader may subtract them
        assert bands[name]["seeds"] == bands["baseline"]["seeds"] == [0, 1, 2]


def test_maps_of_the_probe_are_paired(uneven: tuple[Plan, dict[str, Any]]) -> None:
    needle = uneven[1]["needle"]
    assert needle["int5"]["difference"]["score"] == [[0.0, None]]
    assert needle["wide"]["difference"]["score"] == [[0.5, None]]
    assert {name: needle[name]["passkey"]["score"][0][0] for name in needle} == pytest.approx(
        {"baseline": 5 / 3, "int5": 5 / 3, "wide": 5 / 3 + 0.5}
    )


def test_levels_and_costs_are_over_shared_seeds(uneven: tuple[Plan, dict[str, Any]]) -> None:
    plan, answer = uneven
    key = [plan.runs["baseline", s].score_keys["sliding"] for s in range(3)]
    mean = np.mean([plan.store.scored(k)["metrics"]["bits_per_byte"] for k in key])
    assert answer["levels"]["baseline"]["bits_per_byte"] == pytest.approx(mean, abs=1e-12)
    found = rows(answer)
    assert found["baseline"]["cost"]["train_seconds"] == found["int5"]["cost"]["train_seconds"] == 576.0
    assert found["int5"]["cost_against"]["train_time"] == 1.0
    assert found["int5"]["cost_against"]["bytes"] == -1000
    assert cost.of(plan, "baseline")["train_seconds"] == 864.0  # all six seeds


def test_pages_draw_the_paired_differences(uneven: tuple[Plan, dict[str, Any]]) -> None:
    page = html.page(uneven[1])
    assert page.count("Difference of passkey scores") == 2
    assert page.count("Difference to the reference by position at stage") == 4
    assert "over each arm's own pairs" in page.replace("&#39;", "'")
    assert "means over the seeds that all arms share" in markdown.page(uneven[1])


def test_a_probe_seed_is_in_no_difference(tmp_path: Path) -> None:
    """Probe seeds choose the arms; no tick, curve or panel of a promoted arm speaks of them."""
    asked = finished_store.STUDY.replace("seeds = 3", "seeds = { start = 3, at_most = 3, probe = 2, keep = 2 }")
    answer = judge.conclude(finished_store.fill(finished_store.plan(tmp_path, asked), shifted))
    assert rows(answer)["wide"]["pairs"] == answer["bands"]["sliding"]["wide"]["pairs"] == [2, 3, 4]
    ticks = html.page(answer).count('class="seed"')
    assert ticks == 6, "three seeds of two arms"
