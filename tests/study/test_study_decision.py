"""The rule: seeds, and which arm `prefer X` means."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.written import edited, faults, read

DEFAULT = {"start": 3, "at_most": 8, "probe": 0, "keep": None, "first": 0}


def ruled(folder: Path, line: str, more: str = "") -> dict[str, object]:
    return read(folder, edited(("matters = 0.005", f"matters = 0.005\n{line}"), more=more)).decision


def test_defaults(tmp_path: Path) -> None:
    assert ruled(tmp_path, "") == {
        "metric": "nats_per_token", "stage": "pre_quant", "matters": 0.005, "confidence": 0.95, "seeds": DEFAULT, "tie": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "seeds"),
    [
        ("seeds = 5", {"start": 5, "at_most": 5}),
        ("seeds = 1", {"start": 1, "at_most": 1}),
        ("seeds = { start = 1, at_most = 2, keep = 1 }", {"start": 1, "at_most": 2, "keep": 1}),
        ("seeds = { probe = 1, keep = 2 }", {"probe": 1, "keep": 2}),
        ('seeds = { probe = 1, keep = "2 sigma", at_most = 3 }', {"probe": 1, "keep": "2 sigma", "at_most": 3}),
        ("seeds.first = 1000", {"first": 1000}),
    ],
)
def test_seeds(tmp_path: Path, line: str, seeds: dict[str, object]) -> None:
    assert ruled(tmp_path, line)["seeds"] == {**DEFAULT, **seeds}


OTHER = """
[arm.fox]
model.global.position = "fox"
[arm.short]
model.local.window = 8
[arm.bare]
model.local.position = "nope"
"""


@pytest.mark.parametrize(
    ("wish", "meant"),
    [
        ("rope", "rope"),  # an arm's name, and its value too
        ("short", "short"),
        ("baseline", "baseline"),
        ("8", "short"),
        ("8.0", "short"),
        ("16", "baseline"),
        ("grape_m", "baseline"),
        ("nope", "baseline"),  # the baseline's own value comes before the value of another setting in an arm
    ],
)
def test_prefer(tmp_path: Path, wish: str, meant: str) -> None:
    study = read(
        tmp_path, edited(("matters = 0.005", f'matters = 0.005\ntie = ["needle", "prefer {wish}"]'), more=OTHER)
    )
    assert study.decision["tie"] == ["needle", f"prefer {meant}"]
    assert study.tie == ("needle", f"prefer {wish}")


def test_prefer_a_value_of_one_arm(tmp_path: Path) -> None:
    more = '[arm.x]\nmodel.softmax = "sink"\n[arm.y]\nmodel.qk_norm = false\n'
    assert ruled(tmp_path, 'tie = ["prefer sink"]', more)["tie"] == ["prefer x"]
    assert ruled(tmp_path, 'tie = ["prefer false"]', more)["tie"] == ["prefer y"]


def test_prefer_must_mean_one_arm(tmp_path: Path) -> None:
    more = '[arm.x]\nmodel.softmax = "sink"\n[arm.y]\nmodel.softmax = { name = "sink", init_std = 1 }\n'
    assert faults(tmp_path, edited(("matters = 0.005", 'matters = 0.005\ntie = ["prefer sink"]'), more=more)) == [
        "study.toml: decision.tie[0]: 'sink' fits several arms (x, y); name one of them"
    ]


def test_prefer_an_arm_that_a_scale_leaves_out(tmp_path: Path) -> None:
    more = f'{OTHER}[scale.s]\nonly = ["rope"]\n'
    assert faults(tmp_path, edited(("matters = 0.005", 'matters = 0.005\ntie = ["prefer fox"]'), more=more)) == [
        "study.toml: scale.s: decision.tie[0]: arm 'fox' is left out by only; give this scale its own decision.tie"
    ]
    more += "decision.tie = []\n"
    assert (
        read(tmp_path, edited(("matters = 0.005", 'matters = 0.005\ntie = ["prefer fox"]'), more=more), "s").tie == ()
    )


def test_one_rung_stands_once(tmp_path: Path) -> None:
    line = 'matters = 0.005\ntie = ["prefer rope", "prefer nope", "prefer baseline"]'
    assert faults(tmp_path, edited(("matters = 0.005", line))) == [
        "study.toml: decision.tie: 'prefer baseline' stands there twice; remove one"
    ]


def test_limits(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more="[limits]\nbytes = 16_000_000\nseconds = 600\n"))
    assert study.limits == {"bytes": 16_000_000, "seconds": 600.0}
