"""An arm cut over two processes by Megatron-Core trains as ablab does in one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import megatron_rank

from ablab.training.learner import Learner

ROUNDING = 2e-6  # nats; sums in another order
LONGEST = 500.0  # seconds until processes that wait for each other are given up


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[list[float]]]]:
    """What each of two processes has seen."""
    folder = tmp_path_factory.mktemp("ranks")
    said = [folder / f"{rank}.txt" for rank in range(2)]
    running = []
    for rank, path in enumerate(said):
        with path.open("w") as out:
            command = [sys.executable, "-W", "ignore", "-m", "tests.megatron_rank", str(rank), str(folder)]
            running.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=Path(__file__).parents[2]))
    try:
        ended = [process.wait(LONGEST) for process in running]
    finally:
        for process in running:
            process.kill()
    assert ended == [0, 0], "\n".join(path.read_text()[-3000:] for path in said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def alone(model: dict[str, Any]) -> list[list[float]]:
    """Loss and gradient norm of ablab's own steps."""
    how: dict[str, Any] = {"precision": "fp32", "micro_rows": 2, "executor": "lift", "device": "cpu"}
    learner = Learner(megatron_rank.asked(model), megatron_rank.corpus(), seed=0, **how)
    out = []
    for n in range(megatron_rank.STEPS):
        loss, norm, _ = learner.step(learner.stream.batch(n), n + 1, n / learner.steps)
        out.append([loss, norm])
    return out


@pytest.mark.parametrize("cut", megatron_rank.CUTS)
def test_two_processes_train_as_one(found: list[dict[str, list[list[float]]]], cut: str) -> None:
    one, other = (seen[cut] for seen in found)
    assert one == other  # every process knows the loss and the norm of the whole
    for step, (loss, norm) in zip(one, alone(megatron_rank.CUTS[cut][0]), strict=True):
        assert step[0] == pytest.approx(loss, abs=ROUNDING)
        assert step[1] == pytest.approx(norm, abs=1e-4)
