"""Processes that make one run together, and what they tell each other: nothing of it hangs on how many they are."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, Store


@dataclass(frozen=True)
class Ranks:
    """One of `world` processes, the `rank`-th; every method is called by all of them, in the same order."""

    rank: int = 0
    world: int = 1

    def share(self, n: int) -> range:
        """Return which of `n` things are this process's: contiguous, and as many as those of others but for one."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def most(self, values: Sequence[float]) -> list[float]:
        """Return the largest of all processes' values, place by place."""
        if self.world == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return [float(value) for value in found]

    def told(self, value: Mapping[str, object]) -> Mapping[str, object]:
        """Return what the first process says, whatever the others do: names and JSON's own values."""
        if self.world == 1:
            return value
        said = json.dumps(value).encode() if self.rank == 0 else b""
        size = torch.tensor([len(said)])
        dist.broadcast(size, 0)
        text = torch.frombuffer(bytearray(said.ljust(int(size))), dtype=torch.uint8)
        dist.broadcast(text, 0)
        found: Mapping[str, object] = json.loads(bytes(text.tolist()))
        return found

    def lined_up(self, parts: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return every process's `parts`, flat, which have `sizes[rank]` numbers each."""
        if self.world == 1:
            return [parts.flatten()]
        longest = max(sizes)
        mine = torch.nn.functional.pad(parts.flatten(), (0, longest - parts.numel()))
        every = list(mine.new_empty(self.world, longest))
        dist.all_gather(every, mine)
        return [row[:size] for row, size in zip(every, sizes, strict=True)]

    def in_order(self, rows: Tensor, n: int) -> Tensor:
        """Join the rows, (k, C), that processes have found of `n` things by their `share`: (n, C)."""
        sizes = [len(Ranks(rank, self.world).share(n)) * rows.shape[1] for rank in range(self.world)]
        return torch.cat(self.lined_up(rows, sizes)).view(n, rows.shape[1])


ALONE = Ranks()
_here = ALONE


def here() -> Ranks:
    """Return the group that this process is `joined` to: ALONE outside of one."""
    return _here


def backend(device: str) -> str:
    """Name what carries tensors between processes: from GPU to GPU NCCL, beside gloo for what lies in the machine's memory."""
    return "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"


@contextlib.contextmanager
def joined(meeting: Path | Store, rank: int, world: int, *, device: str, patience: float) -> Iterator[Ranks]:
    """Join the group of `world` processes until the block ends: all meet at a file, or at a store of theirs.

    patience: seconds after which a process that says nothing is given up; whoever waits for it then raises RuntimeError, as
    at once where one has ended.
    """
    global _here
    timeout = datetime.timedelta(seconds=patience)
    store = FileStore(str(meeting), world) if isinstance(meeting, Path) else meeting
    dist.init_process_group(backend(device), store=store, rank=rank, world_size=world, timeout=timeout)
    try:
        _here = Ranks(rank, world)
        yield _here
    finally:
        _here = ALONE
        dist.destroy_process_group()
