"""What `ablab check` says of a change, and of a mixture's parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests import tiny

from ablab.check.facts import _at_this_scale, _changes, _layers, change
from ablab.model.decoder import skeleton
from ablab.model.size import active_parameters, parameters

GATES = [{"name": "xsa"}, {"name": "attn_out_gate", "width": 12}]
WIDER = [{"name": "xsa"}, {"name": "attn_out_gate", "width": 32}]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, 16, "p: none -> 16"),
        ({"name": "gqa", "bias": None}, {"name": "tpa", "rank": 2}, "p: gqa -> tpa"),
        (GATES, WIDER, "p: xsa+attn_out_gate(width=12) -> xsa+attn_out_gate(width=32)"),
    ],
)
def test_both_sides_of_a_change_can_be_told_apart(before: object, after: object, said: str) -> None:
    assert change({"path": "p", "before": before, "after": after}) == said


def test_active_parameters_are_those_one_token_meets() -> None:
    mixture = {"name": "moe", "n_experts": 8, "ratio": 1.0}
    kinds = {
        letter: tiny.kind(letter, None, mlp=mixture, router={"name": "deepseek_v3", "top_k": 2}) for letter in "LG"
    }
    plain, mixed = (skeleton(tiny.model(**own), vocab_size=tiny.VOCAB) for own in ({}, {"kinds": kinds}))
    assert active_parameters(plain) == parameters(plain)["total"]
    assert (
        parameters(mixed)["total"] - active_parameters(mixed) == 2 * 6 * 2 * 32 * 32
    )  # six of eight experts, two layers


def test_layers_are_shown_as_they_were_understood() -> None:
    rows = [{"name": "baseline", "layers": "LLLGGG"}, {"name": "a", "layers": "LLLGGG"}]
    assert _layers(rows) == ["layers LLLGGG"]
    other = [*rows, {"name": "b", "layers": "L[LG]^2"}]
    assert _layers(other) == ["layers LLLGGG (baseline, a)", "layers L[LG]^2 (b)"]


def test_arms_that_would_read_alike_show_their_settings() -> None:
    before = {"name": "rope", "theta": 10000.0}
    rows = [
        {"name": name, "changes": [{"path": "p", "before": before, "after": after}]}
        for name, after in (
            ("one", {"name": "grape_a", "slope_scale": 1.0}),
            ("two", {"name": "grape_a", "slope_scale": 2.0}),
            ("none", {"name": "nope", "theta": None}),
        )
    ]
    assert _changes(rows) == {
        "one": "p: rope(theta=10000) -> grape_a(slope_scale=1)",
        "two": "p: rope(theta=10000) -> grape_a(slope_scale=2)",
        "none": "p: rope -> nope",
    }


def test_an_arm_that_a_scale_adds_is_called_new() -> None:
    text = "[arm.alibi]\na.b = 1\n[scale.tiny.arm]\nalibbi.a.b = 2\nalibi.a.b = 3\n[scale.tiny.factorial.cross]\nc.d = [1]\n"
    assert _at_this_scale(text, "tiny") == [
        "arm 'alibbi' is new at scale tiny: the file has no [arm.alibbi]; did you mean 'alibi'?",
        "factorial 'cross' is new at scale tiny: the file has no [factorial.cross]",
    ]
    assert _at_this_scale(text, None) == []


def test_check_prints_the_layer_string(tmp_path: Path) -> None:
    text = (
        '[study]\nname = "star"\n[decision]\nmatters = 0.1\nseeds = 1\n[budget]\ntokens = 640\nbatch_tokens = 64\n'
        '[data]\nsource = "mock"\n[model]\nlayers = "LLLG*3"\nd_model = 8\nn_heads = 1\nseq_len = 32\nlocal.window = 8\n'
        'global.position = "nope"\n[arm.alibi]\nmodel.global.position = "grape_a"\n'
    )
    (tmp_path / "study.toml").write_text(text)
    out = subprocess.run(
        [sys.executable, "-P", "-m", "ablab.cli.main", "check", "study.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "\nlayers LLLGGG\n" in out, "the star repeats the letter before it"
