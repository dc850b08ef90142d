"""Studies that the vpMoE fork can run too, drawn at random: trees of a study file's tables."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ablab.bridges.megatron.to_train import clean
from ablab.study.settings import settings

RATES = st.sampled_from([1e-4, 3e-4, 1e-3, 0.003, 0.02, 0.5])
SMALL = st.sampled_from([0.0, 0.01, 0.05, 0.1])


def canonical(tree: dict[str, Any]) -> dict[str, Any]:
    """The canonical settings of a tree that has no fault."""
    out, faults = settings(tree, Path())
    assert not faults, [str(fault) for fault in faults]
    return out


def with_news(settings: Any, *places: tuple[str, ...]) -> Iterator[Any]:
    """Settings with a key that nobody knows, 0.25, in each of these tables in turn."""
    for place in places:
        new: Any = copy.deepcopy(settings)
        table: Any = new
        for key in place:
            table = table[key]
        table["new"] = 0.25
        yield new


def meaning(of: dict[str, Any]) -> dict[str, Any]:
    """Canonical settings without the layer kinds' names: each layer by itself."""
    model = dict(of["model"])
    kinds = model.pop("kinds")
    layers = [{key: value for key, value in kinds[letter].items() if key != "table"} for letter in model.pop("layers")]
    return {**of, "model": model, "layers": layers}


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Tables of a study within what the fork can do."""
    heads = draw(st.sampled_from([2, 4]))
    model: dict[str, Any] = {
        "d_model": draw(st.sampled_from([32, 48])),
        "n_heads": heads,
        "n_kv_heads": draw(st.sampled_from([1, 2, heads])),
        "head_dim": draw(st.sampled_from([8, 16])),
        "seq_len": draw(st.sampled_from([16, 40])),
        "tied": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "norm": draw(st.sampled_from(["rms", "layer"])),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "bias": draw(st.booleans()),
        "init_std": draw(st.sampled_from([0.02, 0.01])),
    }
    if draw(st.booleans()):
        model["embed_std"] = draw(st.sampled_from([0.02, 0.5]))
    model |= draw(_layers(model))
    return {"model": model, **draw(_rest(model["seq_len"]))}


@st.composite
def _layers(draw: st.DrawFn, model: dict[str, Any]) -> dict[str, Any]:
    n = draw(st.integers(2, 8))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    nth = st.integers(2, 4).map(lambda f: [i % f != 0 for i in range(1, n + 1)])
    even = st.sampled_from([[False] * n, [True] * n])
    schedule = st.one_of(flags, nth, even)
    local, turned, routed = (
        draw(schedule),
        draw(schedule),
        draw(st.one_of(even, schedule, st.just([False] + [True] * (n - 1)))),
    )
    window, slopes, tpa = draw(st.integers(1, model["seq_len"])), draw(st.booleans()), draw(st.booleans())
    rotation = draw(_rotation(model))
    rank = {"name": "tpa", "rank": draw(st.integers(1, 3)), "q_rank": draw(st.integers(1, 4))}
    dense, mixture, router = draw(_mlps(model))
    out: dict[str, Any] = {}
    if not any(turned) and draw(st.booleans()):
        out["embedding"] = "learned"
    out["softmax"] = draw(st.sampled_from(["vanilla", "off_by_one", {"name": "sink", "init_std": model["init_std"]}]))
    if draw(st.booleans()):
        init = draw(st.sampled_from([0.5, 0.3, 0.99]))
        out["value"] = {"name": "residual", "init": init, "form": "sigmoid"}
    names: dict[tuple[bool, ...], str] = {}
    for key in zip(local, turned, routed):
        if key in names:
            continue
        names[key] = "abcdefgh"[len(names)]
        windowed, turns, mixed = key
        position = ([rotation] if turns else []) + (["grape_a"] if slopes and not windowed else [])
        kind: dict[str, Any] = {"position": position or "nope", "mlp": mixture if mixed else dense}
        kind |= {"router": router} if mixed else {}
        kind |= {"window": window} if windowed else {}
        kind |= {"projection": rank} if windowed and tpa else {}
        out[names[key]] = kind
    out["layers"] = "".join(names[key].upper() for key in zip(local, turned, routed))
    return out


@st.composite
def _rotation(draw: st.DrawFn, model: dict[str, Any]) -> dict[str, Any]:
    theta = draw(st.sampled_from([10000.0, 500000.0]))
    if draw(st.booleans()):
        return {"name": "rope", "theta": theta, "fraction": draw(st.sampled_from([1.0, 0.5]))}
    heads = {"per_head": True} if model["n_heads"] == model["n_kv_heads"] and draw(st.booleans()) else {}
    rest = {"learnable": draw(st.booleans()), "scale": draw(st.sampled_from([16.0, 1.0]))}
    return {"name": "grape_m", "theta": theta, "share": "net", **heads, **rest}


@st.composite
def _mlps(draw: st.DrawFn, model: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    d, act = (
        model["d_model"],
        draw(st.sampled_from(["relu2", "swiglu", "gelu"] if model["bias"] else ["relu2", "swiglu"])),
    )
    dense: dict[str, Any] = {"name": act, "ratio": draw(st.integers(1, 96)) / d}
    if act == "swiglu":
        width = round(dense["ratio"] * d)
        dense |= {"multiple": 1} if width % 8 else {}
    experts = draw(st.sampled_from([4, 8]))
    balance = draw(st.sampled_from(["none", "sequence", "switch"]))
    mixture: dict[str, Any] = {"name": "moe", "n_experts": experts, "ratio": draw(st.integers(1, 64)) / d}
    mixture |= {"activation": act, "balance": balance, "shared": draw(st.sampled_from([0, 8, 24])) / d}
    mixture |= {"balance_weight": draw(RATES)} if balance != "none" else {}
    mixture |= {"z_loss": draw(SMALL)}
    top = draw(st.sampled_from([1, 2, 4]))
    if draw(st.booleans()):
        return dense, mixture, {"name": "softmax_topk", "top_k": top, "order": "pre" if top == 1 else "post"}
    router: dict[str, Any] = {"name": "deepseek_v3", "top_k": top, "scale": draw(st.sampled_from([1.0, 2.5]))}
    router |= {"bias_rate": draw(st.sampled_from([0.0, 1e-3]))}
    if top == 2 and draw(st.booleans()):
        router |= {"n_groups": 2, "group_top_k": draw(st.sampled_from([1, 2])), "group_score": "megatron"}
    return dense, mixture, router


@st.composite
def _rest(draw: st.DrawFn, row: int) -> dict[str, Any]:
    rows, steps = draw(st.integers(1, 4)), draw(st.integers(10, 200))
    low = draw(SMALL)
    if draw(st.booleans()):
        schedule: dict[str, Any] = {"name": "cosine", "warmup": draw(SMALL), "min_lr": low}
    else:
        warm = draw(SMALL)
        fall = draw(st.sampled_from([0.0, clean(1 - warm), *(clean(k / steps) for k in (1, steps // 2))]))
        whole = abs(fall * steps - round(fall * steps)) < 1e-9  # a fall of whole steps, or the rest of the training
        shape = draw(st.sampled_from(["linear", "sqrt"])) if fall and whole else "linear"
        schedule = {"name": "wsd", "warmup": warm, "warmdown": fall, "min_lr": low if fall else 0.0, "shape": shape}
    betas, decay = [draw(st.sampled_from([0.9, 0.8])), draw(st.sampled_from([0.95, 0.999]))], draw(SMALL)
    optimizer: dict[str, Any] = {"name": "adamw", "lr": draw(RATES), "betas": betas, "eps": 1e-8, "decay": decay}
    aux = optimizer  # where the rates of what is no matrix stand
    if draw(st.booleans()):
        optimizer = {"name": "normuon", "lr": draw(RATES), "momentum": 0.9, "decay": decay}
        optimizer |= {"second_moment": {"eps": 1e-9, "eps_form": "inside"}}
        aux = {"betas": betas, "decay": decay, **({"lr": draw(RATES)} if draw(st.booleans()) else {})}
        optimizer["aux"] = aux
    aux |= {"embedding_lr": draw(RATES)} if draw(st.booleans()) else {}
    every = draw(st.integers(1, steps))
    return {
        "budget": {"tokens": steps * rows * row, "batch_tokens": rows * row},
        "data": {
            "source": "mock",
            "tokenizer": draw(st.sampled_from(["bytes", {"name": "sentencepiece", "vocab_size": 512}])),
        },
        "train": {
            "optimizer": optimizer,
            "schedule": schedule,
            "clip": draw(st.sampled_from([0.0, 1.0])),
            "validate_every": every * rows * row,
        },
    }
