"""Several workers at one study: each run is made once, dead and sleeping ones are followed, and the verdict is that of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bench.kill_and_resume import numbers
from tests import finished_store as made
from tests import foreign
from tests.whole import held

from ablab.core.fault import Halted, InUse
from ablab.launch import joint, status
from ablab.launch.study import Lab
from ablab.runs import given_up
from ablab.runs.store import read_lines
from ablab.runtime import lock

STUDY = """
study = { name = "shared", question = "Does a wider mlp pay?" }
decision = { metric = "bits_per_byte", stage = "plain", matters = 0.05, seeds = { first = 0, start = 2, at_most = 2 } }
budget = { tokens = 2048, batch_tokens = 256 }
data = { source = "mock" }
model = { layers = "L", d_model = 16, n_heads = 1, seq_len = 32, local = { position = "rope" } }
train = { optimizer = { name = "adamw", lr = 2e-3 } }
stage = { plain = { evaluate = "disjoint" } }
[arm.wide]
model.d_model = 24
"""


def ablab(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """`ablab WORDS` on study.toml, left to itself."""
    command = [sys.executable, "-m", "ablab.cli.main", words[0], "study.toml", *words[1:]]
    how: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, **how)


def ended(process: subprocess.Popen[str]) -> str:
    said, errors = process.communicate(timeout=held.HANG)
    assert process.returncode == 0, said + errors
    return said


def verdict(folder: Path) -> Any:
    (path,) = folder.glob("runs/studies/*/verdict.json")
    return numbers(json.loads(path.read_text()))


def trainings(folder: Path) -> Counter[str]:
    """How often each training was brought to its end, by the ledger."""
    (path,) = folder.glob("runs/studies/*/ledger.jsonl")
    return Counter(str(row["key"]) for row in read_lines(path) if row["outcome"] == "done")


def test_two_workers_make_the_verdict_of_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.toml").write_text(STUDY)
    workers = [ablab(tmp_path / "two", "work") for _ in range(2)]
    alone = ablab(tmp_path / "one", "run", "--jobs", "1")
    for process in (alone, *workers):
        ended(process)
    assert verdict(tmp_path / "one") == verdict(tmp_path / "two")
    assert set(trainings(tmp_path / "two").values()) == {1} and len(trainings(tmp_path / "two")) == 4
    assert list((tmp_path / "two/runs/studies/shared/at").iterdir()) == []
    left = Counter(path.name.partition(".")[0] for path in (tmp_path / "two").rglob("*.0*"))
    assert left["claim"] == 0, "all are given back"


def test_a_killed_worker_is_followed_from_its_checkpoint(tmp_path: Path) -> None:
    """kill -9 of a worker and its process within a run: another goes on, on this machine at once."""
    (tmp_path / "study.toml").write_text(held.STUDY.replace("tokens = 40_960", "tokens = 4096"))
    with held.held(tmp_path, "baseline", 0, 3) as first:
        second = ablab(tmp_path, "work")
        assert second.stdout
        said = ""
        while "baseline, seed 0: is being made by pid " not in said:
            line = second.stdout.readline()
            assert line, (said, second.communicate())
            said += line
        first.kill()
    ended(second)
    assert set(trainings(tmp_path).values()) == {1}


def test_a_worker_that_slept_beyond_its_lease_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are stopped, so that nobody touches their claims; both commands end well, each run is made once."""
    (tmp_path / "study.toml").write_text(held.STUDY.replace("tokens = 40_960", "tokens = 4096"))
    monkeypatch.setenv("ABLAB_LEASE", "3")
    with held.held(tmp_path, "baseline", 0, 3) as first:
        claims = [json.loads(path.read_text()) for path in tmp_path.glob("runs/train/*/claim.*")]
        for claim in claims:
            os.kill(claim["pid"], signal.SIGSTOP)
        ended(ablab(tmp_path, "work"))
        for claim in claims:
            os.kill(claim["pid"], signal.SIGCONT)
        first.send_signal(signal.SIGTERM)  # it waits at its place until it is asked to stop
        said, errors = first.communicate(timeout=held.HANG)
        assert claims and first.returncode in (0, 75), said + errors
    assert set(trainings(tmp_path).values()) == {1}
    (folder,) = tmp_path.glob("runs/studies/*/verdict.json")
    assert {run["status"] for run in json.loads(folder.read_text())["runs"]} == {"done"}


def test_programs_are_shared_as_well(tmp_path: Path) -> None:
    study = foreign.write(tmp_path)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "ablab.cli.main", "work", str(study), "--out", str(tmp_path / "runs")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in workers:
        ended(process)
    assert set(trainings(tmp_path).values()) == {1}


def test_status_says_who_makes_what(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    found = status.status(plan)
    assert found["at"] == [] and set(found["counts"]) == {"done"} and not any(row["holder"] for row in found["runs"])
    run = plan.runs["wide", 1]
    (plan.store.train(run.train_key) / "done.json").unlink()
    (plan.store.train(run.train_key) / "metrics.jsonl").write_text('{"step": 6}\n{"step": 7, "loss": 1.0}\n{"st')
    (row,) = [row for row in status.status(plan)["runs"] if (row["arm"], row["seed"]) == ("wide", 1)]
    assert (row["state"], row["holder"], row["step"]) == ("wanted", "", 7)
    with lock.locked(plan.store.train(run.train_key)), joint.attending(plan):
        found = status.status(plan)
        (row,) = [row for row in found["runs"] if (row["arm"], row["seed"]) == ("wide", 1)]
        assert row["state"] == "being made" and row["holder"].startswith(f"pid {os.getpid()} on ")
        assert len(found["at"]) == 1 and found["counts"]["being made"] == 1
    given_up.give_up(plan, run, "one\nno memory")
    (row,) = [row for row in status.status(plan)["runs"] if (row["arm"], row["seed"]) == ("wide", 1)]
    assert (row["state"], row["fault"]) == ("given up", "no memory")


def test_a_command_at_another_version_of_the_study_is_refused(tmp_path: Path) -> None:
    plan = made.plan(tmp_path)
    other = made.plan(tmp_path, made.STUDY.replace("model.d_model = 40", "model.d_model = 48"))
    with joint.attending(plan) as first:
        with joint.attending(plan) as second:
            assert first.others == () and len(second.others) == 1
        with pytest.raises(
            InUse, match=r"another version of this study is in use by pid .*; wait for it, stop it, or choose"
        ):
            joint.attending(other).__enter__()
        first.check()
    with joint.attending(other) as third:
        assert third.others == ()


def test_what_a_killed_command_left_at_a_study_is_removed(tmp_path: Path) -> None:
    plan = made.plan(tmp_path)
    left = plan.directory / joint.AT / "another.0123"
    with lock.locked(left):
        (claim,) = left.glob("claim.*")
        claim.write_text(json.dumps({**json.loads(claim.read_text()), "began": "1"}))
        with joint.attending(plan) as at:
            assert at.others == () and not left.exists()


def test_a_command_that_was_taken_for_dead_takes_its_place_again(tmp_path: Path) -> None:
    """As one does that was stopped for longer than its lease; where the study itself has gone, it ends."""
    plan = made.plan(tmp_path)
    other = made.plan(tmp_path, made.STUDY.replace("model.d_model = 40", "model.d_model = 48"))
    with joint.attending(plan) as first:
        shutil.rmtree(first.place)
        with joint.attending(other), pytest.raises(InUse, match="another version of this study is in use by pid"):
            first.check()
        shutil.rmtree(first.place)
        first.check()
        assert [folder for folder, _ in joint.present(plan.directory)] == [first.place]
        plan.directory.rename(tmp_path / "elsewhere")
        with pytest.raises(Halted, match="is gone"):
            first.check()


def test_who_joins_leaves_what_was_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[bool | None]()
    monkeypatch.setattr(joint, "_begin", lambda plan, say, *, changed, try_again: asked.append(try_again))
    plan = made.plan(tmp_path)
    for again in (False, True):
        for joins in (False, True):
            with joint.begun(plan, print, changed=False, try_again=again, joins=joins):
                if not joins:
                    with joint.begun(plan, print, changed=False, try_again=again, joins=joins):
                        pass
    assert asked == [False, None, None, True, True, True]


def test_a_worker_makes_one_run_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    assert Lab(tmp_path / "study.toml", out=tmp_path / "runs").joins is False
    worker = ablab(tmp_path, "work")
    end, most = time.monotonic() + held.HANG, 0
    while worker.poll() is None:
        assert time.monotonic() < end
        most = max(most, sum(bool(lock.holder(folder)) for folder in tmp_path.glob("runs/train/*")))
        time.sleep(0.01)
    ended(worker)
    assert most <= 1
