"""A run on two processes under signals, kills and hangs: it ends whole, leaves nobody behind, and goes on bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.test_faults_signals import checkpoints, children, command
from tests.whole import held

from ablab.launch import work
from ablab.launch.ranks import Together
from ablab.launch.study import Lab

TWO = ("--per-run", "2", "--jobs", "1", "--precision", "fp32")


@pytest.fixture(autouse=True)
def study(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(held.STUDY)


def spawned(pid: int) -> list[int]:
    """Processes that `pid` has begun, without those that only keep count of resources."""
    return [one for one in children(pid) if b"spawn_main" in command(one)]


def gone(*pids: int) -> bool:
    """Whether none of them lives: a zombie, which its parent has not heard yet, writes nothing."""
    states = (Path(f"/proc/{pid}/stat") for pid in pids)
    return not any(stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX" for stat in states)


def until(state: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    began = time.monotonic()
    while not state():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() - began < held.HANG
        time.sleep(0.05)


def baseline(folder: Path, processes: int) -> bytes:
    """The weights of the baseline's first run, made or gone on with on so many processes."""
    plan = Lab(folder / "study.toml", out=folder / "runs", precision="fp32", per_run=processes).plan()
    run = plan.runs["baseline", 0]
    how = {"mirrors": (), "stop": lambda: False, "say": lambda _: None, "together": Together(processes)}
    assert work.do(run, store=plan.store, where=plan.where, **how) == "done"  # type: ignore[arg-type]
    return (plan.store.train(run.train_key) / "weights.safetensors").read_bytes()


def test_signals_stop_all_processes_at_one_step_and_the_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    steps = 0
    for place, number in ((3, signal.SIGTERM), (4, signal.SIGUSR1), (2, signal.SIGHUP)):
        with held.held(tmp_path, "baseline", 0, place, *TWO) as process:
            [worker] = spawned(process.pid)
            others = spawned(worker)
            assert len(others) == 1
            process.send_signal(number)
            _, errors = process.communicate(timeout=held.HANG)
        assert process.returncode == 75, errors
        steps += place
        assert checkpoints(tmp_path)[-1] == steps
        assert gone(worker, *others)
    other = tmp_path / "one"
    shutil.copytree(tmp_path / "runs" / "data", other / "runs" / "data")
    shutil.copytree(tmp_path / "runs" / "studies", other / "runs" / "studies")
    shutil.copy(tmp_path / "study.toml", other)
    assert baseline(tmp_path, 2) == baseline(other, 1)


def test_whichever_process_is_killed_none_is_left_behind(tmp_path: Path) -> None:
    with held.held(tmp_path, "baseline", 0, 10, *TWO) as process:
        [worker] = spawned(process.pid)
        [other] = spawned(worker)
        os.kill(worker, signal.SIGKILL)
        until(lambda: gone(worker, other))
    with held.held(tmp_path, "baseline", 0, 10, *TWO, "--try-again") as process:
        [worker] = spawned(process.pid)
        [other] = spawned(worker)
        process.kill()
        until(lambda: gone(worker, other))


@pytest.mark.parametrize("stopped", [True, False])
def test_a_first_process_that_hangs_is_ended_by_the_others(tmp_path: Path, stopped: bool) -> None:
    """One that is stopped, and one that is held in a loop: the command hears of both, and tries again."""
    with held.held(tmp_path, "baseline", 0, 10, *TWO, "--patience", "10s") as process:
        [worker] = spawned(process.pid)
        others = spawned(worker)
        if stopped:
            os.kill(worker, signal.SIGSTOP)
        until(lambda: gone(worker, *others), process)
        ledger = tmp_path / "runs" / "studies" / "killed" / "ledger.jsonl"
        until(ledger.exists, process)
        row = json.loads(ledger.read_text().splitlines()[0])
        assert (row["arm"], row["seed"]) == ("baseline", 0) and row["outcome"] == "failed"
        assert row["fault"] == f"the worker process ended with code {-signal.SIGABRT}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(held.HANG) == 75
