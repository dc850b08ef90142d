"""A tiny corpus and tiny settings, made here from named streams: what tests of model and training work on."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablab.check import conformance
from ablab.check.conformance import BOS, VOCAB
from ablab.data.corpus.corpus import Corpus
from ablab.model import mlps
from ablab.records.corpus import Manifest
from ablab.records.run import Where
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS
from ablab.training import losses, optimizers, qats, schedules
from ablab.training.train import Sitting, train

__all__ = ["BOS", "VOCAB"]

WHERE = Where("cpu", "fp32", "lift", 4)


def corpus(count: int = 60) -> Corpus:
    """The corpus of the conformance checks, from another stream, with the manifest of a page."""
    made = conformance.walks("test", count)
    held_out = len(made.valid.tokens)
    manifest: Manifest = {
        "key": "tiny",
        "identity": {},
        "inputs": [],
        "tokenizer": {"choice": {"name": "bytes"}, "vocab_size": VOCAB, "bos_id": BOS, "fingerprint": ""},
        "files": {},
        "parts": [],
        "dtype": "<u2",
        "counts": {"train_tokens": len(made.tokens), "valid_tokens": held_out, "valid_bytes": held_out},
        "digest": "",
    }
    return dataclasses.replace(made, key="tiny", manifest=manifest)


def ticks(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let training read a clock that goes on by so many seconds at every look, so that the machine's load does not count."""
    clock = itertools.count(0.0, seconds)
    shown = SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "time", shown)


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
    steps: int = 20, *, model: dict[str, Any] | None = None, batch_tokens: int = 128, **training: Any
) -> dict[str, Any]:
    """Canonical settings of a run of `steps` steps."""
    asked = {
        "clip": 1.0,
        "ema": 0.0,
        "ema_warmup": 9.0,
        "salt": "",
        "weights": None,
        "validate_every": 5 * batch_tokens,
    } | training
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


def trained(
    out: Path, asked: Any = None, text: Corpus | None = None, *, seed: int = 0, where: Where = WHERE, **sitting: Any
) -> Any:
    """Train in `out`, the tiny settings on the tiny corpus where no others are given, and without a word."""
    how = Sitting(**{"say": lambda _: None, **sitting})
    return train(asked or settings(), text or corpus(), where, seed=seed, out=out, sitting=how)
