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
from typing import Any

from ablab import machine, safe_path
from ablab import plan as planning
from ablab.fault import Fault, GateFailed, Interrupted
from ablab.launch.work import serve
from ablab.plan import Plan, Run
from ablab.store import append_line

ATTEMPTS = 2  # a run that fails twice for infrastructure is given up: `failed`, and no pair


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
        safe_path.start(self.process)
        theirs.close()
        self.run: Run | None = None
        self.begun = 0.0

    def give(self, run: Run) -> None:
        """Hand it a run. OSError where it has died meanwhile."""
        self.conn.send(run)
        self.run, self.begun = run, time.monotonic()

    def end(self, impatient: Callable[[], bool]) -> None:
        """Ask it to stop after a checkpoint, hear it out, and wait; `impatient()` (a second Ctrl-C) kills it."""
        if self.process.is_alive():
            self.process.terminate()
        with suppress(EOFError, OSError):
            while self.process.is_alive():
                if impatient():
                    self.process.kill()
                if self.conn.poll(0.1):
                    self.conn.recv()
        self.process.join()
        self.conn.close()


def execute(
    plan: Plan,
    *,
    jobs: int,
    mirrors: tuple[str, ...] = (),
    allow_changed: bool = False,
    until: float | None = None,
    progress: Callable[[str, Run | None, str], None],
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Do every wanted run, `jobs` side by side, until none is wanted.

    `until` is a moment of time.monotonic(). Raises Interrupted after checkpoints on SIGTERM, Ctrl-C or at `until`;
    GateFailed where a run met a wrong or locked file. Runs are taken in the verdict's order (seed by seed across arms),
    so that a stop at any time leaves comparable pairs.
    """
    stopping: list[str] = []
    previous = {s: signal.signal(s, lambda *_: stopping.append("signal")) for s in (signal.SIGTERM, signal.SIGINT)}
    workers: list[Worker] = []
    how = How(jobs, machine.threads(jobs), mirrors, allow_changed)
    attempts: dict[tuple[str, int], int] = {}
    planning.try_again(plan)
    asked = True  # whether the verdict must be asked for wanted runs: at the start, and whenever a run has ended
    try:
        while True:
            if until is not None and time.monotonic() >= until:
                stopping.append("time")
            if stopping:
                raise Interrupted
            if asked:
                _hand_out(plan, workers, how, progress)
                asked = False
            busy = [w for w in workers if w.run is not None]
            if not busy:
                return
            for source in wait([s for w in busy for s in (w.conn, w.process.sentinel)], timeout=0.5):
                worker = next(w for w in busy if source in (w.conn, w.process.sentinel))
                if worker.run is not None and _hear(plan, worker, attempts, progress):
                    asked = True
                    after_each()
            workers = [w for w in workers if w.process.is_alive() or w.run is not None]
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
        for worker in workers:
            worker.end(lambda: stopping.count("signal") > 1)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _hand_out(plan: Plan, workers: list[Worker], how: How, progress: Callable[[str, Run | None, str], None]) -> None:
    """Give every idle worker a wanted run of which nobody is making a part: arms may share weights, and stages."""
    running = [w.run for w in workers if w.run is not None]
    busy = set().union(*(run.steps for run in running))
    if len(running) >= how.jobs:
        return
    for run in planning.wanted(plan, planning.bank(plan)):
        if len(running) >= how.jobs:
            return
        if any(key in busy and not _made(plan, run, key) for key in run.steps):
            continue
        worker = next((w for w in workers if w.run is None and w.process.is_alive()), None)
        if worker is None:
            worker = Worker(plan, how)
            workers.append(worker)
        try:
            worker.give(run)
        except OSError:  # it died while it was idle; another one takes the run
            workers.remove(worker)
            worker = Worker(plan, how)
            workers.append(worker)
            worker.give(run)
        progress("start", run, "")
        running.append(run)
        busy |= run.steps


def _made(plan: Plan, run: Run, key: str) -> bool:
    """Whether a step exists already."""
    return (plan.store.trained(key) if key == run.train_key else plan.store.scored(key)) is not None


def _hear(
    plan: Plan,
    worker: Worker,
    attempts: dict[tuple[str, int], int],
    progress: Callable[[str, Run | None, str], None],
) -> bool:
    """Take one message of a worker; True when its run has ended."""
    run = worker.run
    assert run is not None
    try:
        kind, text = worker.conn.recv() if worker.conn.poll() or worker.process.is_alive() else ("failed", "")
    except (EOFError, OSError):
        worker.process.join()
        kind, text = "failed", f"the worker process ended with code {worker.process.exitcode}"
    if kind == "say":
        progress("say", run, text)
        return False
    worker.run = None
    if kind == "refused":
        raise GateFailed(Fault(f"{run.arm}, seed {run.seed}", text))
    if kind == "interrupted":
        raise Interrupted
    seconds = time.monotonic() - worker.begun
    row: dict[str, Any] = {"arm": run.arm, "seed": run.seed, "key": run.train_key, "outcome": kind, "seconds": seconds}
    if kind == "failed":
        attempts[run.arm, run.seed] = attempts.get((run.arm, run.seed), 0) + 1
        row["fault"] = text or f"the worker process ended with code {worker.process.exitcode}"
        if attempts[run.arm, run.seed] >= ATTEMPTS:
            planning.give_up(plan, run, str(row["fault"]))
    append_line(plan.directory / "ledger.jsonl", row)
    progress(kind, run, row.get("fault", ""))
    return True
