"""A study of four scoring stages and its finished store, written by hand: what judge, cost, report and export read."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tests import tiny

from ablab.core.files import key_of
from ablab.core.sealed import sealed
from ablab.records.run import Where
from ablab.runs.plan import Plan, Run
from ablab.runs.store import Store
from ablab.runtime import source
from ablab.scoring.scores import Scores, finite
from ablab.study import load

STUDY = """
[study]
name = "stages"
question = "What holds after packing?"

[decision]
metric = "bits_per_byte"
stage = "sliding"
matters = 0.05
seeds = 3

[limits]
bytes = 16_000
seconds = 600
stage_seconds = 600
memory = 2_000_000_000

[budget]
tokens = 4096
batch_tokens = 512

[data]
source = "mock"

[model]
layers = "L[LL]^2L"
loop_from = 0.5
d_model = 32
n_heads = 2
seq_len = 64
local.position = "rope"

[train]
optimizer = { name = "adamw", lr = 2e-3 }

[stage]
pre_quant = { evaluate = "disjoint" }
post_quant = { compress = { name = "rtn", bits = 6 }, codec = "brotli", evaluate = "disjoint" }
sliding = { after = "post_quant", evaluate = { name = "sliding", stride = 16 } }
ttt = { after = "post_quant", evaluate = "ttt_sgd" }
needle = { evaluate = "needle" }

[arm.int5]
stage.post_quant.compress.bits = 5

[arm.wide]
model.d_model = 40
"""
STAGES = ("pre_quant", "post_quant", "sliding", "ttt")
LEVEL = {"pre_quant": 2.80, "post_quant": 2.84, "sliding": 2.79, "ttt": 2.78}
EFFECT = {
    "baseline": dict.fromkeys(STAGES, 0.0),
    "int5": {"pre_quant": 0.0, "post_quant": 0.05, "sliding": 0.05, "ttt": 0.05},
    "wide": {"pre_quant": -0.09, "post_quant": -0.08, "sliding": 0.12, "ttt": 0.12},
}
BYTES = {"baseline": 15_000, "int5": 14_000, "wide": 16_020}
CHECKED = dict.fromkeys(("causal", "documents", "sum", "scorer", "replayed", "at", "mass", "score"), 1e-7)
CODE = 113


def study_file(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def plan(folder: Path, text: str = STUDY, scale: str | None = None) -> Plan:
    """The plan of the study on an empty store, with the corpus of `tiny`."""
    study = load(study_file(folder, text), scale)
    corpus = tiny.corpus()
    runs = {}
    for seed in study.seeds:
        for name, arm in study.with_baseline.items():
            trained = key_of([seed, study.trained_settings(name)])
            scores = {stage: key_of([trained, arm.settings["stage"], stage]) for stage in arm.settings["stage"]}
            runs[name, seed] = Run(name, seed, arm.settings, Path(corpus.key), trained, scores)
    where = Where("cpu", "fp32", "reference", 8)
    return Plan(study, Store(folder / "runs"), where, {corpus.key: corpus}, runs)


def fill(made: Plan, change: Any = None) -> Plan:
    """Write every training and stage of the plan. change(arm, seed, stage, result, scores) may edit a result."""
    for arm, seed in made.runs:
        finish(made, arm, seed, change)
    return made


def finish(made: Plan, arm: str, seed: int, change: Any = None) -> None:
    """Write one run: its training, its stages that score, its probe."""
    run = made.runs[arm, seed]
    _train(made, run)
    for stage in STAGES:
        if stage in run.score_keys:
            _score(made, arm, seed, stage, change)
    probe = {
        "score": 0.1,
        "acc": 0.2,
        "natural": {"distances": [1, 16, 64], "values": [0.5, 0.4], "se": [0.01] * 2},
    }
    empty = Scores(*(np.zeros(0) for _ in range(3)))
    _write(made, run, "needle", empty, {"probe": probe, "metrics": {}, "bands": {}, "artifact": {}})


def stamp(made: Plan, seconds: float) -> None:
    """Give every result of the plan's runs that time."""
    for run in made.runs.values():
        results = [made.store.score(key) / "result.json" for key in run.score_keys.values()]
        for file in (made.store.train(run.train_key) / "done.json", *results):
            os.utime(file, (seconds, seconds))


def _train(made: Plan, run: Run) -> None:
    where, steps, tokens = made.store.train(run.train_key), 8, 4096
    where.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        seconds = 72.0 * step
        rows.append({"step": step, "tokens": 512 * step, "loss": 3.5 - step / 10, "lr": 1e-3, "seconds": seconds})
        if step % 4 == 0:
            here = {"step": step, "tokens": 512 * step}
            rows.append({**here, "valid_nats_per_token": 3.2 - step / 20, "valid_bits_per_byte": 4.6 - step / 14})
    (where / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edges = [0, 1, 2, 4, 8, 16, 32, 64]
    done = {
        "status": "done",
        "token_hash": f"t{run.seed}",
        "tokens": tokens,
        "seconds": 576.0 if run.arm != "wide" else 640.0,
        "tokens_per_second": 7.1,
        "trajectory": [],
        "spikes": 0,
        "steps": steps,
        "weights": {},
        "untrained": {
            "nats_per_token": 3.4965,
            "bits_per_byte": 5.0444,
            "tokens": 600,
            "bytes": 600,
            "ln_vocab": 3.4965,
        },
        "machine": "test bench, 2 cores",
        "threads": 2,
        "source": source.of_training(run.settings),
        "epochs": 0.5,
        "positions": {
            "edges": edges,
            "tokens": [tokens * (b - a) // 64 for a, b in zip(edges, edges[1:], strict=False)],
        },
    }
    (where / "done.json").write_text(json.dumps(sealed(done)))


def _score(made: Plan, arm: str, seed: int, stage: str, change: Any) -> None:
    run, valid = made.runs[arm, seed], made.corpus(made.runs[arm, seed]).valid
    lengths = np.diff(valid.starts)
    draw = np.random.default_rng([seed, STAGES.index(stage)])
    own = np.random.default_rng([seed, STAGES.index(stage), sum(map(ord, arm))])
    tokens = lengths - 1
    noise = 0.0 if EFFECT[arm][stage] == 0 else 0.0004 * own.standard_normal()
    rate = LEVEL[stage] + EFFECT[arm][stage] + 0.003 * np.random.default_rng(seed).standard_normal() + noise
    nats = tokens * (rate + 0.0002 * draw.standard_normal())
    edges = [0, 1, 2, 4, 8, 16, 32, 64]
    last = stage in ("sliding", "ttt")
    counts = [0, 0, 0, 0, 0, 40, int(tokens.sum()) - 40] if last else [9, 9, 18, 36, 72, 144, int(tokens.sum()) - 288]
    scores = Scores(nats, tokens, tokens, {"edges": edges, "nats": [rate * n for n in counts], "tokens": counts})
    size = 60_000 if stage == "pre_quant" else BYTES[arm] + seed
    packed = stage == "post_quant"
    artifact = {
        "schemes": {f"rtn int{5 if arm == 'int5' else 6}": {"tensors": 20, "numbers": 19_000, "bytes": 14_250}},
        "predicted_bytes": size / 1.02,
        "ratio": 1.02,
        "raw_bytes": 60_000,
        "codec": "brotli",
        "notes": [],
        "hadamard": [],
        "lqer": [],
    }
    result = {
        "metrics": {"nats_per_token": scores.nats_per_token, "bits_per_byte": scores.bits_per_byte},
        "bytes": size + (0 if stage == "pre_quant" else CODE),
        "model_bytes": size,
        "code_bytes": 0 if stage == "pre_quant" else CODE,
        "artifact": artifact if packed else {},
        "checked": dict(CHECKED),
        "extra": {"updates": 12} if stage == "ttt" else {},
        "bands": scores.bands,
        "seconds": 20.0,
        "timing": {"pack": 2.0, "check": 8.0, "evaluate": 10.0},
        "peak_bytes": 1_000_000_000 + seed,
    }
    if change is not None:
        change(arm, seed, stage, result, scores)
    _write(made, run, stage, scores, result)


def _write(made: Plan, run: Run, stage: str, scores: Scores, result: dict[str, Any]) -> None:
    where, made_by = made.store.score(run.score_keys[stage]), source.of_stage(run.settings, stage)
    base = {"violations": [], "probe": None, "seconds": 1.0, "bytes": 0, "diverged": None}
    whole = {**base, **copy.deepcopy(result), "source": made_by, "scores": scores.save(where)}
    (where / "result.json").write_text(json.dumps(sealed({**finite(whole), "key": where.name})))
