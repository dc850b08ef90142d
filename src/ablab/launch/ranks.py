"""One run on several processes of this machine: those beside the first, which it starts, hears, and never leaves behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault, Interrupted, OutOfMemory
from ablab.records.run import Where
from ablab.records.settings import Settings
from ablab.runs.jobs import default_jobs
from ablab.runtime import capacity
from ablab.runtime.ranks import Ranks, joined
from ablab.runtime.workers import Died, Pool

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.runs.plan import Plan

PATIENCE = 600.0  # seconds that a process may say nothing: a checkpoint on a slow disk, a layer's compilation take less
MERCY = 30.0  # seconds that a first process has to end those beside it which have given it up; then they end it
GRACE = 5.0  # seconds in which the others end by themselves once the run has; then they are killed
READY = ("ready", "")
Said = tuple[str, str]


@dataclass(frozen=True)
class Together:
    """How processes make one run: so many, and one that says nothing for `patience` seconds is given up.

    started: they have been started already, by another program (`ablab.launch.outside`). gpus: of each of the runs side by side
    the GPUs, one for each process, by the names that CUDA_VISIBLE_DEVICES takes; none on a CPU.
    """

    processes: int = 1
    patience: float = PATIENCE
    started: bool = False
    gpus: tuple[tuple[str, ...], ...] = ()

    def free(self, taken: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Return the GPUs for one more run beside those that have `taken` theirs."""
        return min(self.gpus, key=list(taken).count, default=())


BY_ITSELF = Together()


@dataclass(frozen=True)
class Errand:
    """The run that all processes make together. opened: opens its corpus."""

    settings: Settings
    opened: Callable[[], Corpus]
    where: Where
    seed: int
    out: Path
    threads: int
    patience: float = PATIENCE


@dataclass(frozen=True)
class Seat:
    """Which of how many processes, and the file where they meet."""

    rank: int
    world: int
    rendezvous: Path


class Lost(Exception):
    """Another process of the run has ended, or failed: the run cannot go on from here, and goes on when it is started again."""


@contextlib.contextmanager
def company(errand: Errand, world: int) -> Iterator[Ranks]:
    """Start the other processes of a run that this one is the first of; whatever happens, they end with the block.

    Raises Lost where one of them ends or fails before: within seconds where it ends, within `patience` where it hangs.
    """
    rendezvous = (
        errand.out / ".ranks.part"
    )  # in the run's folder, which one process has locked; swept with what a kill left
    rendezvous.unlink(missing_ok=True)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, whose name may resolve to nothing
    multiprocessing.current_process().daemon = False  # a worker may have children; they end with it (`runtime.workers`)
    pool = Pool[Seat, Errand, Said](begin, lambda: errand, gently=True)
    try:
        for rank in range(1, world):
            pool.give(Seat(rank, world, rendezvous))
        _wait_until_ready(pool, world - 1)
        with joined(rendezvous, 0, world, device=errand.where.device, patience=errand.patience) as group:
            yield group
    except RuntimeError as error:
        if capacity.ran_out(error):
            raise
        raise _why(pool) or Lost(f"a process of this run says nothing more ({error})") from error
    finally:
        deadline = time.monotonic() + GRACE
        pool.end(lambda: time.monotonic() > deadline)
        rendezvous.unlink(missing_ok=True)


def _wait_until_ready(pool: Pool[Seat, Errand, Said], others: int) -> None:
    """Wait until all are about to join: whoever dies before is heard of here, and not waited for at the rendezvous."""
    ready = 0
    while ready < others:
        for _, place, said, ended in pool.heard():
            if ended:
                raise _failure(place, said)
            ready += said == READY


def _why(pool: Pool[Seat, Errand, Said]) -> Exception | None:
    """Hear why the others are gone, of the one that knows best; None where none says so in time."""
    known, deadline = list[Exception](), time.monotonic() + GRACE
    while pool.running and time.monotonic() < deadline:
        for _, place, said, ended in pool.heard(timeout=0.1):
            if ended and (isinstance(said, Died) or said[0] != "alone"):
                return _failure(place, said)
            if ended:
                known.append(_failure(place, said))
    return known[0] if known else None


def _failure(place: Seat, said: Said | Died) -> Exception:
    """Say what has become of another process."""
    who = f"process {place.rank} of {place.world}"
    if isinstance(said, Died):
        return Lost(f"{who} ended with code {said.code}")
    kind, text = said
    if kind == "memory":
        return OutOfMemory(Fault(who, f"out of memory ({text.strip().partition(chr(10))[0]})", capacity.MORE_MEMORY))
    return Lost(f"{who}: {text.strip()}")


def begin(errand: Errand, stop: Callable[[], bool]) -> Callable[[Seat, Callable[[Said], None]], Said]:
    """Return what a process beside the first does; it answers how it ended.

    done, interrupted, memory, failed, or alone: it was left by the others, and knows no more.
    """
    import torch

    torch.set_num_threads(errand.threads)

    first = os.getppid()
    own = capacity.gpus() if torch.device(errand.where.device).type == "cuda" else []  # before any is looked at

    def do(place: Seat, say: Callable[[Said], None]) -> Said:
        corpus, device = errand.opened(), errand.where.device
        if own:
            os.environ["CUDA_VISIBLE_DEVICES"] = own[place.rank]
        say(READY)
        group = joined(place.rendezvous, place.rank, place.world, device=device, patience=errand.patience)
        said = served(errand, corpus, group, stop)
        if said[0] in ("alone", "failed"):
            _outlive(first, min(MERCY, errand.patience))
        return said

    return do


def served(errand: Errand, corpus: Corpus, group: AbstractContextManager[object], stop: Callable[[], bool]) -> Said:
    """Make a run with the others of a group that is joined meanwhile; says how that ended, in the words of `begin`."""
    from ablab.training.train import follow

    try:
        with group:
            follow(errand.settings, corpus, errand.where, seed=errand.seed, out=errand.out, stop=stop)
        return "done", ""
    except Interrupted:
        return "interrupted", ""
    except Exception as error:
        if capacity.ran_out(error):
            return "memory", str(error)
        left = isinstance(error, RuntimeError) and "closed by peer" in str(error)
        return "alone" if left else "failed", traceback.format_exc()


def opened(levers: dict[str, str], corpus: Path) -> Corpus:
    """Load the levers from outside that a run has, and open its corpus."""
    from ablab.data import open_corpus
    from ablab.study import outside

    if levers:
        outside.again(levers)
    return open_corpus(corpus)


def _outlive(first: int, mercy: float) -> None:
    """End the first process where it does not end this one, which has given the run up: it hangs, and holds the run's folder.

    SIGABRT, and SIGCONT for one that was stopped: whoever started it hears of an abort. SIGKILL would be read as a want of
    memory, and is for one that does not even hear that.
    """

    def end() -> None:
        for number, wait in ((signal.SIGABRT, 0.0), (signal.SIGCONT, GRACE), (signal.SIGKILL, 0.0)):
            if os.getppid() == first:
                os.kill(first, number)
            time.sleep(wait)

    timer = threading.Timer(mercy, end)
    timer.daemon = True
    timer.start()


def arranged(
    plan: Plan, together: Together, jobs: int | None, device: str | None, gpus: int | None
) -> tuple[int, Together]:
    """Return how many runs go side by side, and how processes make each of them: on a GPU, on which."""
    if together.started:
        return 1, together
    dealt = seats(device or plan.where.device, gpus, together.processes, jobs)
    return jobs or len(dealt) or max(1, default_jobs(plan) // together.processes), replace(together, gpus=dealt)


def seats(device: str, asked: int | None, per_run: int, jobs: int | None) -> tuple[tuple[str, ...], ...]:
    """Share GPUs out to the runs that go side by side: of each run one for each process; nothing on a CPU.

    asked: how many are used; by default one for each process of `jobs` runs, or as many as there are. More runs than that take
    turns. CheckFailed where there are too few, or where they cannot be dealt out evenly.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        if asked is not None:
            raise CheckFailed(Fault("--gpus", "is for runs on GPUs", "leave it out, or choose --device cuda"))
        return ()
    there = capacity.gpus()
    if index:
        if asked is not None or per_run > 1:
            raise CheckFailed(Fault("--device", f"{device} is one GPU", "choose --device cuda, which is all of them"))
        return ((there[int(index)],),) * (jobs or 1)
    used = min(len(there), (jobs or 1) * per_run) // per_run * per_run if asked is None else asked
    if used > len(there) or per_run > len(there):
        hidden = " (CUDA_VISIBLE_DEVICES)" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        fault = f"{max(used, per_run)} are asked for, and there are {len(there)}{hidden}"
        raise CheckFailed(Fault("GPUs", fault, "ask for no more than there are"))
    if used % per_run:
        fault = f"{used} are no whole number of runs of {per_run} processes"
        cure = f"choose {used // per_run * per_run or per_run} or {(used // per_run + 1) * per_run}"
        raise CheckFailed(Fault("--gpus", fault, cure))
    groups = [tuple(there[at : at + per_run]) for at in range(0, used, per_run)]
    return tuple(groups[i % len(groups)] for i in range(jobs or len(groups)))
