"""ablab's [model] as Megatron's flags, and what the fork cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from ablab.bridges.megatron.from_layers import Spoken, Words, from_layers
from ablab.bridges.megatron.to_model import NORMS, SOFTMAXES
from ablab.core.fault import Fault
from ablab.core.lever import Choice, value_of
from ablab.records.settings import KindSettings, ModelSettings

T = TypeVar("T")
ONE: dict[
    Literal["temperature", "gate", "residual", "block"], str
] = {  # slots of a kind for which the fork has one answer
    "temperature": "constant",
    "gate": "off",
    "residual": "plain",
    "block": "sequential",
}
MLPS = ("relu2", "swiglu", "gelu")


def from_model(model: ModelSettings, vocab: int | None, faults: list[Fault]) -> Words:
    """Write the flags of a canonical [model]. Appends a fault for everything that the fork cannot do."""
    out: Words = {}
    if vocab is not None:
        out["vocab-size"] = [str(vocab)]
        out["padded-vocab-size"] = [str(vocab)]
    d, heads, size = model["d_model"], model["n_heads"], model["head_dim"]
    out["num-layers"] = [str(len(model["layers"]))]
    out["hidden-size"] = [str(d)]
    out["num-attention-heads"] = [str(heads)]
    out["group-query-attention"] = []
    out["num-query-groups"] = [str(model["n_kv_heads"])]
    if size * heads != d:
        out["kv-channels"] = [str(size)]
    out["seq-length"] = out["max-position-embeddings"] = [str(model["seq_len"])]
    _plain(model, out, faults)
    kinds = {letter: _kind(kind, faults) for letter, kind in model["kinds"].items()}
    _shared(kinds, model, out, faults)
    from_layers([kinds[letter] for letter in model["layers"]], model, out, faults)
    return out


def _plain(model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    """Write the keys of the whole model."""

    def refuse(key: str, text: str, cure: str) -> None:
        faults.append(Fault(f"model.{key}", text, cure))

    norms = {word: flag for flag, word in NORMS.items()}
    if model["norm"] not in norms:
        refuse("norm", f"the fork has no {model['norm']} norm", 'use norm = "rms" or "layer"')
    else:
        out["normalization"] = [norms[model["norm"]]]
    out["norm-epsilon"] = [repr(model["norm_eps"])]
    if model["qk_norm"] == "after":
        refuse("qk_norm", "the fork normalises q and k before it turns them", "use qk_norm = true")
    if model["qk_norm"]:
        out["qk-layernorm"] = []
    if model["bias"]:
        out["add-qkv-bias"] = []
    else:
        out["disable-bias-linear"] = []
    if not model["tied"]:
        out["untie-embeddings-and-output-weights"] = []
    out["init-method-std"] = [repr(model["init_std"])]
    if model["embed_std"] is not None:
        out["embedding-init-method-std"] = [repr(model["embed_std"])]
    if model["softcap"]:
        refuse("softcap", "the fork has no soft cap on its logits", "set it 0")
    if model["init"] != "normal":
        refuse("init", f"the fork has no {model['init']} start", 'use init = "normal"')
    if model["out_std"] is not None:
        refuse("out_std", "the fork's is init_std / sqrt(2 layers)", "leave it out")
    if model.get("loops"):
        refuse("layers", "the fork meets every layer once: it has no loops", "repeat with * instead of ^")
    if model["skips"]["name"] != "none":
        refuse("skips", f"the fork has no {model['skips']['name']} skips", 'use skips = "none"')
    if (name := _called(model["embedding"])) not in ("plain", "learned"):
        refuse("embedding", f"the fork has no {name}", 'use embedding = "plain" or "learned"')
    if model["n_heads"] % model["n_kv_heads"]:
        refuse("n_kv_heads", "does not divide n_heads", "give a divisor")


def _called(value: Choice | list[Choice]) -> str:
    return "+".join(value_of(part, "name", str) for part in (value if isinstance(value, list) else [value]))


def _kind(kind: KindSettings, faults: list[Fault]) -> Spoken:
    """Take the position apart in a kind; appends faults for slots that the fork lacks."""
    place = f"model.{kind['table']}"
    for slot, only in ONE.items():
        if (name := _called(kind[slot])) != only:
            faults.append(Fault(f"{place}.{slot}", f"the fork has no {name}", f'use {slot} = "{only}"'))
    if kind["softmax"]["name"] not in SOFTMAXES.values():
        text = f"the fork has no {kind['softmax']['name']}"
        faults.append(Fault(f"{place}.softmax", text, "use vanilla, off_by_one or sink"))
    rotation, slopes = _position(kind["position"], f"{place}.position", faults)
    mlp = kind["mlp"]
    activation = value_of(mlp, "activation" if mlp["name"] == "moe" else "name", str)
    if activation not in MLPS:
        faults.append(Fault(f"{place}.mlp", f"the fork has no {activation}", "use relu2, swiglu or gelu"))
    _ = kind["window"], kind["router"]  # by name: what is only copied counts as left out
    return {**kind, "rotation": rotation, "slopes": slopes, "activation": activation}


def _position(value: Choice | list[Choice], place: str, faults: list[Fault]) -> tuple[Choice | None, bool]:
    """Return the rotation (or None) and whether there is a distance bias."""
    rotation, slopes = None, False
    for part in value if isinstance(value, list) else [value]:
        name = part["name"]
        if name == "grape_a":
            slopes = True
            if (scale := value_of(part, "slope_scale", float)) != 1.0:
                text = f"the fork's slopes cannot be scaled by {scale:g}"
                faults.append(Fault(place, text, "use slope_scale = 1"))
        elif name in ("rope", "grape_m"):
            if rotation is not None:
                faults.append(Fault(place, "the fork rotates once", "use one of rope and grape_m"))
            rotation = part
            if name == "rope" and part["ntk"]:
                faults.append(Fault(place, "the fork has no ntk scaling", "use ntk = false"))
            if name == "grape_m" and part["share"] != "net" and part["learnable"]:
                text = "the fork has one log_freq for the whole net, not one per layer"
                faults.append(Fault(place, text, 'use share = "net"'))
            if not float(theta := value_of(part, "theta", float)).is_integer():
                faults.append(Fault(place, f"--rotary-base is an integer, not {theta:g}", "round theta"))
        elif name != "nope":
            faults.append(Fault(place, f"the fork has no {name}", "use nope, rope, grape_m or grape_a"))
    return rotation, slopes


def _shared(kinds: Mapping[str, Spoken], model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    """Write what the fork has once for all layers."""
    softmax = _one(kinds, "softmax", lambda kind: kind["softmax"], faults)
    words = {word: flag for flag, word in SOFTMAXES.items()}
    if softmax and (name := value_of(softmax, "name", str)) in words:
        out["softmax-type"] = [words[name]]
        if name == "sink" and (std := value_of(softmax, "init_std", float)) != model["init_std"]:
            text = f"the fork's sinks start with init_method_std {model['init_std']:g}, not {std:g}"
            faults.append(Fault("model.softmax", text, f"use init_std = {model['init_std']!r}"))
    activation = _one(kinds, "mlp", lambda kind: kind["activation"], faults)
    if activation == "relu2":
        out["squared-relu"] = out["no-bias-gelu-fusion"] = out["no-bias-swiglu-fusion"] = []
    elif activation == "swiglu":
        out["swiglu"] = []
    elif activation == "gelu":
        _gelu(kinds, model, out, faults)
    value = _one(kinds, "value", lambda kind: kind["value"], faults)
    if value and value["name"] == "residual":
        if value["form"] != "sigmoid":
            text = "the fork mixes with a sigmoid, not with the plain number"
            faults.append(Fault("model.value", text, 'use form = "sigmoid" and init from 0.01 to 0.99'))
        out["value-residual"] = []
        out["value-residual-init"] = [repr(value["init"])]
    elif value and value["name"] != "own":
        faults.append(Fault("model.value", f"the fork has no {value['name']}", 'use value = "own"'))


def _gelu(kinds: Mapping[str, Spoken], model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    """Say gelu in the fork's flags: the fused kernel is the tanh form and runs only with biases; without it gelu is exact."""
    dense = [kind["mlp"]["approximate"] for kind in kinds.values() if kind["mlp"]["name"] == "gelu"]
    forms = {*dense, *("tanh" for kind in kinds.values() if kind["mlp"]["name"] == "moe")}
    if len(forms) > 1:
        faults.append(Fault("model.mlp", "the fork has one form of gelu", 'use approximate = "tanh" everywhere'))
    elif forms == {"tanh"} and not model["bias"]:
        text = "without biases the fork's gelu is the exact one"
        faults.append(Fault("model.mlp", text, 'use approximate = "none", or bias = true'))
    elif forms == {"none"} and model["bias"]:
        out["no-bias-gelu-fusion"] = []


def _one(kinds: Mapping[str, Spoken], slot: str, of: Callable[[Spoken], T], faults: list[Fault]) -> T | None:
    """Return what all kinds have; None and a fault where they differ."""
    values = [of(kind) for kind in kinds.values()]
    if all(value == values[0] for value in values):
        return values[0]
    names = " and ".join(dict.fromkeys(kind["table"] for kind in kinds.values()))
    text = f"differs between layer kinds ({names}); the fork has one for all"
    faults.append(Fault(f"model.{slot}", text, "make them the same"))
    return None
