"""Every speed promise that needs a GPU, in one run: python bench/gpu.py [--out DIR] [--only ROW ...] [--minutes N].

Writes gpu_ROW.json for each row, with machine, torch and date, into bench/results: step (a hybrid of GPT-2's sizes, 114M with
its four kv heads, GRAPE and sinks, against RoPE, full causal, at T=4096, compiled, bf16, over documents as long as web
text's: time, share of the GPU's products, NorMuon's share, launches, graphs made after the first steps), loss (peak memory
and time at a vocabulary of 201,088), decode (hybrid cache against full), choice (executors by case: what
attention/choice.py will be set by), normuon (kernel launches against the number of matrices) and window (W=128 against
dense-mask SDPA, and growth to 32k). Competitors take turns; a ratio is the median of the ratios within a turn. A row that
is to begin after --minutes (9.5) is left out, named, and the exit code is 1. `--device cpu --toy` runs the same code at toy
size and measures nothing worth keeping: a test of this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import loss
from ablab import study
from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model import compiled
from ablab.model.attention.attend import EXECUTORS, Added, Documents, attend
from ablab.model.decoder import build
from ablab.model.generate import Cache
from ablab.model.parts.columns import Columns
from ablab.model.size import flops_per_token
from ablab.runtime import capacity, machine
from ablab.runtime.provenance import of_ablab
from ablab.training import optimizers
from ablab.training.learner import Learner

Step = Callable[[], object]
# bf16 products per second as stated, dense, by a word of the GPU's name.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
LEAST_DOCUMENT, MEDIAN_DOCUMENT = 20, 600  # tokens; lognormal of width 1, mean 990: web text
SETTLED = 10  # steps after which no new graph is expected
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")

STUDY = """
[study]
name = "gpu"
question = "How fast?"
[decision]
matters = 0.005
[budget]
tokens = {tokens}
batch_tokens = {batch}
[data]
source = "mock"
[model]
layers = "{layers}"
d_model = {d_model}
n_heads = {heads}
n_kv_heads = {kv_heads}
seq_len = {length}
{kinds}
[train]
optimizer = "{optimizer}"
[stage]
pre_quant = {{ evaluate = "disjoint" }}
[arm.again]
train.salt = "again"
"""
LOCAL = 'local.window = {window}\nlocal.position = "{local}"\n'


@dataclass(frozen=True)
class Size:
    """What is measured, and how often."""

    length: int = 4096
    rows: int = 8
    vocab: int = 50_304
    d_model: int = 768
    heads: int = 12
    kv_heads: int = 4
    layers: int = 12
    window: int = 128
    lengths: tuple[int, ...] = (4096, 8192, 16384, 32768)
    matrices: tuple[int, ...] = (8, 64, 256)
    matrix: tuple[int, int] = (1024, 1024)
    loss: tuple[int, int, int] = (16_384, 201_088, 768)  # rows, vocabulary, d_model
    decoded: int = 64
    turns: int = 9


TOY = Size(64, 2, 257, 32, 2, 1, 4, 16, (32, 64), (2, 6), (16, 16), (64, 512, 16), 4, 2)


def settings(size: Size, *, hybrid: bool, optimizer: str = "adamw") -> dict[str, Any]:
    """Canonical settings of the hybrid model (LLLG, GRAPE-M local, GRAPE-A global, sinks), or RoPE and full layers alone."""
    kinds = 'position = "rope"\n'
    if hybrid:
        kinds = LOCAL.format(window=size.window, local="grape_m") + 'global.position = "grape_a"\nsoftmax = "sink"\n'
    text = STUDY.format(
        tokens=1000 * size.rows * size.length,
        batch=size.rows * size.length,
        layers=f"(LLLG)*{size.layers // 4}" if hybrid else f"G*{size.layers}",
        d_model=size.d_model,
        heads=size.heads,
        kv_heads=size.kv_heads,
        length=size.length,
        optimizer=optimizer,
        kinds=kinds if hybrid else f"global.{kinds}",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gpu.toml"
        path.write_text(text)
        return study.load(path).baseline.settings


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def turns(steps: dict[str, Step], size: Size, device: str) -> dict[str, list[float]]:
    """Seconds of each step, taken in turns after three warm-ups each (compilation among them)."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3 if device == "cuda" else 1):
            step()
    for _ in range(size.turns):
        for name, step in steps.items():
            wait(device)
            began = time.perf_counter()
            step()
            wait(device)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def compare(steps: dict[str, Step], size: Size, device: str) -> dict[str, Any]:
    """Median milliseconds of each, and the first's time over each other's."""
    seconds = turns(steps, size, device)
    ours, *others = steps
    return {
        "ms": {name: 1000 * statistics.median(found) for name, found in seconds.items()},
        "ratio": {
            f"{ours} / {other}": statistics.median(a / b for a, b in zip(seconds[ours], seconds[other], strict=True))
            for other in others
        },
    }


def peak_mib(step: Step, device: str) -> float | None:
    """MiB that a step adds on a GPU; None elsewhere."""
    return loss.gpu_peak(step) if device == "cuda" else None


def web(tokens: int, vocab: int) -> Corpus:
    """Random words in documents as long as web text's: what a corpus of one long document hides recompiles and packs here."""
    draw = stream(0, "bench", "gpu", "web")
    ids = draw.integers(0, vocab - 1, tokens).astype(np.uint16)
    lengths = draw.lognormal(np.log(MEDIAN_DOCUMENT), 1.0, tokens // LEAST_DOCUMENT).astype(np.int64)
    ends = np.maximum(lengths, LEAST_DOCUMENT).cumsum()
    starts = np.concatenate([[0], ends[ends < tokens]])
    ids[starts] = vocab - 1
    held_out = ids[:64].copy()
    held_out[1:] %= vocab - 1
    valid = Valid(held_out, np.ones(64, np.uint16), np.zeros(1, np.int64), np.zeros((1, 16), np.uint8))
    return Corpus(Path("none"), "bench", {}, vocab, vocab - 1, ids, starts, valid)


class Training:
    """A model, its optimizer and its batches: whole steps, forward to update; compiled and in bf16 where runs are."""

    def __init__(self, size: Size, device: str, *, hybrid: bool, optimizer: str = "adamw") -> None:
        self.size, self.device, self.number = size, device, 0
        self.settings = settings(size, hybrid=hybrid, optimizer=optimizer)
        self.learner = Learner(
            self.settings,
            web(1 << 15 if size is TOY else 1 << 22, size.vocab),
            seed=0,
            precision=capacity.precision(device),
            micro_rows=size.rows,
            executor="lift",
            device=device,
            compiled=compiled.compiles(device),
        )

    def step(self) -> None:
        self.number += 1
        self.learner.step(self.learner.stream.batch(self.number), self.number, 0.5)

    def update(self) -> None:
        """The optimizer alone, on the gradients of the last step."""
        self.learner.optimizer.move()

    def flops(self) -> float:
        """Products of a step: `flops_per_token`, but attention counted by what these documents show of it."""
        model, places = self.settings["model"], [self.learner.stream.batch(n).ids_BT for n in range(1, 4)]
        total: float = flops_per_token(self.learner.model, model)
        seen = 1 + torch.cat([Documents(ids).pos_BT for ids in places]).double()
        length, channels = self.size.length, 12.0 * model["n_heads"] * model["head_dim"]
        for letter in model["layers"]:
            window = min(model["kinds"][letter]["window"] or length, length)
            whole = torch.arange(1, length + 1).double().clamp(max=window).mean()
            total += channels * float(seen.clamp(max=window).mean() - whole)
        return total * self.size.rows * length


def launches(step: Step, device: str) -> int:
    """Kernel launches of a step; on a CPU, operators."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profile:
        step()
        wait(device)
    events = profile.key_averages()
    return sum(e.count for e in events if (e.key in LAUNCHES if device == "cuda" else e.key.startswith("aten::")))


def graphs() -> int:
    """Graphs that torch.compile has made so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def step_row(size: Size, device: str) -> dict[str, Any]:
    """The hybrid's training step against the same model with RoPE and full layers; and what NorMuon costs in it."""
    made = {
        "hybrid": Training(size, device, hybrid=True),
        "rope, full causal": Training(size, device, hybrid=False),
        "hybrid, normuon": Training(size, device, hybrid=True, optimizer="normuon"),
    }
    began = time.perf_counter()
    for one in made.values():
        for _ in range(SETTLED if device == "cuda" else 1):
            one.step()
    wait(device)
    settling, before = time.perf_counter() - began, graphs()
    found = compare({name: one.step for name, one in made.items()}, size, device)
    new, muon = graphs() - before, made["hybrid, normuon"]
    update = compare({"update": muon.update}, size, device)["ms"]["update"]
    speed = {name: 1000 * size.rows * size.length / ms for name, ms in found["ms"].items()}
    flops = {name: one.flops() for name, one in made.items()}
    peak = next((peak for word, peak in PEAKS.items() if word in machine.kind(device)), None)
    return {
        **found,
        "tokens_per_second": speed,
        "teraflop": {name: count / 1e12 for name, count in flops.items()},
        "mfu": {name: 1000 * flops[name] / found["ms"][name] / peak for name in made} if peak else None,
        "normuon": {"ms": update, "share": update / found["ms"]["hybrid, normuon"]},
        "launches" if device == "cuda" else "operators": {
            name: launches(one.step, device) for name, one in made.items()
        },
        "peak_mib": {name: peak_mib(one.step, device) for name, one in made.items()},
        "first_steps": {"steps": SETTLED, "seconds": settling, "graphs": before, "graphs_after": new},
        "target": {"hybrid / rope, full causal": 0.9, "mfu": 0.45, "normuon": 0.05, "graphs_after": 0},
    }


class Case:
    """q, k, v of one packed or whole row, a sink, ALiBi's columns, the gradient that comes back."""

    def __init__(self, size: Size, length: int, device: str, documents: int = 1, bias: str = "slopes") -> None:
        draw, width = stream(0, "bench", "gpu", length), size.d_model // size.heads
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        shapes = [(1, length, n, width) for n in (size.heads, size.kv_heads, size.kv_heads, size.heads)]
        made = [torch.from_numpy(draw.standard_normal(s, dtype="float32")).to(device, dtype) for s in shapes]
        self.d = made.pop()
        self.sink = torch.zeros(size.heads, device=device).requires_grad_()
        self.q, self.k, self.v = (t.requires_grad_() for t in made)
        self.ids = (torch.arange(length, device=device) * documents // length)[None]
        self.kind = bias  # none, slopes, or columns: the same slopes as something that could learn
        self.slope = 2.0 ** -torch.arange(1, size.heads + 1, device=device)

    def bias(self, documents: Documents) -> Columns:
        place = documents.pos_BT.float()
        one = place[..., None, None]
        fixed = self.slope if self.kind == "slopes" else None
        return Columns(self.slope[None, None, :, None], one, -place[..., None] * self.slope, (3, 2), fixed)

    def by(self, executor: str, window: int | None) -> Step:
        def step() -> None:
            documents = Documents(self.ids)
            added = Added(window, documents, None if self.kind == "none" else self.bias(documents), sink_H=self.sink)
            attend(self.q, self.k, self.v, added, executor=executor).backward(self.d)

        return step

    def masked(self, window: int) -> Step:
        """SDPA with the dense mask of the window; made outside the clock. It knows no sink."""
        seen = Documents(self.ids).visible_BTS(window)[:, None]

        def step() -> None:
            q, k, v = (t.transpose(1, 2) for t in (self.q, self.k, self.v))
            F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2).backward(self.d)

        return step


def window_row(size: Size, device: str) -> dict[str, Any]:
    """Windowed attention against dense-mask SDPA at the first length; time and memory as the row grows."""
    case = Case(size, size.lengths[0], device, bias="none")
    found = compare({"ours": case.by("lift", size.window), "sdpa": case.masked(size.window)}, size, device)
    cases = {n: Case(size, n, device, bias="none").by("lift", size.window) for n in size.lengths}
    seconds = turns({str(n): step for n, step in cases.items()}, size, device)
    ms = {n: 1000 * statistics.median(times) for n, times in seconds.items()}
    peaks = {str(n): peak_mib(step, device) for n, step in cases.items()}
    return {**found, "ms_by_length": ms, "peak_mib_by_length": peaks, "target": {"ours / sdpa": 0.25}}


def choice_row(size: Size, device: str) -> dict[str, Any]:
    """Executors by case at T: whole rows, ten documents, a window; without a bias, with fixed slopes, with columns."""
    names = [name for name, where in EXECUTORS.items() if device in where and name != "reference"]
    asked = {"full": (1, None), "documents": (10, None), "window": (1, size.window)}
    found = {}
    for case, (documents, window) in asked.items():
        for bias in ("none", "slopes", "columns"):
            made = Case(size, size.length, device, documents, bias)
            steps = {name: made.by(name, window) for name in names}
            found[case + (f", {bias}" if bias != "none" else "")] = compare(steps, size, device)
    return found


def normuon_row(size: Size, device: str) -> dict[str, Any]:
    """Kernel launches of one NorMuon step (on a CPU: operators) for ever more matrices of one shape."""
    counts, ms = {}, {}
    for n in size.matrices:
        draw = stream(0, "bench", "gpu", "normuon", n)
        weights = {}
        for i in range(n):
            values = [torch.from_numpy(draw.standard_normal(size.matrix, dtype="float32")).to(device) for _ in "wg"]
            weights[f"w{i}"] = torch.nn.Parameter(values[0])
            weights[f"w{i}"].grad = values[1]
        optimizer = optimizers.slot.build(optimizers.slot.coerce("normuon", "")[0])
        optimizer = optimizer.build(weights, dict.fromkeys(weights, "matrix"))
        ms[str(n)] = compare({"ours": lambda o=optimizer: o.move()}, size, device)["ms"]["ours"]
        counts[str(n)] = launches(optimizer.move, device)
    return {"launches" if device == "cuda" else "operators": counts, "ms": ms, "shape": size.matrix}


def loss_row(size: Size, device: str) -> dict[str, Any]:
    """The chunked loss against the plain form: peak memory and time."""
    rows, vocab, width = size.loss
    precision = capacity.precision(device)
    steps = {form: loss.step_of(form, rows, vocab, width, precision, None, device) for form in ("chunked", "plain")}
    steps["chunked, half the rows"] = loss.step_of("chunked", rows // 2, vocab, width, precision, None, device)
    peaks = {name: peak_mib(step, device) for name, step in steps.items()}
    share = peaks["chunked"] / peaks["plain"] if peaks["chunked"] and peaks["plain"] else None
    return {**compare(steps, size, device), "peak_mib": peaks, "peak_ratio": share, "target": {"peak_ratio": 0.25}}


def decode_row(size: Size, device: str) -> dict[str, Any]:
    """Greedy cached decoding behind a full context: the hybrid's caches against full ones."""
    steps: dict[str, Step] = {}
    for name, hybrid in (("hybrid", True), ("full cache", False)):
        decoder = build(settings(size, hybrid=hybrid)["model"], vocab_size=size.vocab, seed=0, device=device).eval()
        cache = Cache(decoder, size.length + 16 * size.turns * size.decoded)
        draws = stream(0, "bench", "gpu", "decode").integers(0, size.vocab, (1, size.length))
        ids = torch.zeros(1, 1, dtype=torch.int64, device=device)

        def step(decoder: Any = decoder, cache: Cache = cache, ids: torch.Tensor = ids) -> None:
            token = ids
            with torch.inference_mode(), machine.autocast(capacity.precision(device), device):
                for _ in range(size.decoded):
                    token = decoder.logits(decoder(token, ids, cache=cache)[:, -1]).argmax(-1)[:, None]

        with torch.inference_mode(), machine.autocast(capacity.precision(device), device):
            for part in torch.from_numpy(draws).to(device).split(1024, 1):
                decoder(part, torch.zeros_like(part), cache=cache)
        steps[name] = step
    found = compare(steps, size, device)
    speed = {name: 1000 * size.decoded / ms for name, ms in found["ms"].items()}
    return {**found, "tokens_per_second": speed, "target": {"hybrid / full cache": 1 / 1.5}}


ROWS: dict[str, Callable[[Size, str], dict[str, Any]]] = {  # the most wanted first
    "step": step_row,
    "loss": loss_row,
    "decode": decode_row,
    "choice": choice_row,
    "normuon": normuon_row,
    "window": window_row,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy size: a test of this file, no measurement")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=9.5, help="rows that would begin later are left out")
    parser.add_argument("--out", type=Path, help="default: bench/results")
    asked = parser.parse_args()
    if asked.device == "cpu" and not asked.toy:
        parser.error("--device cpu goes with --toy: at real size only a GPU says anything")
    if asked.toy and asked.out is None:
        parser.error("--toy needs --out: toy numbers do not belong in bench/results")
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no CUDA device; run on a machine with a GPU, or with --device cpu --toy --out DIR")
    size, out = TOY if asked.toy else Size(), asked.out or Path(__file__).parent / "results"
    out.mkdir(parents=True, exist_ok=True)
    environment = {
        "commit": of_ablab(),
        **machine.describe(asked.device),
        "precision": capacity.precision(asked.device),
    }
    environment |= {"date": str(datetime.date.today()), "toy": asked.toy}
    began, late = time.perf_counter(), list[str]()
    for name in (row for row in ROWS if row in asked.only):
        if (at := time.perf_counter()) - began > 60 * asked.minutes:
            late.append(name)
            continue
        measured = ROWS[name](size, asked.device)
        found = {"environment": environment, "size": vars(size), name: measured, "seconds": time.perf_counter() - at}
        (out / f"gpu_{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({name: measured}), flush=True)
        if asked.device == "cuda":
            torch.cuda.empty_cache()
    if late:
        sys.exit(
            f"error: {asked.minutes:g} minutes were over before {', '.join(late)}; run again with --only {' '.join(late)}"
        )


if __name__ == "__main__":
    main()
