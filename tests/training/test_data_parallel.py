"""Data parallel: two processes on halves of a batch end with the same weights, those of one process with the whole of it."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests import tiny
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ablab.core.rng import stream
from ablab.model.decoder import build
from ablab.training import optimizers

STEPS, ROWS = 3, 4


class Loss(nn.Module):
    """Mean nats per target as a forward pass: DDP hears of nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, ids_BT: Tensor) -> Tensor:
        return self.model.nll(tokens_BT, targets_BT, ids_BT).mean()  # type: ignore[no-any-return, operator]


def trained(rank: int, world: int) -> dict[str, Tensor]:
    """Weights after a few steps of NorMuon, `rank` seeing every `world`-th row."""
    model = build(tiny.model(), vocab_size=tiny.VOCAB, seed=0, dtype=torch.float64)
    named = dict(model.named_parameters())
    optimizer = tiny.lever(optimizers.slot, "normuon", lr=0.02, decay=0.01).build(named, model.roles())
    loss: nn.Module = Loss(model)
    loss = DistributedDataParallel(loss) if world > 1 else loss
    for step in range(STEPS):
        drawn = torch.from_numpy(stream(0, "test", "parallel", step).integers(0, tiny.VOCAB, (ROWS, 33)))
        part = drawn[rank::world]
        optimizer.zero_grad(set_to_none=True)
        loss(part[:, :-1], part[:, 1:].contiguous(), torch.zeros_like(part[:, :-1])).backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in named.items()}


def work(rank: int, world: int, folder: str) -> None:
    """One of the processes; it leaves its weights in `folder`."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=timedelta(seconds=600))
    try:
        torch.save(trained(rank, world), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    began = time.monotonic()
    running = mp.start_processes(work, args=(2, str(tmp_path)), nprocs=2, join=False, start_method="spawn")
    try:
        while not running.join(timeout=60):  # true once all have ended; raises where one fails
            assert time.monotonic() - began < 600, "the processes hang"
    finally:
        for process in running.processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone, start = trained(0, 1), build(tiny.model(), vocab_size=tiny.VOCAB, seed=0, dtype=torch.float64)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the two processes"
        torch.testing.assert_close(first[name], value, rtol=1e-7, atol=1e-9)
        assert not torch.equal(value, start.get_parameter(name)), f"{name} never moved"
