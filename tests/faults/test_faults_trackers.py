"""Dashboards that are slow, hang, fail or die: no step and no signal waits for them, and what they missed is sent later."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests import finished_store as made
from tests import tiny
from tests.faults.test_faults_changed_code import STUDY

from ablab.cli import mirror as mirror_command
from ablab.core.fault import CheckFailed, Interrupted
from ablab.runtime.lock import locked
from ablab.training import mirrors
from ablab.training.metrics import Mirrored
from ablab.training.mirrors import Copy

HANG = 600  # seconds: a guard, not a time that anything is expected to take


class Tracker(ModuleType):
    """W&B as far as it is used here; it waits at `hangs` (init, log, finish) until `awake` is set, and dies at `dies`."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.awake, self.hangs, self.dies = threading.Event(), "", ""
        self.rows: list[tuple[int, bool]] = []
        self.runs: list[str] = []

    def _at(self, place: str) -> None:
        if self.hangs == place:
            assert self.awake.wait(HANG)
        if self.dies == place:
            raise SystemExit(f"no {place}")

    def init(self, **named: Any) -> Tracker:
        self.runs.append(str(named["id"]))
        self._at("init")
        return self

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self._at("log")
        self.rows.append((step, "loss" in row))

    def finish(self) -> None:
        self._at("finish")


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    made_tracker = Tracker()
    monkeypatch.setitem(sys.modules, "wandb", made_tracker)
    monkeypatch.setattr(mirrors._Follower, "last", {})
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "PATIENCE", 0.05)
    yield made_tracker
    made_tracker.awake.set()
    for follower in mirrors._Follower.last.values():
        follower.join(HANG)


def run(out: Path, steps: int | None = None, **how: Any) -> tuple[dict[str, Any], list[str]]:
    asked, said = itertools.count(), list[str]()
    how = {"say": said.append, "stop": lambda: steps is not None and next(asked) >= steps, **how}
    try:
        return tiny.trained(out, mirrors=Mirrored(("wandb",)), **how), said
    except Interrupted:
        return {}, said


def written(out: Path) -> list[tuple[int, bool]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], "loss" in row) for row in rows]


def settle(tracker: Tracker) -> None:
    """Let it go on, and wait until its threads have ended."""
    tracker.awake.set()
    for follower in mirrors._Follower.last.values():
        follower.join(HANG)
        assert not follower.is_alive()


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_tracker_that_hangs_holds_up_neither_training_nor_a_stop(
    place: str, tmp_path: Path, tracker: Tracker, monkeypatch: Any
) -> None:
    tracker.hangs = place
    done, said = run(tmp_path / "a")
    assert done["status"] == "done" and len(written(tmp_path / "a")) == 24
    assert sum("mirror wandb does not keep up" in text for text in said) == 1
    assert any("ablab mirror STUDY --mirror wandb" in text for text in said)
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "HURRY", HANG)  # nothing is waited for twice
    done, said = run(tmp_path / "b", steps=7)  # of the same process: the library has one run at a time
    assert done == {} and list((tmp_path / "b").glob("checkpoint-*.json")) and tracker.runs == ["a"]
    settle(tracker)
    assert tracker.rows == written(tmp_path / "a") + written(tmp_path / "b") and tracker.runs == ["a", "b"]


@pytest.mark.parametrize(
    ("place", "word"), [("init", "did not start"), ("log", "stopped"), ("finish", "did not close")]
)
def test_a_tracker_that_dies_is_said_once(
    place: str, word: str, tmp_path: Path, tracker: Tracker, monkeypatch: Any
) -> None:
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "PATIENCE", HANG)
    tracker.dies = place
    done, said = run(tmp_path)
    told = [text for text in said if "mirror" in text]
    assert done["status"] == "done" and told == [f"mirror wandb {word} (no {place}); {mirrors.cure('wandb')}"]


def test_the_next_sitting_sends_what_was_missed_and_nothing_twice(
    tmp_path: Path, tracker: Tracker, monkeypatch: Any
) -> None:
    tracker.dies = "log"
    run(tmp_path, steps=7)
    assert tracker.rows == []
    tracker.dies = ""
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "HURRY", HANG)
    run(tmp_path, steps=6)
    assert tracker.rows == written(tmp_path)
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "PATIENCE", HANG)
    run(tmp_path)
    assert tracker.rows == written(tmp_path) and len(tracker.rows) == 24


def test_rows_after_a_checkpoint_that_were_sent_are_sent_again(
    tmp_path: Path, tracker: Tracker, monkeypatch: Any
) -> None:
    """The file was cut back to the checkpoint: what is made again is sent again."""
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "PATIENCE", HANG)
    run(tmp_path, steps=10)
    (tmp_path / "mirror.wandb.json").write_text(json.dumps({"bytes": 10**9, "step": 99}))
    copy = Copy("wandb", Mirrored(("wandb",)), tmp_path, {})
    assert (copy.bytes, copy.step) == ((tmp_path / "metrics.jsonl").stat().st_size, 10) and copy.behind() == 0
    (tmp_path / "mirror.wandb.json").write_text("[1")
    assert Copy("wandb", Mirrored(("wandb",)), tmp_path, {}).behind() == 12


def test_rows_longer_than_one_read_and_rows_in_the_making_are_taken_whole(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(mirrors, "AT_ONCE", 64)
    lines = [json.dumps({"step": n, "tokens": n, "loss": 1.0}) + "\n" for n in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 9, "tok')
    copy, sent = Copy("wandb", Mirrored(), tmp_path, {}), list[int]()
    assert copy.send(lambda step, _: sent.append(step)) == 8 and sent == list(range(1, 9))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('ens": 9}\n')
    assert copy.send(lambda step, _: sent.append(step)) == 1 and sent[-1] == 9
    long = json.dumps({"step": 10, "tokens": 1, "moe.layers": [0.125] * 100}) + "\n"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(long)
    assert copy.send(lambda step, _: sent.append(step)) == 1 and sent[-1] == 10


def test_the_command_sends_what_is_missing_and_goes_on_where_it_failed(tmp_path: Path, tracker: Tracker) -> None:
    plan = made.fill(made.plan(tmp_path))
    one = plan.runs["wide", 0]
    tracker.dies = "log"
    with pytest.raises(SystemExit):
        mirror_command._sent(plan, one, "wandb")
    tracker.dies = ""
    assert mirror_command._sent(plan, one, "wandb") == {"rows": 10, "note": ""}
    assert mirror_command._sent(plan, one, "wandb") == {"rows": 0, "note": "wandb has everything"}
    assert tracker.rows == written(plan.store.train(one.train_key))
    with locked(plan.store.train(one.train_key)):
        assert "is being trained by pid" in mirror_command._sent(plan, one, "wandb")["note"]

    def refused(row: dict[str, Any], *, step: int) -> None:
        raise ConnectionError("401")

    tracker.log = refused  # type: ignore[method-assign]
    with pytest.raises(CheckFailed, match=r"mirror wandb: wide, seed 1: stopped \(401\); run the same command"):
        mirror_command._sent(plan, plan.runs["wide", 1], "wandb")


STUB = """
import json, time
from pathlib import Path

def init(**named):
    while not Path("awake").exists():
        time.sleep(0.01)
    return Run(named["id"])

class Run:
    def __init__(self, name):
        self.name = name
    def log(self, row, step):
        with open("sent", "a") as file:
            file.write(json.dumps([self.name, step]) + "\\n")
    def finish(self):
        pass
"""


def test_a_study_ends_without_its_tracker_and_is_mirrored_later(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(STUB)
    path = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])

    def ablab(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ablab.cli.main", words[0], "study.toml", "--mirror", "wandb", *words[1:]]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG)

    done = ablab("run", "--jobs", "2")
    assert done.returncode == 0 and "mirror wandb does not keep up" in done.stdout, done.stdout + done.stderr
    (tmp_path / "awake").touch()
    sent = ablab("mirror", "--json")
    assert sent.returncode == 0, sent.stderr
    rows = [json.loads(line) for line in (tmp_path / "sent").read_text().splitlines()]
    lines = sum(len(file.read_text().splitlines()) for file in tmp_path.glob("runs/train/*/metrics.jsonl"))
    assert len(rows) == lines == sum(row["rows"] for row in json.loads(sent.stdout)["sent"]) > 0
    again = ablab("mirror")
    assert again.returncode == 0 and again.stdout.count("wandb has everything") == 4
