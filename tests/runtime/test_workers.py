"""The pool of processes: each job is answered or its death said, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from tests.runtime.errands import Said, begin

from ablab.runtime.workers import Died, Pool

Errands = Pool[str, str, Said]


@pytest.fixture(params=[True, False], ids=["gently", "where it stands"])
def pool(request: pytest.FixtureRequest) -> Iterator[Errands]:
    names = iter("abcdefgh")
    pool = Errands(begin, lambda: next(names), gently=request.param)
    yield pool
    pool.end()
    assert not multiprocessing.active_children()


def heard(pool: Errands, *, answers: int = 0, begun: int = 0) -> list[tuple[str, Any, int]]:
    """(job, what was said or the code of its death, process) of so many answers and beginnings, the answers alone."""
    found = []
    while answers or begun:
        for worker, job, said, ended in pool.heard():
            if ended:
                answers -= 1
                found.append((job, said.code if isinstance(said, Died) else said, worker.process.pid or 0))
            else:
                begun -= begun > 0
                assert said == ("begun", job)
    return found


def test_workers_are_started_as_jobs_are_given_and_taken_again(pool: Errands) -> None:
    assert list(pool.heard(timeout=0.01)) == []
    for job in ("one", "two"):
        pool.give(job)
    assert sorted(pool.running) == ["one", "two"]
    first = heard(pool, answers=2)
    assert pool.running == [] and {(job, said) for job, said, _ in first} == {
        ("one", ("a", first[[job for job, *_ in first].index("one")][2])),
        ("two", ("b", first[[job for job, *_ in first].index("two")][2])),
    }
    pool.give("three")
    [(job, (own, pid), _)] = heard(pool, answers=1)
    assert job == "three" and own in "ab" and pid in {pid for *_, pid in first}


def test_a_death_is_said_with_its_job_and_costs_no_other(pool: Errands) -> None:
    pool.give("exit 3")
    pool.give("other")
    found = {job: said for job, said, _ in heard(pool, answers=2)}
    assert found["exit 3"] == 3 and found["other"][0] == "b"
    pool.give("again")
    pool.give("and again")
    assert {said[0] for _, said, _ in heard(pool, answers=2)} == {"b", "c"}


def test_one_that_died_while_it_was_idle_is_replaced(pool: Errands) -> None:
    pool.give("one")
    [(_, _, pid)] = heard(pool, answers=1)
    [child] = multiprocessing.active_children()
    assert child.pid == pid
    child.kill()
    child.join()
    pool.give("two")
    [(job, (own, _), other)] = heard(pool, answers=1)
    assert (job, own) == ("two", "b") and other != pid


def test_a_ctrl_c_of_the_group_leaves_it_to_the_pool(pool: Errands) -> None:
    pool.give("asked")
    assert heard(pool, begun=1) == []
    [child] = multiprocessing.active_children()
    os.kill(child.pid or 0, signal.SIGINT)
    assert list(pool.heard(timeout=0.3)) == [] and child.is_alive()


@pytest.mark.parametrize("job", ["asked", "at once"])
def test_gently_asked_it_answers_and_is_gone(job: str) -> None:
    pool = Errands(begin, lambda: "a", gently=True)
    pool.give(job)
    assert heard(pool, begun=1) == []
    [child] = multiprocessing.active_children()
    child.terminate()  # by somebody else
    [(_, said, pid)] = heard(pool, answers=1)
    assert said == ("a" if job == "asked" else "interrupted", pid)
    child.join()
    assert child.exitcode == 0 and pool.end() == []


def test_what_hears_nothing_is_killed_by_the_impatient_and_named() -> None:
    pool = Errands(begin, lambda: "a", gently=True)
    pool.give("deaf")
    pool.give("asked")
    assert heard(pool, begun=2) == []
    asked = iter([False, False, True])
    assert pool.end(lambda: next(asked, True)) == ["deaf"]
    assert pool.running == [] and not multiprocessing.active_children()


def test_otherwise_it_ends_where_it_stands() -> None:
    pool = Errands(begin, lambda: "a", gently=False)
    pool.give("deaf")
    assert heard(pool, begun=1) == [] and pool.end() == []
    assert not multiprocessing.active_children()
