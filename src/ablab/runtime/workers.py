"""Processes that are handed jobs, one at a time; none outlives the process that started it.

Not concurrent.futures: the death of one of its processes breaks the pool and leaves open at which job, jobs are handed out
ahead, none is ended once begun, and what it starts imports from the current folder (`ablab.core.safe_path`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from ablab.core import safe_path
from ablab.core.fault import Interrupted
from ablab.runtime import at_once, signals

Job = TypeVar("Job")
Own = TypeVar("Own")
Said = TypeVar("Said")
Do = Callable[[Job, Callable[[Said], None]], Said]  # do(job, say): the answer; raises only OSError, where nobody hears
Begin = Callable[[Own, Callable[[], bool]], Do[Job, Said]]


@dataclass(frozen=True)
class Died:
    """In place of an answer: the process is gone, with this exit code (below zero the number of a signal)."""

    code: int | None


class Worker(Generic[Job, Own]):
    """One process, what it was given of its own, and the job that it is busy with since `given`."""

    def __init__(self, begin: Begin[Own, Job, Said], own: Own, gently: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.own, self.given = own, 0.0
        self.job: Job | None = None
        self.conn, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid(), begin, own, gently), daemon=True)
        with signals.held_back():
            safe_path.start(self.process)
        theirs.close()

    def end(self, impatient: Callable[[], bool]) -> bool:
        """Ask it to stop, hear it out, and wait. Whether it was killed, since `impatient()`."""
        killed = False
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


Heard = tuple[
    Worker[Job, Own], Job, Said | Died, bool
]  # worker, its job, what it says of it, whether that is the answer


class Pool(Generic[Job, Own, Said]):
    """Workers, started as jobs are given; which job is next, and what a death means, is the caller's to say.

    In each of them begin(own(), stop) is called once and returns what does a job. gently: a worker that is asked to stop
    hears so by stop(), or by Interrupted within `ablab.runtime.at_once`; otherwise it ends where it stands. Ctrl-C and a lost
    terminal reach all processes of a group: there a worker waits for the pool to end it.
    """

    def __init__(self, begin: Begin[Own, Job, Said], own: Callable[[], Own], *, gently: bool) -> None:
        self._begin, self._own, self._gently = begin, own, gently
        self._workers: list[Worker[Job, Own]] = []

    @property
    def running(self) -> list[Job]:
        """The jobs that workers are busy with."""
        return [worker.job for worker in self._workers if worker.job is not None]

    @property
    def owned(self) -> list[Own]:
        """What its workers were given of their own."""
        return [worker.own for worker in self._workers]

    def give(self, job: Job) -> None:
        """Hand a job to an idle worker, or to a new one. Those that have died while they were idle are buried."""
        for worker in [one for one in self._workers if one.job is None]:
            if worker.process.is_alive():
                break
            self.dismiss(worker)
        else:
            worker = Worker(self._begin, self._own(), self._gently)
            self._workers.append(worker)
        worker.job, worker.given = job, time.monotonic()
        with suppress(OSError):  # it has died meanwhile, which will be heard
            worker.conn.send(job)

    def heard(self, timeout: float | None = None, *also: Connection) -> Iterator[Heard[Job, Own, Said]]:
        """Yield what busy workers say, as soon as one does; nothing after `timeout` seconds, or where `also` has something."""
        busy = [(one, one.job) for one in self._workers if one.job is not None]
        ready = wait([source for one, _ in busy for source in (one.conn, one.process.sentinel)] + [*also], timeout)
        for worker, job in busy:
            if worker.conn not in ready and worker.process.sentinel not in ready:
                continue
            message: tuple[bool, Said | Died] | None = None
            with suppress(EOFError, OSError):
                message = worker.conn.recv() if worker.conn.poll() else None  # None: something else holds its end open
            if message is None:
                worker.process.join()
                message = True, Died(worker.process.exitcode)
            ended, said = message
            worker.job = None if ended else job
            yield worker, job, said, ended

    def dismiss(self, worker: Worker[Job, Own]) -> None:
        """End one worker: it takes with it what it still holds."""
        self._workers.remove(worker)
        worker.end(lambda: False)

    def end(self, impatient: Callable[[], bool] = lambda: False) -> list[Job]:
        """End every worker, and wait for them; the jobs of those that were killed, since `impatient()` turned true."""
        for worker in self._workers:
            worker.process.terminate()
        killed = [worker.job for worker in self._workers if worker.end(impatient)]
        self._workers.clear()
        return [job for job in killed if job is not None]


def _serve(conn: Connection, parent: int, begin: Begin[Own, Job, Said], own: Own, gently: bool) -> None:
    """Live as a worker: takes jobs from `conn` until that closes, or it is asked to stop."""
    signals.die_with_parent()  # before anything slow: a parent killed meanwhile would leave a worker that nobody hears
    if os.getppid() != parent:
        return
    stopped = False

    def ask_to_stop(number: int, _: object) -> None:
        nonlocal stopped
        if number == signal.SIGINT:
            return
        stopped = True
        if at_once.may_raise():
            raise Interrupted

    if gently:
        signals.heed(ask_to_stop)
    else:
        for number in signals.STOPS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signals.let_in()

    def stop() -> bool:
        return stopped or os.getppid() != parent

    do = begin(own, stop)
    with suppress(EOFError, OSError):  # the pool has closed the pipe, or is gone
        while not stop():
            if conn.poll(0.2):  # a blocking recv would sleep through SIGTERM
                conn.send((True, do(conn.recv(), lambda said: conn.send((False, said)))))
    conn.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; the interpreter's own end takes seconds, for which a person would wait
