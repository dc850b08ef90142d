"""Time of test-time training against its own forward and backward passes: python bench/ttt.py [--json PATH].

The bare loop takes the same batches through the same model, with the same adapters: scores without gradients, forward and
backward where something is learned. It makes no rows, keeps no ledger, clips nothing and has no optimizer. Both take turns;
medians. About 3 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import copy
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
from ablab.model import decoder
from ablab.model.decoder import Decoder, build
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab
from ablab.scoring.cuts import batches, hidden_of, nats_of
from ablab.scoring.evaluators.evaluator import input_lengths
from ablab.scoring.evaluators.ttt.descent import chunks, learned, loss_of, movable, split
from ablab.scoring.evaluators.ttt.lora import TARGETS, Adapters
from ablab.scoring.evaluators.ttt.side_by_side import SideBySide, groups
from ablab.scoring.evaluators.ttt_lora import Adapted, TttLora
from ablab.scoring.evaluators.ttt_sgd import TttSgd
from ablab.scoring.ledger import Ledger
from ablab.study import load

STUDY = """
[study]
name = "ttt"
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
n_heads = 4
n_kv_heads = 2
seq_len = {seq_len}
local.window = 64
global.position = "rope"
[arm.other]
train.clip = 2.0
"""
VOCAB, SEQ_LEN, WIDTH, LAYERS = 1024, 512, 256, "LGLG"
EPOCHS, RANK, CHUNK, SIDE = 3, 16, 48, 16
TARGET = 1.3
Run = Callable[[], None]


def text(tokens: int) -> Corpus:
    """Documents of 100 to 1,000 tokens, drawn; a BOS first."""
    draw, held = stream(0, "bench", "ttt"), []
    while sum(map(len, held)) < tokens:
        held.append(np.concatenate([[VOCAB - 1], draw.integers(0, VOCAB - 1, int(draw.integers(100, 1000)))]))
    flat = np.concatenate(held).astype(np.uint16)
    starts = np.cumsum([0, *map(len, held)])[:-1].astype(np.int64)
    valid = Valid(flat, np.ones(len(flat), np.uint16), starts, np.zeros((len(held), 16), np.uint8))
    empty = np.zeros(0, np.uint16)
    return Corpus(Path("nowhere"), "bench", {}, VOCAB, VOCAB - 1, empty, np.zeros(0, np.int64), valid)


def bare_sgd(model: Decoder, corpus: Corpus, precision: str, chunk: int) -> Run:
    """The passes of `ttt_sgd`."""
    own = copy.deepcopy(model)
    moving, device, lengths = movable(own, ()), model.head_weight.device, input_lengths(corpus)
    every = list(chunks(lengths, SEQ_LEN, SEQ_LEN, chunk))
    read = [list(batches(corpus, cuts, SEQ_LEN, decoder.FORWARD_TOKENS)) for cuts in every]
    taught = [split(corpus, learned(cuts, SEQ_LEN), SEQ_LEN, None, moving) for cuts in every[:-1]]

    def go() -> None:
        for number, some in enumerate(read):
            with torch.no_grad(), machine.autocast(precision, str(device)):
                for batch in some:
                    nats_of(own, hidden_of(own, batch, device), batch.targets_N, VOCAB)
            for batch in [one for step in taught[number] for one in step] * EPOCHS if number < len(taught) else []:
                with machine.autocast(precision, str(device)):
                    loss = loss_of(own, hidden_of(own, batch, device), batch.targets_N)
                loss.mean().backward()

    return go


def bare_lora(model: Decoder, corpus: Corpus, precision: str) -> Run:
    """The passes of `ttt_lora`."""
    own = copy.deepcopy(model).requires_grad_(False)
    adapters = Adapters(own, targets=TARGETS, rank=RANK, scale=1.0, documents=SIDE)
    side = SideBySide(own, model, adapters, corpus, Ledger(corpus), SEQ_LEN, CHUNK, precision)
    lengths, device, made = input_lengths(corpus), model.head_weight.device, list[Any]()
    for group in groups(lengths, 0, len(lengths), adapters.most, by_length=True):
        counts = [-(-lengths[document] // CHUNK) for document in group]
        for number in range(counts[0]):
            active, goes_on = (sum(count > number + more for count in counts) for more in (0, 1))
            made += [(low, rows, max(0, goes_on - low)) for low, rows in side._rows(group[:active], lengths, number)]

    def go() -> None:
        for low, rows, learning in made:
            adapters.bind(low, low + len(rows.tokens_BT))
            with torch.set_grad_enabled(learning > 0), adapters.attached():
                with machine.autocast(precision, str(device)):
                    logits = side._logits(side._hidden(own, rows))
                nats = F.cross_entropy(logits.flatten(0, 1), rows.targets_BC.flatten().to(device), ignore_index=-1)
                if learning:
                    nats.backward()

    return go


def measure(precision: str, turns: int, tokens: int, device: str) -> dict[str, Any]:
    """Seconds of both forms of both ways, and their ratios."""
    settings = read_settings()
    model = build(settings["model"], vocab_size=VOCAB, seed=0, device=device)
    corpus, chunk = text(tokens), 16 * SEQ_LEN // 4
    how: dict[str, Any] = {"seed": 0, "precision": precision}
    sgd = TttSgd(epochs=EPOCHS, chunk=chunk)
    lora = TttLora(adapters=Adapted(RANK), chunk=CHUNK, batch_documents=SIDE)
    runs: dict[str, Run] = {
        "sgd": lambda: sgd(model, corpus, settings, **how) and None,
        "sgd, bare": bare_sgd(model, corpus, precision, chunk),
        "lora": lambda: lora(model, corpus, settings, **how) and None,
        "lora, bare": bare_lora(model, corpus, precision),
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:  # the first is a warm-up
                took[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(found) for name, found in took.items()}
    return {
        "held_out_tokens": corpus.valid.n_targets,
        "model": {"d_model": WIDTH, "layers": LAYERS, "seq_len": SEQ_LEN, "vocab_size": VOCAB},
        "sgd": {"chunk": chunk, "epochs": EPOCHS},
        "lora": {"chunk": CHUNK, "rank": RANK, "batch_documents": SIDE},
        "seconds": seconds,
        "ratios": {name: seconds[name] / seconds[f"{name}, bare"] for name in ("sgd", "lora")},
        "target": TARGET,
    }


def read_settings() -> dict[str, Any]:
    """The settings of the model that is measured."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "texts").mkdir()
        study = Path(folder) / "ttt.toml"
        study.write_text(STUDY.format(layers=LAYERS, d_model=WIDTH, seq_len=SEQ_LEN))
        settings: dict[str, Any] = load(study).baseline.settings
        return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=6_000, help="of held-out text")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    environment = {
        "commit": of_ablab(),
        **machine.describe(),
        "precision": asked.precision,
        "date": str(datetime.date.today()),
    }
    found = {"environment": environment, **measure(asked.precision, asked.turns, asked.tokens, asked.device)}
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
