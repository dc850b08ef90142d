"""One run on several processes of this machine: those beside the first, which it starts, hears, and never leaves behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import Fault, Interrupted, OutOfMemory
from ablab.records.run import Where
from ablab.records.settings import Settings
from ablab.runtime import capacity
from ablab.runtime.ranks import Ranks, joined
from ablab.runtime.workers import Died, Pool

if TYPE_CHECKING:
    from ablab.data import Corpus

PATIENCE = (
    600.0  # seconds that a process may say nothing: a checkpoint on a slow disk, or a layer's compilation, takes less
)
GRACE = 5.0  # seconds in which the others end by themselves once the run has; then they are killed
READY = ("ready", "")
Said = tuple[str, str]


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

    from ablab.training.train import follow

    torch.set_num_threads(errand.threads)

    def do(place: Seat, say: Callable[[Said], None]) -> Said:
        corpus, device = errand.opened(), errand.where.device
        say(READY)
        try:
            with joined(place.rendezvous, place.rank, place.world, device=device, patience=errand.patience):
                follow(errand.settings, corpus, errand.where, seed=errand.seed, out=errand.out, stop=stop)
            return "done", ""
        except Interrupted:
            return "interrupted", ""
        except Exception as error:
            if capacity.ran_out(error):
                return "memory", str(error)
            left = isinstance(error, RuntimeError) and "closed by peer" in str(error)
            return "alone" if left else "failed", traceback.format_exc()

    return do
