"""NorMuon batched by shape against a loop over matrices: `python bench/optimizer.py [--json PATH]`. About 3 minutes.

Then the share of AdamW, Muon and NorMuon in a training step of a tiny model (1024 tokens, four layers of 64).

The peer does the same arithmetic matrix by matrix, as the public implementations do. Both take turns, and a ratio is the
median over turns of (loop time / our time) within a turn, so that a neighbour's load hits both: above 1 ours is faster.
The nine shapes are those of the locked 6B mixture; of each, as many matrices as 12 MiB hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablab.core.rng import stream
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab
from ablab.study import load
from ablab.training import optimizers
from ablab.training.learner import Learner
from ablab.training.orthogonal import polar_express
from step import corpus

NINE = (
    (128, 1024),
    (1024, 128),
    (512, 1024),
    (1024, 512),
    (256, 1024),
    (32, 1024),
    (4, 1024),
    (1024, 1024),
    (1536, 1024),
)
BYTES = 12 << 20
TINY = """
[study]
name = "tiny"
question = "What is the optimizer's share of a step?"
[decision]
matters = 0.01
[budget]
tokens = 1_000_000
batch_tokens = 1024
[data]
source = "mock"
[model]
layers = "LGLG"
d_model = 64
n_heads = 4
n_kv_heads = 2
seq_len = 256
local.window = 16
global.position = "nope"
[stage]
pre_quant = { evaluate = "disjoint" }
[arm.swiglu]
model.mlp = "swiglu"
"""
Step = Callable[[], None]


class Loop:
    """NorMuon one matrix after another."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights, self.triples = weights, polar_express()
        self.moment = [torch.zeros_like(w) for w in weights]
        self.second = [w.new_zeros((*w.shape[:-1], 1)) for w in weights]

    @torch.no_grad()
    def step(self) -> None:
        for w, moment, second in zip(self.weights, self.moment, self.second, strict=True):
            assert w.grad is not None
            each = (w, w.grad, moment, second)
            for one in zip(*each, strict=True) if w.dim() == 3 else (each,):
                self.one(*one)

    def one(self, w: Tensor, grad: Tensor, moment: Tensor, second: Tensor, lr: float = 0.02) -> None:
        moment.lerp_(grad, 0.05)
        u = torch.lerp(grad, moment, 0.95)
        tall = u.shape[0] > u.shape[1]
        x = u.T if tall else u
        x = x / (x.norm() * 1.02 + 1e-6)
        for a, b, c in self.triples:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        o = x.T if tall else x
        second.lerp_(o.square().mean(-1, keepdim=True), 0.05)
        out = o / (second.sqrt() + 1e-10)
        out = out * (o.norm() / out.norm()) * max(1, o.shape[0] / o.shape[1]) ** 0.5
        w.sub_(out, alpha=lr)


def matrices(shape: tuple[int, int], count: int, *, stacked: bool) -> list[nn.Parameter]:
    """`count` matrices with gradients: one stacked parameter, as experts are, or a parameter each."""
    draw = stream(0, "bench", "optimizer", *shape)
    whole = torch.from_numpy(draw.standard_normal((2, count, *shape), dtype="float32"))
    parts = [(whole[0], whole[1])] if stacked else list(zip(whole[0].clone(), whole[1].clone(), strict=True))
    weights = []
    for value, grad in parts:
        weights.append(nn.Parameter(value.clone()))
        weights[-1].grad = grad.clone()
    return weights


def ours(weights: list[nn.Parameter], name: str = "normuon") -> Step:
    """A step of ablab's optimizer over the matrices."""
    choice, _ = optimizers.slot.coerce(name, "optimizer")
    named = {str(i): w for i, w in enumerate(weights)}
    optimizer = optimizers.slot.build(choice).build(named, dict.fromkeys(named, "matrix"))
    return lambda: optimizer.move()


def turns(steps: dict[str, Step], seconds: float, at_least: int = 5) -> dict[str, list[float]]:
    """Seconds of every step, taken in turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(times[next(iter(steps))]) < at_least:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def against_loop(shape: tuple[int, int], count: int, seconds: float, *, stacked: bool) -> dict[str, Any]:
    """Medians in milliseconds, and the median of loop / ours."""
    batch, one_by_one = (matrices(shape, count, stacked=stacked) for _ in range(2))
    times = turns({"ours": ours(batch), "loop": Loop(one_by_one).step}, seconds)
    # Both began alike and took as many steps: a bench of two different things would measure nothing.
    for a, b in zip(batch, one_by_one, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=2e-3)
    found = {f"{name}_ms": round(1e3 * statistics.median(taken), 3) for name, taken in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["loop"], strict=True))
    return {"matrices": count, "stacked": stacked, **found, "turns": len(times["ours"]), "ratio": round(ratio, 3)}


def share(optimizer: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The optimizer's share of a training step of a tiny model: the median over steps of its time / the step's."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tiny.toml").write_text(TINY)
        settings = load(Path(folder) / "tiny.toml").baseline.settings
    settings["train"]["optimizer"] = optimizers.slot.coerce(optimizer, "optimizer")[0]
    rows = settings["budget"]["batch_tokens"] // settings["model"]["seq_len"]
    how: dict[str, Any] = {"seed": 0, "precision": "fp32", "micro_rows": rows, "executor": "lift", "device": "cpu"}
    learner = Learner(settings, corpus(1 << 16), **how)
    spent, whole, update = 0.0, [], learner.optimizer.step

    def timed(**words: Any) -> None:
        nonlocal spent
        start = time.perf_counter()
        update(**words)
        spent = time.perf_counter() - start

    learner.optimizer.step = timed  # type: ignore[method-assign]
    began, number = time.monotonic(), 0
    while time.monotonic() - began < seconds or number < 10:
        number += 1
        batch, start = learner.stream.batch(number), time.perf_counter()
        learner.step(batch, number, min(1.0, 1e-3 * number))
        whole.append((spent, time.perf_counter() - start))
    shares = [part / total for part, total in whole[3:]]
    return {
        "steps": number,
        "step_ms": round(1e3 * statistics.median(total for _, total in whole[3:]), 3),
        "optimizer_ms": round(1e3 * statistics.median(part for part, _ in whole[3:]), 3),
        "share": round(statistics.median(shares), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {
        "environment": {"commit": of_ablab(), **machine.describe(), "dtype": "float32"},
        "loop / ours": {},
    }
    cases = [((32, 128), 256, False), ((32, 128), 256, True)]
    cases += [(s, BYTES // (4 * s[0] * s[1]), s in ((128, 1024), (1024, 128))) for s in NINE]
    for shape, count, stacked in cases:
        name = f"{count} x ({shape[0]} x {shape[1]}){', one parameter' if stacked else ''}"
        found["loop / ours"][name] = against_loop(shape, count, given.seconds, stacked=stacked)
        print(name, found["loop / ours"][name], flush=True)
    found["share of a tiny step"] = {}
    for name in ("adamw", "muon", "normuon"):
        found["share of a tiny step"][name] = share({"name": name}, given.seconds)
        print(name, found["share of a tiny step"][name], flush=True)
    found["targets"] = {"loop / ours": 1.0, "loop / ours, 256 x (32 x 128)": 4.0, "share of a tiny step": 0.10}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
