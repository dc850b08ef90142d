"""Kill `ablab run` with SIGKILL at random moments, let it finish, and compare verdict.json with an undisturbed run.

python bench/kill_and_resume.py [--kills 10] [--study FILE] [--scale NAME]

Numbers must be equal to the last bit; seconds, speeds, prices in seconds and the environment are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLOCK = {
    "seconds", "train_seconds", "stage_seconds", "tokens_per_second", "step_ms", "price", "environment", "when", "key",
    "judged", "sentence", "created", "decisions", "cost_against", "peak_bytes", "pack", "check", "evaluate",
    "clocks", "spread", "evaluations", "chains",
}  # fmt: skip

STUDY = """
[study]
name = "killed"
question = "Does a study that is killed ten times end as one that is not?"
[decision]
metric = "nats_per_token"
stage = "pre_quant"
matters = 0.01
seeds = { start = 2, at_most = 3 }
tie = ["needle"]
[budget]
tokens = 40_960
batch_tokens = 512
[data]
source = "mock"
[model]
layers = "LG"
d_model = 32
n_heads = 2
seq_len = 64
local.window = 8
local.position = "grape_m"
global.position = "nope"
softmax = "sink"
[train]
ema = 0.9
[stage]
pre_quant = { evaluate = "disjoint" }
needle = { evaluate = { name = "needle", tokens_budget = 4000 } }
[arm.grape_a]
model.global.position = "grape_a"
[arm.swiglu]
model.mlp = "swiglu"
"""


def numbers(value: Any) -> Any:
    """`value` without what a clock says."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in CLOCK}
    if isinstance(value, list):
        return [numbers(v) for v in value]
    return value


def command(study: Path, scale: str | None, out: Path) -> list[str]:
    flags = ["--out", str(out), *(["--scale", scale] if scale else [])]
    return [sys.executable, "-P", "-m", "ablab.cli.main", "run", str(study), *flags]


def verdict(out: Path) -> Any:
    return json.loads(next((out / "studies").glob("*/verdict.json")).read_text())


def killed_run(study: Path, scale: str | None, out: Path, kills: int, whole: float, rng: random.Random) -> list[float]:
    """Start and kill `kills` times, each while it still works, then run to the end; returns the moments of the kills.

    Half of what is killed is start-up, so the waits are random shares of the undisturbed run's time and shrink once a
    start has come to its end before its kill; that start's store is thrown away.
    """
    moments: list[float] = []
    longest = 1.5 * whole / (1 + kills) + 4.0
    while len(moments) < kills:
        wait = rng.uniform(0.5, longest)
        process = subprocess.Popen(command(study, scale, out), stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            moments.append(wait)
        else:
            shutil.rmtree(out)
            moments.clear()
            longest *= 0.7
        process.wait()
    subprocess.run(command(study, scale, out), check=True, stdout=subprocess.DEVNULL)
    return moments


def compare(study: Path, scale: str | None, kills: int, seed: int, where: Path) -> tuple[bool, list[float]]:
    """(whether all numbers agree, moments of the kills in seconds after each start)."""
    begun = time.monotonic()
    subprocess.run(command(study, scale, where / "whole"), check=True, stdout=subprocess.DEVNULL)
    whole_seconds = time.monotonic() - begun
    moments = killed_run(study, scale, where / "killed", kills, whole_seconds, random.Random(seed))
    return numbers(verdict(where / "whole")) == numbers(verdict(where / "killed")), moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--scale")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        study = asked.study or Path(scratch) / "study.toml"
        if asked.study is None:
            study.write_text(STUDY)
        equal, moments = compare(study.resolve(), asked.scale, asked.kills, asked.seed, Path(scratch))
    print("killed after", ", ".join(f"{m:.1f}" for m in moments), "s")
    print("verdict.json numbers are", "equal" if equal else "DIFFERENT")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
