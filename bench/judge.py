"""How fast logs of others are read: `python bench/judge.py [--megabytes 400] [--json PATH]`. Half a minute on one core.

A folder of logs in the forms of parameter-golf is written (settings, training, stages; every fourth holds its program, every
tenth stands behind a launcher's prefix, every twentieth has a smoke run before it) and sorted into arms, in one process.
Asked is that 400 MB are read in under a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from ablab.judging.logs.arms import sort
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab

ASKED = 400 / 60  # MB a second
BYTES = 75_000  # of a log; the mean of 5,571 public ones is 66,000
SEEDS = 3
PROGRAM = """def eval_val(model, tokens):
    val_loss = 0.0  # nats
    for batch in batches(tokens):
        val_loss += loss_of(model, batch).item()
    log0(f"step:{step}/{iterations} val_loss:{val_loss:.4f} val_bpb:{val_bpb:.4f}")
    return val_loss / steps, val_loss / steps / math.log(2) * tokens_per_byte
"""


def log(number: int, size: int) -> str:
    """A log of about `size` bytes: arm number // SEEDS, seed number % SEEDS."""
    arm, seed = divmod(number, SEEDS)
    settings = "".join(f"  setting_{one}: {one * arm % 7}\n" for one in range(90))
    head = f"Hyperparameters:\n{settings}  seed: {seed}\ntrain_shards: 128\nval_tokens: 40540160\n"
    body = "".join(
        f"{step}/20000 train_loss: 2.9091 train_time: {step / 500:.1f}m tok/s: 6234961\n" for step in range(1, 400)
    )
    steps = max(1, (size - len(head) - len(body) - 600) // 110)
    more = "".join(f"step:{step}/20000 train_loss:2.3992 train_time:{step * 82}ms step_avg:82.90ms lr:0.02 grad:0.31 ok\n"
                   for step in range(400, 400 + steps))  # fmt: skip
    smoke = head + "1/20000 val_loss: 9.0047 val_bpb: 3.4860\n" if number % 20 == 3 else ""
    ends = (
        "4557/20000 val_loss: 2.8129 val_bpb: 1.0889\nstopping_early: wallclock_cap train_time: 588119ms step: 4557/20000\n"
        f"Code size: {16594 + arm} bytes\nTotal submission size quantized+brotli: 15992919 bytes\n"
        f"quantized val_loss:2.84004242 val_bpb:1.09946{number % 1000:03} eval_time:25390ms\n"
        f"quantized_ttt val_loss:2.79241542 val_bpb:1.08103{number % 1000:03} eval_time:368074ms\n"
    )
    program = f"{PROGRAM * (size // 4 // len(PROGRAM))}{'=' * 100}\n" if number % 4 == 1 else ""
    text = program + smoke + head + body + more[: max(0, len(more) - len(program))] + "\n" + ends
    return "".join(f"[rank0]: {line}\n" for line in text.splitlines()) if number % 10 == 7 else text


def write(folder: Path, megabytes: float) -> int:
    """Write the logs, an arm a folder; the bytes of all."""
    total = number = 0
    while total < megabytes * 1e6:
        path = folder / f"arm{number // SEEDS}" / f"train_seed{number % SEEDS}.log"
        path.parent.mkdir(exist_ok=True)
        total += path.write_text(log(number, BYTES), encoding="utf-8")
        number += 1
    return total


def measure(megabytes: float) -> dict[str, Any]:
    """MB a second of one process, from the folder's name to its arms."""
    with tempfile.TemporaryDirectory() as name:
        size = write(Path(name), megabytes)
        began, worked = time.perf_counter(), time.process_time()
        found = sort(name)
        took, worked = time.perf_counter() - began, time.process_time() - worked
    runs = sum(len(arm.runs) for arm in found.arms)
    return {"bytes": size, "runs": runs, "arms": len(found.arms), "faults": len(found.faults), "seconds": took,
            "processor_seconds": worked, "megabytes_per_second": size / 1e6 / took}  # fmt: skip


def main() -> None:
    """Print the measurements, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.megabytes)
    found |= {"target": "400 MB in under a minute", "machine": {"commit": of_ablab(), **machine.describe()}}
    print(json.dumps(found, indent=1))
    print(
        f"{found['bytes'] / 1e6:.0f} MB, {found['runs']:,} runs in {found['arms']:,} arms: {found['seconds']:.1f} s "
        f"({found['processor_seconds']:.1f} s of one core), "
        f"{found['megabytes_per_second']:.1f} MB/s; asked: at least {ASKED:.1f}"
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
