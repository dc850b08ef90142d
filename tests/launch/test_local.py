"""The dispatcher: what it hears while it is found out which runs are wanted, and what it then starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests import finished_store as made

from ablab.launch import local
from ablab.launch.board import Board
from ablab.runs.plan import Plan, Run
from ablab.runs.store import read_lines

Message = tuple[Any, Run, tuple[str, str], bool]
WORKER = SimpleNamespace(given=0.0)
STORE = threading.Lock()  # records are written here as one file after another


class Workers:
    """A pool without processes: says what `script` has it say, then ends one run after another with what it left."""

    def __init__(self, plan: Plan, script: list[Callable[[Workers], Message]]) -> None:
        self.plan, self.script, self.jobs = plan, iter(script), list[Run]()

    @property
    def running(self) -> list[Run]:
        return [*self.jobs]

    def give(self, run: Run) -> None:
        self.jobs.append(run)

    def heard(self, timeout: float, bell: Connection) -> Iterator[Message]:
        if not self.jobs:
            wait([bell], timeout)
        elif (step := next(self.script, None)) is not None:
            yield step(self)
        else:
            yield self.finish()

    def finish(self, *said: str) -> Message:
        """End the run that was begun first: done, or as `said`."""
        run = self.jobs.pop(0)
        if not said:
            with STORE:
                made.finish(self.plan, run.arm, run.seed)
        return WORKER, run, (said[0], said[1]) if said else ("done", ""), True

    def end(self, impatient: Callable[[], bool]) -> list[Run]:
        return []


def execute(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, script: list[Callable[[Workers], Message]], until: str
) -> list[tuple[str, str, int]]:
    """What is heard of runs, (kind, arm, seed), where the second answer of which are wanted comes only after `until`."""
    heard, said, asked, wanted = list[tuple[str, str, int]](), threading.Event(), list[Board](), local._wanted

    def held(board: Board) -> list[Run]:
        asked.append(board)
        with STORE:
            runs = wanted(board)
        assert len(asked) != 2 or said.wait(timeout=60), "nothing is heard meanwhile"
        return runs

    def progress(kind: str, run: Run | None, text: str) -> None:
        assert run is not None
        heard.append((kind, run.arm, run.seed))
        if kind == until:
            said.set()

    plan.directory.mkdir(parents=True)
    monkeypatch.setattr(local, "_wanted", held)
    monkeypatch.setattr(local, "Workers", lambda *_, **__: Workers(plan, script))
    local.execute(Board(plan, progress), jobs=2)
    return heard


def test_workers_are_heard_while_it_is_found_out_which_runs_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made.plan(tmp_path)
    pause: list[Any] = [lambda pool: pool.finish(), lambda pool: (WORKER, pool.running[0], ("say", "step 1"), False)]
    heard = execute(plan, monkeypatch, pause, "say")
    started = [one[1:] for one in heard if one[0] == "start"]
    assert heard[:4] == [("start", "baseline", 0), ("start", "wide", 0), ("done", "baseline", 0), ("say", "wide", 0)]
    assert (
        sorted(started) == sorted(plan.runs) and len(read_lines(plan.directory / "ledger.jsonl")) == len(started) == 9
    )


def test_what_was_wanted_before_a_run_ended_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wide of seed 0 is given up while the answer is on its way, in which it is still wanted."""
    plan = made.plan(tmp_path)
    ends: list[Any] = [lambda pool: pool.finish(), lambda pool: pool.finish("refused", "a.bin: is torn")]
    heard = execute(plan, monkeypatch, ends, "refused")
    assert ("refused", "wide", 0) in heard and heard.count(("start", "wide", 0)) == 1
