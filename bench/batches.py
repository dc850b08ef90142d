"""Share of a tiny training step that reading its batch takes: `python bench/batches.py [--json PATH]`. About 1 minute.

Tokens, loss masks and spans lie in Megatron files, documents of some 80 tokens; read in shuffled chunks (one document start
after another is looked up) and in Megatron's own order (sample by sample, over documents). The model is tiny: 1,024 tokens a
step, four layers of 64, 257 words, so that nothing else is small beside reading. Batches and steps take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablab.core.rng import stream
from ablab.data import prepare
from ablab.data.formats.indexed import IndexedWriter
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab
from ablab.study import load
from ablab.training.learner import Learner

TINY = """
[study]
name = "tiny"
[decision]
matters = 0.01
[budget]
tokens = 1_024_000
batch_tokens = 1024
[data]
source = "train_tokens"
valid_source = "valid_tokens"
[model]
layers = "LGLG"
d_model = 64
n_heads = 4
n_kv_heads = 2
seq_len = 256
local.window = 16
global.position = "grape_a"
[train]
loss = "spans"
[arm.other]
train.clip = 2.0
"""


def write(folder: Path, name: str, documents: int) -> None:
    """Documents of 40 to 120 bytes; the first third masked, then reasoning, then final."""
    lengths = stream(0, "bench", name).integers(40, 121, documents)
    total = int(lengths.sum())
    ids = stream(0, "bench", name, "ids").integers(0, 256, total)
    place = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    share = place / np.repeat(lengths, lengths)
    span = np.where(share < 1 / 3, 0, np.where(share < 0.9, 1, 2))
    span = np.where(place == np.repeat(lengths, lengths) - 1, 0, span)
    parts = {"tokens": (ids, np.int32), "lossmask": (span > 0, np.uint8), "span": (span, np.uint8)}
    for end, (values, dtype) in parts.items():
        with IndexedWriter(folder / f"{name}_{end}", dtype) as writer:
            writer.add_documents(values.astype(dtype), lengths)


def share(study: Path, order: str, turns: int, out: Path) -> dict[str, float]:
    """Median seconds of a batch and of a whole step, and the batch's share of it, in turns."""
    settings = load(study).baseline.settings
    settings["data"]["order"] = order
    corpus = prepare(settings["data"], out, lambda _: None)
    how: dict[str, Any] = {"seed": 0, "precision": "fp32", "micro_rows": 4, "executor": "lift", "device": "cpu"}
    learner = Learner(settings, corpus, **how)
    found: list[tuple[float, float]] = []
    for number in range(1, turns + 1):
        began = time.perf_counter()
        batch = learner.stream.batch(number)
        read = time.perf_counter()
        learner.step(batch, number, 0.5)
        found.append((read - began, time.perf_counter() - began))
    found = found[turns // 10 :]
    return {
        "batch_us": statistics.median(read for read, _ in found) * 1e6,
        "step_ms": statistics.median(whole for _, whole in found) * 1e3,
        "share": statistics.median(read / whole for read, whole in found),
    }


def main() -> None:
    """Print one row for each order; with --json also write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--turns", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, "train", 200_000)
        write(folder, "valid", 500)
        (folder / "tiny.toml").write_text(TINY)
        rows = {
            order: share(folder / "tiny.toml", order, asked.turns, folder / "out") for order in ("chunks", "megatron")
        }
    for order, row in rows.items():
        print(f"{order:9} {row['batch_us']:7.0f} us of {row['step_ms']:6.1f} ms: {row['share']:.2%} (asked: < 2%)")
    if asked.json:
        about = {"machine": {"commit": of_ablab(), **machine.describe()}, "threads": torch.get_num_threads()}
        asked.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
