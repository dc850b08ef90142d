"""An exporter starts from everything that an arm says: what it does not know is refused, not left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bridged import canonical

from ablab.bridges.megatron.export import UNSAID, export
from ablab.bridges.noted import Noted, unread
from ablab.core.fault import CheckFailed
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS
from ablab.study.settings import settings

ROTATION = {"name": "grape_m", "share": "net"}
TREE: dict[str, Any] = {
    "budget": {"tokens": 1600, "batch_tokens": 32},
    "data": {"source": "mock", "tokenizer": "bytes"},
    "model": {
        "layers": "LLL",  # one kind: where two differ in what the fork has once, that is what is refused
        "d_model": 32,
        "n_heads": 4,
        "seq_len": 16,
        "value": {"name": "residual", "form": "sigmoid", "init": 0.5},
        "local": {"window": 8, "position": ROTATION, "mlp": {"name": "moe", "n_experts": 4, "ratio": 4.0}},
    },
    "train": {"optimizer": "normuon"},
}


def tables(of: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, table) of everything in canonical settings that holds settings; layer kinds go by their own names."""
    for key, value in of.items():
        here = f"{place}.{value['table'] if place == 'model.kinds' else key}" if place else key
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) and one:
                if here != "model.kinds":
                    yield here.replace("model.kinds.", "model."), one
                yield from tables(one, here)


def test_a_setting_that_the_exporter_does_not_know_is_refused() -> None:
    """Wherever it is added: a setting, or a slot with its lever, in any table of an arm; its place is as the study has it."""
    assert export(canonical(TREE), "x").argv
    number = len([*tables(canonical(TREE))])
    tried = set()
    for i in range(number):
        for new in (0.25, {"name": "sharper", "rate": 0.1}):
            arm = canonical(TREE)
            place, table = [*tables(arm)][i]
            if place.split(".")[0] in UNSAID:
                continue
            table["new"] = new
            with pytest.raises(CheckFailed) as refused:
                export(arm, "x")
            assert [fault.place for fault in refused.value.faults] == [f"arm x: {place}.new"]
            assert repr(new) in str(refused.value) and "train this arm in ablab" in str(refused.value)
            tried.add(place)
    assert {"budget", "data.tokenizer", "model", "model.local", "model.local.router", "train.optimizer"} <= tried


def test_what_the_exporter_may_leave_out_is_there_and_no_part_of_the_network() -> None:
    arm = canonical(TREE)
    for place in UNSAID:
        section, _, key = place.partition(".")
        assert section in arm and (not key or key in arm[section])
    assert [place for place in UNSAID if place.startswith("model")] == ["model.loop_from"]


ELSEWHERE = {"optimizer": "train", "schedule": "train", "loss": "train", "tokenizer": "data"}
LEVERS = [(slot, name) for slot in (*IN_MODEL, *OF_MODEL, *ELSEWHERE) for name in SLOTS[slot].names]
LEVERS += [("tokenizer", {"name": "sentencepiece", "model": "/v/8k.model"})]


@pytest.mark.parametrize(("slot", "name"), LEVERS)
def test_a_lever_is_said_with_all_its_settings_or_refused_by_name(slot: str, name: Any) -> None:
    """Nobody is told of a default that it cannot be said: of the levers that the exporter takes it knows all settings."""
    tree = copy.deepcopy(TREE)
    if slot in ELSEWHERE:
        tree.setdefault(ELSEWHERE[slot], {})[slot] = name
    elif slot in OF_MODEL:
        tree["model"][slot] = name
    else:
        tree["model"]["local"][slot] = name
    arm, faults = settings(tree, Path())
    if (
        faults
    ):  # a lever that needs a setting to be named at all; the studies drawn in test_bridges have those of the fork
        assert name not in (
            "gqa",
            "tpa",
            "nope",
            "rope",
            "grape_m",
            "grape_a",
            "deepseek_v3",
            "softmax_topk",
            "normuon",
        )
        return
    try:
        export(arm, "x")
    except CheckFailed as refused:
        assert "no flag says" not in str(refused)


def test_what_was_read_is_what_was_asked_for_by_name() -> None:
    noted = Noted({"a": 1, "b": {"c": 2, "d": [{"e": 3}, {"e": 4}]}, "f": {"c": 2}, "g": {}})
    assert [place for place, _ in unread(noted)] == ["a", "b", "f", "g"]
    assert dict(noted) == {**noted} and noted == {**noted} and [*noted.items()] and "a" in noted
    assert [place for place, _ in unread(noted)] == ["a", "b", "f", "g"], "copies and comparisons ask for nothing"
    assert noted["a"] == 1 and noted["b"]["d"][0]["e"] == 3 and noted.get("g") == {}
    assert [*unread(noted)] == [("b.c", 2), ("b.d.e", 4), ("f", {"c": 2})]


def test_equal_tables_under_one_key_are_read_as_one() -> None:
    noted = Noted({"L": {"mlp": {"ratio": 4}}, "G": {"mlp": {"ratio": 4}}, "H": {"mlp": {"ratio": 2}}})
    assert noted["L"]["mlp"]["ratio"] == 4
    assert [*unread(noted)] == [("H", {"mlp": {"ratio": 2}})]
