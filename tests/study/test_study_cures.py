"""Cures that are printed are tried: what a fault says to write is written, and the fault is gone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.conformance.made import SHAPE
from tests.study.written import edited, faults

from ablab.model.positions.rope import Rope
from ablab.study.keys import SLOTS

SAID = re.compile(r'(?:choose|give|use|set|write|say|add) ([a-z_.]+) = ("[^"]*"|\[[^]]*\]|[0-9.e+-]*[0-9]|[a-z_]+)')

EXPERTS = type(SHAPE)(**{**vars(SHAPE), "n_experts": 4})


def cure(text: str) -> dict[str, Any]:
    """The setting that a cure names, as a diff of the lever."""
    name, value = re.search(SAID, text).groups()  # type: ignore[union-attr]
    made = value.strip('"') if not re.match(r"[0-9.-]", value) else float(value) if "." in value else int(value)
    table, _, key = name.rpartition(".")
    new = {key: {"true": True, "false": False}.get(str(made), made)}
    return {table: new} if table else new


LEVERS = [
    ("position", {"name": "rope", "fraction": 0.3}),
    ("position", {"name": "rope", "fraction": 7.0}),
    ("position", {"name": "rope", "fraction": 0.0}),
    ("router", {"name": "softmax_topk", "top_k": 1, "order": "post"}),
    ("embedding", {"name": "smear_gate", "form": "channel", "width": 4}),
    ("compress", {"name": "rtn", "lqer": {"rank": 2}}),
    ("evaluate", {"name": "ttt_lora", "phases": {"prefix_documents": 2}}),
    ("evaluate", {"name": "ttt_lora", "phases": 3}),
]


@pytest.mark.parametrize(("slot", "choice"), LEVERS, ids=str)
def test_the_cure_of_a_lever_s_fault_cures_it(slot: str, choice: dict[str, Any]) -> None:
    lever, parts = SLOTS[slot], [EXPERTS] if slot in ("position", "router", "embedding") else []
    with pytest.raises(ValueError) as caught:
        lever.build(tiny.choice(lever, choice), *parts)
    lever.build(tiny.choice(lever, lever.laid(choice, cure(str(caught.value)))), *parts)


@pytest.mark.parametrize("head_dim", [2, 6, 24, 64, 80, 96, 112, 192, 320])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.3, 0.333, 0.45, 0.66, 0.7777, 0.9])
def test_a_share_of_a_head_that_is_no_pairs_names_one_that_is(head_dim: int, fraction: float) -> None:
    shape = tiny_shape(head_dim)
    with torch.device("meta"):
        try:
            Rope(shape, fraction=fraction)
        except ValueError as error:
            Rope(shape, fraction=cure(str(error))["fraction"])


@pytest.mark.parametrize(
    ("head_dim", "fraction", "rotated"), [(96, 0.333333, 32), (96, 0.33333, 32), (48, 0.666667, 32)]
)
def test_thirds_of_a_head_are_what_they_say(head_dim: int, fraction: float, rotated: int) -> None:
    with torch.device("meta"):
        assert Rope(tiny_shape(head_dim), fraction=fraction).rotated == rotated


def tiny_shape(head_dim: int) -> Any:
    return type(SHAPE)(**{**vars(SHAPE), "head_dim": head_dim})


STUDIES = [
    (('optimizer = { name = "adamw", lr = 2e-3 }', 'optimizer = { name = "adamw", lr = 2e-3 }\nema_warmup = 3.0'),
     ("ema_warmup = 3.0", "ema_warmup = 3.0\nema = 0.999"), "set ema = 0.999"),
    (("batch_tokens = 512", "batch_tokens = 700"), ("batch_tokens = 700", "batch_tokens = 768"), "say 768"),
    (('source = "python"', 'source = "python"\nspan = 300'), ("span = 300", "span = 256"), "multiple of 256"),
    (("local.window = 16", "local.window = 400"), ("local.window = 400", "local.window = 256"), "at most seq_len"),
    (('layers = "(LG)*2"', 'layers = "(lG)*2"'), ("(lG)", "(LG)"), "write 'L'"),
    (("n_kv_heads = 2", "n_kv_heads = 3"), ("n_kv_heads = 3", "n_kv_heads = 2"), "divisor of 4"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "right", "said"), STUDIES, ids=lambda part: str(part)[:24])
def test_the_cure_of_a_study_s_fault_cures_it(
    wrong: tuple[str, str], right: tuple[str, str], said: str, tmp_path: Path
) -> None:
    text = edited(wrong)
    assert any(said in fault.rpartition("; ")[2] for fault in faults(tmp_path, text))
    assert not faults(tmp_path, text.replace(*right))


def test_a_lever_that_no_layer_takes_says_where_to_write_it(tmp_path: Path) -> None:
    arm = '\n[arm.alibi]\nmodel.position = "grape_a"\n'
    said = "changes nothing: no layer takes model.position, as each kind names its own"
    cure = "write model.local.position or model.global.position"
    assert faults(tmp_path, edited(more=arm)) == [f"study.toml: arm.alibi: model.position: {said}; {cure}"]
    for kind in ("local", "global"):
        assert not faults(tmp_path, edited(more=arm.replace("model.position", f"model.{kind}.position")))
