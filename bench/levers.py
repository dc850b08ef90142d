"""Step time of TPA, gates and small mixers against plain grouped queries: `python bench/levers.py [--json PATH]`.

A full training step (forward, backward, clipping, AdamW) of one model that differs in one lever; models take turns, a ratio
is the median over turns of (lever's time / baseline's time). The baseline runs twice: its ratio to itself is the noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ablab.runtime import capacity, machine
from ablab.runtime.provenance import of_ablab
from step import Step, ours

D_MODEL, HEADS, KV_HEADS, SEQ_LEN, ROWS = 256, 8, 2, 512, 2
LEVERS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "gqa again": {},
    "tpa 2/6": {"projection": {"name": "tpa", "rank": 2, "q_rank": 6}},
    "tpa 2/4": {"projection": {"name": "tpa", "rank": 2, "q_rank": 4}},
    "attn_out_gate": {"gate": "attn_out_gate"},
    "attn_out_gate all": {"gate": {"name": "attn_out_gate", "width": "all"}},
    "sparse_attn_gate": {"gate": "sparse_attn_gate"},
    "gated_attn": {"gate": "gated_attn"},
    "xsa": {"gate": "xsa"},
    "value residual": {"value": "residual"},
    "qk_gain": {"temperature": "qk_gain"},
    "mix": {"residual": "mix"},
    "smear_gate": {"embedding": "smear_gate"},
    "bigram_hash": {"embedding": "bigram_hash"},
}


def measure(steps: dict[str, Step], seconds: float) -> dict[str, Any]:
    """Interleaved turns for about `seconds`."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for one in steps.values():
        one()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(times["gqa"]) < 5:
        for name, one in steps.items():
            start = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - start)
    ratio = {name: statistics.median(t / b for t, b in zip(times[name], times["gqa"])) for name in steps}
    return {
        "turns": len(times["gqa"]),
        "milliseconds": round(1000 * statistics.median(times["gqa"]), 1),
        "step time / gqa": {name: round(value, 3) for name, value in ratio.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    precision = capacity.precision("cpu")
    sizes: dict[str, Any] = {"d_model": D_MODEL, "n_heads": HEADS, "n_kv_heads": KV_HEADS}
    steps = {name: ours(SEQ_LEN, ROWS, "G*4", precision, model=lever, G={}, **sizes) for name, lever in LEVERS.items()}
    found = {
        "environment": {"commit": of_ablab(), **machine.describe(), "precision": precision},
        "sizes": {**sizes, "seq_len": SEQ_LEN},
    }
    found |= measure(steps, given.seconds) | {"target": 1.1}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
