"""Signals that ask a command to end, a terminal that is lost, a reader that leaves: nothing is lost, and it is said at once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.whole import held

from ablab.core.fault import Interrupted
from ablab.runtime import at_once, signals

STUDY = held.STUDY


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("runs/train/*/checkpoint-*.json"))


def test_every_signal_that_asks_to_end_leaves_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    for place, at, number in ((10, 10, signal.SIGUSR1), (5, 15, signal.SIGUSR2), (7, 22, signal.SIGHUP)):
        with held.held(tmp_path, "baseline", 0, place) as process:
            process.send_signal(number)
            _, errors = process.communicate(timeout=held.HANG)
        assert process.returncode == 75, errors
        assert errors.startswith("stopping: ") and errors.endswith("interrupted; run the same command to go on\n")
        assert at in checkpoints(tmp_path)  # beside those of the run that went on next to it


def test_under_nohup_a_lost_terminal_ends_nothing(tmp_path: Path) -> None:
    """The signal is ignored by the command and by its workers: a run that is held goes on until another one comes."""
    (tmp_path / "study.toml").write_text(STUDY)
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held.held(tmp_path, "baseline", 0, 10) as process:
            [worker] = [one for one in children(process.pid) if b"spawn_main" in command(one)][:1]
            for pid in (process.pid, worker):
                os.kill(pid, signal.SIGHUP)
            os.kill(worker, signal.SIGINT)  # as a terminal does to the whole group; the parent decides
            time.sleep(0.5)
            assert process.poll() is None and checkpoints(tmp_path) == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(held.HANG) == 75
    finally:
        signal.signal(signal.SIGHUP, ignored)
    assert 10 in checkpoints(tmp_path)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


# A run that hears nothing of a stop, at one of its steps.
DEAF = """
import time
from pathlib import Path

from ablab.launch import work

do = work.do


def deaf(run, *, stop, **how):
    asked = iter(range(10**9))

    def never():
        if next(asked) == 20:
            Path("held").touch()
            while True:
                time.sleep(0.01)
        return stop()

    return do(run, stop=never, **how)


work.do = deaf
if __name__ == "__main__":
    from ablab.cli.main import main

    main()
"""
# A stage that takes for ever.
LONG = """
import time
from pathlib import Path

from ablab.scoring.evaluators import disjoint


def slow(self, *parts, **how):
    Path("held").touch()
    while True:
        time.sleep(0.01)


disjoint.Disjoint.__call__ = slow
if __name__ == "__main__":
    from ablab.cli.main import main
    from ablab.check import miniature

    miniature.check = lambda plan, say, beyond=None: {}
    main()
"""


def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def started(folder: Path, script: str) -> subprocess.Popen[str]:
    (folder / "study.toml").write_text(STUDY)
    (folder / "script.py").write_text(script)
    command = [sys.executable, "script.py", "run", "study.toml", "--jobs", "1"]
    errors = (folder / "errors").open("w")
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors, text=True)
    until((folder / "held").exists, process)
    return process


def test_the_first_ctrl_c_is_answered_at_once_and_the_second_says_what_it_cost(tmp_path: Path) -> None:
    process = started(tmp_path, DEAF)
    try:
        process.send_signal(signal.SIGINT)
        until(
            lambda: "stopping: 1 run writes a checkpoint; a second Ctrl-C" in (tmp_path / "errors").read_text(), process
        )
        process.send_signal(signal.SIGTERM)  # of a scheduler, one after another: no impatience
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(held.HANG) == 75
    finally:
        process.kill()
    errors = (tmp_path / "errors").read_text()
    assert "baseline, seed 0: 20 steps (of 20; its last checkpoint is of step 0)" in errors
    assert "stopped at once, and lost" in errors and "run the same command to go on" not in errors


def test_a_long_stage_hears_a_signal(tmp_path: Path) -> None:
    process = started(tmp_path, LONG)
    try:
        process.send_signal(signal.SIGTERM)
        assert process.wait(held.HANG) == 75
    finally:
        process.kill()
    assert list(tmp_path.glob("runs/train/*/done.json")) and not list(tmp_path.glob("runs/score/*/result.json"))


def test_work_that_keeps_nothing_is_ended_where_the_signal_arrives() -> None:
    def handler(*_: object) -> None:
        if at_once.may_raise():
            raise Interrupted

    before = signals.heed(handler)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted), at_once.at_once():
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(60)
            except Exception:  # as what reads a stranger's bytes does
                pytest.fail("taken for a fault")
        assert not at_once.may_raise()
    finally:
        signals.restore(before)


@pytest.mark.parametrize("words", [["check", "study.toml"], ["levers"], ["report", "study.toml"]])
def test_planning_and_listing_end_with_75_too(words: list[str], tmp_path: Path) -> None:
    """Asked to end as soon as it can hear: none of these keeps anything half done."""
    (tmp_path / "study.toml").write_text(STUDY)
    code = (
        "import os, signal, ablab.cli.main as cli\n"
        "app = cli.app\n"
        "def asked(**how): os.kill(os.getpid(), signal.SIGHUP); app(**how)\n"
        "cli.app = asked\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 75 and done.stderr == "interrupted; run the same command to go on\n"


def test_a_command_whose_terminal_is_lost_ends_as_if_it_were_there(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ablab.cli.main", "levers"], stdout=theirs, stderr=theirs, cwd=tmp_path
    )
    os.close(ours)
    os.close(theirs)
    assert process.wait(held.HANG) == 0


@pytest.mark.parametrize(
    ("words", "code"), [(["levers"], 141), (["levers", "--json"], 141), (["run", "study.toml"], 75)]
)
def test_a_reader_that_has_left_ends_a_command_with_a_documented_code(
    words: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "ablab.cli.main", *words]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(theirs)
    assert done.returncode == code
    assert done.stderr == (
        "" if code == 141 else "interrupted (what read the output has left); run the same command to go on\n"
    )
    listed = (Path(__file__).parents[2] / "docs" / "file_formats.md").read_text()
    assert f"{code} " in listed.partition("Exit codes:")[2].partition("##")[0]


def test_a_locale_that_cannot_spell_a_name_ends_no_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ablab.cli.main", "check", "größe→.toml"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stderr and "gr\\xf6\\xdfe\\u2192.toml" in done.stderr
