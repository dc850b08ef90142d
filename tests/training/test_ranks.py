"""One run on one, two or four processes: the same weights, running means, losses and tokens, bit for bit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from tests import tiny

from ablab.core.fault import InvalidStudy
from ablab.data import chain
from ablab.runtime.ranks import Ranks, joined
from ablab.training import learner as learner_module
from ablab.training import snapshot
from ablab.training.learner import Learner
from ablab.training.matrices import dealt
from ablab.training.sums import micro_batches_fault

STEPS, ROWS = 4, 8
NORMUON = {"name": "normuon", "lr": 0.02, "decay": 0.01}


def mixture(balance: str) -> dict[str, Any]:
    """Layers with everything that sums over tokens, chooses by them, or has parameters of an odd shape."""
    mlp = {"name": "moe", "n_experts": 8, "ratio": 0.5, "shared": 0.5, "balance": balance, "z_loss": 1e-3}
    routed = {"mlp": mlp, "router": {"name": "deepseek_v3", "top_k": 2}, "softmax": "sink"}
    kinds = {
        "L": tiny.kind("local", 8, position={"name": "grape_m", "learnable": True}, projection="tpa", **routed),
        "G": tiny.kind("global", None, position="grape_a", **routed),
    }
    return tiny.model(layers="LLG", kinds=kinds, n_kv_heads=4)


CASES: dict[str, dict[str, Any]] = {
    "dense": {"optimizer": NORMUON},
    "bf16": {"optimizer": {"name": "muon"}},
    "mixture": {"optimizer": NORMUON, "ema": 0.9, "model": mixture("sequence")},
}


# A loss that knows the whole batch: each process has its micro-batch, so that another number of them is another sum.
WHOLE: dict[str, Any] = {"optimizer": NORMUON, "model": mixture("switch")}
PRECISION = {"bf16": "bf16", "whole": "fp64"}


def learner(case: str, micro_rows: int = 1) -> Learner:
    asked = tiny.settings(steps=STEPS, batch_tokens=ROWS * 32, **CASES.get(case, WHOLE))
    how: dict[str, Any] = {"precision": PRECISION.get(case, "fp32"), "executor": "lift", "device": "cpu"}
    return Learner(asked, tiny.corpus(), seed=0, micro_rows=micro_rows, **how)


def stepped(one: Learner, begin: int, end: int) -> list[Any]:
    """Loss, norm and hash of the tokens of each step, and the validation after the last."""
    rows: list[Any] = []
    token_hash = ""
    for step in range(begin, end):
        batch = one.stream.batch(step)
        token_hash = chain(token_hash, batch)
        loss, norm, _ = one.step(batch, step + 1, step / STEPS)
        rows.append((loss, norm, token_hash, one.health))
    return [*rows, one.validate()]


def trained(case: str, micro_rows: int = 1) -> dict[str, Any]:
    one = learner(case, micro_rows)
    rows = stepped(one, 0, STEPS)
    return {"rows": rows, "tensors": {name: tensor.clone() for name, tensor in snapshot.tensors(one).items()}}


def goes_on(kept: dict[str, Any] | None, begin: int, end: int, gather: bool = True) -> dict[str, Any]:
    """The tensors of a mixture after `end` steps, those after `begin` being `kept`; gather: as a checkpoint must."""
    one = learner("mixture")
    if kept is not None:
        snapshot.restore(one, kept)
    stepped(one, begin, end)
    if not gather:
        one.optimizer.gather = lambda: None  # type: ignore[operator, union-attr]
    return {name: tensor.clone() for name, tensor in snapshot.tensors(one).items()}


def work(rank: int, world: int, folder: str) -> None:
    """One of the processes: it leaves in `folder` what it found; goes on from what lies there."""
    torch.set_num_threads(1)
    learner_module.VALID_TOKENS = 64
    with joined(Path(folder) / f"rendezvous{world}", rank, world, device="cpu", patience=600):
        found: dict[str, Any] = {case: trained(case) for case in CASES}
        found["whole"] = trained("whole", ROWS // world)
        if world == 2:
            found["begun"] = goes_on(None, 0, 1)
            found["stale"] = goes_on(None, 0, 1, gather=False)
        else:
            kept = torch.load(Path(folder) / "kept.pt", weights_only=True)
            found["ended"] = goes_on(kept, 3, STEPS)
        torch.save(found, Path(folder) / f"{world}.{rank}.pt")


def spread(world: int, folder: Path) -> list[dict[str, Any]]:
    """What each of `world` processes has found."""
    began = time.monotonic()
    running = mp.start_processes(work, args=(world, str(folder)), nprocs=world, join=False, start_method="spawn")
    try:
        while not running.join(timeout=60):
            assert time.monotonic() - began < 600, "the processes hang"
    finally:
        for process in running.processes:
            process.kill()
    return [torch.load(folder / f"{world}.{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What one, two and four processes have found; a run that two began goes on with one, and ends with four."""
    folder, threads = tmp_path_factory.mktemp("ranks"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setattr(learner_module, "VALID_TOKENS", 64)
        torch.set_num_threads(1)
        try:
            alone = {**{case: trained(case) for case in CASES}, "whole": trained("whole", ROWS)}
            two = spread(2, folder)
            torch.save(goes_on(two[0]["begun"], 1, 3), folder / "kept.pt")
            alone["from stale"] = goes_on(two[0]["stale"], 1, STEPS)
            return {1: [alone], 2: two, 4: spread(4, folder)}
        finally:
            torch.set_num_threads(threads)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [2, 4])
def test_a_run_is_the_same_on_any_number_of_processes(
    found: dict[int, list[dict[str, Any]]], world: int, case: str
) -> None:
    [alone] = found[1]
    start = {name: p.detach() for name, p in learner(case).parameters.items()}
    assert not equal(start, {name: alone[case]["tensors"][f"model/{name}"] for name in start}), "nothing was trained"
    for rank, one in enumerate(found[world]):
        assert one[case]["rows"] == alone[case]["rows"]
        assert equal(one[case]["tensors"], alone[case]["tensors"]), f"rank {rank}"


@pytest.mark.parametrize("world", [2, 4])
def test_a_loss_over_the_whole_batch_counts_over_all_processes(
    found: dict[int, list[dict[str, Any]]], world: int
) -> None:
    """Shares and counts are of other sums: equal but for the rounding of fp64, and far from a loss of each process's own."""
    [alone] = found[1]
    for one in found[world]:
        for (loss, norm, token_hash, _), (loss_1, norm_1, token_hash_1, _) in zip(
            one["whole"]["rows"][:-1], alone["whole"]["rows"][:-1], strict=True
        ):
            assert (loss, norm) == pytest.approx((loss_1, norm_1), rel=1e-12) and token_hash == token_hash_1
        for name, tensor in alone["whole"]["tensors"].items():
            assert torch.allclose(one["whole"]["tensors"][name], tensor, rtol=1e-9, atol=1e-11), name
        assert equal(one["whole"]["tensors"], found[world][0]["whole"]["tensors"])


def test_a_run_goes_on_with_another_number_of_processes(found: dict[int, list[dict[str, Any]]]) -> None:
    [alone] = found[1]
    for one in found[4]:
        assert equal(one["ended"], alone["mixture"]["tensors"])


def test_momentum_that_was_not_gathered_goes_on_wrongly(found: dict[int, list[dict[str, Any]]]) -> None:
    """What a checkpoint of one process's own state would do: no error, other weights."""
    [alone], two = found[1], found[2]
    weights = [name for name in two[0]["begun"] if name.startswith("model/")]
    assert all(torch.equal(two[0]["begun"][name], two[0]["stale"][name]) for name in weights)
    assert not equal(two[0]["begun"], two[0]["stale"])
    assert not equal(alone["from stale"], alone["mixture"]["tensors"])


def test_matrices_are_dealt_by_what_they_cost() -> None:
    sizes, costs = [4, 3, 1, 0], [1.0, 8.0, 100.0, 5.0]
    for world in (1, 2, 4):
        owned = dealt(sizes, costs, world)
        for n, runs in zip(sizes, owned, strict=True):
            assert [i for run in runs for i in run] == list(range(n)), "each has one owner"
    two = dealt(sizes, costs, 2)
    assert [len(run) for run in two[2]] == [1, 0] and [len(run) for run in two[1]] == [1, 2]


@pytest.mark.parametrize(
    ("rows", "micro_rows", "world", "said"),
    [
        (768, 64, 8, "micro_rows: 768 rows of a batch, 64 at a time, are 12 micro-batches for 8 processes; choose 48 or 96"),
        (8, 8, 2, "micro_rows: 8 rows of a batch, 8 at a time, are 1 micro-batch for 2 processes; choose 4"),
        (2, 1, 4, "micro_rows: 2 rows of a batch, 1 at a time, are 2 micro-batches for 4 processes; "
                  "choose a larger batch, or fewer processes"),
        (8, 1, 3, "processes: 3 processes cannot share a tree of sums, which is made of halves; choose 2 or 4"),
    ],
)  # fmt: skip
def test_a_batch_that_processes_cannot_share_is_refused(rows: int, micro_rows: int, world: int, said: str) -> None:
    assert str(micro_batches_fault(rows, micro_rows, world)) == said
    assert micro_batches_fault(rows, micro_rows, 1) is None


def test_a_learner_refuses_processes_that_cannot_share_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "here", lambda: Ranks(0, 3))
    with pytest.raises(InvalidStudy, match="3 processes cannot share"):
        learner("dense")
