"""The committed study, and the committed page about study files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.study import load
from ablab.study.keys import SECTIONS, SLOTS
from ablab.study.reference import PAGE, reference

STUDY = Path(__file__).resolve().parents[2] / "studies" / "global_position.toml"


@pytest.mark.parametrize("scale", [None, "proxy"])
def test_the_proxy_is_the_plans_own_budget(scale: str | None) -> None:
    study = load(STUDY, scale)
    settings = study.baseline.settings
    model, budget = settings["model"], settings["budget"]
    assert (model["layers"], model["d_model"], model["n_heads"], model["seq_len"]) == ("LLLG" * 3, 768, 12, 4096)
    assert -(-budget["tokens"] // budget["batch_tokens"]) == 6104
    assert model["kinds"]["L"]["window"] == 128 and model["kinds"]["G"]["window"] is None
    assert model["kinds"]["L"]["position"]["name"] == "grape_m" and model["kinds"]["L"]["position"]["learnable"]
    assert model["kinds"]["G"]["position"] == {"name": "nope"}
    assert settings["data"]["tokenizer"] == {"name": "sentencepiece", "vocab_size": 8192, "model": ""}
    assert list(study.arms) == ["grape_a", "grape_m_everywhere", "no_position"]
    assert all(len(arm.changes) == 1 and arm.on == "baseline" for arm in study.arms.values())
    assert study.tie == ("needle", "prefer nope") and study.decision["tie"] == ["needle", "prefer baseline"]


def test_tiny_is_for_a_cpu() -> None:
    study = load(STUDY, "tiny")
    settings = study.baseline.settings
    model, train = settings["model"], settings["train"]
    assert (model["layers"], model["d_model"], model["n_heads"], model["n_kv_heads"]) == ("LGLG", 64, 4, 2)
    assert (model["seq_len"], model["kinds"]["L"]["window"]) == (256, 16)
    assert settings["budget"] == {"tokens": 250_000, "seconds": None, "batch_tokens": 512}
    assert settings["data"]["source"] == ["python"] and settings["data"]["tokenizer"] == {"name": "bytes"}
    assert {**train["optimizer"], "lr": 0.002, "betas": [0.9, 0.95], "decay": 0.1, "name": "adamw"} == train[
        "optimizer"
    ]
    assert {**train["schedule"], "name": "wsd", "warmup": 0.05, "warmdown": 0.75, "min_lr": 0.0} == train["schedule"]
    assert (study.decision["seeds"]["start"], study.decision["seeds"]["at_most"]) == (3, 8)
    assert study.decision["matters"] == 0.005
    assert list(study.arms) == ["grape_a", "no_position"]
    assert list(load(STUDY).arms) == ["grape_a", "grape_m_everywhere", "no_position"]


def test_smoke_is_fifty_steps_on_mock_data() -> None:
    study = load(STUDY, "smoke")
    budget = study.baseline.settings["budget"]
    assert budget["tokens"] == 50 * budget["batch_tokens"] and study.baseline.settings["data"]["source"] == ["mock"]
    assert list(study.arms) == ["grape_a"]


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -P -m ablab.study.reference"


def test_the_page_names_every_key_and_every_lever() -> None:
    page = reference()
    for keys in SECTIONS.values():
        assert all(f"| `{key}` |" in page for key in keys)
    for slot in SLOTS.values():
        assert all(f"**`{name}`**: " in page for name in slot.names)
        assert all(f"| `{setting}` | " in page for name in slot.names for setting in slot.listed(name))
