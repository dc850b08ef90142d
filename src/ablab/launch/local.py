"""Runs side by side on this machine: a few worker processes that divide its threads."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from typing import TypedDict

from ablab.core.fault import CheckFailed, Interrupted
from ablab.core.files import read_json
from ablab.judging import collect
from ablab.launch.beside import Beside
from ablab.launch.board import Board
from ablab.launch.ranks import BY_ITSELF, Together
from ablab.launch.work import Said, Terms, begin
from ablab.runs.plan import Run
from ablab.runs.store import Store, read_lines
from ablab.runtime import capacity, signals
from ablab.runtime.workers import Died, Heard, Pool

Workers = Pool[Run, Terms, Said]
ASK_AGAIN = 1.0  # seconds between two looks at a run that another process makes
FIRST = "stopping: {}; a second Ctrl-C does not wait, and the steps since the last checkpoints are then lost"
SECOND = "stopping at once: the steps since the last checkpoints are lost"


class Stopping:
    """What has asked this command to end."""

    def __init__(self, until: float | None) -> None:
        self.until, self.asked, self.interrupts, self.busy = until, False, 0, 0

    def hear(self, number: int, _: object) -> None:
        """Hear a signal. Only a second Ctrl-C is impatience: a closing terminal sends several, a scheduler one by one."""
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
        """Raise Interrupted where it is time to end."""
        if self.asked or (self.until is not None and time.monotonic() >= self.until):
            raise Interrupted


def execute(
    board: Board,
    *,
    jobs: int,
    together: Together = BY_ITSELF,
    mirrors: tuple[str, ...] = (),
    allow_changed: bool = False,
    until: float | None = None,
    after_each: Callable[[], None] = lambda: None,
    here: Callable[[], None] = lambda: None,
) -> None:
    """Do every wanted run of the board's plan, `jobs` side by side, each on processes `together`, until none is wanted.

    `until` is a moment of time.monotonic(). here(): raises where the study's folder is gone. Raises Interrupted after
    checkpoints on a signal or at `until`; Halted where no run can go on. A run that is refused, fails or runs out of memory is
    given up by itself (`Board`), one that another process makes is waited for. Runs are taken in the verdict's order (seed by
    seed across arms), so that a stop at any time leaves comparable pairs. Which are wanted is found out in a thread: while
    that reads and reckons, workers and signals are heard.
    """
    stopping, plan = Stopping(until), board.plan
    threads = capacity.threads(jobs * together.processes)
    terms = Terms(Store(plan.store.root), plan.where, threads, mirrors, allow_changed, together)
    workers = Workers(begin, lambda: terms.beside(workers.owned), gently=True)
    bell, ring = multiprocessing.Pipe(duplex=False)
    wanted, asking = Beside(lambda: _wanted(board), lambda: ring.send(None)), False
    previous = signals.heed(stopping.hear)
    due = 0.0  # when the verdict must be asked for wanted runs: at the start, and whenever a run has ended
    try:
        while True:
            stopping.check()
            here()
            if asking and (runs := wanted.take()) is not None:
                bell.recv()
                asking = False
                if due:  # else a run has ended meanwhile, of which these do not know
                    _hand_out(runs, workers, jobs, board)
                    due = time.monotonic() + ASK_AGAIN if board.waits else due
            if not asking and time.monotonic() >= due:
                wanted.ask()
                asking, due = True, float("inf")
            stopping.busy = len(workers.running)
            if not (stopping.busy or asking or board.waits):
                return
            for heard in workers.heard(0.5, bell):
                if _take(heard, workers, board, alone=stopping.busy == 1, here=here):
                    due = 0.0
                    after_each()
    except Interrupted as interrupted:
        killed = workers.end(stopping.impatient)
        interrupted.lost = "; ".join(text for run in killed if (text := _lost(plan.store, run)))
        raise
    finally:
        workers.end(stopping.impatient)
        wanted.close(drop=True)
        for end in (bell, ring):
            end.close()
        signals.restore(previous)


def _wanted(board: Board) -> list[Run]:
    """List the runs that the verdict asks for now."""
    look = board.plan.look(board.kept)
    return collect.wanted(look, collect.bank(look))


def _hand_out(wanted: list[Run], workers: Workers, jobs: int, board: Board) -> None:
    """Give every idle worker a wanted run of which nobody is making a part: arms may share weights, and stages."""
    running = workers.running
    busy = set().union(*(run.steps for run in running))
    board.waits = False
    for run in wanted:
        if len(running) >= jobs or any(board.is_alone(one) for one in running):
            return
        if run in running or any(key in busy and not board.made(run, key) for key in run.steps):
            continue
        if (board.is_alone(run) and running) or board.held_elsewhere(run):
            continue
        workers.give(run)
        board.progress("start", run, "")
        running.append(run)
        busy |= run.steps


def _take(
    heard: Heard[Run, Terms, Said], workers: Workers, board: Board, *, alone: bool, here: Callable[[], None]
) -> bool:
    """Take one message of a worker; True when its run has ended."""
    worker, run, said, ended = heard
    kind, text = ("died", str(said.code)) if isinstance(said, Died) else said
    if not ended:
        board.progress("say", run, text)
        return False
    if kind == "interrupted":  # by whoever asked that process to stop; all of them then
        raise Interrupted
    if kind == "memory":
        workers.dismiss(worker)  # what it still holds of that run would be missing for the next one
    here()
    board.ended(run, kind, text, seconds=time.monotonic() - worker.given, alone=alone)
    return True


class _Of(TypedDict):
    """Of a checkpoint, the step that it is of."""

    step: int


def _lost(store: Store, run: Run) -> str:
    """Say what is lost: the steps since the newest checkpoint, or the stage that was under way; "" for nothing."""
    folder = store.train(run.train_key)
    if (folder / "done.json").exists():
        at = next(
            (stage for stage, key in run.score_keys.items() if not (store.score(key) / "result.json").exists()), None
        )
        return f"{run.arm}, seed {run.seed}: stage {at}" if at else ""
    kept = 0
    for path in sorted(folder.glob("checkpoint-*.json"), reverse=True):
        try:
            kept = read_json(path, form=_Of)["step"]
            break
        except CheckFailed:
            continue
    steps = (row.get("step") for row in read_lines(folder / "metrics.jsonl"))
    made = max((step for step in steps if isinstance(step, int)), default=0)
    if made <= kept:
        return ""
    n = made - kept
    return (
        f"{run.arm}, seed {run.seed}: {n} step{'s' if n > 1 else ''} (of {made}; its last checkpoint is of step {kept})"
    )
