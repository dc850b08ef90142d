"""The shipped bank of noise: every row says where its numbers are from, and what it is good for."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path

import pytest

from ablab.judging import noise


def test_every_row_has_its_provenance() -> None:
    rows = noise.rows()
    licences = {
        "openai/parameter-golf": "MIT",
        "KellerJordan/modded-nanogpt": "MIT",
        "allenai/OLMo-ladder": "Apache-2.0",
    }
    assert len(rows) == 34 and {row["kind"] for row in rows} == {"level", "gap"}
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"]) and row["licence"] == licences[row["source"]]
        assert ("pulls" in row) != ("files" in row) and (row.get("pulls") or row.get("files"))
        assert row["df"] >= row["groups"] > 0 and 0 < row["sd"] < 0.01 and row["prior_sd"] > 0
        assert row["unit"] in ("bits_per_byte", "nats_per_token")


def test_rows_of_levels_are_one_for_each_family_and_stage() -> None:
    levels = [(row["family"], row["stage"]) for row in noise.rows() if row["kind"] == "level"]
    assert len(levels) == len(set(levels)) == 21


@pytest.mark.parametrize(
    ("family", "stage", "sd", "d0"),
    [
        ("sp8192", "ttt", 0.000635, math.inf),
        ("sp8192", "quant", 0.000816, 4.611),
        ("sp1024", "sliding", 0.000944, 3.064),
    ],
)
def test_levels_are_found_by_their_fingerprint(family: str, stage: str, sd: float, d0: float) -> None:
    row = noise.level(family, stage, "bits_per_byte")
    assert row is not None and row["sd"] == pytest.approx(sd, abs=1e-6)
    assert noise.weight(row) == pytest.approx(d0, abs=1e-3)
    assert noise.level(family, stage, "nats_per_token") is noise.level(family, "final", "bits_per_byte") is None


def test_no_gap_and_no_unlike_family_is_fit_for_judging() -> None:
    fits = {(row["family"], row["stage"]): noise.fit(row) for row in noise.rows()}
    assert fits["sp8192", "quant->ttt"] == "nothing: a gap" and fits["sp1024", "sliding"] == "plan"
    assert fits["sp8192", "ttt"] == fits["modded_350m", "final"] == "plan, judge"
    assert fits["modded_sparsify", "final"] == fits["olmo_ladder", "c4"] == "plan", "too few to tell how alike"
    assert noise.level("sp8192", "quant->ttt", "bits_per_byte") is None


def test_an_unknown_family_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(noise.UnknownFamily, match="did you mean 'sp8192'"):
        noise.rows("sp819")


def test_families_plan_with_round_numbers() -> None:
    assert noise.planning_sd("sp8192_caseops", "bits_per_byte") == 0.00078
    assert noise.planning_sd("sp8192_caseops", "nats_per_token") is noise.planning_sd("mine", "bits_per_byte") is None


def test_the_rows_of_one_list_and_of_reruns_are_what_their_numbers_say() -> None:
    """1,261 losses of one configuration; of each of five sizes one rerun, whose variance is half the squared difference."""
    golden = Path(__file__).parents[1] / "golden/real_noise.json"
    losses = json.loads(golden.read_text())["modded"]["losses"]
    row = noise.level("modded_sparsify", "final", "nats_per_token")
    assert row is not None and row["df"] == len(losses) - 1 == 1260
    assert row["sd"] == pytest.approx(statistics.stdev(losses), rel=1e-12)
    c4 = (
        0.0010542869567871094,
        -0.0005888938903808594,
        0.0009140968322753906,
        -0.0004673004150390625,
        0.0006239414215087891,
    )
    pile = (
        0.0008680820465087891,
        0.0017712116241455078,
        0.0017328262329101562,
        -0.0006887912750244141,
        -0.0010066032409667969,
    )
    for stage, apart in (("c4", c4), ("pile", pile)):
        row = noise.level("olmo_ladder", stage, "nats_per_token")
        assert row is not None and row["sd"] == pytest.approx(math.sqrt(sum(d * d / 2 for d in apart) / 5), rel=1e-9)


SP8192 = 0.38713116


@pytest.mark.parametrize(
    ("metric", "stage", "ratio", "parameters", "sd", "family"),
    [
        ("bits_per_byte", "post_ttt", SP8192, 36e6, 0.000635, "sp8192, ttt (text of these tokens"),
        ("bits_per_byte", "mine", SP8192, 36e6, 0.00065, "sp8192 (text of these tokens"),
        ("nats_per_token", "sliding", SP8192, 36e6, 0.000719 / SP8192, "sp8192, sliding"),
        ("nats_per_token", "pre_quant", 0.4, 124e6, 0.0016, "modded_124m_2025 (models of this size"),
        ("nats_per_token", "final", 0.4, 350e6, 0.000805, "modded_350m, final (models of this size"),
        ("bits_per_byte", "pre_quant", 0.4, 124e6, 0.00064, "modded_124m_2025"),
        ("nats_per_token", "c4", 0.4, 1e9, 0.000539, "olmo_ladder, c4"),
    ],
)
def test_a_study_is_planned_by_the_family_that_is_like_it(
    metric: str, stage: str, ratio: float, parameters: float, sd: float, family: str
) -> None:
    found = noise.like(metric, stage, ratio=ratio, parameters=int(parameters))
    assert found is not None and found[0] == pytest.approx(sd, rel=2e-3) and found[1].startswith(family)


@pytest.mark.parametrize(
    ("metric", "ratio", "parameters"),
    [
        ("bits_per_byte", 1 / math.log(2), 200_000),  # a toy
        ("bits_per_byte", 0.4, 36_000_000),  # golf's size, another text
        ("nats_per_final_token", SP8192, 36_000_000),
        ("nats_per_token", math.nan, 124_000_000),
        ("nats_per_token", 0.4, 70_000_000_000),
    ],
)
def test_no_family_stands_for_what_it_is_not_like(metric: str, ratio: float, parameters: int) -> None:
    assert noise.like(metric, "pre_quant", ratio=ratio, parameters=parameters) is None
