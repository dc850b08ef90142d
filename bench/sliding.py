"""Sliding evaluation against one window at a time: python bench/sliding.py [--json PATH].

T = 2048, stride 64. The plain form is a script's loop: one window a forward, all its logits, cross entropy of all its
targets, of which the last 64 count. Two models: every layer with a window of 128 and relative places, where one pass over
the document gives the same scores (asked: at least 3 times as fast); and golf's shape with full attention, where every window
must be read and nothing but the head is spared: its ratio is shown, and nothing is asked of it. Both forms take turns and
medians are compared; scores are compared too. About 5 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model.decoder import Decoder, build
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab
from ablab.scoring.evaluators.sliding import Sliding
from ablab.scoring.ledger import Ledger
from ablab.study import load

LENGTH, STRIDE, VOCAB = 2048, 64, 8192
SHAPES: dict[str, dict[str, Any]] = {
    "windows of 128": {"layers": "L" * 8, "d_model": 384, "n_heads": 6, "n_kv_heads": 3},
    "full attention": {"layers": "G" * 11, "d_model": 512, "n_heads": 8, "n_kv_heads": 4},
}
STEPS = {"windows of 128": 16, "full attention": 7}  # windows after the first
TARGETS = {"windows of 128": 3.0, "full attention": None}
WORDS = {
    "windows of 128": "one pass over the document",
    "full attention": "every window is read, nothing but the head is spared",
}
STUDY = """
[study]
name = "sliding"
[decision]
matters = 0.01
[budget]
tokens = 65_536
batch_tokens = 2048
[data]
source = "texts"
[model]
layers = "{layers}"
d_model = {d_model}
n_heads = {n_heads}
n_kv_heads = {n_kv_heads}
seq_len = {seq_len}
softcap = 30.0
mlp = {{ name = "relu2", ratio = 4.0 }}
{kind}
[arm.other]
train.clip = 2.0
"""
KINDS = {"L": 'local = { window = 128, position = "rope" }', "G": 'global.position = "rope"'}


def model(shape: dict[str, Any]) -> Decoder:
    """Heads of 64, rope, a squared-relu MLP four times as wide, tied embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sliding.toml"
        path.write_text(STUDY.format(**shape, seq_len=LENGTH, kind=KINDS[shape["layers"][0]]))
        settings = load(path).baseline.settings["model"]
    return build(settings, vocab_size=VOCAB, seed=0).eval()


def text(steps: int) -> Corpus:
    """One document that takes `steps` windows after the first."""
    tokens = stream(0, "bench", "sliding").integers(0, VOCAB, LENGTH + steps * STRIDE + 1).astype(np.uint16)
    valid = Valid(tokens, np.ones(len(tokens), np.uint16), np.zeros(1, np.int64), np.zeros((1, 16), np.uint8))
    empty = np.zeros(0, np.uint16)
    return Corpus(Path("nowhere"), "bench", {}, VOCAB, 0, empty, np.zeros(0, np.int64), valid)


@torch.inference_mode()
def plain(decoder: Decoder, corpus: Corpus) -> np.ndarray:
    """Nats of every target, one window at a time."""
    ids = torch.from_numpy(corpus.valid[0].ids)
    found = np.zeros(len(ids) - 1)
    for start in range(0, len(ids) - LENGTH, STRIDE):
        tokens, targets = ids[None, start : start + LENGTH], ids[start + 1 : start + LENGTH + 1]
        logits = decoder.logits(decoder(tokens, torch.zeros_like(tokens)))[0]
        nats = F.cross_entropy(logits, targets, reduction="none").double().numpy()
        first = LENGTH - STRIDE if start else 0
        found[start + first : start + LENGTH] = nats[first:]
    return found


def evaluated(decoder: Decoder, corpus: Corpus) -> tuple[np.ndarray, dict[str, Any]]:
    """Nats of every target by the evaluator, and what it says of its way."""
    ledger = Ledger(corpus)
    lever = Sliding(stride=STRIDE)
    extra = lever(decoder, corpus, {"model": {"seq_len": LENGTH}}, seed=0, precision="fp32", ledger=ledger).extra
    return ledger.trace()[1:], extra


def measure(name: str, turns: int) -> dict[str, Any]:
    """Seconds of both forms, their ratio, and the largest difference of a score."""
    decoder, corpus = model(SHAPES[name]), text(STEPS[name])
    wanted, (found, extra) = plain(decoder, corpus), evaluated(decoder, corpus)
    forms: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(decoder, corpus),
        "sliding": lambda: evaluated(decoder, corpus),
    }
    took: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(turns):
        for form, do in forms.items():
            began = time.perf_counter()
            do()
            took[form].append(time.perf_counter() - began)
    seconds = {form: statistics.median(several) for form, several in took.items()}
    return {
        **SHAPES[name],
        **extra,
        "targets": len(found),
        "seconds": seconds,
        "ratio": seconds["plain"] / seconds["sliding"],
        "target": TARGETS[name],
        "what": WORDS[name],
        "largest_difference_nats": float(np.abs(found - wanted).max()),
    }


def said(name: str, one: dict[str, Any]) -> str:
    """Measured beside asked."""
    asked = "nothing is asked" if one["target"] is None else f"asked: at least {one['target']:g}"
    return f"{name}: {one['what']}; {one['ratio']:.2f} times as fast as window by window; {asked}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    environment = {
        "commit": of_ablab(),
        **machine.describe(),
        "threads": asked.threads,
        "date": str(datetime.date.today()),
    }
    found = {
        "environment": environment,
        "seq_len": LENGTH,
        "stride": STRIDE,
        "vocab_size": VOCAB,
        "models": {name: measure(name, asked.turns) for name in SHAPES},
    }
    print(json.dumps(found, indent=1))
    print("\n".join(said(name, one) for name, one in found["models"].items()))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
