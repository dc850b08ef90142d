"""Factorials and scales: expansion, names, order (baseline, scale, arm), and every scale checked every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.written import BASE, edited, faults, read

from ablab.core.fault import InvalidStudy
from ablab.study import Change, runner

CROSSED = "[factorial.window_by_length]\nmodel.local.window = [32, 16]\nmodel.seq_len = [256, 128]\n"


def test_a_two_by_two(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more=CROSSED))
    assert list(study.arms) == ["rope", "window=32", "window=32,seq_len=128", "seq_len=128"]
    both = study.arms["window=32,seq_len=128"]
    assert both.changes == (Change("model.local.window", 16, 32), Change("model.seq_len", 256, 128))
    assert (both.on, both.factorial, both.together) == ("baseline", "window_by_length", None)
    assert both.levels == {"model.local.window": 32, "model.seq_len": 128}
    assert study.factorials == {
        "window_by_length": {
            "factors": [
                {"path": "model.local.window", "label": "window", "levels": [32, 16], "names": ["32", "16"], "base": 1},
                {"path": "model.seq_len", "label": "seq_len", "levels": [256, 128], "names": ["256", "128"], "base": 0},
            ],
            "cells": {"window=32": [0, 0], "window=32,seq_len=128": [0, 1], "baseline": [1, 0], "seq_len=128": [1, 1]},
        }
    }
    assert {one.settings["data"]["span"] for one in study.arms.values()} == {256}


def test_a_cell_that_is_an_arm_already_is_not_run_twice(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more=f"{CROSSED}[arm.short]\nmodel.seq_len = 128\n"))
    assert list(study.arms) == ["rope", "short", "window=32", "window=32,seq_len=128"]
    assert study.factorials["window_by_length"]["cells"]["short"] == [1, 1]
    again = CROSSED.replace("window_by_length", "again").replace("[32, 16]", "[16, 32]")
    more = read(tmp_path, edited(more=CROSSED + again.replace("[16, 32]", "[16, 32, 8]")))
    assert list(more.arms) == [
        "rope",
        "window=32",
        "window=32,seq_len=128",
        "seq_len=128",
        "window=8",
        "window=8,seq_len=128",
    ]
    with pytest.raises(
        InvalidStudy, match=r"factorial\.again: is window_by_length under another name: it has the same cells"
    ):
        read(tmp_path, edited(more=CROSSED + again))


def test_levers_as_levels_and_labels_that_collide(tmp_path: Path) -> None:
    more = (
        '[factorial.f]\nmodel.local.position = ["rope", { name = "grape_m" }, { name = "rope", theta = 5e5 }]\n'
        'model.global.position = ["nope", ["rope", "grape_a"]]\ntrain.optimizer.betas = [[0.9, 0.95], [0.9, 0.99]]\n'
    )
    study = read(tmp_path, edited(more=more))
    assert len(study.arms) == 1 + 3 * 2 * 2 - 1
    name = "local.position=rope(theta=500000),global.position=rope+grape_a,betas=0.9+0.99"
    assert [change.path for change in study.arms[name].changes] == [
        "model.local.position", "model.global.position", "train.optimizer.betas",
    ]  # fmt: skip
    assert [part["name"] for part in study.arms[name].settings["model"]["kinds"]["G"]["position"]] == [
        "rope",
        "grape_a",
    ]


def test_a_bad_level_is_told_once(tmp_path: Path) -> None:
    more = "[factorial.f]\nmodel.local.window = [16, -1, 32]\nmodel.seq_len = [256, 128]\n"
    assert faults(tmp_path, edited(more=more)) == [
        "study.toml: factorial.f: window=-1: model.local.window: -1 is out of bounds; "
        "give an integer at least 0 and at most 16_777_216"
    ]


def test_a_setting_of_a_lever_is_a_factor(tmp_path: Path) -> None:
    more = "[factorial.f]\ntrain.optimizer.lr = [2e-3, 4e-3]\nmodel.mlp.ratio = [2, 4]\n"
    study = read(tmp_path, edited(more=more))
    assert list(study.arms) == ["rope", "ratio=2", "lr=0.004,ratio=2", "lr=0.004"]
    assert [one["base"] for one in study.factorials["f"]["factors"]] == [0, 1]
    assert study.factorials["f"]["factors"][0]["levels"] == [0.002, 0.004]


def test_too_many_cells(tmp_path: Path) -> None:
    levels = ", ".join(str(i / 10) for i in range(9))
    more = f"[factorial.f]\nmodel.softcap = [{levels}]\ntrain.ema = [{levels}]\n"
    assert faults(tmp_path, edited(more=more)) == [
        "study.toml: factorial.f: 81 cells; at most 64; drop levels or factors"
    ]


SCALED = """
[arm.wide]
model.local.window = 200
[scale.half]
only = ["rope"]
budget = { tokens = 51_200, batch_tokens = 256 }
model = { d_model = 32, seq_len = 128, local.window = 8 }
train.optimizer = { name = "adamw", decay = 0.0 }
decision = { matters = 0.01, seeds = 2 }
stage.needle.evaluate.items = 4
[scale.half.arm.rope.model.global]
position.theta = 100
[scale.more.arm.big]
model.d_model = 128
[scale.more.factorial.f]
model.softcap = [0, 30]
model.qk_norm = [true, false]
[scale.timed]
budget.seconds = 30
train.validate_every = 5120
"""


def test_a_scale_is_laid_on_before_the_arms(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more=SCALED), "half")
    base, rope = study.baseline.settings, study.arms["rope"]
    assert study.scale == "half" and list(study.arms) == ["rope"]
    assert base["budget"] == {"tokens": 51_200, "seconds": None, "batch_tokens": 256}
    assert (base["model"]["d_model"], base["model"]["head_dim"], base["model"]["kinds"]["L"]["window"]) == (32, 8, 8)
    assert (base["train"]["optimizer"]["lr"], base["train"]["optimizer"]["decay"]) == (0.002, 0.0), (
        "the same lever merges"
    )
    assert base["data"]["span"] == 128 and base["train"]["validate_every"] == 20 * 256
    assert study.decision["matters"] == 0.01 and study.decision["seeds"]["at_most"] == 2
    assert study.stages == ("pre_quant", "needle") and base["stage"]["needle"]["evaluate"]["items"] == 4
    (change,) = rope.changes
    assert change.after == {"name": "rope", "theta": 100.0, "fraction": 1.0, "ntk": False}
    plain = read(tmp_path, edited(more=SCALED))
    assert plain.scale is None and list(plain.arms) == ["rope", "wide"] and plain.key != study.key


def test_a_scale_may_bring_arms_and_factorials(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more=SCALED), "more")
    assert list(study.arms) == ["rope", "wide", "big", "qk_norm=false", "softcap=30", "softcap=30,qk_norm=false"]


def test_seconds_at_a_scale_replace_tokens(tmp_path: Path) -> None:
    assert read(tmp_path, edited(more=SCALED), "timed").baseline.settings["budget"] == {
        "tokens": None, "seconds": 30.0, "batch_tokens": 512,
    }  # fmt: skip


def test_the_base_need_not_stand_without_a_scale(tmp_path: Path) -> None:
    text = edited(("tokens = 200_000\n", ""), more="[scale.s]\nbudget.tokens = 5120\n")
    assert read(tmp_path, text, "s").baseline.settings["budget"]["tokens"] == 5120
    assert faults(tmp_path, text) == [
        "study.toml: budget: gives neither tokens nor seconds; add tokens = ... (or seconds = ...)"
    ]


@pytest.mark.parametrize("scale", [None, "good"])
def test_every_scale_is_checked_whichever_is_asked_for(tmp_path: Path, scale: str | None) -> None:
    text = edited(
        more="[scale.good]\nmodel.d_model = 32\n[scale.bad]\nmodel.local.window = -1\n[scale.bad.arm.rope]\nmodle = {}\n"
    )
    assert faults(tmp_path, text, scale) == [
        "study.toml: scale.bad: model.local.window: -1 is out of bounds; give an integer at least 0 and at most 16_777_216",
        "study.toml: scale.bad: arm.rope: an arm has no key 'modle'; did you mean 'model'? "
        "known: because, budget, data, expect, model, on, runner, stage, together, train",
    ]


def test_only_keeps_the_references_of_what_it_picks(tmp_path: Path) -> None:
    more = '[arm.x]\non = "rope"\nmodel.qk_norm = false\n[scale.s]\nonly = ["x"]\n'
    assert faults(tmp_path, edited(more=more)) == [
        "study.toml: scale.s: arm.x.on: arm 'rope' is left out by only; add rope to only"
    ]
    more = more.replace('["x"]', '["x", "rope"]')
    assert list(read(tmp_path, edited(more=more), "s").arms) == ["rope", "x"]


def test_an_unknown_scale(tmp_path: Path) -> None:
    assert faults(tmp_path, edited(more="[scale.tiny]\n[scale.proxy]\n"), "tinny") == [
        "study.toml: scale 'tinny': the file has no such scale; did you mean 'tiny'? known: proxy, tiny"
    ]
    assert faults(tmp_path, BASE, "tiny") == ["study.toml: scale 'tiny': the file has no such scale; there are none"]


def test_a_scale_may_leave_a_kind_unused(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more='[scale.s]\nmodel.layers = "G*2"\n'), "s")
    assert list(study.baseline.settings["model"]["kinds"]) == ["G"]


def test_another_source_takes_its_held_out_part_with_it(tmp_path: Path) -> None:
    held = "source = 'a/*.txt'\nvalid_source = 'b/*.txt'\nvalid_text_bytes = 10\n"
    scale = "[scale.s]\ndata = { source = 'python', valid_source = 'c.txt' }\n"
    more = "[arm.m]\ndata.source = 'mock'\ntogether = 'another text'\n" + scale
    text = edited(('source = "python"', held), more=more)
    study = read(tmp_path, text)
    data = [study.arm(name).settings["data"] for name in ("baseline", "m")]
    assert [(one["valid_source"], one["valid_text_bytes"]) for one in data] == [
        ([f"{tmp_path}/b/*.txt"], 10),
        (None, None),
    ]
    scaled = read(tmp_path, text, "s").baseline.settings["data"]
    assert (scaled["source"], scaled["valid_source"]) == (["python"], [f"{tmp_path}/c.txt"])
    assert scaled["valid_text_bytes"] is None


TRANSFER = """
[arm.narrow]
model.local.window = 32
[arm.short]
model.seq_len = 128
[arm.capped]
on = "narrow"
model.softcap = 3.0
[factorial.transfer]
base = ["baseline", "arm:narrow"]
lever = ["baseline", "arm:short"]
"""


def test_levels_that_are_arms(tmp_path: Path) -> None:
    """Does a lever transfer: a cell has what both of its levels change, and the arms themselves are cells."""
    study = read(tmp_path, edited(more=TRANSFER))
    assert study.factorials["transfer"] == {
        "factors": [
            {"path": name, "label": name, "levels": ["baseline", f"arm:{arm}"], "names": ["baseline", arm], "base": 0}
            for name, arm in (("base", "narrow"), ("lever", "short"))
        ],
        "cells": {"baseline": [0, 0], "short": [0, 1], "narrow": [1, 0], "base=narrow,lever=short": [1, 1]},
    }
    both = study.arms["base=narrow,lever=short"]
    assert both.changes == (Change("model.local.window", 16, 32), Change("model.seq_len", 256, 128))
    mixed = read(tmp_path, edited(more=f"{TRANSFER}train.ema = [0, 0.9]\n"))
    assert len(mixed.factorials["transfer"]["cells"]) == 8


def test_levels_that_are_presets(tmp_path: Path) -> None:
    """Of a preset what it changes: what it names as the baseline has it stays open to other factors."""
    text = edited(
        ("batch_tokens = 512", "batch_tokens = 2048"),
        more='[factorial.t]\nbase = ["baseline", "preset:vpmoe"]\ntrain.ema = [0, 0.9]\nmodel.qk_norm = [true, false]\n',
    )
    study = read(tmp_path, text)
    both = study.arms["base=vpmoe,ema=0.9,qk_norm=false"].settings
    assert (both["model"]["layers"][:4], both["model"]["qk_norm"], both["train"]["ema"]) == ("DLLG", False, 0.9)
    more = '[factorial.t]\nbase = ["baseline", "preset:vpmoe"]\nmodel.global.position = ["nope", "rope"]\n'
    assert faults(tmp_path, edited(("batch_tokens = 512", "batch_tokens = 2048"), more=more)) == [
        "study.toml: factorial.t: vpmoe and rope both change model.global.position; let each setting be changed by one factor"
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("arm:narrow", "arm:narow", "base: no arm is called 'narow'; did you mean 'narrow'?"),
        ("arm:narrow", "arm:capped", "base: arm capped is on narrow, and every cell is held against the baseline; name arms"),
        ("arm:narrow", "arm:short", "short and short both change model.seq_len; let each setting be changed by one factor"),
        ("arm:narrow", "preset:vpmoo", "base: no preset is called 'vpmoo'; did you mean 'vpmoe'?"),
        ("arm:narrow", "narrow", "base: 'narrow' names no level; a level is \"baseline\", \"arm:NAME\" or \"preset:NAME\""),
        ('base = ["baseline", ', 'base = ["arm:rope", ', "base: the baseline's own level is missing; add \"base"),
        ('"arm:narrow"]', '"arm:narrow", "arm:narrow"]', "base: the level 'arm:narrow' is there twice; remove one"),
    ],
)  # fmt: skip
def test_levels_that_cannot_be_cells(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in TRANSFER
    (said,) = faults(tmp_path, edited(more=TRANSFER.replace(old, new)))
    assert said.startswith(f"study.toml: factorial.transfer: {fault}")


def test_cells_that_are_one_model_and_arms_that_are_dropped(tmp_path: Path) -> None:
    """What the verdict would refuse is refused when the file is read, where it stands."""
    (said,) = faults(tmp_path, edited(("matters = 0.005", "matters = 0.005\nseeds.keep = 1"), more=CROSSED))
    assert said == (
        "study.toml: factorial.window_by_length: every cell is needed, and decision.seeds.keep or probe would leave some "
        "out; remove keep and probe, or declare the cells as arms"
    )
    more = '[factorial.f]\nmodel.global.position = ["nope", "rope"]\nmodel.layers = ["(LG)*2", "LLLL"]\n'
    assert faults(tmp_path, edited(more=more)) == [
        "study.toml: factorial.f: the cell position=rope,layers=LLLL has the very settings of layers=LLLL; "
        "drop a level, or a factor that changes nothing there"
    ]


RUNS = """
[study]
name = "toy"
question = "?"
[decision]
metric = "val_loss"
matters = 0.01
seeds = 3
[runner]
command = "python train.py --seed={seed}"
directory = "there"
log = "nanogpt"
args = { x = 1, y = "p" }
"""


def test_a_number_a_fraction_and_a_switch_are_three_levels(tmp_path: Path) -> None:
    """--x=1, --x=1.0 and --x are other words of the program, though Python calls 1, 1.0 and true equal."""
    crossed = '[factorial.f]\nrunner.args.x = [1, 1.0, true]\nrunner.args.y = ["p", "q"]\n'
    study = read(tmp_path, RUNS + "[arm.a]\nrunner.args.x = true\n" + crossed)
    (change,) = study.arms["a"].changes
    assert (change.before, change.after) == (1, True)
    assert list(study.factorials["f"]["cells"]) == [
        "baseline", "y=q", "x=1_2", "x=1_2,y=q", "a", "x=true,y=q",
    ]  # fmt: skip
    told = {name: runner.argv(arm.settings["runner"], 0)[3:] for name, arm in study.arms.items() if "y=q" in name}
    assert told == {
        "y=q": ["--x=1", "--y=q"], "x=1_2,y=q": ["--x=1.0", "--y=q"], "x=true,y=q": ["--x", "--y=q"],
    }  # fmt: skip


def test_what_makes_the_same_words_of_the_program_changes_nothing(tmp_path: Path) -> None:
    for more, said in (
        ('[arm.a]\nrunner.args.x = "1"\n', "arm.a: runner.args.x: changes nothing: baseline has 1 too"),
        ("[arm.a]\nrunner.args.z = false\n", "arm.a: runner.args.z: changes nothing: baseline has false too"),
        ('[factorial.f]\nrunner.args.x = [1, 2, "2"]\nrunner.args.y = ["p", "q"]\n', "the level '2' is there twice"),
        ('[factorial.f]\nrunner.args.x = ["1", 1, 2]\nrunner.args.y = ["p", "q"]\n', "the level 1 is there twice"),
    ):
        (fault,) = faults(tmp_path, RUNS + more)
        assert said in fault


def test_levels_that_are_spelled_alike_are_cells_of_their_own(tmp_path: Path) -> None:
    crossed = '[factorial.f]\nrunner.args.x = [1, "a b", "ab"]\nrunner.args.y = ["p", "q"]\n'
    study = read(tmp_path, RUNS + crossed)
    assert [*study.arms][1:5] == ["x=ab", "x=ab,y=q", "x=ab_2", "x=ab_2,y=q"]
    assert study.arms["x=ab_2"].settings["runner"]["args"]["x"] == "ab"
    crossed = '[factorial.f]\nrunner.args.x = [1, "2", "2,y=q"]\nrunner.args.y = ["p", "q"]\n'
    study = read(tmp_path, RUNS + crossed)
    assert study.factorials["f"]["cells"]["x=2,y=q_2"] == [2, 0] and study.factorials["f"]["cells"]["x=2,y=q"] == [1, 1]


def test_factorials_that_differ_by_case_alone_are_refused(tmp_path: Path) -> None:
    one, other = (f"[factorial.{name}]\nrunner.args.x = [1, 2]\nrunner.args.{y} = [0, 1]\n" for name, y in ("gz", "Gw"))
    with pytest.raises(InvalidStudy, match="'G' and 'g' differ by case alone"):
        read(tmp_path, RUNS.replace('y = "p"', "z = 0, w = 0") + one + other)
