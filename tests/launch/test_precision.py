"""Runs in bf16 and in fp32, each on any machine: what a study takes, keeps and says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablab.core.fault import CheckFailed
from ablab.core.files import read_json
from ablab.judging import judge
from ablab.launch import work
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.runtime import capacity
from ablab.study import load

HARDWARE = {"bf16": frozenset({"avx512_bf16"}), "fp32": frozenset({"avx2"})}
STUDY = """
[study]
name = "either"
[decision]
metric = "nats_per_token"
stage = "pre_quant"
matters = 0.01
seeds = 2
[budget]
tokens = 1024
batch_tokens = 256
[data]
source = "mock"
tokenizer = "bytes"
valid_bytes = 4096
[model]
layers = "LG"
d_model = 16
n_heads = 2
seq_len = 64
local.window = 8
local.position = "rope"
global.position = "fox"
[stage]
pre_quant = { evaluate = "disjoint" }
post_quant = { compress = { name = "gptq", bits = 6, small = 64, tokens = 512 }, evaluate = { name = "sliding", stride = 16 } }
needle = { evaluate = { name = "needle", tokens_budget = 2000 } }
[arm]
swiglu.model.mlp = "swiglu"
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """planning.make on a machine with the hardware of `on`; what it says is in `said`."""
    (tmp_path / "study.toml").write_text(STUDY)

    def make(on: str, precision: str | None = None, **how: Any) -> Plan:
        monkeypatch.setattr(capacity, "cpu_flags", lambda: HARDWARE[on])
        store = Store(tmp_path / "runs")
        return planning.make(
            load(tmp_path / "study.toml"), store, precision=precision, **{"say": lambda _: None, **how}
        )

    return make


@pytest.mark.parametrize("on", HARDWARE)
@pytest.mark.parametrize("asked", [None, *capacity.PRECISIONS])
def test_a_study_takes_what_is_asked_else_what_the_hardware_has(on: str, asked: str | None, made: Any) -> None:
    said: list[str] = []
    found = made(on, asked, say=said.append)
    assert found.where.precision == (asked or on)
    assert said[-1].startswith(f"precision: {found.where.precision}; another one (--precision) is another experiment")
    assert judge.environment(found)["precision"] == found.where.precision


def test_no_two_precisions_share_a_result(made: Any, tmp_path: Path) -> None:
    one = made("fp32", "fp32")
    (one.directory / "where.json").unlink()
    other = made("fp32", "bf16")
    assert not {run.train_key for run in one.runs.values()} & {run.train_key for run in other.runs.values()}


def test_fp32_goes_on_anywhere_and_bf16_elsewhere_where_it_is_asked_for(made: Any) -> None:
    began = made("fp32")
    assert made("bf16").where == began.where, "fp32 is on every machine"
    with pytest.raises(CheckFailed) as raised:
        made("bf16", "bf16")
    text = (
        f"{began.directory / 'where.json'}: this study began with fp32 by lift on cpu, not with bf16 by lift on cpu; "
    )
    cure = "go on with --precision fp32, which is slow where it must be emulated, or choose another --out"
    assert str(raised.value) == text + cure
    (began.directory / "where.json").unlink()
    began = made("bf16")
    with pytest.raises(CheckFailed, match=r"began with bf16 by .*, not with fp32 .* go on with --precision bf16, "):
        made("fp32")
    assert made("fp32", "bf16").where == began.where
    assert made("fp32", computes=False).where == began.where, "reading computes nothing"


@pytest.mark.parametrize("asked", capacity.PRECISIONS)
def test_a_study_runs_in_either_precision(asked: str, made: Any) -> None:
    """Trained, packed, scored and probed; every gate of every stage sees nothing. Without the hardware bf16 is emulated."""
    found = made(asked)
    for run in found.runs.values():
        work.do(run, store=found.store, where=found.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    for run in found.runs.values():
        for key in run.score_keys.values():
            assert read_json(found.store.score(key) / "result.json")["violations"] == []
    verdict = judge.conclude(found)
    assert verdict["environment"]["precision"] == asked
    assert {row["word"] for row in verdict["arms"]} <= {"baseline", "better", "worse", "equivalent", "inconclusive"}


def test_what_is_no_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp16' is no precision of a run; known: bf16, fp32"):
        capacity.precision("cpu", "fp16")
