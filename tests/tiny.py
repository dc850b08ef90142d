"""A tiny corpus and tiny settings, made here from named streams: what tests of model and training work on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model import mlps
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS
from ablab.training import losses, optimizers, qats, schedules

VOCAB, BOS = 33, 32


def documents(name: str, count: int) -> list[np.ndarray]:
    """Documents of 20 to 200 tokens, BOS first; each walks around a circle of 32 with steps of 1 to 3: learnable."""
    made = []
    for i in range(count):
        draws = stream(7, "test", name, i)
        steps = draws.integers(1, 4, int(draws.integers(20, 200)))
        made.append(np.concatenate([[BOS], (int(draws.integers(32)) + np.cumsum(steps)) % 32]))
    return made


def corpus(count: int = 60) -> Corpus:
    """A corpus in memory; every token counts one byte."""
    train, valid = documents("train", count), documents("valid", 6)
    starts = [np.cumsum([0, *map(len, part)])[:-1].astype(np.int64) for part in (train, valid)]
    held_out = np.concatenate(valid).astype(np.uint16)
    return Corpus(
        path=Path("nowhere"),
        key="tiny",
        manifest={},
        vocab_size=VOCAB,
        bos_id=BOS,
        tokens=np.concatenate(train).astype(np.uint16),
        documents=starts[0],
        valid=Valid(held_out, (held_out != BOS).astype(np.uint16), starts[1], np.zeros((len(valid), 16), np.uint8)),
    )


def choice(slot: Any, value: Any) -> Any:
    """The canonical choice, or a list of them; a fault fails the test."""
    made, faults = slot.coerce(value, slot.name)
    assert not faults, faults
    return made


def lever(slot: Any, name: str, **settings: Any) -> Any:
    """The lever itself, its settings as a study writes them."""
    return slot.build(choice(slot, {"name": name, **settings}))


def kind(table: str, window: int | None, **levers: Any) -> dict[str, Any]:
    """One layer kind; a slot that is not named has its default."""
    asked = {**IN_MODEL, **levers}
    made = {slot: choice(SLOTS[slot], asked[slot]) for slot in IN_MODEL}
    if not mlps.slot.load(made["mlp"]["name"]).routed:
        made["router"] = None
    return {"table": table, "window": window, **made}


def model(**changed: Any) -> dict[str, Any]:
    """Settings of a model of two layers, one with a window of 8."""
    return {
        "layers": "LG",
        "kinds": {"L": kind("local", 8), "G": kind("global", None)},
        "d_model": 32,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
        "seq_len": 32,
        "tied": True,
        "softcap": 0.0,
        "qk_norm": True,
        "norm_eps": 1e-5,
        "init_std": 0.02,
        "embed_std": None,
        "out_std": None,
        "init": "normal",
        "norm": "rms",
        "bias": False,
        "loops": [],
        "loop_from": None,
        **{slot: choice(SLOTS[slot], value) for slot, value in OF_MODEL.items()},
    } | changed


def settings(
    steps: int = 20, *, model: dict[str, Any] | None = None, batch_tokens: int = 128, **train: Any
) -> dict[str, Any]:
    """Canonical settings of a run of `steps` steps."""
    asked = {
        "clip": 1.0,
        "ema": 0.0,
        "ema_warmup": 9.0,
        "salt": "",
        "weights": None,
        "validate_every": 5 * batch_tokens,
    } | train
    asked["optimizer"] = choice(optimizers.slot, asked.get("optimizer", {"name": "adamw", "lr": 1e-2}))
    asked["schedule"] = choice(schedules.slot, asked.get("schedule", "wsd"))
    asked["loss"] = choice(losses.slot, asked.get("loss", "mean"))
    asked["qat"] = choice(qats.slot, asked.get("qat", "off"))
    return {
        "budget": {"tokens": steps * batch_tokens, "seconds": None, "batch_tokens": batch_tokens},
        "data": {"span": 32, "order": "chunks", "weights": None},
        "model": copy.deepcopy(model or globals()["model"]()),
        "train": asked,
        "stage": {},
    }
