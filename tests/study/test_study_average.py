"""The running mean of the weights in a study: its warm-up, and means that come to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.study.written import edited, faults, read

from ablab.training.learner import Learner

HELD = "changes nothing: the warm-up (train.ema_warmup = 9) holds the decay at 0.9776 or less over all 391 steps"
CURE = "train for more steps, or set train.ema_warmup = 0 in the baseline"


def text(train: str, arm: str) -> str:
    return edited(("[train]\n", f"[train]\n{train}\n"), more=f"\n[arm.mean]\ntrain.{arm}\n")


def test_the_warm_up_is_nine_beside_a_mean_and_nothing_without(tmp_path: Path) -> None:
    study = read(tmp_path, text("", "ema = 0.9"))
    assert study.baseline.settings["train"]["ema_warmup"] is None
    assert study.arms["mean"].settings["train"]["ema_warmup"] == 9.0
    assert [change.path for change in study.arms["mean"].changes] == ["train.ema"]
    without = read(tmp_path, text("ema = 0.9\nema_warmup = 0", "ema = 0")).arms["mean"].settings["train"]
    assert (without["ema"], without["ema_warmup"]) == (0.0, None)


def test_a_warm_up_of_no_mean_is_refused_and_its_cures_work(tmp_path: Path) -> None:
    said = "train.ema_warmup: 5 acts on nothing: there is no running mean (train.ema); remove it, or set ema = 0.999"
    assert faults(tmp_path, edited(("[train]\n", "[train]\nema_warmup = 5\n"))) == [f"study.toml: {said}"]
    assert not faults(tmp_path, edited(("[train]\n", "[train]\nema_warmup = 5\nema = 0.999\n")))


def test_decays_that_the_warm_up_hides_are_refused_and_its_cures_work(tmp_path: Path) -> None:
    asked = text("ema = 0.9965", "ema = 0.999")
    assert faults(tmp_path, asked) == [f"study.toml: arm.mean: train.ema: {HELD}; {CURE}"]
    assert not faults(tmp_path, text("ema = 0.9965\nema_warmup = 0", "ema = 0.999"))
    assert not faults(tmp_path, asked.replace("tokens = 200_000", "tokens = 200_000_000"))
    assert not faults(tmp_path, text("ema = 0.9965", "ema = 0.97")), "0.97 is less than 392/401"
    raised = "remove it, or raise train.ema"
    low = "changes nothing: the decay 0.1 is below what both warm-ups allow from the first step on"
    assert faults(tmp_path, text("ema = 0.1", "ema_warmup = 3")) == [
        f"study.toml: arm.mean: train.ema_warmup: {low}; {raised}"
    ]
    assert not faults(tmp_path, text("ema = 0.5", "ema_warmup = 3"))


@pytest.mark.parametrize("warmup", [0.0, 4.0, 9.0])
def test_a_step_s_decay_is_the_smaller_of_the_two(warmup: float) -> None:
    where: dict[str, Any] = {"precision": "fp64", "micro_rows": 4, "executor": "reference", "device": "cpu"}
    one = Learner(tiny.settings(ema=0.6, ema_warmup=warmup), tiny.corpus(), seed=0, **where)
    name = "final_norm.weight"
    mean = one.parameters[name].detach().clone()
    for step in range(1, 9):
        one.step(one.stream.batch(step - 1), step, (step - 1) / 20)
        decay = min(0.6, (1 + step) / (1 + step + warmup))
        mean = decay * mean + (1 - decay) * one.parameters[name].detach()
        torch.testing.assert_close(one.mean[name], mean, rtol=1e-14, atol=0)
