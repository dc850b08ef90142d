"""The shipped bank of noise: every row says where its numbers are from, and what it is good for."""

from __future__ import annotations

import math
import re

import pytest

from ablab.judging import noise


def test_every_row_has_its_provenance() -> None:
    rows = noise.rows()
    assert len(rows) == 31 and {row["kind"] for row in rows} == {"level", "gap"}
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"]) and row["licence"] == "MIT"
        assert ("pulls" in row) != ("files" in row) and (row.get("pulls") or row.get("files"))
        assert row["source"] in ("openai/parameter-golf", "KellerJordan/modded-nanogpt")
        assert row["df"] >= row["groups"] > 0 and 0 < row["sd"] < 0.01 and row["prior_sd"] > 0
        assert row["unit"] in ("bits_per_byte", "nats_per_token")


def test_rows_of_levels_are_one_for_each_family_and_stage() -> None:
    levels = [(row["family"], row["stage"]) for row in noise.rows() if row["kind"] == "level"]
    assert len(levels) == len(set(levels)) == 18


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
    assert noise.level("sp8192", "quant->ttt", "bits_per_byte") is None


def test_an_unknown_family_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(noise.UnknownFamily, match="did you mean 'sp8192'"):
        noise.rows("sp819")


def test_families_plan_with_round_numbers() -> None:
    assert noise.planning_sd("sp8192_caseops", "bits_per_byte") == 0.00078
    assert noise.planning_sd("sp8192_caseops", "nats_per_token") is noise.planning_sd("mine", "bits_per_byte") is None
