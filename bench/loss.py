"""Peak memory and time of the chunked loss against the plain form: python bench/loss.py [--json PATH].

2048 rows, 201,088 tokens of vocabulary, d_model 512; forward and backward; d hidden and d weight. Peak memory is that of
a process of its own less what it held before the step (weight, hidden states, torch itself). Time is the median over turns
that the two forms take one after another; about 10 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ablab.core.rng import stream
from ablab.model import cross_entropy
from ablab.runtime.provenance import of_ablab

ROWS, VOCAB, WIDTH = 2048, 201_088, 512
Step = Callable[[], None]


def step_of(form: str, rows: int, vocab: int, width: int, precision: str, chunk: int | None, device: str) -> Step:
    """Forward and backward of one form (`plain` or `chunked`) on fixed draws."""
    draw = stream(0, "bench", "loss")
    sizes = ((rows, width), (vocab, width))
    made = [torch.from_numpy(draw.standard_normal(s, dtype="float32")).to(device) for s in sizes]
    hidden, weight = made[0].requires_grad_(), made[1].mul_(0.02).requires_grad_()
    targets = torch.from_numpy(draw.integers(0, vocab, rows)).to(device)

    def step() -> None:
        hidden.grad = weight.grad = None
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            if form == "plain":
                nll = F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=-1, reduction="none")
            else:
                nll = cross_entropy.nll(hidden, weight, targets, rows=chunk)
        (nll.sum() / rows).backward()

    return step


def memory(field: str) -> float:
    """MiB of this process, by the kernel's account."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def own_peak(form: str, rows: int, vocab: int, width: int, precision: str, chunk: int | None) -> tuple[float, float]:
    """MiB that one step adds to what this process held before it, and its seconds."""
    step_of(form, 8, 64, width, precision, None, "cpu")()  # threads, libraries, first allocations
    step = step_of(form, rows, vocab, width, precision, chunk, "cpu")
    before, began = memory("VmRSS"), time.perf_counter()
    step()
    return memory("VmHWM") - before, time.perf_counter() - began


def alone(form: str, rows: int, vocab: int, width: int, precision: str, threads: int, chunk: int = 0) -> float:
    """`own_peak` in a fresh process."""
    asked = {"one": form, "rows": rows, "vocab": vocab, "width": width, "precision": precision, "threads": threads}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in (asked | {"chunk": chunk}).items())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])


def gpu_peak(step: Step) -> float:
    """MiB that a step adds on the GPU, by the allocator's account, gradients included."""
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def seconds(steps: dict[str, Step], turns: int) -> dict[str, float]:
    """Median seconds of each step; they take turns. No warm-up: a step of half a minute needs none."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def measure(precision: str, threads: int, turns: int) -> dict[str, Any]:
    """Both forms: peak MiB, seconds, their ratios; the chunked one at half the rows too."""
    sizes = (VOCAB, WIDTH, precision, threads)
    peak = {form: alone(form, ROWS, *sizes) for form in ("plain", "chunked")}
    half = alone("chunked", ROWS // 2, *sizes)
    chunks = {str(n): alone("chunked", ROWS, *sizes, chunk=n) for n in (64, 128, 512)}
    forms = {form: step_of(form, ROWS, VOCAB, WIDTH, precision, None, "cpu") for form in ("plain", "chunked")}
    forms |= {f"chunk {n}": step_of("chunked", ROWS, VOCAB, WIDTH, precision, int(n), "cpu") for n in chunks}
    took = seconds(forms, turns)
    return {
        "rows": ROWS,
        "vocab_size": VOCAB,
        "d_model": WIDTH,
        "chunk_rows": cross_entropy.chunk_rows(VOCAB),
        "weight_gradient_mib": VOCAB * WIDTH * 4 / 2**20,
        "peak_mib": {**peak, "chunked, half the rows": half},
        "seconds": took,
        "by_chunk": {n: {"peak_mib": chunks[n], "seconds": took[f"chunk {n}"]} for n in chunks},
        "ratios": {"peak": peak["chunked"] / peak["plain"], "time": took["chunked"] / took["plain"]},
        "target": {"peak": 0.25},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", choices=("plain", "chunked"), help="only print this form's peak MiB and seconds")
    for name, size in (("rows", ROWS), ("vocab", VOCAB), ("width", WIDTH), ("chunk", 0)):
        parser.add_argument(f"--{name}", type=int, default=size, help="with --one")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.one:
        chunk = asked.chunk or None
        print(*own_peak(asked.one, asked.rows, asked.vocab, asked.width, asked.precision, chunk))
        return
    from ablab.runtime import machine

    environment = {
        "commit": of_ablab(),
        **machine.describe(),
        "precision": asked.precision,
        "date": str(datetime.date.today()),
    }
    found = {"environment": environment, **measure(asked.precision, asked.threads, asked.turns)}
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
