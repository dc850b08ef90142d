"""Worker processes that make the units of a build (`ablab.runtime.workers`); they know no torch."""

from __future__ import annotations

import signal
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import RawValue
from typing import Any, NamedTuple

from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.data.harmony.unit import Builder, Job, Place, Unit, finished
from ablab.runtime import signals
from ablab.runtime.workers import Died, Pool, Worker

Hear = Callable[[str, Any], object]
Said = tuple[str, Any]
KILLED = (signal.SIGKILL, *signals.STOPS)  # from outside: no fault of a row


class Request(NamedTuple):
    """A unit to be made without its `fatal` rows."""

    unit: Unit
    fatal: Sequence[int] = ()


class KnownJob(NamedTuple):
    """What a worker knows, and the row that it looks at."""

    job: Job
    at: Place


def make(job: Job, units: Sequence[Unit], workers: int, hear: Hear) -> None:
    """Have every unit finished by `workers` processes, in order as far as may be.

    `hear(kind, value)` takes: progress (rows, tokens), damaged (text; made again), kept (record; made by an earlier
    build), done (record). What it raises ends the build; units being made are then lost, finished ones are not.
    A row at which a worker crashes twice is set aside, and its unit is made again without it. CheckFailed where a worker
    refuses a file, is killed, or dies elsewhere.
    """
    left, crashes = list(reversed(units)), Counter[tuple[int, int]]()
    pool = Pool[Request, KnownJob, Said](_begin, lambda: KnownJob(job, RawValue("q", -1)), gently=False)
    try:
        for _ in range(min(workers, len(units))):
            pool.give(Request(left.pop()))
        while pool.running:
            for worker, (unit, _), said, ended in pool.heard():
                if isinstance(said, Died):
                    crashes[unit.number, _crashed_at(worker, unit, said)] += 1
                    fatal = [row for (number, row), times in crashes.items() if number == unit.number and times > 1]
                    pool.give(Request(unit, fatal))
                    continue
                kind, value = said
                if kind == "refused":
                    raise CheckFailed(value)
                if kind == "failed":
                    raise RuntimeError(f"unit {unit}: {value}")
                if ended and left:
                    pool.give(Request(left.pop()))
                hear(kind, value)
    finally:
        pool.end()


def _crashed_at(worker: Worker[Request, KnownJob], unit: Unit, died: Died) -> int:
    """Find the row at which a worker has crashed. CheckFailed where it was killed, or looked at none."""
    if worker.own.at.value >= 0 and -(died.code or 0) not in KILLED:
        return worker.own.at.value
    fault = f"ended with code {died.code} while it made unit {unit.number}"
    cure = "run the same command to go on; fewer --workers need less memory"
    raise CheckFailed(Fault(f"worker {worker.process.pid}", fault, cure))


def _begin(known: KnownJob, stop: Callable[[], bool]) -> Callable[[Request, Callable[[Said], None]], Said]:
    """Begin a worker: returns what it does with a unit that it is asked for: it answers refused, failed, kept or done."""
    builder: Builder | None = None

    def do(asked: Request, say: Callable[[Said], None]) -> Said:
        nonlocal builder
        unit = asked.unit
        try:
            record, damage = finished(known.job, unit)
            if damage:
                say(("damaged", f"unit {unit.number} is damaged and made again: {damage}"))
            if record is not None:
                return "kept", record
            builder = builder or Builder(known.job)
            made = builder.make(unit, lambda *more: say(("progress", more)), fatal=asked.fatal, at=known.at)
            return "done", made
        except Refused as refused:
            return "refused", list(refused.faults)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            return "failed", traceback.format_exc()

    return do
