"""One question at three scales: what is read of every rung, and what is said of them together."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests import finished_store

from ablab.core.fault import CheckFailed
from ablab.core.forms import fits, misfit
from ablab.core.sealed import sealed
from ablab.judging import ladder, rungs
from ablab.records.ladder import LadderAnswer
from ablab.report import laddered
from ablab.runs.plan import Plan

SCALES = """
[scale.small]
only = ["wide"]
budget = { tokens = 4096 }
[scale.middle]
only = ["wide"]
budget = { tokens = 16384 }
[scale.large]
only = ["wide"]
budget = { tokens = 65536 }
[scale.tie]
only = ["wide"]
budget = { tokens = 16384 }
decision.matters = 0.01
[scale.bits]
only = ["wide"]
budget = { tokens = 1024 }
decision.metric = "nats_per_token"
[scale.clock]
only = ["wide"]
budget = { seconds = 5 }
train.validate_every = 1024
[scale.other]
only = ["int5"]
budget = { tokens = 262144 }
"""
NAMES = ("small", "middle", "large")
TEXT = finished_store.STUDY.replace('stage = "sliding"', 'stage = "pre_quant"') + SCALES
Effects = tuple[float, float, float]


def rung(folder: Path, scale: str, effect: float | None, level: float = 2.8, text: str = TEXT) -> Plan:
    """A scale's plan with its runs finished: the arm `wide` apart by `effect` at pre_quant; None leaves it empty."""
    where = folder / scale
    where.mkdir(exist_ok=True)
    made = finished_store.plan(where, text, scale)
    if effect is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(finished_store.EFFECT["wide"], "pre_quant", effect)
            patch.setitem(finished_store.LEVEL, "pre_quant", level)
            finished_store.fill(made)
    return made


def three(folder: Path, effects: Effects = (-0.09, -0.08, -0.07), text: str = TEXT) -> list[Plan]:
    levels = (3.2, 3.0, 2.8)
    return [rung(folder, *one, text) for one in zip(NAMES, effects, levels, strict=True)]


def test_an_effect_that_stays_holds_and_saves_compute(tmp_path: Path) -> None:
    found = ladder.conclude(three(tmp_path))
    assert fits(found, LadderAnswer), misfit(found, LadderAnswer)
    [arm] = found["arms"]
    assert arm["word"] == "holds" and arm["high"] is not None and arm["high"] < -0.03
    assert [one["scale"] for one in found["rungs"]] == list(NAMES)
    flops = [one["flops"] for one in found["rungs"]]
    assert [b / a for a, b in zip(flops, flops[1:])] == pytest.approx([4, 4])
    assert found["spoken"] == pytest.approx(flops[2] * 2) and found["shown"] == pytest.approx(flops[2] * 4)
    assert found["at"] == found["spoken"] and found["reach"] == pytest.approx(0.25)
    assert [form["form"] for form in arm["forms"]] == ["line", "power", "top"]
    saved = arm["saved"]
    per_decade = -0.2 / math.log(2) / math.log10(4)  # levels are in nats a byte
    assert saved is not None and saved["low"] is not None and saved["high"] is not None
    assert saved["low"] < saved["share"] < saved["high"]
    assert saved["share"] == pytest.approx(1 - 10 ** (0.07 / math.log(2) / per_decade), abs=0.02)
    assert arm["sentence"].startswith("wide holds at ") and "at least" in arm["sentence"]
    assert "budget.tokens" in found["rungs"][1]["differs"] and "tuned alike" in found["reminder"]
    assert arm["tells_most"] is not None and arm["tells_most"]["scale"] in NAMES


@pytest.mark.parametrize(
    ("effects", "word"),
    [((-0.09, -0.04, -0.001), "fades"), ((-0.2, -0.05, 0.1), "reverses"), ((-0.6, -0.3, -0.02), "open")],
)
def test_the_words(effects: Effects, word: str, tmp_path: Path) -> None:
    text = TEXT.replace("matters = 0.05", "matters = 0.2") if word == "fades" else TEXT
    [arm] = ladder.conclude(three(tmp_path, effects, text))["arms"]
    assert arm["word"] == word and word in arm["sentence"]


def test_a_target_beyond_a_word_has_an_interval_and_one_beyond_that_is_refused(tmp_path: Path) -> None:
    plans = three(tmp_path)
    top = ladder.conclude(plans)["rungs"][-1]["flops"]
    far = ladder.conclude(plans, None, top * 3.9)
    [arm] = far["arms"]
    assert arm["word"] is None and arm["low"] is not None and "too far beyond" in arm["sentence"]
    near = ladder.conclude(plans, None, top)
    assert near["reach"] == pytest.approx(0, abs=1e-9) and near["arms"][0]["word"] == "holds"
    for at, said in ((top * 4.1, "beyond what this ladder reaches"), (top * 0.9, "is below the top rung")):
        with pytest.raises(CheckFailed, match=said):
            ladder.conclude(plans, None, at)


def test_seeds_that_are_missing_leave_the_word_out_and_a_single_one_is_not_used(tmp_path: Path) -> None:
    plans = three(tmp_path)
    empty = rung(tmp_path / "small", "large", None)
    for arm in ("baseline", "wide"):
        finished_store.finish(empty, arm, 0)
    found = ladder.conclude([*plans[:2], empty])
    [arm] = found["arms"]
    assert arm["word"] is None and found["at"] is None and arm["low"] is None
    assert [one["used"] for one in arm["rungs"]] == [True, True, False]
    assert "large is not used: one seed has no spread" in arm["notes"]
    assert "no word yet: large has 1 of 3 seeds" in arm["notes"]
    for arm_name in ("baseline", "wide"):
        finished_store.finish(empty, arm_name, 1)
    later = ladder.conclude([*plans[:2], empty])["arms"][0]
    assert later["word"] is None and later["low"] is not None and "no word yet, so far between" in later["sentence"]


def test_rungs_are_put_in_the_order_of_their_compute(tmp_path: Path) -> None:
    plans = three(tmp_path)
    assert ladder.conclude(plans[::-1])["arms"] == ladder.conclude(plans)["arms"]


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        (("small", "middle"), "2 rungs make no ladder"),
        (("small", "middle", "tie"), "trains with the compute of middle"),
        (("small", "middle", "bits"), "decision.metric is nats_per_token and was bits_per_byte on small"),
        (("small", "middle", "clock"), "has a budget in seconds"),
        (("small", "middle", "other"), "no arm is on every rung"),
    ],
)
def test_scales_that_make_no_ladder_are_refused(scales: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=said):
        ladder.conclude([rung(tmp_path, scale, None) for scale in scales])


def test_an_invalid_rung_is_not_used(tmp_path: Path) -> None:
    plans = three(tmp_path)
    for seed in (0, 1):
        path = plans[1].store.train(plans[1].runs["wide", seed].train_key) / "done.json"
        done = {k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}
        path.write_text(json.dumps(sealed({**done, "token_hash": "other"})))
    [arm] = ladder.conclude(plans)["arms"]
    assert not arm["rungs"][1]["used"] and "invalid" in arm["rungs"][1]["because"] and arm["low"] is None


def test_the_page_loads_nothing_and_is_the_same_twice(tmp_path: Path) -> None:
    found = ladder.conclude(three(tmp_path))
    found["question"] = "<script>alert(1)</script>"
    made = laddered.write(found, tmp_path / "out")
    text = made.page.read_text()
    assert laddered.page(json.loads((tmp_path / "out" / "ladder.json").read_text())) == text
    assert "<script" not in text and "http" not in text.replace("http-equiv", "") and "tuned alike" in text
    assert all(scale in text for scale in NAMES) and made.words == {"wide": "holds"} and "holds" in repr(made)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_ladder_fits_a_terminal(width: int, tmp_path: Path) -> None:
    found = ladder.conclude(three(tmp_path))
    file = io.StringIO()
    laddered.show(found, Console(file=file, width=width, force_terminal=True, color_system=None, highlight=False))
    lines = file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "".join(found["sentence"].split()) in "".join(file.getvalue().split())


def test_seeds_of_a_ladder(tmp_path: Path) -> None:
    studies: Any = [rung(tmp_path, scale, None).study for scale in NAMES]
    assert rungs.asked(studies, None) == [3, 3, 3] and rungs.asked(studies, [2, 3, 8]) == [2, 3, 8]
    for seeds, said in (([3, 3], "2 numbers for 3 scales"), ([3, 0, 3], "0 is below 1")):
        with pytest.raises(CheckFailed, match=said):
            rungs.asked(studies, seeds)


FOUR = (
    TEXT.replace('only = ["wide"]', 'only = ["wide", "int5"]')
    + """
[scale.top]
only = ["wide", "int5"]
budget = { tokens = 262144 }
"""
)


def lost(arm: str, _seed: int, _stage: str, result: Any, _scores: Any) -> None:
    """Break a rule with every run of one arm."""
    if arm == "int5":
        result["violations"] = ["planted"]


def test_an_arm_that_lost_the_top_rung_says_so_and_the_others_have_their_word(tmp_path: Path) -> None:
    plans = []
    for scale in (*NAMES, "top"):
        (where := tmp_path / scale).mkdir()
        made = finished_store.plan(where, FOUR, scale)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(finished_store.EFFECT["int5"], "pre_quant", -0.05)
            finished_store.fill(made, lost if scale == "top" else None)
        plans.append(made)
    found = ladder.conclude(plans)
    wide, int5 = (next(arm for arm in found["arms"] if arm["name"] == name) for name in ("wide", "int5"))
    assert wide["word"] == "holds" and found["at"] == found["spoken"]
    assert int5["word"] is None and int5["low"] is None and not int5["rungs"][-1]["used"]
    assert int5["sentence"].startswith("int5: no word, its top rung is large: top is not used: invalid")
    assert fits(found, LadderAnswer), misfit(found, LadderAnswer)
    again = ladder.conclude(plans, at=found["spoken"])
    assert [arm["word"] for arm in again["arms"]] == [arm["word"] for arm in found["arms"]]


def test_a_sign_that_turns_within_the_ladder_is_said(tmp_path: Path) -> None:
    [arm] = ladder.conclude(three(tmp_path, (-0.2, -0.1, 0.1)))["arms"]
    assert "its sign turns within the ladder: shown better on small and middle" in arm["notes"]
    assert arm["word"] == "reverses" and "worse, and shown better on small and middle, between" in arm["sentence"]
    (other := tmp_path / "other").mkdir()
    [arm] = ladder.conclude(three(other))["arms"]
    assert not any("turns" in note for note in arm["notes"])
