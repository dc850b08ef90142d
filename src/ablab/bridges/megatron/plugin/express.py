"""What of an arm Megatron-Core expresses: fields of its TransformerConfig, and for each layer what differs there.

It starts from all settings of the arm and strikes off what it has said; what is left is refused by name. No torch, no Megatron.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ablab.bridges.noted import left, noted
from ablab.core.fault import CheckFailed, Fault
from ablab.core.lever import Choice, value_of, value_or_none
from ablab.records.settings import KindSettings, ModelSettings, Settings
from ablab.study.take import show

Fields = dict[str, object]  # of a TransformerConfig
# Slots for which a layer of Megatron has one answer.
ONE = {"residual": "plain", "block": "sequential"}
OURS = (
    "projection",
    "position",
    "softmax",
    "temperature",
    "gate",
    "value",
)  # parts of ours inside Megatron's attention
GATED = ("swiglu", "gptoss_swiglu")
MLPS = ("relu2", "leaky_relu2", "gelu", *GATED)
NORMS = {"rms": "RMSNorm", "layer": "LayerNorm", "bare": "RMSNorm"}
BALANCES = {"none": "none", "sequence": "seq_aux_loss", "switch": "aux_loss"}
DEFAULTS: dict[str, object] = {"slope": 0.5, "approximate": "tanh", "alpha": 1.702, "limit": 7.0}  # of an expert
# What does not change which network is trained, or how.
UNSAID = {
    "model.loop_from": "acts on loops, which are refused",
    "train.ema_warmup": "acts on train.ema, which is refused",
    "train.validate_every": "is of the validations on the way",
    "train.validate_bytes": "is of the validations on the way",
    "data": "says where batches come from; the plugin is given them",
    "stage": "comes after the training",
}


@dataclass(frozen=True)
class Placed:
    """One layer: its kind, and the fields in which its TransformerConfig differs from the network's."""

    kind: KindSettings
    own: Fields


@dataclass(frozen=True)
class Expressed:
    """An arm in Megatron's terms: `config` of the network, its layers in order, and the settings that it was read from."""

    settings: Settings
    config: Fields
    layers: tuple[Placed, ...]

    @property
    def model(self) -> ModelSettings:
        """The model's settings."""
        return self.settings["model"]


def express(settings: Settings, arm: str) -> Expressed:
    """Say an arm's canonical settings in Megatron's terms. CheckFailed with all that has no place there."""
    (asked, table), faults = noted(settings), list[Fault]()
    model = asked["model"]
    config = _network(model, faults)
    _training(asked, faults)
    kinds = {letter: _kind(model, kind, faults) for letter, kind in model["kinds"].items()}
    config |= _mixtures([kinds[letter] for letter in model["layers"]], faults)
    if not faults:  # where a lever is refused, so are its settings
        faults += left(settings, table, UNSAID, "{} has no place in Megatron-Core", "train this arm in ablab")
    if faults:
        unique = {str(fault): fault for fault in faults}.values()
        raise CheckFailed(Fault(f"arm {arm}: {fault.place}", fault.fault, fault.cure) for fault in unique)
    plain = settings["model"]
    layers = tuple(Placed(plain["kinds"][letter], kinds[letter]) for letter in plain["layers"])
    return Expressed(settings, config, layers)


def whole_batch(model: ModelSettings) -> bool:
    """Tell whether a balance loss is of the whole batch, which then may not be cut: Megatron would take one of each part."""
    return any(kind["mlp"].get("balance") == "switch" for kind in model["kinds"].values())


def _network(model: ModelSettings, faults: list[Fault]) -> Fields:
    """Say the keys of the whole model."""

    def refuse(key: str, text: str, cure: str) -> None:
        faults.append(Fault(f"model.{key}", text, cure))

    if model["softcap"]:
        refuse("softcap", "Megatron-Core has no soft cap on its logits", "set it 0")
    if model["loops"]:
        refuse("layers", "Megatron-Core meets every layer once: it has no loops", "repeat with * instead of ^")
    if (name := _names(model["skips"])) != "none":
        refuse("skips", f"Megatron-Core's block has no {name} skips", 'use skips = "none"')
    if (name := _names(model["embedding"])) != "plain":
        refuse("embedding", f"Megatron-Core's embedding has no {name}", 'use embedding = "plain"')
    # The first numbers are ablab's own draws, put in by `weights.load`; these are what Megatron draws before.
    _ = model["init"], model["embed_std"], model["out_std"], model["tied"], model["seq_len"]
    return {
        "num_layers": len(model["layers"]),
        "hidden_size": model["d_model"],
        "num_attention_heads": model["n_heads"],
        "num_query_groups": model["n_kv_heads"],
        "kv_channels": model["head_dim"],
        "ffn_hidden_size": 4 * model["d_model"],  # of no layer: each has its own
        "add_bias_linear": model["bias"],
        "normalization": NORMS[model["norm"]],
        "qk_layernorm": model["qk_norm"] is True,
        "layernorm_epsilon": model["norm_eps"],
        "init_method_std": model["init_std"],
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "softmax_type": "vanilla",
        "window_size": None,
        "bias_dropout_fusion": False,
    }


def _training(settings: Settings, faults: list[Fault]) -> None:
    """Say what of [train] and [budget] changes a step."""
    train, budget = settings["train"], settings["budget"]
    if (name := _names(train["qat"])) != "off":
        faults.append(Fault("train.qat", f"the plugin has no {name}", 'use qat = "off"'))
    if train["ema"]:
        faults.append(Fault("train.ema", "Megatron-Core keeps no mean of its weights", "set it 0"))
    if train["weights"]:
        faults.append(Fault("train.weights", "are not trained, but taken from elsewhere", "leave them out"))
    if budget["seconds"] is not None:
        faults.append(Fault("budget.seconds", "Megatron-Core counts steps", "give budget.tokens"))
    _ = budget["tokens"], budget["batch_tokens"], train["clip"], train["salt"]
    for choice in (train["optimizer"], train["schedule"], train["loss"]):
        _whole(choice)


def _kind(model: ModelSettings, kind: KindSettings, faults: list[Fault]) -> Fields:
    """Say a layer kind: the parts that are ours whole, its mlp in Megatron's fields."""
    place = f"model.{kind['table']}"
    for slot, only in ONE.items():
        if (name := _names(cast(dict[str, Choice], kind)[slot])) != only:
            faults.append(Fault(f"{place}.{slot}", f"Megatron-Core's layer has no {name}", f'use {slot} = "{only}"'))
    for slot in OURS:
        _whole(cast(dict[str, Choice], kind)[slot])
    projection, bias = kind["projection"], value_or_none(kind["projection"], "bias", bool)
    if projection["name"] == "gqa" and model["bias"] and bias is False:
        text = "Megatron-Core's q, k and v have biases where its other matrices have"
        faults.append(Fault(f"{place}.projection", text, "use bias = true, or model.bias = false"))
    _ = kind["window"], kind["router"]
    out: Fields = {"add_qkv_bias": bool(bias)}
    return out | (_mixture if kind["mlp"]["name"] == "moe" else _dense)(model, kind, place, faults)


def _dense(model: ModelSettings, kind: KindSettings, place: str, faults: list[Fault]) -> Fields:
    mlp, out = kind["mlp"], dict[str, object](num_moe_experts=None, moe_ffn_hidden_size=None)
    if (name := value_of(mlp, "name", str)) not in MLPS:
        faults.append(Fault(f"{place}.mlp", f"the plugin has no {name}", f"use {', '.join(MLPS)} or moe"))
        return out
    multiple = value_of(mlp, "multiple", int) if name in GATED else 1
    out["ffn_hidden_size"] = round(value_of(mlp, "ratio", float) * model["d_model"] / multiple) * multiple
    return out | {"activation": _activation(name, mlp)}


def _activation(name: str, mlp: Choice | None = None) -> tuple[object, ...]:
    """Name what stands between the two products, with its numbers: those of `mlp`, or the defaults that an expert has."""
    keys = {"leaky_relu2": ("slope",), "gelu": ("approximate",), "gptoss_swiglu": ("alpha", "limit")}.get(name, ())
    return (name, *(DEFAULTS[key] if mlp is None else mlp[key] for key in keys))


def _mixture(model: ModelSettings, kind: KindSettings, place: str, faults: list[Fault]) -> Fields:
    mlp, router, d = kind["mlp"], kind["router"], model["d_model"]
    assert router is not None  # a mixture has one
    shared, balance = value_of(mlp, "shared", float), value_of(mlp, "balance", str)
    weight, z_loss = value_or_none(mlp, "balance_weight", float), value_of(mlp, "z_loss", float)
    width, score = round(value_of(mlp, "ratio", float) * d), router["name"] == "deepseek_v3"
    out: Fields = {
        "num_moe_experts": mlp["n_experts"],
        "moe_ffn_hidden_size": width,
        "ffn_hidden_size": width,
        "moe_shared_expert_intermediate_size": round(shared * d) if shared else None,
        "moe_router_topk": router["top_k"],
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": BALANCES[balance],
        "moe_aux_loss_coeff": {"sequence": 1e-4, "switch": 1e-2, "none": 0.0}[balance] if weight is None else weight,
        "moe_z_loss_coeff": z_loss or None,
        "moe_router_score_function": "sigmoid" if score else "softmax",
        "moe_router_enable_expert_bias": score,
        "activation": _activation(value_of(mlp, "activation", str)),
    }
    if model["bias"]:  # 0.16.1 raises: a shared expert asserts, an expert's bias is added into a view of its product
        text = "Megatron-Core's experts train without biases alone"
        faults.append(Fault(f"{place}.mlp", text, "use model.bias = false"))
    if not score:
        return out | {"moe_router_pre_softmax": router["order"] == "pre"}
    groups, kept, normal = value_of(router, "n_groups", int), router["group_top_k"], router["normalize"]
    if groups > 1 and router["group_score"] != "megatron":
        text = "Megatron-Core scores a group by its top_k // group_top_k best, not by two"
        faults.append(Fault(f"{place}.router", text, 'use group_score = "megatron"'))
    if normal is False or (normal == "always" and router["top_k"] == 1):
        text = (
            f"Megatron-Core divides the weights of several experts and leaves one alone: no normalize = {show(normal)}"
        )
        faults.append(Fault(f"{place}.router", text, "use normalize = true"))
    _ = router["group_score"]
    if groups > 1:
        out |= {"moe_router_num_groups": groups, "moe_router_group_topk": kept}
    out |= {"moe_router_topk_scaling_factor": router["scale"], "moe_router_bias_update_rate": router["bias_rate"]}
    return out


def _mixtures(layers: list[Fields], faults: list[Fault]) -> Fields:
    """Return the network's fields of mixtures: those of its first, which all must share where Megatron reads them once."""
    mixed = [layer for layer in layers if layer.get("num_moe_experts")]
    if not mixed:
        return {}
    for key in ("num_moe_experts", "moe_router_enable_expert_bias", "moe_router_bias_update_rate"):
        values = list(dict.fromkeys(layer.get(key) for layer in mixed))
        if len(values) > 1:
            text = f"{key} is {' and '.join(map(show, values))} in two layer kinds; Megatron-Core reads it once"
            faults.append(Fault("model: router", text, "make the mixtures the same"))
    first = {key: value for key, value in mixed[0].items() if key.startswith("moe_") or key == "num_moe_experts"}
    return {**first, "moe_layer_freq": [int(bool(layer.get("num_moe_experts"))) for layer in layers]}


def _names(value: Choice | list[Choice]) -> str:
    return "+".join(value_of(part, "name", str) for part in (value if isinstance(value, list) else [value]))


def _whole(value: Choice | list[Choice]) -> None:
    """Say a lever with all its settings: it is built as it stands."""
    for one in value if isinstance(value, list) else [value]:
        for key in list(one):
            if isinstance(inside := one[key], dict):
                _whole(inside)
