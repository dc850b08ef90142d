"""A ladder for real: three rungs trained from one command, gone on with, judged again without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ablab
from ablab.core.fault import CheckFailed
from ablab.launch import joint

STUDY = """
study = { name = "tiny", question = "Does a sink help at every size?" }
decision = { metric = "bits_per_byte", stage = "plain", matters = 0.01, seeds = { start = 2, at_most = 3 } }
budget = { tokens = 2048, batch_tokens = 512 }
data = { source = "mock" }
model = { layers = "G", d_model = 16, n_heads = 1, seq_len = 64, global = { position = "rope" } }
stage = { plain = { evaluate = "disjoint" } }
[arm.sink]
model.softmax = "sink"
[scale.a]
[scale.b]
budget.tokens = 4096
[scale.c]
budget.tokens = 8192
"""
SCALES = ["a", "b", "c"]


def test_three_rungs_from_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.setattr(joint, "_rehearsed", lambda plan, mark: True)
    lab = ablab.load(tmp_path / "study.toml", out=tmp_path / "runs", precision="fp32")
    said: list[str] = []
    with pytest.raises(CheckFailed, match="beyond what this ladder reaches"):
        lab.ladder(SCALES, seeds=[2, 2, 2], at=1e30, say=said.append)
    assert not any("done in" in line for line in said), "refused before anything is trained"
    found = lab.ladder(SCALES, seeds=[2, 2, 2], jobs=1, say=said.append)
    assert sum("done in" in line for line in said) == 12
    assert [line for line in said if line.startswith("rung")] == [f"rung {name}: 2 seeds" for name in "cba"]
    [arm] = found.answer["arms"]
    assert [one["seeds"] for one in arm["rungs"]] == [[0, 1]] * 3 and arm["word"] is not None and arm["low"] is not None
    assert (
        found.page.exists() and json.loads((found.folder / "ladder.json").read_text())["arms"] == found.answer["arms"]
    )
    assert found.answer["exploratory"] == [] and any("its study plans 3" in note for note in found.answer["notes"])
    again = lab.ladder(SCALES, seeds=[2, 2, 2], train=False, page=tmp_path / "page", say=said.append)
    assert again.answer["arms"] == found.answer["arms"] and again.page == tmp_path / "page" / "report.html"
    more = lab.ladder(SCALES, train=False, say=said.append)
    assert lab.ladder(SCALES[::-1], train=False, say=said.append).folder == more.folder
    assert more.words == {"sink": None} and "a has 2 of 3 seeds" in " ".join(more.answer["arms"][0]["notes"])
    own = ablab.load(tmp_path / "study.toml", "c", out=tmp_path / "runs", precision="fp32").report()
    assert own.answer["looks"] == [2, 3] and not own.answer["exploratory"], "the rung keeps its own rule"
