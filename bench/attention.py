"""Ratios of the attention core against the stock operator, measured in one run: python bench/attention.py [--json
PATH].

Forward and backward, fp32, CPU. Competitors take turns, repeat by repeat, so that a busy machine slows both; a ratio
is the median of the ratios within a repeat. Peak memory is that of a fresh process for each length, less what it held
before.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ablab.core.rng import Draw, stream
from ablab.model.attention.attend import Added, Documents, attend
from ablab.model.positions.grape_a import GrapeA
from ablab.model.shape import Shape

HEADS, WIDTH, WINDOW = 8, 64, 128
Step = Callable[[], None]


class Case:
    """Random q, k, v of one row, a sink, ALiBi, and the gradient that comes back."""

    def __init__(self, length: int, documents: int = 1) -> None:
        draw = stream(0, "bench", length)
        size = (1, length, HEADS, WIDTH)
        self.q, self.k, self.v, self.d = (torch.from_numpy(draw.standard_normal(size)).float() for _ in range(4))
        self.sink = torch.zeros(HEADS)
        for leaf in (self.q, self.k, self.v, self.sink):
            leaf.requires_grad_()
        self.ids = (torch.arange(length) * documents // length)[None]
        self.grape_a = GrapeA(Shape(HEADS * WIDTH, HEADS, HEADS, WIDTH, length, 256, 1))
        self.grape_a.init(Draw(0))

    def lift(self, window: int | None, executor: str = "lift") -> Step:
        def step() -> None:
            documents = Documents(self.ids)
            columns = self.grape_a.columns(self.q, self.k, documents.pos_BT)
            added = Added(window, documents, columns, sink_H=self.sink)
            attend(self.q, self.k, self.v, added, executor=executor).backward(self.d)

        return step

    def plain(self) -> Step:
        def step() -> None:
            q, k, v = (t.transpose(1, 2) for t in (self.q, self.k, self.v))
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).backward(self.d)

        return step

    def masked(self, window: int) -> Step:
        """SDPA with the dense mask that holds window and ALiBi; made outside the clock. It knows no sink."""
        seen = Documents(self.ids).visible_BTS(window)[:, None]
        columns = self.grape_a.columns(self.q, self.k, Documents(self.ids).pos_BT)
        assert columns is not None
        mask = columns.bias(HEADS, torch.float32).masked_fill(~seen, -torch.inf)

        def step() -> None:
            q, k, v = (t.transpose(1, 2) for t in (self.q, self.k, self.v))
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).backward(self.d)

        return step


def interleaved(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of every step, taken in turns, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(ours: Step, theirs: Step, repeats: int) -> dict[str, float]:
    """Medians in milliseconds, and the median of ours / theirs."""
    seconds = interleaved({"ours": ours, "theirs": theirs}, repeats)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    median = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {"ours_ms": median["ours"], "theirs_ms": median["theirs"], "ratio": statistics.median(ratios)}


def growth(values: dict[int, float]) -> float:
    """Slope of log value over log length, least squares."""
    x, y = [math.log(n) for n in values], [math.log(v) for v in values.values()]
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def peak_mib(length: int, threads: int) -> float:
    """Peak memory of one windowed step at `length`, in a process of its own."""
    command = [sys.executable, __file__, "--peak", str(length), "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak(length: int) -> float:
    """MiB that one windowed step, forward and backward, adds to its inputs."""
    Case(1024).lift(WINDOW)()
    case = Case(length)
    before = status("VmRSS")
    case.lift(WINDOW)()
    return status("VmHWM") - before


def status(field: str) -> float:
    """MiB of this process. Not getrusage's maximum: a child inherits its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(repeats: int, threads: int) -> dict[str, Any]:
    """Everything that the table prints."""
    result: dict[str, Any] = {}
    case = Case(4096)
    masked = case.masked(WINDOW)
    result["window_4096"] = compared(case.lift(WINDOW), masked, max(2, repeats // 3))
    del masked
    result["full_2048"] = compared((short := Case(2048)).lift(None), short.plain(), repeats)
    result["full_4096"] = compared(case.lift(None), case.plain(), max(3, repeats // 2))
    packed = Case(4096, documents=10)
    result["packed_4096"] = compared(packed.lift(None), packed.plain(), max(3, repeats // 2))
    small = Case(256)
    result["rows_256"] = compared(small.lift(16), small.lift(16, "reference"), 3 * repeats)
    cases = {length: Case(length) for length in (2048, 4096, 8192, 16384)}
    seconds = interleaved({str(n): c.lift(WINDOW) for n, c in cases.items()}, max(3, repeats // 2))
    result["linear_ms"] = {n: 1e3 * statistics.median(values) for n, values in seconds.items()}
    result["linear_exponent"] = growth({int(n): ms for n, ms in result["linear_ms"].items()})
    result["peak_mib"] = {str(n): peak_mib(n, threads) for n in cases}
    return result


def table(result: dict[str, Any]) -> str:
    """The numbers in words, each with its target."""
    rows = [
        ("window 128, sink, ALiBi, T=4096: dense-mask SDPA / ours", 1 / result["window_4096"]["ratio"], ">= 5"),
        ("full causal, sink, ALiBi, T=2048: ours / bare causal SDPA", result["full_2048"]["ratio"], "<= 1.25"),
        ("full causal, sink, ALiBi, T=4096: ours / bare causal SDPA", result["full_4096"]["ratio"], "<= 1.25"),
        ("ten documents, full, T=4096: ours / bare causal SDPA of the row", result["packed_4096"]["ratio"], "< 1"),
        ("window 16, sink, ALiBi, T=256: ours / dense reference", result["rows_256"]["ratio"], "< 1"),
        ("window 128: growth of time with T, 2k to 16k", result["linear_exponent"], "<= 1.15"),
    ]
    lines = [f"{name:<66} {value:>7.2f}   {target}" for name, value, target in rows]
    times, peaks = result["linear_ms"], result["peak_mib"]
    lines += [f"  T={n:>6}: {times[n]:8.1f} ms   peak {peaks[n]:7.1f} MiB" for n in times]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.peak:
        print(own_peak(asked.peak))
        return
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": asked.threads,
        "torch": torch.__version__,
        "dtype": "float32",
    }
    print(f"{HEADS} heads of {WIDTH}, forward and backward; {', '.join(f'{k} {v}' for k, v in machine.items())}")
    start = time.perf_counter()
    result = measure(asked.repeats, asked.threads)
    print(table(result))
    print(f"took {time.perf_counter() - start:.0f} s")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
