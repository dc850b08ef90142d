"""An eval-only study of eight arms trains once: `python bench/eval_only.py [--json PATH]`. About 4 minutes on 2 cores.

Eight arms change how weights are packed or scored, none how they are trained. The wall clock of `ablab run` (one job, one seed;
its check of the miniatures is timed apart, since every study pays it) is held against what one training and the evaluations
took by their own account: at most 1.2 times that is asked. Also counted: trainings and stages that were done, and the largest
share of one run (an arm's training and its stages) in which weights are packed: less than 0.05 is asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab

TARGETS = {"ratio": 1.2, "packing_share": 0.05}
STUDY = """
[study]
name = "eval-only"
question = "Does a study that only evaluates train once?"
[decision]
metric = "bits_per_byte"
stage = "sliding"
matters = 0.01
seeds = 1
[budget]
tokens = 400_000
batch_tokens = 2048
[data]
source = "python"
tokenizer = "bytes"
valid_bytes = 65_536
[model]
layers = "MMMM"
d_model = 128
n_heads = 4
n_kv_heads = 2
seq_len = 256
main.position = "rope"
[stage]
pre_quant = { evaluate = "disjoint" }
post_quant = { compress = { name = "gptq", bits = 6, small = 256, tokens = 16_384 }, codec = "brotli", evaluate = "disjoint" }
sliding = { after = "post_quant", evaluate = { name = "sliding", stride = 64 } }
[arm.bits5]
stage.post_quant.compress.bits = 5
[arm.bits7]
stage.post_quant.compress.bits = 7
[arm.zstd]
stage.post_quant.codec = "zstd"
[arm.lzma]
stage.post_quant.codec = "lzma"
[arm.passthrough]
stage.post_quant.compress.passthrough = "int8"
[arm.lqer]
stage.post_quant.compress.lqer = 2
[arm.stride32]
stage.sliding.evaluate.stride = 32
[arm.stride128]
stage.sliding.evaluate.stride = 128
"""


def timed(*command: str) -> tuple[float, str]:
    """Seconds of the command, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ablab.cli.main", *command], check=True, capture_output=True, text=True
    )
    return time.perf_counter() - began, done.stdout


def measure(folder: Path) -> dict[str, Any]:
    """Run the study in `folder` and read what it did."""
    path, out = folder / "study.toml", folder / "runs"
    path.write_text(STUDY)
    checking, _ = timed("check", str(path), "--out", str(out), "--json")
    running, _ = timed("run", str(path), "--out", str(out), "--jobs", "1", "--json")
    trained = [json.loads(p.read_text()) for p in out.glob("train/*/done.json")]
    stages = [json.loads(p.read_text()) for p in out.glob("score/*/result.json")]
    training = sum(one["seconds"] + one["validate_seconds"] for one in trained)
    alone = training + sum(one["seconds"] for one in stages)
    shares = [packing(arm["cost"]["stages"], training) for arm in read_verdict(out)["arms"]]
    return {
        "arms": STUDY.count("[arm."),
        "trainings": len(trained),
        "stages": len(stages),
        "check_seconds": checking,
        "run_seconds": running,
        "training_seconds": training,
        "training_and_stages_seconds": alone,
        "ratio": running / alone,
        "packing_share": max(shares),
        "packing_share_of_the_study": sum(one["timing"]["pack"] for one in stages) / running,
        "target": {"ratio": f"at most {TARGETS['ratio']}", "packing_share": f"less than {TARGETS['packing_share']}"},
    }


def read_verdict(out: Path) -> Any:
    """verdict.json of the one study in the store `out`."""
    (path,) = out.glob("studies/*/verdict.json")
    return json.loads(path.read_text())


def packing(stages: dict[str, Any], training: float) -> float:
    """The share of one run, its training and all its stages, in which weights are packed and unpacked."""
    return sum(stage["pack"] for stage in stages.values()) / (
        training + sum(stage["seconds"] for stage in stages.values())
    )


def main() -> None:
    """Print the measurement, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder)) | {"machine": {"commit": of_ablab(), **machine.describe()}}
    print(json.dumps(found, indent=1))
    print(f"run / (one training + its evaluations): {found['ratio']:.3f}; asked: {found['target']['ratio']}")
    print(f"packing's largest share of a run: {found['packing_share']:.3f}; asked: {found['target']['packing_share']}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
