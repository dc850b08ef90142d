"""Tokens per second of a full training step against a plain GPT of the same size: `python bench/step.py [--json PATH]`.

Same sizes, precision and machine, eager, one process; forward, backward, clipping and AdamW. Models take turns, and a ratio
is the median over turns of (plain time / our time) within a turn, so that a neighbour's load hits both. About 3 minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.runtime import capacity, machine
from ablab.runtime.provenance import of_ablab
from ablab.study.model import model as canonical
from ablab.training import losses, optimizers, qats, schedules
from ablab.training.learner import Learner
from plain_gpt import PlainGPT, optimizer_of, step

VOCAB, D_MODEL, HEADS, LAYERS = 257, 128, 4, 4
Step = Callable[[], None]


def corpus(tokens: int) -> Corpus:
    """One document of random bytes: every row is one document, as the plain GPT has it."""
    ids = stream(0, "bench", "tokens").integers(0, 256, tokens).astype(np.uint16)
    ids[0] = 256
    starts = np.zeros(1, np.int64)
    valid = Valid(ids[:64], (ids[:64] < 256).astype(np.uint16), starts, np.zeros((1, 16), np.uint8))
    return Corpus(Path("none"), "bench", {}, VOCAB, 256, ids, starts, valid)


def ours(
    seq_len: int,
    rows: int,
    layers: str,
    precision: str,
    *,
    d_model: int = D_MODEL,
    n_heads: int = HEADS,
    n_kv_heads: int = HEADS,
    optimizer: Any = None,
    model: dict[str, Any] | None = None,
    **kinds: dict[str, Any],
) -> Step:
    """A step of ablab's model; `kinds` gives window and slots by letter, `model` any other key of [model]."""
    faults: list[Any] = []
    sizes = {"d_model": d_model, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "seq_len": seq_len}
    model = canonical({"layers": layers, **sizes, **(model or {}), **kinds}, faults)
    if faults:
        raise ValueError(faults)
    asked: dict[str, Any] = {
        "clip": 1.0,
        "ema": 0.0,
        "ema_warmup": None,
        "salt": "",
        "weights": None,
        "validate_every": 0,
    }
    asked["optimizer"] = optimizers.slot.coerce(optimizer or {"name": "adamw", "lr": 1e-3}, "")[0]
    asked["schedule"] = schedules.slot.coerce("wsd", "")[0]
    asked["loss"] = losses.slot.coerce("mean", "")[0]
    asked["qat"] = qats.slot.coerce("off", "")[0]
    budget = {"tokens": 1 << 30, "seconds": None, "batch_tokens": rows * seq_len}
    settings = {
        "budget": budget,
        "data": {"span": seq_len, "order": "chunks", "weights": None},
        "model": model,
        "train": asked,
    }
    how: dict[str, Any] = {"seed": 0, "precision": precision, "micro_rows": rows, "executor": "lift", "device": "cpu"}
    learner = Learner(settings, corpus(1 << 17), **how)
    number = iter(range(1, 1 << 30))

    def one() -> None:
        at = next(number)
        learner.step(learner.stream.batch(at), at, 0.5)

    return one


def plain(seq_len: int, rows: int, precision: str, *, modern: bool) -> Step:
    """A step of the plain GPT, its batch cut from the tokens as nanoGPT does it."""
    torch.manual_seed(0)
    model = PlainGPT(vocab_size=VOCAB, d_model=D_MODEL, n_heads=HEADS, n_layers=LAYERS, seq_len=seq_len, modern=modern)
    optimizer, tokens = optimizer_of(model), corpus(1 << 17).tokens

    def one() -> None:
        starts = torch.randint(len(tokens) - seq_len, (rows,))
        cut = torch.stack([torch.from_numpy(tokens[i : i + seq_len + 1].astype(np.int64)) for i in starts.tolist()])
        step(model, optimizer, cut[:, :-1], cut[:, 1:].contiguous(), bf16=precision == "bf16")

    return one


def measure(steps: dict[str, Step], tokens: int, seconds: float) -> dict[str, Any]:
    """Interleaved turns for about `seconds`; tokens per second and, for each of ours, the ratio to each plain model."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for one in steps.values():
        one()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(times["plain"]) < 5:
        for name, one in steps.items():
            start = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - start)
    speed = {name: round(tokens / statistics.median(found)) for name, found in times.items()}
    ratios = {
        f"{name} / {peer}": round(statistics.median(p / o for p, o in zip(times[peer], times[name])), 3)
        for name in steps
        for peer in steps
        if peer.startswith("plain") and not name.startswith("plain")
    }
    return {"turns": len(times["plain"]), "tokens_per_second": speed, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--seconds", type=float, default=75.0, help="for each of the two comparisons")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    precision = capacity.precision("cpu")
    sink = {"softmax": "sink"}
    short = {
        "plain": plain(512, 8, precision, modern=True),
        "plain classic": plain(512, 8, precision, modern=False),
        "ours": ours(512, 8, "GGGG", precision, G={}),
    }
    found: dict[str, Any] = {"environment": {"commit": of_ablab(), **machine.describe(), "precision": precision}}
    found["full causal, T=512, batch 8"] = measure(short, 512 * 8, given.seconds)
    local = {"window": 128}
    grape = {"L": {**local, **sink, "position": "grape_m"}, "G": {**sink, "position": "grape_a"}}
    long = {
        "plain": plain(4096, 1, precision, modern=True),
        "hybrid rope": ours(4096, 1, "LLLG", precision, L=local, G={}),
        "hybrid grape, sinks": ours(4096, 1, "LLLG", precision, **grape),
        "full causal rope": ours(4096, 1, "GGGG", precision, G={}),
    }
    found["LLLG, W=128, T=4096, batch 1"] = measure(long, 4096, given.seconds)
    found["targets"] = {"full causal, T=512": 1.0, "LLLG, T=4096": 1.4}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
