"""One of two processes that train arms under Megatron-Core together: `python -m tests.megatron_rank RANK FOLDER`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tests import on_cpu, tiny

STEPS = 3
SHARED = {"name": "grape_m", "share": "net"}
MIXTURE: dict[str, Any] = {
    "name": "moe",
    "n_experts": 4,
    "ratio": 1.0,
    "shared": 1.0,
    "balance": "sequence",
    "z_loss": 1e-3,
}
SINK: dict[str, Any] = {"softmax": "sink", "gate": ["xsa", {"name": "attn_out_gate", "input": "raw"}]}
DENSE = {
    "layers": "LGLG",
    "kinds": {
        "L": tiny.kind("local", 8, position=SHARED, projection={"name": "tpa", "q_rank": 3}, **SINK),
        "G": tiny.kind("global", None, position="grape_a", mlp="swiglu", temperature="qk_gain", **SINK),
    },
}
MIXED = {
    "layers": "LGLG",
    "kinds": {
        "L": tiny.kind("local", 8, position=SHARED, mlp=MIXTURE, router={"name": "deepseek_v3", "top_k": 2}),
        "G": tiny.kind("global", None, position="grape_a"),
    },
}
TENSOR, STAGES, EXPERTS = "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"
CUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "data": (DENSE, {}),
    "tensor": (DENSE, {TENSOR: 2}),
    "sequence": (DENSE, {TENSOR: 2, "sequence_parallel": True}),
    "pipeline": (DENSE, {STAGES: 2}),
    "experts": (MIXED, {EXPERTS: 2}),
    "experts and data": (MIXED, {}),
    "pipeline of mixtures": (MIXED, {STAGES: 2}),
}


def corpus() -> Any:
    """The tiny corpus, with a word more: two processes share the words."""
    made = tiny.corpus()
    return dataclasses.replace(made, vocab_size=made.vocab_size + made.vocab_size % 2)


def asked(model: dict[str, Any]) -> Any:
    return tiny.settings(model=tiny.model(**model), optimizer="normuon")


def losses(rank: int, folder: Path, model: dict[str, Any], sizes: dict[str, Any]) -> list[list[float]]:
    """Loss and gradient norm of each step."""
    from ablab.bridges.megatron.plugin import specs
    from ablab.bridges.megatron.plugin.express import express
    from ablab.bridges.megatron.plugin.training import Trainer
    from ablab.data import Stream
    from ablab.model.decoder import build

    folder.mkdir(exist_ok=True)
    groups = {name: size for name, size in sizes.items() if name != "sequence_parallel"}
    with on_cpu.megatron(folder, rank, 2, **groups):
        text, settings = corpus(), asked(model)
        first = build(settings["model"], vocab_size=text.vocab_size, seed=0).state_dict()
        stream = Stream(text, seed=0, batch_tokens=128, seq_len=32, span=32)
        how: dict[str, Any] = {"use_cpu_initialization": True, "pipeline_dtype": torch.float32, **sizes}
        trainer = Trainer(specs.spec(express(settings, "x"), **how), text.vocab_size, micro_rows=2, first=first)
        steps = [trainer.step(stream.batch(n), (n + 0.5) / 20) for n in range(STEPS)]
    return [[step.loss, step.norm] for step in steps]


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    found = {name: losses(rank, folder / name, *cut) for name, cut in CUTS.items()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
