"""Tokens per second of cached decoding: python bench/decode.py [--json PATH].

At T = 4096: three layers in four with a window of 128 (rings) against the same model with full layers alone (the full
cache); turns of both are taken one after another, and medians compared. Then time against the number of generated
tokens, and where a step's time goes. About 4 minutes on one core.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import tiny

from ablab.core.rng import stream
from ablab.model.cache import Cache
from ablab.model.decoder import Decoder, build
from ablab.model.generate import generate
from ablab.model.size import cache_size
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab

LENGTH, VOCAB, TURN = 4096, 4096, 16


def model(layers: str, window: int = 128, **levers: Any) -> Decoder:
    """8 layers, d_model 512, 8 heads of 64 over 4 kv heads, by letter: L with the window, G without."""
    chosen = {"position": "rope", "mlp": "relu2"} | levers
    settings = tiny.model(
        layers=layers,
        kinds={"L": tiny.kind("local", window, **chosen), "G": tiny.kind("global", None, **chosen)},
        d_model=512,
        n_heads=8,
        n_kv_heads=4,
        head_dim=64,
        seq_len=LENGTH,
    )
    return build(settings, vocab_size=VOCAB, seed=0, device="cpu").eval()


def filled(decoder: Decoder) -> Cache:
    """A cache of LENGTH random tokens, one row."""
    tokens = torch.from_numpy(stream(0, "bench", "decode").integers(0, VOCAB, (1, LENGTH)))
    cache = Cache(decoder, LENGTH + 1024)
    decoder(tokens, torch.zeros_like(tokens), cache=cache)
    return cache


def widened(decoder: Decoder, one: Cache, rows: int) -> Cache:
    """The cache of that row, many times over."""
    cache = Cache(decoder, LENGTH + 1024)
    ids = torch.zeros(rows, LENGTH, dtype=torch.int64)
    cache.documents(ids)
    for mine, theirs in zip(cache.memories, one.memories, strict=True):
        for name, kept in theirs._kept.items():
            assert kept.held is not None
            mine._extend(name, kept.held[:, :, :1].repeat(rows, 1, 1, 1), 0)
            mine._kept[name].held = kept.held.repeat(rows, 1, 1, 1)
    return cache


def turn(decoder: Decoder, cache: Cache, rows: int, steps: int) -> float:
    """Seconds of some greedy steps."""
    token = ids = torch.zeros(rows, 1, dtype=torch.int64)
    began = time.perf_counter()
    for _ in range(steps):
        token = decoder.logits(decoder(token, ids, cache=cache)[:, -1]).argmax(-1)[:, None]
    return time.perf_counter() - began


def against_full(decoders: dict[str, Decoder], ones: dict[str, Cache], rows: int, turns: int) -> dict[str, Any]:
    """The hybrid cache against the full one."""
    caches = {name: widened(decoder, ones[name], rows) for name, decoder in decoders.items()}
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for n in range(turns + 1):
        for name, decoder in decoders.items():
            took = turn(decoder, caches[name], rows, TURN)
            times[name] += [took] if n else []  # the first turn warms up
    speed = {name: rows * TURN / statistics.median(found) for name, found in times.items()}
    ratios = sorted(full / hybrid for full, hybrid in zip(times["full"], times["hybrid"], strict=True))
    return {
        "rows": rows,
        "tokens_per_second": speed,
        "step_ms": {name: 1000 * rows / found for name, found in speed.items()},
        "ratio": speed["hybrid"] / speed["full"],
        "ratio_of_turns": {"least": ratios[0], "median": statistics.median(ratios), "most": ratios[-1]},
        "cache_mib": {name: cache.nbytes / 2**20 for name, cache in caches.items()},
        "bytes_at_length": {n: rows * cache_size(d, LENGTH, itemsize=4)["bytes"] for n, d in decoders.items()},
    }


def by_generated(turns: int) -> dict[str, Any]:
    """Seconds of generating ever more tokens from a short prompt, hybrid; and of each quarter of the longest."""
    decoder, prompt = model("LLLGLLLG"), [[1, 2, 3, 4]]
    sizes = (128, 256, 512, 1024)
    found: dict[int, list[float]] = {n: [] for n in sizes}
    for _ in range(turns):
        for n in sizes:
            found[n].append(generate(decoder, prompt, n, temperature=0).seconds)
    seconds = {n: statistics.median(times) for n, times in found.items()}
    return {"seconds": seconds, "twice_as_many": {n: seconds[2 * n] / seconds[n] for n in sizes[:-1]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with torch.inference_mode():
        decoders = {"hybrid": model("LLLGLLLG"), "full": model("GGGGGGGG")}
        ones = {name: filled(decoder) for name, decoder in decoders.items()}
        found = {
            "environment": {
                "commit": of_ablab(),
                **machine.describe(),
                "precision": "fp32",
                "date": str(datetime.date.today()),
            },
            "model": {"layers": "LLLGLLLG", "window": 128, "d_model": 512, "length": LENGTH, "vocab_size": VOCAB},
            "hybrid_against_full": [against_full(decoders, ones, rows, asked.turns) for rows in (1, 8)],
            "by_generated_tokens": by_generated(2),
            "target": {"ratio": 1.5, "twice_as_many": "about 2: linear"},
        }
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
