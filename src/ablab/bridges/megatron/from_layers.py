"""Windows, rotations, tensor products and mixtures over the layers as Megatron's schedule flags."""

from __future__ import annotations

from ablab.bridges.megatron import grammar
from ablab.bridges.megatron.to_model import BALANCES
from ablab.core.fault import Fault
from ablab.core.lever import Choice, value_of, value_or_none
from ablab.records.settings import KindSettings, ModelSettings

Words = dict[str, list[str]]  # a flag's name -> its words; none for a switch


class Spoken(KindSettings):
    """A layer kind with its position taken apart."""

    rotation: Choice | None
    slopes: bool
    activation: str


def from_layers(layers: list[Spoken], model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    """Write the flags of a list of layers (kinds, taken apart). Appends a fault for what the schedules cannot say."""
    local = [layer["window"] is not None for layer in layers]
    _windows(layers, local, out, faults)
    _positions(layers, local, model, out, faults)
    _projections(layers, local, model, out, faults)
    _mlps(layers, model, out, faults)


def _windows(layers: list[Spoken], local: list[bool], out: Words, faults: list[Fault]) -> None:
    windows = sorted({window for layer in layers if (window := layer["window"]) is not None})
    if not windows:
        return
    if len(windows) > 1:
        text = f"windows of {' and '.join(map(str, windows))} tokens; the fork has one"
        faults.append(Fault("model: window", text, "use one window"))
    out["window-size"] = [f"({windows[0] - 1},0)"]
    if not all(local):
        n = len(local)
        every = next((f for f in range(2, n + 1) if local == [i % f != 0 for i in range(1, n + 1)]), None)
        out["window-attn-skip-freq"] = [grammar.spell([int(one) for one in local]) if every is None else str(every)]


def _positions(layers: list[Spoken], local: list[bool], model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    rotations = [layer["rotation"] for layer in layers]
    chosen = [rotation for rotation in rotations if rotation is not None]
    learned = isinstance(model["embedding"], dict) and model["embedding"]["name"] == "learned"
    if any(rotation != chosen[0] for rotation in chosen):
        faults.append(Fault("model: position", "two rotations; the fork has one for all layers", "use one"))
    if learned and chosen:
        text = "a learned table and a rotation; the fork has one kind of position"
        faults.append(Fault("model.embedding", text, 'use embedding = "plain", or nope in every layer'))
    if chosen:
        _rotation(chosen[0], model, out, faults)
    else:
        out["position-embedding-type"] = ["learned_absolute" if learned else "none"]
    still = [rotation is None for rotation in rotations]
    if chosen and any(still):
        n = len(still)
        divisors = [f for f in range(2, n + 1) if n % f == 0]
        every = next((f for f in divisors if still == [i % f == 0 for i in range(1, n + 1)]), None)
        out["no-rope-freq"] = [grammar.spell([int(one) for one in still]) if every is None else str(every)]
    slopes = [layer["slopes"] for layer in layers]
    if any(slopes):
        odd = [i for i, (slope, windowed) in enumerate(zip(slopes, local), 1) if slope == windowed]
        if odd:
            text = f"layer {odd[0]}: the fork's distance bias is on all layers without a window and on no other"
            faults.append(Fault("model: position", text, "give grape_a to exactly the layers without a window"))
        out["grape-a"] = []


def _rotation(rotation: Choice, model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    theta = int(value_of(rotation, "theta", float))
    if rotation["name"] == "rope":
        out["position-embedding-type"] = ["rope"]
        if theta != 10000:
            out["rotary-base"] = [str(theta)]
        if (fraction := value_of(rotation, "fraction", float)) != 1.0:
            out["rotary-percent"] = [repr(fraction)]
            if int(model["head_dim"] * fraction) != round(model["head_dim"] * fraction):
                text = f"fraction {fraction!r} is rounded down there to other channels"
                faults.append(Fault("model: position", text, "give a fraction that is a binary number"))
        return
    out["position-embedding-type"] = ["grapem"]
    if theta != 10000:
        out["rotary-base"] = [str(theta)]
    out["no-rope-fusion"] = []
    out["grapem-learnable-freq" if rotation["learnable"] else "no-grapem-learnable-freq"] = []
    if rotation["per_head"] and model["n_heads"] != model["n_kv_heads"]:
        text = "frequencies per head raise in the fork with grouped key and value heads"
        faults.append(Fault("model: position", text, "use per_head = false, or n_kv_heads = n_heads"))
    out["grapem-per-head" if rotation["per_head"] else "grapem-share-across-heads"] = []
    out["grapem-log-freq-scale"] = [repr(rotation["scale"])]


def _projections(
    layers: list[Spoken], local: list[bool], model: ModelSettings, out: Words, faults: list[Fault]
) -> None:
    places = [(f"model.{layer['table']}.projection", layer["projection"]) for layer in layers]
    for place, projection in dict(places).items():
        if projection["name"] not in ("gqa", "tpa"):
            faults.append(Fault(place, f"the fork has no {projection['name']}", "use gqa or tpa"))
        elif projection["bias"] not in (None, model["bias"]):
            text = "in the fork biases on q, k, v go with those of the linear layers"
            faults.append(Fault(place, text, "leave bias out, and set model.bias"))
        if projection["name"] == "tpa":
            if projection["factors"] != "groups" and model["n_heads"] != model["n_kv_heads"]:
                faults.append(Fault(place, "the fork's factors span the groups", 'use factors = "groups"'))
            if projection["init"] != "normal":
                faults.append(Fault(place, "the fork's factors start normal", 'use init = "normal"'))
    products = [projection for _, projection in places if projection["name"] == "tpa"]
    if not products:
        return
    for (place, projection), windowed in zip(places, local):
        if (projection["name"] == "tpa") != windowed:
            text = "the fork has tensor products on all layers with a window and on no other"
            faults.append(Fault(place, text, "use tpa exactly where there is a window"))
            break
    if any(projection != products[0] for projection in products):
        faults.append(Fault("model: projection", "two kinds of tpa; the fork has one", "make them the same"))
    out["use-tpa"] = []
    out["tpa-rank"] = [str(products[0]["rank"])]
    out["tpa-q-rank"] = [str(products[0]["q_rank"])]


def _mlps(layers: list[Spoken], model: ModelSettings, out: Words, faults: list[Fault]) -> None:
    routed = [layer["mlp"]["name"] == "moe" for layer in layers]
    widths = sorted({_width(layer["mlp"], model["d_model"]) for layer, moe in zip(layers, routed) if not moe})
    if len(widths) > 1:
        text = f"dense mlps of widths {' and '.join(map(str, widths))}; the fork has one"
        faults.append(Fault("model: mlp", text, "use one ratio"))
    mixtures = [(layer["mlp"], layer["router"]) for layer in layers if layer["mlp"]["name"] == "moe"]
    if any(one != mixtures[0] for one in mixtures):
        faults.append(Fault("model: mlp", "two kinds of mixture; the fork has one", "make them the same"))
    if not mixtures:
        out["ffn-hidden-size"] = [str(widths[0])]
        return
    mlp, router = mixtures[0]
    assert router is not None  # `ablab.study` refuses a mixture without one
    width = round(value_of(mlp, "ratio", float) * model["d_model"])
    out["ffn-hidden-size"] = [str(widths[0] if widths else width)]
    out["num-experts"] = [str(mlp["n_experts"])]
    out["moe-router-topk"] = [str(router["top_k"])]
    out["moe-ffn-hidden-size"] = [str(width)]
    kinds = {word: flag for flag, word in BALANCES.items()}
    out["moe-router-load-balancing-type"] = [kinds[value_of(mlp, "balance", str)]]
    weight = mlp["balance_weight"]
    if mlp["balance"] != "none":
        if weight is None:
            faults.append(Fault("model: mlp", "balance_weight must be a number for the fork", "write it out"))
        else:
            out["moe-aux-loss-coeff"] = [repr(weight)]
    if mlp["z_loss"]:
        out["moe-z-loss-coeff"] = [repr(mlp["z_loss"])]
    _router(router, out, faults)
    out["moe-router-dtype"] = ["fp32"]
    if shared := value_or_none(mlp, "shared", float):
        out["moe-shared-expert-intermediate-size"] = [str(round(shared * model["d_model"]))]
    if not all(routed):
        n = len(routed)
        every = next((f for f in range(2, n) if routed == [i % f == 0 for i in range(n)]), None)
        out["moe-layer-freq"] = [grammar.spell([int(one) for one in routed]) if every is None else str(every)]


def _router(router: Choice, out: Words, faults: list[Fault]) -> None:
    if router["name"] == "softmax_topk":
        out["moe-router-score-function"] = ["softmax"]
        if router["order"] == "pre":
            out["moe-router-pre-softmax"] = []
        return
    if router["name"] != "deepseek_v3":
        faults.append(Fault("model: router", f"the fork has no {router['name']}", "use deepseek_v3 or softmax_topk"))
        return
    out["moe-router-score-function"] = ["sigmoid"]
    top, groups, kept = (value_of(router, key, int) for key in ("top_k", "n_groups", "group_top_k"))
    megatron = router["group_score"] == "megatron"
    if top > 1 and not router["normalize"]:
        faults.append(Fault("model: router", "the fork divides the weights by their sum", "use normalize = true"))
    if top == 1 and router["normalize"] == "always":
        faults.append(Fault("model: router", "the fork leaves a lone expert its score", "use normalize = true"))
    if groups > 1:
        if not megatron and top // kept != 2:
            text = f"the fork scores a group by its best {top // kept}, not by its best 2"
            faults.append(Fault("model: router", text, 'use group_score = "megatron"'))
        out["moe-router-num-groups"] = [str(groups)]
        out["moe-router-group-topk"] = [str(kept)]
    if router["scale"] != 1.0:
        out["moe-router-topk-scaling-factor"] = [repr(router["scale"])]
    if router["bias_rate"]:
        out["moe-router-enable-expert-bias"] = []
        out["moe-router-bias-update-rate"] = [repr(router["bias_rate"])]


def _width(mlp: Choice, d_model: int) -> int:
    step = value_or_none(mlp, "multiple", int) or 1
    return round(value_of(mlp, "ratio", float) * d_model / step) * step
