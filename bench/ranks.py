"""One run on two processes of one thread against one process of two threads: `python bench/ranks.py [--json PATH]`.

A model of 20M parameters, NorMuon, fp32. Three take turns: one process of two threads, two processes that share a batch, two
that share it but not the optimizer's matrices. A ratio is the median over turns of times within a turn, so that a neighbour's
load hits all of them. Beside it what the two spend on sums of gradients over processes and on updates. About 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab
from ablab.runtime.ranks import ALONE, joined
from ablab.study.model import model as canonical
from ablab.training import learner as learners
from ablab.training import losses, optimizers, qats, schedules
from ablab.training.learner import Learner
from ablab.training.matrices import Matrices
from step import corpus

SEQ_LEN, ROWS, STEPS = 256, 8, 2
SIZES = {
    "layers": "LLLGLLLGLL", "d_model": 384, "n_heads": 6, "n_kv_heads": 6, "seq_len": SEQ_LEN,
    "local": {"window": 64}, "global": {"position": "nope"},
}  # fmt: skip


def learner(micro_rows: int) -> Learner:
    """Make the learner of this process, alone or one of a group."""
    faults: list[Any] = []
    asked: dict[str, Any] = {
        "clip": 1.0, "ema": 0.0, "ema_warmup": None, "salt": "", "weights": None, "validate_every": 0,
        "optimizer": optimizers.slot.coerce({"name": "normuon"}, "")[0],
        "schedule": schedules.slot.coerce("wsd", "")[0],
        "loss": losses.slot.coerce("mean", "")[0],
        "qat": qats.slot.coerce("off", "")[0],
    }  # fmt: skip
    settings = {
        "budget": {"tokens": 1 << 30, "seconds": None, "batch_tokens": ROWS * SEQ_LEN},
        "data": {"span": SEQ_LEN, "order": "chunks", "weights": None},
        "model": canonical(SIZES, faults),
        "train": asked,
    }
    if faults:
        raise ValueError(faults)
    how: dict[str, Any] = {"precision": "fp32", "executor": "lift", "device": "cpu", "seed": 0}
    return Learner(settings, corpus(1 << 17), micro_rows=micro_rows, **how)  # type: ignore[arg-type]


class Timed:
    """Steps of a learner, and the seconds of two of their parts: sums over processes, and updates of weights."""

    def __init__(self, micro_rows: int) -> None:
        self.learner, self.at, self.parts = learner(micro_rows), 0, {"sums": 0.0, "updates": 0.0}
        across, optimizer = learners.across, self.learner.optimizer
        assert isinstance(optimizer, Matrices)
        self.optimizer, move = optimizer, optimizer.move

        def sums(*given: Any) -> None:
            self.clocked("sums", lambda: across(*given))

        learners.across = sums
        optimizer.move = lambda: self.clocked("updates", move)  # type: ignore[method-assign]

    def clocked(self, name: str, act: Any) -> None:
        began = time.perf_counter()
        act()
        self.parts[name] += time.perf_counter() - began

    def steps(self) -> dict[str, float]:
        """Take STEPS steps; the seconds of one, and of its parts."""
        self.parts = dict.fromkeys(self.parts, 0.0)
        began = time.perf_counter()
        for _ in range(STEPS):
            self.at += 1
            self.learner.step(self.learner.stream.batch(self.at), self.at, 0.5)
        whole = time.perf_counter() - began
        return {"step": whole / STEPS, **{name: seconds / STEPS for name, seconds in self.parts.items()}}


def serve(rank: int, folder: str, conn: list[Connection]) -> None:
    """Be one of two processes: take steps whenever told to, matrices dealt or not."""
    torch.set_num_threads(1)
    with joined(Path(folder) / "meet", rank, 2, device="cpu", patience=600) as group:
        timed = Timed(ROWS // 2)
        while (asked := conn[rank].recv()) != "end":
            timed.optimizer.deal(group if asked == "dealt" else ALONE)
            conn[rank].send(timed.steps())


def measure(turns: int) -> dict[str, list[dict[str, float]]]:
    """Take turns; of each the times of one process, of two, and of two that each update every matrix."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    found: dict[str, list[dict[str, float]]] = {"one": [], "dealt": [], "undealt": []}
    with tempfile.TemporaryDirectory() as folder:
        ends = [mp.Pipe() for _ in range(2)]
        theirs = [there for _, there in ends]
        running = mp.start_processes(serve, args=(folder, theirs), nprocs=2, join=False, start_method="spawn")
        try:
            torch.set_num_threads(2)
            one = Timed(ROWS)
            for turn in range(turns + 1):
                times = {"one": one.steps()}
                for how in ("dealt", "undealt"):
                    for here, _ in ends:
                        here.send(how)
                    times[how] = max((here.recv() for here, _ in ends), key=lambda took: took["step"])
                if turn:  # the first warms up
                    for name, took in times.items():
                        found[name].append(took)
            for here, _ in ends:
                here.send("end")
            running.join()
        finally:
            for process in running.processes:
                process.kill()
    return found


def ratio(turns: list[tuple[float, float]]) -> float:
    """Return the median over turns of the first over the second."""
    return round(statistics.median(a / b for a, b in turns), 3)


def main() -> None:
    """Measure and print; write JSON where asked."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--turns", type=int, default=12)
    asked.add_argument("--json", type=Path)
    given = asked.parse_args()
    found = measure(given.turns)
    one, dealt, undealt = found["one"], found["dealt"], found["undealt"]
    parameters = sum(p.numel() for p in learner(ROWS).parameters.values())
    answer: dict[str, Any] = {
        "machine": machine.describe(),
        "code": of_ablab(),
        "parameters": parameters,
        "tokens_per_step": ROWS * SEQ_LEN,
        "turns": given.turns,
        "tokens_per_second": {
            name: round(ROWS * SEQ_LEN / statistics.median(took["step"] for took in turns))
            for name, turns in found.items()
        },
        "two_processes_over_one": ratio([(a["step"], b["step"]) for a, b in zip(one, dealt, strict=True)]),
        "sums_share_of_step": ratio([(b["sums"], b["step"]) for b in dealt]),
        "updates_share_of_step": ratio([(b["updates"], b["step"]) for b in dealt]),
        "updates_share_of_step_of_one": ratio([(a["updates"], a["step"]) for a in one]),
        "updates_dealt_over_undealt": ratio(
            [(a["updates"], b["updates"]) for a, b in zip(dealt, undealt, strict=True)]
        ),
    }
    print(json.dumps(answer, indent=1))
    if given.json:
        given.json.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
