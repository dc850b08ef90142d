"""What `ablab check` measures on a device, and what it says where there is none."""

from __future__ import annotations

import sys

import pytest
import torch
from tests.study.written import edited, read

from ablab import check, cli
from ablab import plan as planning
from ablab.fault import GateFailed
from ablab.store import Store

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
    assert ended.value.code == GateFailed.exit_code == 4
    assert "error: --device cuda: torch" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists(), "nothing is prepared for a device that is not there"


def test_real_size_steps_are_timed_on_the_plans_device(tmp_path, monkeypatch):
    study = read(tmp_path, edited(*SMALL))
    plan = planning.make(study, Store(tmp_path / "runs"), say=lambda _: None)
    assert plan.where.as_json()["compiled"] is False
    found = check.measured(plan, "baseline", 1000)
    assert found["steps"] == check.TIMED_STEPS["cpu"] == 3 and found["peak_bytes"] is None
    assert found["seconds_per_run"] == pytest.approx(20_000 / found["tokens_per_second"])
    monkeypatch.setitem(check.TIMED_STEPS, "cpu", check.TIMED_STEPS["cuda"])
    assert check.measured(plan, "rope", 1000)["steps"] == 20
    assert check.measured(plan, "baseline", check.TIMED_PARAMETERS + 1) == {}, "too large to time on a CPU"
