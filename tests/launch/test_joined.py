"""One run on processes that torchrun or a scheduler has started: the first plans and judges, the others serve it to its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.launch.test_run_on_ranks import STUDY
from tests.whole import held

from ablab.core.fault import CheckFailed
from ablab.launch import outside, work
from ablab.launch.study import Lab

PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
WORDS = ("run", "study.toml", "--precision", "fp32")


def environment(**more: object) -> dict[str, str]:
    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    return {**os.environ, **here, **{name: str(value) for name, value in more.items()}}


def weights(out: Path, study: Path) -> bytes:
    """The baseline's weights at seed 0 in a store; made by this process alone where they are missing."""
    plan = Lab(study, out=out, precision="fp32").plan()
    run = plan.runs["baseline", 0]
    how: dict[str, Any] = {"mirrors": (), "stop": lambda: False, "say": lambda _: None}
    assert work.do(run, store=plan.store, where=plan.where, **how) == "done"
    return (plan.store.train(run.train_key) / "weights.safetensors").read_bytes()


def alone(folder: Path) -> bytes:
    """The same of another store that is begun as the one in `folder`, with the micro-batches of two processes."""
    for part in ("data", "studies"):
        shutil.copytree(folder / "runs" / part, folder / "one" / part)
    return weights(folder / "one", folder / "study.toml")


def test_torchrun_gives_the_weights_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        "--nproc-per-node=2",
    ]
    done = subprocess.run(
        [*torchrun, "-m", "ablab", *WORDS], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=held.HANG,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "studies" / "two" / "verdict.json").exists()
    assert done.stdout.count("report: ") == 1, "the first process alone judges"
    made = weights(tmp_path / "runs", tmp_path / "study.toml")
    assert made == alone(tmp_path)


@contextmanager
def two(folder: Path, *words: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes as a scheduler starts them, the first of which waits before its fourth step."""
    (folder / "study.toml").write_text(held.STUDY)
    (folder / "held.py").write_text(held.SCRIPT.format(place=("baseline", 0, 3)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "held.py", *WORDS, *words]
    how: dict[str, Any] = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    told = {**PLACE, "MASTER_PORT": port, "WORLD_SIZE": 2}
    started = [subprocess.Popen(command, env=environment(RANK=rank, **told), **how) for rank in (0, 1)]
    try:
        until((folder / "held").exists, started)
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def until(state: Callable[[], bool], started: list[subprocess.Popen[str]]) -> None:
    began = time.monotonic()
    while not state():
        assert time.monotonic() - began < held.HANG
        assert all(one.poll() is None for one in started), [one.communicate() for one in started]
        time.sleep(0.05)


def test_a_signal_to_all_of_them_ends_all_at_one_step_and_one_process_goes_on(tmp_path: Path) -> None:
    with two(tmp_path) as started:
        for one in started:
            one.send_signal(signal.SIGUSR1)
        ends = [one.communicate(timeout=held.HANG) for one in started]
        assert [one.returncode for one in started] == [75, 75], ends
        assert ends[1][0] == "", "the others say nothing"
    [left] = (tmp_path / "runs" / "train").glob("*/checkpoint-*.json")
    assert left.name == "checkpoint-000000003.json"
    assert weights(tmp_path / "runs", tmp_path / "study.toml") == alone(tmp_path)


@pytest.mark.parametrize("killed", [0, 1])
def test_whichever_is_killed_the_other_one_ends(tmp_path: Path, killed: int) -> None:
    """The first one is held, and hears it at the step that it then takes."""
    with two(tmp_path, "--patience", "1m") as started:
        started[killed].kill()
        started[killed].wait(held.HANG)
        other = started[1 - killed]
        if killed:
            other.send_signal(signal.SIGTERM)
        said, errors = other.communicate(timeout=held.HANG)
        assert other.returncode == (4 if killed == 0 else 75), said + errors
        if killed == 0:
            assert "processes of this run: the first is gone" in errors and "start all of them again" in errors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "0"}, "WORLD_SIZE: is not set; start ablab by torchrun, or set RANK"),
        ({"WORLD_SIZE": "2", **PLACE}, "RANK: is not set"),
        ({"RANK": "one", "WORLD_SIZE": "2", **PLACE}, "RANK: is 'one', and no number"),
        ({"RANK": "2", "WORLD_SIZE": "2", **PLACE}, r"RANK: is 2, of 2 processes \(WORLD_SIZE\); count from 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR: is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT: is not set"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        outside.told(given)


def test_what_the_environment_says() -> None:
    assert outside.told({}) is None and outside.told({"RANK": "0", "WORLD_SIZE": "1"}) is None
    given = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", **PLACE}
    assert outside.told(given) == outside.Member(9, 16, 1, 8, "127.0.0.1", 29512)


def test_options_that_contradict_the_environment_are_refused() -> None:
    here = outside.told({"RANK": "0", "WORLD_SIZE": "2", **PLACE})
    assert [outside.processes(here, asked, 1) for asked in (None, 2)] == [2, 2]
    assert [outside.processes(None, asked, 8) for asked in (None, 2)] == [1, 2]
    for asked in (1, 4):
        with pytest.raises(CheckFailed, match=rf"--per-run: {asked} were asked for, and 2 have been started"):
            outside.processes(here, asked, None)
    with pytest.raises(CheckFailed, match=r"--jobs: 2 were asked for, .* one run at a time"):
        outside.processes(here, None, 2)


def test_each_process_of_a_machine_has_its_own_gpu() -> None:
    assert [outside.own_gpu(["0", "3", "5"], local, 2) for local in (0, 1)] == ["0", "3"]
    assert [outside.own_gpu(["6"], local, 8) for local in (0, 7)] == ["6", "6"], (
        "a scheduler has given it to this one alone"
    )
    with pytest.raises(CheckFailed, match="GPUs: are 2, and processes on this machine 4; start as many"):
        outside.own_gpu(["0", "1"], 2, 4)
