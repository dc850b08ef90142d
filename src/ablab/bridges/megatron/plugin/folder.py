"""An arm as a folder that is ready to train under Megatron-Core: the commands, the arm, and its data with their hashes."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.bridges.megatron.plugin.express import express, whole_batch
from ablab.core import places
from ablab.core.files import sha256_file, write_atomic

if TYPE_CHECKING:
    from ablab.runs.plan import Plan

MODULE = "ablab.bridges.megatron.plugin.pretrain"
SLURM = """#!/usr/bin/env bash
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node {gpus} --rdzv-backend c10d --rdzv-endpoint "$head:29500" \\
  --rdzv-id "$SLURM_JOB_ID" -m {words} "$@"
"""
PLAIN = """#!/usr/bin/env bash
set -euo pipefail
torchrun --nproc-per-node {gpus} -m {words} "$@"
"""


def write(plan: Plan, arm: str, out: Path, *, seed: int | None = None) -> list[Path]:
    """Write the folder `out` (new or empty) and return its files; the commands name the study file and the store as they lie.

    CheckFailed for an arm that Megatron-Core cannot train, with every reason, and where `out` holds something.
    """
    study = plan.study
    settings = study.arm(arm).settings
    express(settings, arm)
    places.unused(out)
    chosen = plan.seeds[0] if seed is None else seed
    budget, model, corpus = settings["budget"], settings["model"], plan.corpus(plan.runs[arm, plan.seeds[0]])
    rows = budget["batch_tokens"] // model["seq_len"]
    gpus, micro = (1, rows) if whole_batch(model) else (math.gcd(rows, 8), 1)
    path = study.path.resolve()
    words = [MODULE, "--study", str(path), "--arm", arm, "--runs", str(plan.store.root.resolve())]
    words += ["--scale", study.scale] if study.scale else []
    words += ["--seed", str(chosen), "--micro-batch-size", str(micro)]
    said = {
        "study": {"path": str(path), "sha256": sha256_file(path)},
        "arm": arm,
        "seed": chosen,
        "settings": settings,
        "data": {"key": corpus.key, "digest": corpus.manifest["digest"], "inputs": corpus.manifest["inputs"]},
    }
    line = shlex.join(words)
    texts = {
        "run.sh": PLAIN.format(gpus=gpus, words=line),
        "run.sbatch": SLURM.format(gpus=gpus, words=line),
        "arm.json": json.dumps(said, indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_atomic(out / name, text)
    (out / "run.sh").chmod(0o755)
    return [out / name for name in texts]
