"""From conversations and from text with case operators to a verdict: build, check, train, score, judge, sample."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ablab.cli.main import app

HARMONY = """
[study]
name = "spans"
[decision]
metric = "nats_per_final_token"
matters = 0.5
seeds = 1
[budget]
tokens = 1024
batch_tokens = 128
[data]
source = "built"
tokenizer = "o200k_harmony"
valid_bytes = 1500
[model]
layers = "G"
d_model = 8
n_heads = 1
seq_len = 64
global.position = "grape_a"
[train]
loss = "spans"
validate_every = 512
[arm.answers_only]
train.loss.reasoning = 0.0
"""
CASE = """
[study]
name = "case"
[decision]
metric = "bits_per_byte"
matters = 0.5
seeds = 1
[budget]
tokens = 1024
batch_tokens = 128
[data]
source = "mock"
valid_bytes = 4000
tokenizer = { name = "sentencepiece", vocab_size = 400 }
[model]
layers = "G"
d_model = 8
n_heads = 1
seq_len = 64
global.position = "grape_a"
[arm.case_ops]
data.tokenizer = { name = "case_ops", vocab_size = 400 }
[arm.bytes]
data.tokenizer = "bytes"
"""


def command(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def judged(tmp_path: Path, text: str, name: str) -> dict[str, Any]:
    (tmp_path / "study.toml").write_text(text)
    command("run", tmp_path / "study.toml", "--out", tmp_path / "runs", "--jobs", 1, "--json")
    answer: dict[str, Any] = json.loads((tmp_path / "runs" / "studies" / name / "verdict.json").read_text())
    return answer


def test_conversations_to_a_verdict_on_final_answers(tmp_path: Path) -> None:
    command("data", "build", "harmony", "mock", "--out", tmp_path / "built", "--max-rows", 60, "--valid-fraction", 0.3,
            "--workers", 1)  # fmt: skip
    answer = judged(tmp_path, HARMONY, "spans")
    assert answer["metric"] == "nats_per_final_token" and answer["arms"][0]["word"] == "baseline"
    scored = {run["arm"]: run["metrics"]["pre_quant"] for run in answer["runs"]}
    assert set(scored) == {"baseline", "answers_only"} and all(0 < value < 13 for value in scored.values())
    assert [len(run["trajectory"]) for run in answer["runs"]] == [2, 2]
    (before,) = [note for note in answer["notes"] if note.startswith("before training")]
    assert f"(ln V = {math.log(201_088):.3f})" in before
    rows = [json.loads(line) for line in next(tmp_path.glob("runs/train/*/metrics.jsonl")).read_text().splitlines()]
    assert {"loss_reasoning", "loss_final", "loss_reasoning_targets", "loss_final_targets"} <= set().union(*rows)
    result = json.loads(next(tmp_path.glob("runs/score/*/result.json")).read_text())
    assert {"nats_per_token", "bits_per_byte", "nats_per_reasoning_token", "nats_per_final_token"} == set(
        result["metrics"]
    )
    assert result["violations"] == []
    said = command("sample", tmp_path / "study.toml", "baseline", "--prompt", "What is 1 + 2? <|end|>", "--tokens", 3,
                   "--out", tmp_path / "runs", "--json")  # fmt: skip
    assert json.loads(said)["samples"][0]["tokens"] <= 3


def test_case_operators_are_compared_in_bits_per_byte(tmp_path: Path) -> None:
    answer = judged(tmp_path, CASE, "case")
    assert {row["name"]: row["word"] for row in answer["arms"]} == {
        "baseline": "baseline", "case_ops": "inconclusive", "bytes": "inconclusive",
    }  # fmt: skip
    corpora = {one["tokenizer"]["choice"]["name"]: one["counts"] for one in answer["data"]}
    assert len({one["valid_bytes"] for one in corpora.values()}) == 1, "the same text, counted in its own bytes"
    assert corpora["bytes"]["valid_tokens"] == corpora["bytes"]["valid_bytes"] > corpora["case_ops"]["valid_tokens"]
    (rates,) = [note for note in answer["notes"] if note.startswith("tokens per byte of held-out text")]
    assert rates.endswith("1.0000 (bytes)") and "(baseline)" in rates and "(case_ops)" in rates


def test_megatron_files_in_megatrons_order(tmp_path: Path) -> None:
    from tests.data.test_data_tokenised import ids_of, megatron

    for name, count in (("train", 40), ("held", 4)):
        megatron(tmp_path / name, [ids_of(f"{name} document {i} " * (3 + i % 5)) for i in range(count)])
    text = HARMONY.replace('"built"', '"train"\nvalid_source = "held"\norder = "megatron"').replace(
        "o200k_harmony", "bytes"
    )
    text = text.replace("nats_per_final_token", "bits_per_byte").replace('loss = "spans"\n', "")
    text = text.replace("train.loss.reasoning = 0.0", "train.clip = 0.1")
    answer = judged(tmp_path, text, "spans")
    assert len({run["token_hash"] for run in answer["runs"]}) == 1 and len(answer["runs"]) == 2
    assert [one["kind"] for one in answer["data"][0]["parts"]] == ["megatron"]


@pytest.mark.parametrize(
    "old, new, said",
    [
        (
            'order = "chunks"',
            'order = "megatron"',
            r"study\.toml: data\.order: the corpus is a copy of its own; name Megatron",
        ),
        (
            '"bits_per_byte"',
            '"nats_per_final_token"',
            r"decision\.metric: no held-out token of this data lies in a final span",
        ),
    ],
)
def test_what_the_data_cannot_give_is_refused_before_training(tmp_path: Path, old: str, new: str, said: str) -> None:
    from ablab.core.fault import InvalidStudy

    text = CASE[: CASE.index("[arm.case_ops]")].replace("valid_bytes", 'order = "chunks"\nvalid_bytes')
    text += "[arm.other]\ntrain.clip = 0.1\n"
    assert old in text
    (tmp_path / "study.toml").write_text(
        text.replace(old, new).replace("sentencepiece", "bytes").replace(", vocab_size = 400", "")
    )
    with pytest.raises(InvalidStudy, match=said):
        command("check", tmp_path / "study.toml", "--out", tmp_path / "runs")


def test_another_tokenizer_in_nats_is_refused_with_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(CASE.replace("bits_per_byte", "nats_per_token"))
    from ablab.core.fault import InvalidStudy

    with pytest.raises(InvalidStudy, match="nats of different tokens cannot be compared"):
        CliRunner().invoke(app, ["check", str(tmp_path / "study.toml")], catch_exceptions=False)
