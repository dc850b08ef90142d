"""Settings that belong together: one table of a lever, however it is written, merged setting by setting; old spellings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.study.written import edited, faults

from ablab.artifact import compressors
from ablab.core.slot import Slot
from ablab.scoring import evaluators
from ablab.study import load
from ablab.study.keys import SLOTS
from ablab.training import optimizers

MOST = 8  # settings of a lever: with more nobody knows what acts beside what
STAGE = '\n[stage.packed]\ncompress = { name = "gptq", bits = 5 }\nevaluate = "disjoint"\n'
BITS = "stage.packed.compress.bits"


def taken(slot: Slot, value: Any) -> dict[str, Any]:
    choice, found = slot.coerce(value, "here")
    assert not found, found
    made: dict[str, Any] = choice
    return made


def said(slot: Slot, value: Any) -> list[str]:
    return [str(fault) for fault in slot.coerce(value, "here")[1]]


def test_a_table_a_part_of_it_and_its_first_setting_alone_are_one_choice() -> None:
    whole = {"default": 5, "attn": None, "mlp": None, "embedding": 8}
    for written in (5, {"default": 5}, {"default": 5, "embedding": 8}, 5.0):
        assert taken(compressors.slot, {"name": "gptq", "bits": written})["bits"] == whole
    assert taken(compressors.slot, {"name": "gptq", "bits": {"mlp": 4}})["bits"] == whole | {"default": 6, "mlp": 4}
    assert taken(compressors.slot, {"name": "rtn", "bits": {"mlp": 4}})["bits"]["embedding"] is None


def test_what_a_table_has_not_is_a_fault_with_its_place() -> None:
    assert said(compressors.slot, {"name": "gptq", "bits": {"embed": 4, "mlp": 4.5}, "solver": {"act_order": 1}}) == [
        "here.bits: bits has no setting 'embed'; did you mean 'embedding'? known: attn, default, embedding, mlp",
        "here.bits.mlp: 4.5 is not an integer; give an integer",
        "here.solver.act_order: 1 is an integer; give true or false",
    ]
    assert said(compressors.slot, {"name": "rtn", "lqer": "two"}) == [
        "here.lqer.tensors: 'two' is a string; give an integer"
    ]


@pytest.mark.parametrize(
    ("change", "path", "after"),
    [
        (f"{BITS}.embedding = 7", f"{BITS}.embedding", 7),
        (f"{BITS} = 4", f"{BITS}.default", 4),
        ("stage.packed.compress = { bits = { mlp = 4 } }", f"{BITS}.mlp", 4),
    ],
)
def test_an_arm_changes_one_setting_of_a_table(change: str, path: str, after: int, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(edited(more=f"{STAGE}[arm.fewer]\n{change}\n").replace('stage = "pre_quant"', 'stage = "packed"'))
    arm = load(file).arms["fewer"]
    assert [(one.path, one.after) for one in arm.changes] == [(path, after)]
    kept = {"default": 5, "attn": None, "mlp": None, "embedding": 8}
    assert arm.settings["stage"]["packed"]["compress"]["bits"] == kept | {path.rpartition(".")[2]: after}


def test_two_settings_of_a_table_are_two_changes(tmp_path: Path) -> None:
    arm = f"{STAGE}[arm.fewer]\n{BITS} = {{ mlp = 4, attn = 4 }}\n"
    [fault] = faults(tmp_path, edited(more=arm).replace('stage = "pre_quant"', 'stage = "packed"'))
    assert f"changes 2 settings at once ({BITS}.attn, {BITS}.mlp)" in fault


OLD: list[tuple[Slot, dict[str, Any], dict[str, Any]]] = [
    (optimizers.slot, {"name": "muon", "aux_lr": 0.1, "embedding_lr": 0.2, "orthogonaliser": "polar_express", "steps": 4},
     {"name": "muon", "orthogonaliser": {"name": "polar_express", "steps": 4}, "aux": {"lr": 0.1, "embedding_lr": 0.2}}),
    (optimizers.slot, {"name": "normuon", "decay": 0.1, "decay_form": "cautious", "taper": [0.5, 0.5],
                       "second_moment": "long_side", "eps": 1e-8},
     {"name": "normuon", "decay": {"rate": 0.1, "form": "cautious", "taper": [0.5, 0.5]},
      "second_moment": {"over": "long_side", "eps": 1e-8}}),
    (evaluators.slot, {"name": "ttt"}, {"name": "ttt_sgd"}),
    (evaluators.slot, {"name": "ttt", "adapt": "sgd", "lr": 0.1, "clip": 0.0, "epochs": 1},
     {"name": "ttt_sgd", "epochs": 1, "optimizer": {"lr": 0.1, "clip": 0.0}}),
    (evaluators.slot, {"name": "ttt", "adapt": "lora", "rank": 8, "phases": 2, "prefix_documents": 9},
     {"name": "ttt_lora", "phases": {"count": 2, "prefix_documents": 9}, "adapters": {"rank": 8}}),
    (compressors.slot, {"name": "rtn", "mlp_sigmas": 2.0}, {"name": "rtn", "sigmas": {"mlp": 2.0}}),
    (
        compressors.slot,
        {"name": "gptq", "bits": 5, "attn_bits": 4, "lqer": 2, "lqer_rank": 3, "damp": 0.1, "tokens": 512},
        {"name": "gptq", "bits": {"default": 5, "attn": 4}, "lqer": {"tensors": 2, "rank": 3}, "solver": {"damp": 0.1},
         "tokens": 512},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("slot", "old", "new"), OLD, ids=lambda one: str(one["name"]) if isinstance(one, dict) else "")
def test_an_old_spelling_is_answered_with_the_new_one_which_works(
    slot: Slot, old: dict[str, Any], new: dict[str, Any]
) -> None:
    [fault] = slot.coerce(old, "here")[1]
    assert fault.place == "here" and "spelled otherwise now" in fault.fault
    cure = tomllib.loads(f"lever = {fault.cure.removeprefix('write ')}")["lever"]
    assert cure == new
    slot.build(taken(slot, cure))


def test_no_lever_and_no_table_has_more_settings_than_can_be_seen_at_once() -> None:
    for slot in SLOTS.values():
        for name in slot.names:
            settings = slot.settings(name)
            assert len(settings) <= MOST, f"{slot.name} {name}: {len(settings)} settings"
            assert all(len(one.parts) <= MOST for one in settings.values())


def test_a_study_that_writes_ttt_is_told_what_to_write(tmp_path: Path) -> None:
    stage = "\n[stage.after]\nevaluate = EVALUATE\n[arm.other]\nmodel.softcap = 10.0\n"
    [fault] = faults(tmp_path, edited(more=stage.replace("EVALUATE", '"ttt"')))
    told = fault.partition("; write ")
    assert told[0].endswith("stage.after.evaluate: 'ttt' is spelled otherwise now")
    assert not faults(tmp_path, edited(more=stage.replace("EVALUATE", told[2])))


def test_every_old_spelling_leads_to_a_setting_that_there_is() -> None:
    for slot in {one.name: one for one, _, _ in OLD}.values():
        for before in slot.before.values():
            for one in before:
                listed = slot.listed(one.now)
                assert all(path in listed and not listed[path].parts for path in one.moved.values() if path)
