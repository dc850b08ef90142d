"""Runs side by side on this machine: a few worker processes that divide its threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait

from ablab.core import safe_path
from ablab.core.fault import Interrupted
from ablab.judging import collect
from ablab.launch.board import Board, Progress
from ablab.launch.lost import lost
from ablab.launch.work import serve
from ablab.runs.plan import Plan, Run
from ablab.runtime import machine, signals

ASK_AGAIN = 1.0  # seconds between two looks at a run that another process makes
FIRST = "stopping: {}; a second Ctrl-C does not wait, and the steps since the last checkpoints are then lost"
SECOND = "stopping at once: the steps since the last checkpoints are lost"


@dataclass(frozen=True)
class How:
    """How the runs of one command go: `jobs` side by side, each of so many threads."""

    jobs: int
    threads: int
    mirrors: tuple[str, ...]
    allow_changed: bool


class Worker:
    """One process and the run it is busy with."""

    def __init__(self, plan: Plan, how: How) -> None:
        context = multiprocessing.get_context("spawn")
        self.conn, theirs = context.Pipe()
        place = (str(plan.store.root), plan.where.as_json())
        args = (theirs, os.getpid(), *place, how.threads, how.mirrors, how.allow_changed)
        self.process = context.Process(target=serve, args=args, daemon=True)
        with signals.held_back():
            safe_path.start(self.process)
        theirs.close()
        self.run: Run | None = None
        self.begun = 0.0
        self.ending = False  # it takes no more runs

    def give(self, run: Run) -> None:
        """Hand it a run. OSError where it has died meanwhile."""
        self.conn.send(run)
        self.run, self.begun = run, time.monotonic()

    def heard(self) -> tuple[str, str]:
        """Its next message: (kind, text), `died` where it is gone."""
        try:
            if self.conn.poll() or self.process.is_alive():
                kind, text = self.conn.recv()
                return str(kind), str(text)
        except (EOFError, OSError):
            pass
        self.process.join()
        return "died", str(self.process.exitcode)

    def end(self, impatient: Callable[[], bool]) -> bool:
        """Ask it to stop after a checkpoint, hear it out, and wait. Whether it was killed: `impatient()`, a second Ctrl-C."""
        killed = False
        if self.process.is_alive():
            self.process.terminate()
        with suppress(EOFError, OSError):
            while self.process.is_alive():
                if impatient():
                    self.process.kill()
                    killed = True
                if self.conn.poll(0.1):
                    self.conn.recv()
        self.process.join()
        self.conn.close()
        return killed


class Stopping:
    """What has asked this command to end."""

    def __init__(self, until: float | None) -> None:
        self.until, self.asked, self.interrupts, self.busy = until, False, 0, 0

    def hear(self, number: int, _: object) -> None:
        """A signal. Only a second Ctrl-C is impatience: a terminal that closes sends several, a scheduler one after another."""
        self.interrupts += number == signal.SIGINT
        if not self.asked:
            n = self.busy
            signals.tell(
                FIRST.format(
                    f"{n} run{'s' if n > 1 else ''} write{'' if n > 1 else 's'} a checkpoint" if n else "no run"
                )
            )
        elif self.interrupts == 2 and number == signal.SIGINT:
            signals.tell(SECOND)
        self.asked = True

    def impatient(self) -> bool:
        return self.interrupts > 1

    def check(self) -> None:
        """Interrupted where it is time to end."""
        if self.asked or (self.until is not None and time.monotonic() >= self.until):
            raise Interrupted


def execute(
    plan: Plan,
    *,
    jobs: int,
    mirrors: tuple[str, ...] = (),
    allow_changed: bool = False,
    until: float | None = None,
    progress: Progress,
    after_each: Callable[[], None] = lambda: None,
    here: Callable[[], None] = lambda: None,
) -> None:
    """Do every wanted run, `jobs` side by side, until none is wanted.

    `until` is a moment of time.monotonic(). here(): raises where the study's folder is gone. Raises Interrupted after
    checkpoints on a signal or at `until`; Halted where no run can go on. A run that is refused, fails or runs out of memory is
    given up by itself (`Board`), one that another process makes is waited for. Runs are taken in the verdict's order (seed by
    seed across arms), so that a stop at any time leaves comparable pairs.
    """
    stopping, workers = Stopping(until), list[Worker]()
    previous = signals.heed(stopping.hear)
    board = Board(plan, progress)
    how = How(jobs, machine.threads(jobs), mirrors, allow_changed)
    asked = 0.0  # when the verdict must be asked for wanted runs: at the start, and whenever a run has ended
    try:
        while True:
            stopping.check()
            here()
            if time.monotonic() >= asked:
                _hand_out(plan, workers, how, board)
                asked = time.monotonic() + ASK_AGAIN if board.waits else float("inf")
            busy = [w for w in workers if w.run is not None]
            stopping.busy = len(busy)
            if not busy and not board.waits:
                return
            for source in wait([s for w in busy for s in (w.conn, w.process.sentinel)], timeout=0.5):
                worker = next(w for w in busy if source in (w.conn, w.process.sentinel))
                if worker.run is not None and _hear(worker, board, alone=len(busy) == 1, here=here):
                    asked = 0.0
                    after_each()
            workers = [w for w in workers if w.process.is_alive() or w.run is not None]
    except Interrupted as interrupted:
        interrupted.lost = _end(plan, workers, stopping)
        raise
    finally:
        _end(plan, workers, stopping)
        signals.restore(previous)


def _end(plan: Plan, workers: list[Worker], stopping: Stopping) -> str:
    """End every worker after its checkpoint; what is lost where it was not waited for."""
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
    killed = [worker for worker in workers if worker.end(stopping.impatient) and worker.run is not None]
    workers.clear()
    return "; ".join(text for worker in killed if worker.run and (text := lost(plan.store, worker.run)))


def _hand_out(plan: Plan, workers: list[Worker], how: How, board: Board) -> None:
    """Give every idle worker a wanted run of which nobody is making a part: arms may share weights, and stages."""
    running = [w.run for w in workers if w.run is not None]
    busy = set().union(*(run.steps for run in running))
    board.waits = False
    look = plan.look(board.kept)
    for run in collect.wanted(look, collect.bank(look)):
        if len(running) >= how.jobs or any(board.is_alone(one) for one in running):
            return
        if any(key in busy and not board.made(run, key) for key in run.steps):
            continue
        if (board.is_alone(run) and running) or board.held_elsewhere(run):
            continue
        _give(plan, workers, how, run)
        board.progress("start", run, "")
        running.append(run)
        busy |= run.steps


def _give(plan: Plan, workers: list[Worker], how: How, run: Run) -> None:
    """Hand the run to an idle worker, or to a new one."""
    for worker in workers:
        if worker.run is None and not worker.ending and worker.process.is_alive():
            try:
                worker.give(run)
                return
            except OSError:  # it died while it was idle; another one takes the run
                worker.ending = True
    workers.append(Worker(plan, how))
    workers[-1].give(run)


def _hear(worker: Worker, board: Board, *, alone: bool, here: Callable[[], None]) -> bool:
    """Take one message of a worker; True when its run has ended."""
    run = worker.run
    assert run is not None
    kind, text = worker.heard()
    if kind == "say":
        board.progress("say", run, text)
        return False
    worker.run = None
    worker.ending = kind == "memory"  # what it still holds of that run would be missing for the next one
    if kind == "interrupted":
        worker.run = run  # it ends here
        raise Interrupted
    here()
    board.ended(run, kind, text, seconds=time.monotonic() - worker.begun, alone=alone)
    return True
