"""GPUs dealt to runs and to their processes: an arrangement that needs none to be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests import tiny

from ablab.core.fault import CheckFailed
from ablab.core.files import write_json
from ablab.launch import work
from ablab.launch.local import Workers
from ablab.launch.ranks import Together, seats
from ablab.launch.work import Terms
from ablab.records.run import Where
from ablab.runs.planning import resolve_where
from ablab.runs.store import Store, train_key
from ablab.runtime import capacity
from ablab.runtime.ranks import backend


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")


@pytest.mark.parametrize(
    ("asked", "per_run", "jobs", "dealt"),
    [
        (8, 8, None, ["01234567"]),
        (8, 2, None, ["01", "23", "45", "67"]),
        (8, 1, None, list("01234567")),
        (4, 2, None, ["01", "23"]),
        (2, 1, 4, list("0101")),
        (8, 4, 1, ["0123"]),
        (None, 1, None, ["0"]),
        (None, 1, 3, list("012")),
        (None, 8, None, ["01234567"]),
        (None, 4, 2, ["0123", "4567"]),
    ],
)
def test_every_process_of_every_run_has_its_gpu(
    eight: None, asked: int | None, per_run: int, jobs: int | None, dealt: list[str]
) -> None:
    assert ["".join(one) for one in seats("cuda", asked, per_run, jobs)] == dealt


def test_those_that_may_be_seen_are_the_ones_that_are_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f2,1")
    assert seats("cuda", 2, 1, None) == (("3",), ("GPU-5f2",))
    assert seats("cuda:2", None, 1, 2) == (("1",), ("1",))
    with pytest.raises(CheckFailed, match=r"GPUs: 4 are asked for, and there are 3 \(CUDA_VISIBLE_DEVICES\)"):
        seats("cuda", 4, 1, None)
    with pytest.raises(CheckFailed, match="GPUs: 8 are asked for, and there are 3"):
        seats("cuda", None, 8, None)


def test_what_cannot_be_dealt_is_refused(eight: None) -> None:
    with pytest.raises(CheckFailed, match="--gpus: 6 are no whole number of runs of 4 processes; choose 4 or 8"):
        seats("cuda", 6, 4, None)
    with pytest.raises(CheckFailed, match="--gpus: is for runs on GPUs; leave it out, or choose --device cuda"):
        seats("cpu", 2, 1, None)
    with pytest.raises(CheckFailed, match="cuda:1 is one GPU; choose --device cuda"):
        seats("cuda:1", None, 2, None)
    assert seats("cpu", None, 2, 4) == ()


def named(terms: Terms, stop: Callable[[], bool]) -> Callable[[int, Callable[[str], None]], str]:
    """A worker that says which GPUs it sees, and ends where it is told to."""
    work.begin(terms, stop)

    def do(job: int, say: Callable[[str], None]) -> str:
        if job < 0:
            os._exit(1)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    return do


def test_a_worker_that_follows_a_dead_one_takes_its_gpus(
    eight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    together = Together(2, gpus=seats("cuda", 4, 2, None))
    terms = Terms(Store(tmp_path), Where("cpu", "fp32", "lift", 1), 1, (), False, together)
    workers = Workers(named, lambda: terms.beside(workers.owned), gently=False)  # type: ignore[arg-type]
    try:
        for job in (1, 2):
            workers.give(job)  # type: ignore[arg-type]
        assert heard(workers, 2) == {"0,1", "2,3"}
        for job in (-1, 3):
            workers.give(job)  # type: ignore[arg-type]
        left = heard(workers, 2)
        for job in (4, 5):
            workers.give(job)  # type: ignore[arg-type]
        assert heard(workers, 2) == {"0,1", "2,3"} and len(left) == 2
    finally:
        workers.end()


def heard(workers: Workers, count: int) -> set[str]:
    found: list[str] = []
    while len(found) < count:
        found += [str(said) for _, _, said, ended in workers.heard(timeout=1.0) if ended]
    return set(found)


def test_the_number_of_a_gpu_is_in_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [capacity.use(device) for device in ("cuda", "cuda:0", "cuda:1")] == ["cuda"] * 3 and chosen == [0, 1]
    how = {"precision": "bf16", "executor": "flex", "micro_rows": 8, "compiled": True}
    write_json(tmp_path / "where.json", {"device": "cuda:1", **how})
    where = resolve_where(tmp_path / "where.json", device="cuda", **how)  # type: ignore[arg-type]
    keys = {
        train_key(tiny.settings(), corpus="c", seed=0, where=one)
        for one in (where, Where("cuda", "bf16", "flex", 8, True))
    }
    assert len(keys) == 1


def test_a_gpu_that_is_not_there_is_refused(eight: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    capacity.require("cuda:7")
    with pytest.raises(CheckFailed, match="--device cuda:8: this process may use 8 GPUs, counted from cuda:0"):
        capacity.require("cuda:8")


def test_gpus_speak_nccl() -> None:
    assert [backend(device) for device in ("cpu", "cuda", "cuda:1")] == ["gloo", *["cpu:gloo,cuda:nccl"] * 2]
