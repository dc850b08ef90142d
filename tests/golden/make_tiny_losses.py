"""Makes tiny_losses.json: `python -m tests.golden.make_tiny_losses` from the repository's root, with src on PYTHONPATH."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from tests import tiny

from ablab.runtime import machine

STEPS = (1, 5, 10, 15, 20)
RECIPE = (
    "train(tests.tiny.settings(), tests.tiny.corpus(), seed=0, precision='fp32', micro_rows=4, executor='lift'), one thread: "
    "losses of steps 1, 5, 10, 15, 20 and the validation's nats per token at the end"
)
TOLERANCE = 2e-4  # nats; between instruction sets and torch versions sums are taken in another order


def losses() -> list[float]:
    """The golden numbers, made again."""
    with tempfile.TemporaryDirectory() as out:
        done = tiny.trained(Path(out))
        rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    by_step = {row["step"]: row["loss"] for row in rows if "loss" in row}
    return [by_step[step] for step in STEPS] + [done["trajectory"][-1]["nats_per_token"]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"recipe": RECIPE, "tolerance": TOLERANCE, "losses": losses(), "machine": machine.kind()}
    (Path(__file__).parent / "tiny_losses.json").write_text(json.dumps(found, indent=1) + "\n")
