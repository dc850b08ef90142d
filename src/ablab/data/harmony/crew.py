"""Worker processes that make the units of a build; they know no torch and die with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ablab.core import safe_path
from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.data.harmony.unit import Builder, Job, Unit, finished
from ablab.runtime import signals

Hear = Callable[[str, Any], object]
KILLED = (signal.SIGKILL, *signals.STOPS)  # from outside: no fault of a row


def make(job: Job, units: Sequence[Unit], workers: int, hear: Hear) -> None:
    """Have every unit finished by `workers` processes, in order as far as may be.

    `hear(kind, value)` takes: progress (rows, tokens), damaged (text; made again), kept (record; made by an earlier
    build), done (record). What it raises ends the build; units being made are then lost, finished ones are not.
    A row at which a worker crashes twice is set aside, and its unit is made again without it. CheckFailed where a worker
    refuses a file, is killed, or dies elsewhere.
    """
    left, crew, crashes = list(reversed(units)), list[_Worker](), Counter[tuple[int, int]]()
    try:
        crew += [_Worker(job) for _ in range(min(workers, len(units)))]
        for worker in crew:
            worker.take(left)
        while busy := [worker for worker in crew if worker.unit is not None]:
            for source in wait([worker.conn for worker in busy]):
                worker = next(one for one in busy if one.conn is source)
                kind, value = worker.heard()
                if kind == "crashed":
                    assert worker.unit is not None
                    unit, row = worker.unit, int(value)
                    crashes[unit.number, row] += 1
                    worker.end()
                    again = _Worker(job)
                    crew[crew.index(worker)] = again
                    again.make(
                        unit, [at for number, at in crashes if number == unit.number and crashes[number, at] > 1]
                    )
                    continue
                if kind == "refused":
                    raise CheckFailed(value)
                if kind == "failed":
                    raise RuntimeError(f"unit {worker.unit}: {value}")
                if kind in ("kept", "done"):
                    worker.take(left)
                hear(kind, value)
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """One process, and the unit it makes."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.conn, theirs = context.Pipe()
        self.at: Any = context.RawValue("q", -1)  # the row that it looks at
        self.process = context.Process(target=_serve, args=(theirs, os.getpid(), job, self.at), daemon=True)
        with signals.held_back():
            safe_path.start(self.process)
        theirs.close()
        self.unit: Unit | None = None

    def take(self, left: list[Unit]) -> None:
        """The next of the units that are left, if any."""
        self.unit = left.pop() if left else None
        if self.unit is not None:
            self.make(self.unit)

    def make(self, unit: Unit, fatal: Sequence[int] = ()) -> None:
        """Have `unit` made without its `fatal` rows."""
        self.unit = unit
        with suppress(OSError):  # it has died: heard() says so
            self.conn.send((unit, tuple(fatal)))

    def heard(self) -> tuple[str, Any]:
        """What it says. Its death is a crash at a row, or a refusal where it was killed or looked at none."""
        try:
            kind, value = self.conn.recv()
        except (EOFError, OSError):
            self.process.join()
            if self.at.value >= 0 and -(self.process.exitcode or 0) not in KILLED:
                return "crashed", self.at.value
            place = f"worker {self.process.pid}"
            fault = (
                f"ended with code {self.process.exitcode} while it made unit {self.unit.number if self.unit else '?'}"
            )
            cure = "run the same command to go on; fewer --workers need less memory"
            return "refused", [Fault(place, fault, cure)]
        return kind, value

    def end(self) -> None:
        """Stop it, wherever it is: an unfinished unit leaves nothing under its name."""
        if self.unit is not None:
            self.process.terminate()
        self.conn.close()
        self.process.join()


def _serve(conn: Connection, parent: int, job: Job, at: Any) -> None:
    for number in signals.STOPS:  # Ctrl-C and a lost terminal reach all of us; the parent decides
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signals.let_in()
    signals.die_with_parent()
    if os.getppid() != parent:
        return
    builder: Builder | None = None
    with suppress(EOFError, OSError):  # the parent has closed the pipe, or is gone
        while True:
            unit, fatal = conn.recv()
            try:
                record, damage = finished(job, unit)
                if damage:
                    conn.send(("damaged", f"unit {unit.number} is damaged and made again: {damage}"))
                if record is not None:
                    conn.send(("kept", record))
                    continue
                builder = builder or Builder(job)
                record = builder.make(
                    unit, lambda rows, tokens: conn.send(("progress", (rows, tokens))), fatal=fatal, at=at
                )
                conn.send(("done", record))
            except Refused as refused:
                conn.send(("refused", list(refused.faults)))
            except (BrokenPipeError, ConnectionResetError):
                return
            except Exception:
                conn.send(("failed", traceback.format_exc()))
