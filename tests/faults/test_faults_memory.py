"""Runs that end without a result: out of memory, refused, killed. One of them ends no other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import finished_store as made
from tests.faults.test_faults_changed_code import STUDY

from ablab.core.fault import CheckFailed, Fault, Halted, InUse, OutOfMemory
from ablab.judging import collect
from ablab.judging.judge import conclude
from ablab.launch import work
from ablab.launch.board import Board
from ablab.runs import given_up
from ablab.runs.plan import Plan
from ablab.runs.store import read_lines
from ablab.runtime import capacity, lock

TORCH = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made_plan = made.plan(tmp_path)
    made_plan.directory.mkdir(parents=True)
    return made_plan


def board(plan: Plan) -> tuple[Board, list[tuple[str, str]]]:
    said: list[tuple[str, str]] = []
    return Board(plan, lambda kind, run, text: said.append((kind, text))), said


def left(plan: Plan) -> set[tuple[str, int]]:
    return {(run.arm, run.seed) for run in collect.wanted(plan)}


def test_an_arm_that_ran_out_of_memory_is_given_up_and_the_others_go_on(plan: Plan) -> None:
    table, _ = board(plan)
    assert ("wide", 0) in left(plan)
    table.ended(plan.runs["wide", 0], "memory", "out of memory with 8 rows", seconds=1.0, alone=True)
    assert left(plan) == {(arm, seed) for arm in ("baseline", "int5") for seed in plan.seeds}
    [row] = read_lines(plan.directory / "ledger.jsonl")
    assert row["outcome"] == "failed: out of memory" and row["fault"] == "out of memory with 8 rows"
    faults = {row["seed"]: row["fault"] for row in conclude(plan)["runs"] if row["arm"] == "wide"}
    assert faults == {
        0: "out of memory with 8 rows",
        **dict.fromkeys(plan.seeds[1:], "out of memory at seed 0, and not tried"),
    }
    given_up.try_again(plan, all_of_them=False)
    assert len(plan.failures()) == 3, "another try alone mends no memory"
    given_up.try_again(plan)
    assert ("wide", 0) in left(plan)


def test_a_run_that_does_not_fit_beside_others_is_tried_alone_first(plan: Plan) -> None:
    table, _ = board(plan)
    run = plan.runs["wide", 0]
    table.ended(run, "died", str(-signal.SIGKILL), seconds=1.0, alone=False)
    assert table.is_alone(run) and not table.is_alone(plan.runs["int5", 0]) and plan.failures() == []
    table.ended(run, "died", str(-signal.SIGKILL), seconds=1.0, alone=True)
    assert {row["arm"] for row in plan.failures()} == {"wide"}
    outcomes = [row["outcome"] for row in read_lines(plan.directory / "ledger.jsonl")]
    assert outcomes == ["failed: out of memory"] * 2


def test_other_deaths_are_tried_again_and_then_given_up_by_themselves(plan: Plan) -> None:
    table, _ = board(plan)
    for _ in range(2):
        assert plan.failures() == []
        table.ended(plan.runs["wide", 0], "died", str(-signal.SIGSEGV), seconds=1.0, alone=True)
    assert [(row["seed"], row["fault"]) for row in plan.failures()] == [(0, "the worker process ended with code -11")]


def test_a_refused_run_ends_no_other_unless_the_fault_is_of_all(plan: Plan) -> None:
    table, _ = board(plan)
    table.ended(plan.runs["wide", 0], "refused", "a.bin: is torn", seconds=1.0, alone=True)
    table.ended(plan.runs["int5", 0], "refused", "b.bin: is torn", seconds=1.0, alone=True)
    assert ("baseline", 0) in left(plan) and ("wide", 0) not in left(plan)
    with pytest.raises(CheckFailed, match=r"a\.bin: is torn"):
        table.ended(plan.runs["baseline", 0], "refused", "a.bin: is torn", seconds=1.0, alone=True)
    with pytest.raises(Halted, match="baseline, seed 1: runs: no space"):
        table.ended(plan.runs["baseline", 1], "halted", "runs: no space", seconds=1.0, alone=True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError(TORCH), "memory"),
        (OSError(12, "Cannot allocate memory"), "memory"),
        (OutOfMemory(Fault("x", "out of memory with 4 rows", capacity.MORE_MEMORY)), "memory"),
        (RuntimeError("shapes differ"), "failed"),
        (CheckFailed(Fault("x", "is torn")), "refused"),
        (Halted(Fault("x", "is gone")), "halted"),
        (InUse(Fault("x", "is in use"), "pid 3"), "in use"),
    ],
)
def test_what_an_error_of_a_worker_means(error: Exception, kind: str) -> None:
    assert work._outcome(error)[0] == kind
    if kind == "memory":
        assert capacity.MORE_MEMORY in work._outcome(error)[1]
    if capacity.ran_out(error):
        refused = CheckFailed(Fault("weights", "cannot be read"))
        refused.__cause__ = error
        assert work._outcome(refused)[0] == "memory", "a file that does not fit into memory is not torn"


SCRIPT = """
from pathlib import Path

from ablab.launch import work

do = work.do


def short(run, **how):
    if run.arm == "swiglu" and not Path("memory").exists():
        raise MemoryError
    return do(run, **how)


work.do = short
if __name__ == "__main__":
    from ablab.cli.main import main

    main()
"""


def test_the_next_start_says_what_it_skips_and_how_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "short.py").write_text(SCRIPT)

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "short.py", "run", "study.toml", "--jobs", "1", *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    first = run()
    assert first.returncode == 4 and "swiglu, seed 0: given up: out of memory (MemoryError)" in first.stderr, (
        first.stderr
    )
    folder = tmp_path / "runs" / "studies" / "edited"
    rows = read_lines(folder / "ledger.jsonl")
    assert [(row["arm"], row["outcome"]) for row in rows] == [
        ("baseline", "done"),
        ("swiglu", "failed: out of memory"),
        ("baseline", "done"),
    ]
    (tmp_path / "memory").touch()
    second = run()
    assert second.returncode == 4 and "swiglu, seed 0: skipped: out of memory" in second.stdout, second.stdout
    assert "--try-again tries it again" in second.stdout
    third = run("--try-again", "--json")
    assert third.returncode == 0, third.stderr
    found: dict[str, Any] = json.loads(third.stdout)
    assert {row["status"] for row in found["runs"]} == {"done"} and len(found["runs"]) == 4


def test_a_run_that_another_process_makes_is_waited_for_and_taken_when_that_dies(plan: Plan) -> None:
    table, said = board(plan)
    run = plan.runs["wide", 0]
    with lock.locked(plan.store.train(run.train_key)) as held:
        held.check()
        assert table.held_elsewhere(run) and table.held_elsewhere(run) and table.waits
        assert not table.held_elsewhere(plan.runs["baseline", 0])
    assert [kind for kind, _ in said] == ["wait"] and "is being made by pid" in said[0][1]
    assert not table.held_elsewhere(run)
    stage = next(iter(run.score_keys.values()))
    with lock.locked(plan.store.score(stage)):
        assert table.held_elsewhere(run)
    table.ended(run, "in use", "is in use by pid 7", seconds=1.0, alone=True)
    assert plan.failures() == [] and not (plan.directory / "ledger.jsonl").exists()


def test_an_arm_that_even_the_check_has_no_memory_for_ends_no_other(tmp_path: Path) -> None:
    """Its miniature asks for 200 TB, which no machine gives."""
    folder = tmp_path / "runs" / "studies" / "edited"
    big = STUDY.replace('"swiglu"', '{ name = "relu2", ratio = 100_000_000_000 }').replace("arm.swiglu", "arm.big")
    (tmp_path / "study.toml").write_text(big)
    command = [sys.executable, "-m", "ablab.cli.main", "run", "study.toml", "--jobs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4 and "big, seed 0: given up: out of memory already in the check" in done.stderr, (
        done.stderr
    )
    rows = [(row["arm"], row["outcome"]) for row in read_lines(folder / "ledger.jsonl")]
    assert rows == [("big", "failed: out of memory"), ("baseline", "done"), ("baseline", "done")]
