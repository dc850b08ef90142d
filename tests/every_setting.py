"""For every setting of every lever a small study with two legal values of it, read off the slots' tables."""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tests.data.built import write_prefix

from ablab.check import miniature
from ablab.check.miniature import Miniatures
from ablab.core.setting import Setting
from ablab.core.toml import spell
from ablab.runs import planning
from ablab.runs.store import Store
from ablab.study import load
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS

STUDY = """
[study]
name = "every"
[decision]
matters = 0.01
metric = "bits_per_byte"
stage = "scored"
seeds = 1
[budget]
tokens = 5_120
batch_tokens = 128
[data]
source = "mock"
valid_bytes = 4_096
[model]
layers = "LG"
d_model = 16
n_heads = 2
seq_len = 64
[model.local]
window = 16
[model.global]
"""
FIT = {"documents": 4}
SMALL = {"small": 0}
TRIPLES = [[1.5, -0.5, 0.0], [1.5, -0.5, 0.0]]
SGD, LORA = {"chunk": 128, "optimizer": 0.1}, {"chunk": 16, "optimizer": 0.01}
ROUNDED = {
    "": SMALL,
    "lqer.rank": {**SMALL, "lqer": {"tensors": 2, "rank": 1}},
    **{f"bits.{family}": {**SMALL, "bits": {family: 4}} for family in ("attn", "mlp", "embedding")},
    **{f"sigmas.{family}": {**SMALL, "sigmas": {family: 2.0}} for family in ("attn", "mlp", "embedding")},
    "small": {"small": 1},
}
MATRICES = {
    **{f"orthogonaliser.{name}": {"orthogonaliser": "polar_express"} for name in ("lower", "cushion", "safety")},
    "orthogonaliser.coefficients": {"orthogonaliser": {"name": "polar_express", "coefficients": TRIPLES}},
    "orthogonaliser.products": {"orthogonaliser": {"products": "fp32"}},
    **{f"aux.{name}": {"aux": {name: 0.01}} for name in ("lr", "embedding_lr", "head_lr")},
    "momentum_warmup": {"momentum_warmup": [0.5, 0.5]},
    "decay.taper": {"decay": {"rate": 0.1, "taper": [0.5, 0.5]}},
}
# What a setting needs beside it to have something to act on, and a first value where it has none of its own. "": of the rest.
BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "position.grape_m_context": {"step": {"step": 0.5}},
    "position.grape_ap": {"eps": {"eps": 0.01}},
    "position.rope": {"fraction": {"fraction": 0.5}},
    "projection.gqa": {"bias": {"bias": False}},
    "projection.tpa": {"bias": {"bias": False}},
    "gate.xsa": {"last": {"last": 2}},
    "gate.attn_out_gate": {"width": {"width": 8}},
    "gate.sparse_attn_gate": {"": {"width": 8}},
    "mlp.moe": {
        "balance_weight": {"balance": "sequence", "balance_weight": 0.01},
        "balance": {"balance": "sequence"},
    },
    "router.deepseek_v3": {
        **{name: {"n_groups": 4, "group_top_k": 2} for name in ("group_top_k", "group_score")},
        "normalize": {"top_k": 1},
    },
    "embedding.bigram_hash": {"": {"size": 64, "dim": 8}},
    "embedding.smear_gate": {"width": {"width": 8}},
    "loss.spans": {"group_rows": {"group_rows": 2}},
    "optimizer.adamw": {name: {name: 0.01} for name in ("embedding_lr", "head_lr", "scalar_lr")},
    "optimizer.muon": MATRICES,
    "optimizer.normuon": {**MATRICES, "decay.form": {"decay": {"rate": 0.1}}},
    "qat.fake_quant": {"": {"bits": 4, "start": 0.5}},
    "compress.rtn": ROUNDED,
    "compress.gptq": {**ROUNDED, "tokens": {**SMALL, "tokens": 256}},
    "evaluate.disjoint": {"": {**FIT, "seq_len": 32}},
    "evaluate.sliding": {"": {**FIT, "seq_len": 32, "stride": 16}},
    "evaluate.streaming": {"": {**FIT, "stretch": 8, "cache": 16}},
    "evaluate.ngram": {"": {**FIT, "seq_len": 32}},
    "evaluate.ttt_sgd": {
        "": {**FIT, **SGD},
        **{name: {**FIT, **SGD, name: value} for name, value in (
            ("seq_len", 32), ("epochs", 1), ("freeze", ["embedding"]), ("stride", 32), ("batch_tokens", 64))},
        "optimizer.momentum": {**FIT, "chunk": 128, "optimizer": {"lr": 0.1, "momentum": 0.5}},
        "optimizer.clip": {**FIT, "chunk": 128, "optimizer": {"lr": 0.1, "clip": 0.1}},
    },
    "evaluate.ttt_lora": {
        "": {**FIT, **LORA},
        "chunk": {**FIT, **LORA, "chunk": 64},  # a miniature takes a quarter, 8 at least
        **{f"adapters.{name}": {**FIT, **LORA, "adapters": {name: value}} for name, value in (
            ("rank", 2), ("alpha", 4.0), ("targets", ["attn"]))},
        **{f"optimizer.{name}": {**FIT, "chunk": 16, "optimizer": {"lr": 0.01, name: value}} for name, value in (
            ("betas", [0.5, 0.9]), ("eps", 1e-4), ("weight_decay", 0.5))},
        **{name: {**FIT, **LORA, name: value} for name, value in (("seq_len", 32), ("batch_documents", 1))},
        "reset": {**FIT, **LORA, "reset": "document", "batch_documents": 2},
        **{f"phases.{name}": {**FIT, **LORA, "phases": {"count": 1, "prefix_documents": 2, "lr": 0.1}}
           for name in ("count", "prefix_documents", "lr")},
    },
    "evaluate.needle": {
        "": {"items": 4},
        **{name: {"items": 4, name: value} for name, value in (
            ("lengths", [64]), ("lags", [16]), ("tokens_budget", 4096), ("natural_tokens", 512), ("short", 32))},
    },
}  # fmt: skip
OTHER: dict[str, Any] = {
    "position.grape_ap.p_head_dim": 4,
    "gate.attn_out_gate.width": 4,
    "optimizer.muon.orthogonaliser.coefficients": [[1.4, -0.4, 0.0], [1.5, -0.5, 0.0]],
    "optimizer.normuon.orthogonaliser.coefficients": [[1.4, -0.4, 0.0], [1.5, -0.5, 0.0]],
    "router.deepseek_v3.normalize": "always",
    "evaluate.needle.lags": [32],
    "evaluate.ttt_sgd.seq_len": 64,
    "evaluate.ttt_lora.seq_len": 64,
    "evaluate.ttt_sgd.batch_tokens": 128,
    "evaluate.ttt_sgd.freeze": ["matrix"],
    "evaluate.ttt_lora.adapters.targets": ["mlp"],
    "evaluate.ttt_lora.phases.count": 2,
}
# Settings that this sweep cannot try, and where they are tried.
ELSEWHERE = {
    "tokenizer.sentencepiece.model": "takes a file: test_tokenizers",
    "tokenizer.case_ops.model": "takes a file: test_case_ops",
    "tokenizer.o200k_harmony.vocab": "takes a file, and only one there is: test_o200k",
}


def known(slot: str, lever: str) -> dict[str, Setting]:
    """The settings of a lever by name, those of a sub-choice as `table.name`."""
    return {name: setting for name, setting in SLOTS[slot].listed(lever).items() if not setting.parts}


def settings() -> list[tuple[str, str, str]]:
    """Slot, lever and setting, of all that there are."""
    return [(s, lever, name) for s, slot in SLOTS.items() for lever in slot.names for name in known(s, lever)]


def put(slot: str, choice: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The choice with another value of the setting `name`."""
    table, _, key = name.rpartition(".")
    if not table:
        return {**choice, key: value}
    there = choice.get(table, {})
    first = next(iter(SLOTS[slot].settings(choice["name"])[table].parts))
    return {**choice, table: {**(there if isinstance(there, dict) else {first: there}), key: value}}


def other(setting: Setting, value: Any) -> Any:
    """Another legal value, near by."""
    types = (setting.type, *typing.get_args(setting.type))
    words = [word for t in types if typing.get_origin(t) is Literal for word in typing.get_args(t)]
    if words and value in words:
        return words[(words.index(value) + 1) % len(words)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value // 2 if value > 1 else value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if isinstance(value, list | tuple):
        return [other(setting, value[0]), *value[1:]]
    raise AssertionError(f"{setting.name} = {value!r}: name a value in BESIDE")


def choices(slot: str, lever: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The lever with each of two values of its setting `name`."""
    beside = BESIDE.get(f"{slot}.{lever}", {})
    one = {"name": lever, **beside.get(name, beside.get("", {}))}
    setting, (table, _, key) = known(slot, lever)[name], name.rpartition(".")
    there = one.get(table, {}) if table else one
    first = there.get(key, setting.default) if isinstance(there, dict) else setting.default
    value = OTHER.get(f"{slot}.{lever}.{name}") or other(setting, first)
    return put(slot, one, name, list(first) if isinstance(first, tuple) else first), put(slot, one, name, value)


def text(slot: str, one: dict[str, Any], two: dict[str, dict[str, Any]]) -> str:
    """A study of the lever `one`, with an arm for each of `two`."""
    lines = [STUDY]
    path = f"model.{slot}"
    if slot == "router":
        lines[0] = STUDY.replace("[model.local]", 'mlp = { name = "moe", n_experts = 8 }\n[model.local]')
    elif slot not in (*IN_MODEL, *OF_MODEL):
        path = "data.tokenizer" if slot == "tokenizer" else f"train.{slot}"
    if slot == "optimizer":
        lines[0] = lines[0].replace("[model.local]", "tied = false\n[model.local]")
    stage = {"compress": '"keep"', "codec": '"raw"', "evaluate": '{ name = "disjoint", documents = 4 }'}
    if slot in stage:
        path = f"stage.scored.{slot}"
    if slot == "codec":
        stage["compress"] = '{ name = "rtn", bits = 6, small = 0 }'
    if slot == "loss":
        lines[0] = lines[0].replace('source = "mock"', 'source = "train_tokens"\nvalid_source = "valid_tokens"')
    if slot in ("position", "mlp"):
        path = f"model.global.{slot}"
    asked = {name: value for name, value in one.items() if value is not None}
    stage |= {slot: spell(asked)} if slot in stage else {}
    section, _, key = path.rpartition(".")
    if section == "model" and slot not in stage:
        lines[0] = lines[0].replace("[model.local]", f"{key} = {spell(asked)}\n[model.local]")
    elif section == "model.global":
        lines[0] += f"{key} = {spell(asked)}\n"
    elif section == "data":
        lines[0] = lines[0].replace("[model]", f"{key} = {spell(asked)}\n[model]")
    elif section == "train":
        lines.append(f"[train]\n{key} = {spell(asked)}")
    if one["name"] == "needle":
        lines.append('[stage.plain]\nevaluate = "disjoint"')
        lines[0] = lines[0].replace('stage = "scored"', 'stage = "plain"')
    lines.append("[stage.scored]\n" + "\n".join(f"{key} = {value}" for key, value in stage.items()))
    for name, choice in two.items():
        lines.append(f"[arm.{name}]\n{path} = {spell(choice)}")
    return "\n".join(lines) + "\n"


def answers(folder: Path, slot: str, lever: str) -> dict[str, str]:
    """What a check says of each setting of a lever: `acts`, `untested`, or `inert`."""
    groups: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {}
    for name in known(slot, lever):
        if f"{slot}.{lever}.{name}" not in ELSEWHERE:
            one, two = choices(slot, lever, name)
            alike = spell(SLOTS[slot].coerce(one, slot)[0])  # settings whose first value is the default share a study
            groups.setdefault(alike, (one, {}))[1][name.replace(".", "-")] = two
    found: dict[str, str] = {}
    if slot == "loss":
        write_spans(folder)
    for number, (one, two) in enumerate(groups.values()):
        file = folder / f"{number}.toml"
        file.write_text(text(slot, one, two))
        said = verdicts(file, folder / f"scratch-{number}")
        found |= {name: said[name.replace(".", "-")] for name in known(slot, lever) if name.replace(".", "-") in said}
    return found


def verdicts(file: Path, scratch: Path) -> dict[str, str]:
    """What a check says of each arm of a study: `acts`, `untested`, or `inert`. Arms are called as what they change."""
    plan = planning.make(load(file), Store(scratch / "runs"), say=lambda _: None)
    miniature.fits(plan)
    small = Miniatures(plan, scratch / "small")
    outcomes = {name: small.of(name) for name in small.small}
    assert not any(small.unfit.values()), small.unfit
    assert all(math.isfinite(number) for one in outcomes.values() for number in one.scores["scored"])
    alike = small.alike(outcomes)
    return {name: "acts" if name not in alike else "untested" if alike[name] else "inert" for name in plan.study.arms}


def write_spans(folder: Path) -> None:
    """Token files whose documents reason and then answer, with what lies in which span beside them."""
    write_tokens(folder, "train", 40, seed=0)
    write_tokens(folder, "valid", 8, seed=2)


def write_tokens(folder: Path, name: str, documents: int, *, seed: int) -> None:
    """Documents of 100 to 200 bytes drawn at random, a third or less in no span."""
    draw, rows = np.random.default_rng(seed), []
    for size in draw.integers(100, 200, documents).tolist():
        plain, reasoned = draw.integers(1, size // 3, 2).tolist()
        spans = [0] * plain + [1] * reasoned + [2] * (size - plain - reasoned) + [0]
        rows.append(([*draw.integers(0, 256, size).tolist(), 256], spans))
    write_prefix(folder / name, rows)
