"""Flags as an arm of a study: what they say otherwise than its baseline, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ablab.bridges.megatron import to_data, to_model, to_train
from ablab.bridges.megatron.explain import Explanation, tree
from ablab.bridges.megatron.export import ORDER
from ablab.bridges.megatron.from_data import from_loss
from ablab.bridges.megatron.from_model import from_model
from ablab.bridges.megatron.from_train import from_train
from ablab.bridges.megatron.net import read
from ablab.bridges.megatron.parse import parse
from ablab.core.fault import CheckFailed, Fault
from ablab.core.lever import Choice
from ablab.core.toml import dotted
from ablab.records.settings import ModelSettings, Settings
from ablab.study import Study
from ablab.study.keys import IN_MODEL, SLOTS
from ablab.study.settings import settings

POSITION = ("position-embedding-type", "rotary-", "use-rotary", "no-rope-freq", "grape", "no-grapem", "no-rope-fusion")
MLP = ("squared-relu", "swiglu", "ffn-hidden-size", "no-bias-gelu", "no-bias-swiglu", "num-experts", "moe-")
TOUCHES = {  # the beginning of a flag -> the setting it is about
    **dict.fromkeys(POSITION, "position"),
    **dict.fromkeys(MLP, "mlp"),
    **dict.fromkeys(("num-experts", "moe-router"), "router"),
    **dict.fromkeys(("window",), "window"),
    **dict.fromkeys(("use-tpa", "tpa-"), "projection"),
    **dict.fromkeys(("softmax-type",), "softmax"),
    **dict.fromkeys(("value-residual",), "value"),
    **dict.fromkeys(("seq-length",), "seq_len"),
    **dict.fromkeys(("hidden-size",), "d_model"),
    **dict.fromkeys(("num-attention-heads",), "n_heads"),
    **dict.fromkeys(("group-query-attention", "num-query-groups"), "n_kv_heads"),
    **dict.fromkeys(("kv-channels",), "head_dim"),
    **dict.fromkeys(("untie-",), "tied"),
    **dict.fromkeys(("qk-layernorm",), "qk_norm"),
    **dict.fromkeys(("normalization",), "norm"),
    **dict.fromkeys(("norm-epsilon",), "norm_eps"),
    **dict.fromkeys(("disable-bias", "add-qkv-bias"), "bias"),
    **dict.fromkeys(("init-method-std",), "init_std"),
    **dict.fromkeys(("embedding-init",), "embed_std"),
    **dict.fromkeys(("optimizer", "normuon", "polar", "weight-decay", "adam-", "decoupled"), "optimizer"),
    **dict.fromkeys(("min-lr", "lr-"), "schedule"),
    **dict.fromkeys(("clip-grad",), "clip"),
    **dict.fromkeys(("train-iters", "train-samples"), "tokens"),
    **dict.fromkeys(("global-batch-size",), "batch_tokens"),
    **dict.fromkeys(("synth-kd", "kd-span", "micro-batch-size"), "loss"),
}
ANCHORS = {  # a flag that begins its group anew: nothing else could say that the baseline's --no-rope-freq is not meant
    "--position-embedding-type": POSITION,
    "--num-experts": ("num-experts", "moe-"),
    "--squared-relu": ("swiglu",),
    "--swiglu": ("squared-relu", "no-bias-gelu", "no-bias-swiglu"),
    "--disable-bias-linear": ("add-qkv-bias",),
    "--optimizer": ("optimizer", "normuon", "polar"),
    "--lr-decay-style": ("lr-", "min-lr"),
    "--lr-warmup-iters": ("lr-warmup",),
    "--train-samples": ("train-iters",),
    "--global-batch-size": ("micro-batch-size",),
    "--synth-kd-data": ("micro-batch-size",),
}


def arm(argv: list[str], study: Study, name: str) -> str:
    """Write `[arm.NAME]` with what `argv` says otherwise than the study's baseline, which stands for flags not given.

    Raises CheckFailed where the flags cannot be said as a change of it, or change nothing.
    """
    base = study.baseline.settings
    given = parse(argv)
    touched = {about for flag in given.flags for start, about in TOUCHES.items() if flag.name[2:].startswith(start)}
    if "--lr" in [flag.name for flag in given.flags]:
        touched |= {"optimizer"}
    net = read(parse([*_standing(base, [flag.name for flag in given.flags]), *argv]))
    refused = [*to_model.refusals(net), *to_train.refusals(net), *to_data.refusals(net)]
    if refused:
        raise CheckFailed(Fault(f"arm {name}: {fault.place}", fault.fault, fault.cure) for fault in refused)
    full = tree(net)
    wanted, faults = settings(
        {
            "budget": full.get("budget") or {"tokens": 1, "batch_tokens": net.seq_len or 1},
            "data": {"source": "mock"},
            "model": full["model"],
            "train": full.get("train", {}),
        },
        Path(),
    )
    if faults:
        raise CheckFailed(Fault(f"arm {name}: {fault.place}", fault.fault, fault.cure) for fault in faults)
    if not any(flag.name == "--position-embedding-type" for flag in given.flags):
        _share(base["model"], wanted["model"])
    changes = {
        "model": _model(base["model"], wanted["model"], touched, name),
        "train": _section(base["train"], wanted["train"], touched & {"optimizer", "schedule", "clip", "loss"}),
        "budget": _section(base["budget"], wanted["budget"], touched & {"tokens", "batch_tokens"}),
    }
    lines = dotted({section: change for section, change in changes.items() if change})
    if not lines:
        raise CheckFailed(Fault(f"arm {name}", "changes nothing: the baseline says the same", "give other flags"))
    together = ['together = "one command line of another program"'] if len(lines) > 1 else []
    return "\n".join([f"[arm.{name}]", *lines, *together])


def _standing(base: Settings, given: list[str]) -> list[str]:
    """Return the baseline in flags, as far as it can be said, without what the given flags replace."""
    out = from_model(base["model"], None, [])
    from_train(base, out, [])
    from_loss(base, out, [])
    gone = tuple(start for anchor, starts in ANCHORS.items() if anchor in given for start in starts)
    words = []
    for key in ORDER:
        if key in out and not (gone and key.startswith(gone)):
            words += [f"--{key}", *out[key]]
    return words


def _share(base: ModelSettings, wanted: ModelSettings) -> None:
    """Share the rotation's frequencies as the baseline has them where the flags say nothing of them."""
    parts = [part for kind in base["kinds"].values() for part in _parts(kind["position"])]
    shares = [part["share"] for part in parts if part["name"] == "grape_m"]
    for kind in wanted["kinds"].values():
        for part in _parts(kind["position"]):
            if part["name"] == "grape_m" and shares:
                part["share"] = shares[0]


def _parts(position: Choice | list[Choice]) -> list[Choice]:
    return position if isinstance(position, list) else [position]


def _model(base: ModelSettings, wanted: ModelSettings, touched: set[str], name: str) -> dict[str, object]:
    sizes = touched - set(IN_MODEL) - {"window"}
    out = _section(base, wanted, {key for key in sizes if key in base})
    if "position" in touched and base["embedding"] != wanted["embedding"]:
        out["embedding"] = _short("embedding", base["embedding"], wanted["embedding"])
    layers, others = base["layers"], wanted["layers"]
    kinds: dict[str, dict[str, object]] = {}
    if len(layers) != len(others):
        text = f"{len(others)} layers; the baseline has {len(layers)}"
        raise CheckFailed(Fault(f"arm {name}: --num-layers", text, "give as many, or change the study"))
    for letter, mine in base["kinds"].items():
        kind: Mapping[str, object] = mine
        there: list[Mapping[str, object]] = [wanted["kinds"][b] for a, b in zip(layers, others) if a == letter]
        for slot in (*IN_MODEL, "window"):
            if slot not in touched or all(one[slot] == kind[slot] for one in there):
                continue
            if any(one[slot] != there[0][slot] for one in there):
                text = f"gives the baseline's {mine['table']} layers two kinds of {slot}"
                raise CheckFailed(Fault(f"arm {name}", text, "split that layer kind in the study"))
            if there[0][slot] is None:
                text = f"takes the {slot} from the baseline's {mine['table']} layers; an arm cannot remove a key"
                cure = f"give them window = {base['seq_len']}" if slot == "window" else "split that layer kind"
                raise CheckFailed(Fault(f"arm {name}", text, cure))
            kinds.setdefault(mine["table"], {})[slot] = _short(slot, kind[slot], there[0][slot])
    return {**out, **kinds}


def _section(base: Mapping[str, object], wanted: Mapping[str, object], keys: set[str]) -> dict[str, object]:
    return {key: _short(key, base[key], wanted[key]) for key in wanted if key in keys and base[key] != wanted[key]}


def _short(slot: str, before: object, after: object) -> object:
    """Return a lever with only what is new: other settings than before, or than the defaults of another lever."""
    if isinstance(after, list):
        return [_short(slot, None, part) for part in after]
    if not isinstance(after, dict) or slot not in SLOTS:
        return after
    same = before if isinstance(before, dict) and before["name"] == after["name"] else None
    rest = _new(same or SLOTS[slot].one(after["name"], slot)[0] or {}, after)
    rest.pop("name", None)
    return {"name": after["name"], **rest} if rest else after["name"]


def _new(before: Choice, after: Choice) -> Choice:
    """Return the settings of `after` that `before` has otherwise, of a table of settings each by itself."""
    rest = {key: value for key, value in after.items() if value != before.get(key)}
    for key, value in rest.items():
        if isinstance(value, dict) and isinstance(old := before.get(key), dict):
            rest[key] = _new(old, value)
    return rest


def study_tables(explanation: Explanation) -> str:
    """Write the study's tables as TOML. Raises CheckFailed where they would mean another thing than the flags."""
    from ablab.core.toml import written

    if explanation.refused:
        raise CheckFailed(explanation.refused)
    return written(explanation.tree)
