"""What `ablab check` measures on a device, and what it says where there is none."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from tests.study.written import edited, read

from ablab.check import quote, timing
from ablab.cli import main as cli
from ablab.core.fault import CheckFailed
from ablab.runs import planning
from ablab.runs.store import Store

SMALL = (
    ("tokens = 200_000", "tokens = 20_000"),
    ("batch_tokens = 512", "batch_tokens = 64"),
    ('source = "python"', 'source = "mock"'),
    ("seq_len = 256", "seq_len = 32"),
    ("d_model = 64", "d_model = 32"),
    ('needle = { evaluate = "needle" }\n', ""),
)


def test_without_cuda_check_ends_with_code_4_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    read(tmp_path, edited(*SMALL))
    flags = ["check", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs"), "--device", "cuda"]
    monkeypatch.setattr(sys, "argv", ["ablab", *flags])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == CheckFailed.exit_code == 4
    assert "error: --device cuda: torch" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists(), "nothing is prepared for a device that is not there"


def test_real_size_steps_are_timed_on_the_plans_device(tmp_path, monkeypatch):
    study = read(tmp_path, edited(*SMALL))
    plan = planning.make(study, Store(tmp_path / "runs"), say=lambda _: None)
    assert plan.where.as_json()["compiled"] is False
    found = timing.training(plan, "baseline")
    assert found["steps"] >= timing.TURNS * timing.STEPS["cpu"] == 5 and found["peak_bytes"] is None
    every = plan.runs["baseline", 0].settings["train"]["validate_every"]
    whole = 313 * found["step_seconds"] + (1 + math.ceil(313 * 64 / every)) * found["validate_seconds"]
    assert found["seconds_per_run"] == pytest.approx(whole)
    assert found["tokens_per_second"] == pytest.approx(64 / found["step_seconds"])
    monkeypatch.setattr(timing, "TIMED_PARAMETERS", 0)
    assert timing.study(plan) == {} and quote.bounds(plan)["start"]["seconds"] is None, "too large to time on a CPU"
