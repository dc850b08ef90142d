"""Work beside the dispatcher: asked for at any moment, done in a thread, its faults raised where they are looked for."""

from __future__ import annotations

import threading

import pytest

from ablab.core.fault import CheckFailed, Fault
from ablab.launch.beside import Beside


class Slow:
    """Work that waits until it is let go; how often it was begun and ended."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Semaphore(0), 0
        self.let_go = threading.Semaphore(0)

    def __call__(self) -> None:
        self.begun.release()
        assert self.let_go.acquire(timeout=60)
        self.ended += 1


def test_requests_that_come_meanwhile_are_one_more_time_together() -> None:
    work = Slow()
    beside = Beside(work)
    beside.ask()
    assert work.begun.acquire(timeout=60)
    for _ in range(5):
        beside.ask()  # at once: whoever asks does not wait
    assert work.ended == 0
    for _ in range(2):
        work.let_go.release()
    beside.close()
    assert work.ended == 2


def test_closing_drops_what_has_not_begun_where_that_is_asked() -> None:
    work = Slow()
    beside = Beside(work)
    beside.ask()
    assert work.begun.acquire(timeout=60)
    beside.ask()
    work.let_go.release()
    beside.close(drop=True)
    assert work.ended == 1


def test_a_thread_that_was_never_asked_ends() -> None:
    beside = Beside(Slow())
    beside.check()
    beside.close()


def test_what_the_work_raises_is_raised_where_it_is_looked_for() -> None:
    def full() -> None:
        raise CheckFailed(Fault("verdict.json", "cannot be written"))

    beside = Beside(full)
    beside.ask()
    beside.close()
    with pytest.raises(CheckFailed, match=r"verdict\.json: cannot be written"):
        beside.check()


def test_an_answer_is_taken_once_and_rung_for() -> None:
    rung, answers = threading.Semaphore(0), iter((["a"], [], None))

    def work() -> list[str]:
        answer = next(answers)
        if answer is None:
            raise CheckFailed(Fault("ledger.jsonl", "cannot be read"))
        return answer

    beside = Beside(work, rung.release)
    assert beside.take() is None
    for expected in (["a"], []):
        beside.ask()
        assert rung.acquire(timeout=60)
        assert (beside.take(), beside.take()) == (expected, None)
    beside.ask()
    assert rung.acquire(timeout=60)
    with pytest.raises(CheckFailed, match="cannot be read"):
        beside.take()
    beside.close()
