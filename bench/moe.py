"""A mixture against a Python loop over its experts: `python bench/moe.py [--json PATH] [--device cuda]`.

64 experts, forward and backward with gradients of everything, in the precision of training: fp32, or bf16 as autocast gives
it (weights in fp32). The two take turns; a ratio is the median over turns of (loop time / our time) within a turn, so that a
neighbour's load hits both. Their outputs are compared first. About 2 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ablab.core.rng import Draw, stream
from ablab.model.mlps.moe import Moe
from ablab.model.routers.deepseek_v3 import DeepseekV3
from ablab.model.shape import Shape
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab

EXPERTS = 64
CASES = {  # d_model, hidden width of an expert, experts per token, tokens
    "d_model 256, hidden 128, 4 of 64, 1024 tokens": (256, 128, 4, 1024),
    "d_model 256, hidden 128, 2 of 64, 512 tokens": (256, 128, 2, 512),
    "d_model 1024, hidden 128, 4 of 64, 2048 tokens": (1024, 128, 4, 2048),
}


def mixture(d_model: int, hidden: int, top_k: int, device: str) -> Moe:
    shape = Shape(
        d_model=d_model,
        n_heads=4,
        n_kv_heads=4,
        head_dim=64,
        seq_len=512,
        vocab_size=257,
        n_layers=4,
        n_experts=EXPERTS,
    )
    moe = Moe(shape, n_experts=EXPERTS, ratio=hidden / d_model)
    moe.router = DeepseekV3(shape, top_k=top_k)
    for path, part in moe.named_modules():
        if callable(init := getattr(part, "init", None)):
            init(Draw(0, path))
    return moe.to(device)


def loop(moe: Moe, x_ND: Tensor) -> Tensor:
    """Expert by expert: gather the tokens that chose it, multiply, add up; matrices apart, as a list of experts has them.

    (`weight[e]` of the stack would cost a whole stack of zeros per expert in backward: 3 to 5 times slower still.)
    """
    routed = moe.router(x_ND)
    up, down = moe.experts.up_proj.weight.unbind(), moe.experts.down_proj.weight.unbind()
    out = torch.zeros_like(x_ND)
    for e in range(EXPERTS):
        tokens, choice = torch.where(routed.experts_NK == e)
        if len(tokens):
            y = F.linear(F.relu(F.linear(x_ND[tokens], up[e])).square(), down[e])
            out.index_add_(0, tokens, (y * routed.weights_NK[tokens, choice, None]).to(out.dtype))
    return out


def step(moe: Moe, run: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, precision: str, device: str) -> float:
    """Seconds of one forward and backward."""
    moe.zero_grad(set_to_none=True)
    _wait(device)
    start = time.perf_counter()
    with machine.autocast(precision, device):
        y = run(x)
    y.backward(grad)
    _wait(device)
    return time.perf_counter() - start


def measure(case: tuple[int, int, int, int], precision: str, device: str, seconds: float) -> dict[str, Any]:
    d_model, hidden, top_k, tokens = case
    moe = mixture(d_model, hidden, top_k, device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    draws = [stream(0, "bench", name).standard_normal((tokens, d_model)).astype("float32") for name in ("x", "grad")]
    x, grad = (torch.from_numpy(draw).to(device, dtype) for draw in draws)
    x.requires_grad_()
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "grouped": lambda x: moe(x[None])[0],
        "loop": lambda x: loop(moe, x),
    }
    with torch.no_grad(), machine.autocast(precision, device):
        ours, theirs = (run(x).float() for run in runs.values())
    error = float((ours - theirs).norm() / theirs.norm())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        step(moe, run, x, grad, precision, device)
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(times["loop"]) < 5:
        for name, run in runs.items():
            times[name].append(step(moe, run, x, grad, precision, device))
    work = 12.0 * tokens * top_k * d_model * hidden
    found = {name: statistics.median(t) for name, t in times.items()}
    return {
        "turns": len(times["loop"]),
        "milliseconds": {name: round(1000 * t, 2) for name, t in found.items()},
        "gflop_per_second": {name: round(work / t / 1e9, 1) for name, t in found.items()},
        "grouped / loop": round(statistics.median(b / a for a, b in zip(times["grouped"], times["loop"])), 2),
        "relative difference": error,
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each comparison")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {"environment": {"commit": of_ablab(), **machine.describe(given.device)}}
    for precision in ("bf16", "fp32"):
        for name, case in CASES.items():
            found[f"{name}, {precision}"] = measure(case, precision, given.device, given.seconds)
    found["target"] = {"grouped / loop, 64 experts, bf16, forward and backward": 4.0}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
