"""A network in Megatron's words as ablab's [model] table."""

from __future__ import annotations

from ablab.bridges.megatron.net import Net, NetLayer
from ablab.bridges.megatron.notes import ignored
from ablab.bridges.megatron.parse import DEFAULTS
from ablab.core.fault import Fault
from ablab.core.lever import Choice

SOFTMAXES = {"vanilla": "vanilla", "off-by-one": "off_by_one", "learnable": "sink"}
BALANCES = {"none": "none", "seq_aux_loss": "sequence", "aux_loss": "switch"}
NORMS = {"RMSNorm": "rms", "LayerNorm": "layer"}
# (windowed, as most layers of its scope are) -> the name of the kind; initials differ
NAMES = {
    (True, "main"): "local",
    (False, "main"): "global",
    (True, "dense"): "dense",
    (False, "dense"): "wide",
    (True, "turned"): "moved",
    (False, "turned"): "rooted",
    (True, "dense turned"): "flat",
    (False, "dense turned"): "peak",
}
# a slot's lever where a study says nothing
DEFAULT = {"projection": "gqa", "position": "rope", "softmax": "vanilla", "value": "own", "mlp": "relu2"}


def model(net: Net) -> dict[str, object]:
    """Return the [model] table; keys that the flags leave open are missing."""
    given = net.given
    out: dict[str, object] = {}
    names = _names(net)
    if not net.assumed:
        out["layers"] = _string([name[0].upper() for name in names])
    sizes = {"d_model": net.d_model, "n_heads": net.n_heads, "n_kv_heads": net.n_kv_heads, "seq_len": net.seq_len}
    out |= {key: size for key, size in sizes.items() if size is not None}
    if net.head_dim and (net.d_model is None or net.head_dim * (net.n_heads or 0) != net.d_model):
        out["head_dim"] = net.head_dim
    out["tied"] = not given["untie_embeddings_and_output_weights"]
    out["qk_norm"] = given["qk_layernorm"]
    out["norm"] = NORMS[given["normalization"]]
    out["norm_eps"] = given["norm_epsilon"]
    out["bias"] = net.bias
    out["init_std"] = given["init_method_std"]
    if given["embedding_init_method_std"] is not None:
        out["embed_std"] = given["embedding_init_method_std"]
    if net.position == "learned_absolute":
        out["embedding"] = "learned"
    kinds = {name: _slots(net, layer) for name, layer in zip(names, net.layers)}
    return {**out, **_hoisted(kinds)}


def refusals(net: Net) -> list[Fault]:
    """Return faults for what would make a study of these flags mean another thing."""
    given, out = net.given, list[Fault]()
    for flag in given.flags:
        if flag.role == "refused" and given[flag.to] != DEFAULTS[flag.to]:
            out.append(Fault(flag.name, f"ablab has no lever for it ({flag.meaning})", "remove it"))
    if given["window_size"] is not None:
        left, right = given["window_size"]
        if right != 0:
            out.append(Fault("--window-size", "looks into the future", f"write ({left},0)"))
        if left == -1 and given["transformer_impl"] == "local":
            out.append(Fault("--window-size", "-1 masks every key on the local backend", "leave the flag out"))
        if ignored(net):
            text = "the local backend's fused kernel ignores the window"
            out.append(Fault("--window-size", text, "add --no-masked-softmax-fusion"))
    if net.position in ("mrope", "relative", "yarn"):
        text = f"ablab has no position lever like {net.position}"
        out.append(Fault("--position-embedding-type", text, "use grapem, rope, learned_absolute or none"))
    if net.position == "grapem" and given["rotary_percent"] != 1.0:
        out.append(Fault("--rotary-percent", "ablab's grape_m turns the whole head", "leave it 1.0"))
    if given["add_qkv_bias"] and not net.bias:
        text = "in the fork, biases on q, k, v alone bring one on the output projection"
        out.append(Fault("--add-qkv-bias", text, "remove it, or --disable-bias-linear"))
    if not given["grapem_share_across_heads"] and net.position == "grapem" and net.n_heads != net.n_kv_heads:
        out.append(Fault("--grapem-per-head", "raises with grouped heads", "remove --group-query-attention"))
    if given["value_residual"] and len(net.layers) == 1 and not net.assumed:
        out.append(Fault("--value-residual", "there is no layer behind the first", "use more layers"))
    return out + (_router_refusals(net) if given["num_experts"] else [])


def _router_refusals(net: Net) -> list[Fault]:
    given, out = net.given, list[Fault]()
    kinds, weights = given["moe_router_load_balancing_type"], given["moe_aux_loss_coeff"]
    if len(kinds) > 1 or len(weights) > 1:
        out.append(Fault("--moe-router-load-balancing-type", "several balance losses at once", "keep one"))
    elif kinds[0] not in BALANCES and (any(weights) or kinds[0] == "sinkhorn"):
        text = f"ablab has no balance like {kinds[0]}"
        out.append(Fault("--moe-router-load-balancing-type", text, "use seq_aux_loss, aux_loss or none"))
    score = given["moe_router_score_function"]
    if score not in ("softmax", "sigmoid"):
        out.append(Fault("--moe-router-score-function", f"ablab has no router with {score}", "use sigmoid or softmax"))
    if score == "softmax":
        if given["moe_router_num_groups"]:
            text = "ablab's softmax router knows no groups"
            out.append(Fault("--moe-router-num-groups", text, "use sigmoid scores"))
        if given["moe_router_topk_scaling_factor"] not in (None, 1.0):
            text = "ablab's softmax router knows no scale"
            out.append(Fault("--moe-router-topk-scaling-factor", text, "use sigmoid scores"))
    if net.activation == "gelu" and not net.tanh_gelu:
        text = "experts with the exact gelu; ablab's have the tanh form"
        out.append(Fault("--num-experts", text, "use --squared-relu or --swiglu, or biases"))
    return out


def _names(net: Net) -> list[str]:
    """Name each layer's kind: what most layers of its scope are has the plain name."""
    mixed = any(layer.routed for layer in net.layers)
    first = {}
    for local in (True, False):
        turned = [layer.rotates for layer in net.layers if layer.local == local]
        first[local] = sum(turned) * 2 >= len(turned)
    out = []
    for layer in net.layers:
        words = ["dense"] if mixed and not layer.routed else []
        words += ["turned"] if layer.rotates != first[layer.local] else []
        out.append(NAMES[layer.local, " ".join(words) or "main"])
    return out


def _slots(net: Net, layer: NetLayer) -> dict[str, object]:
    given = net.given
    tpa = given["use_tpa"] and layer.local
    out: dict[str, object] = {}
    if layer.window is not None:
        out["window"] = layer.window
    out["projection"] = {"name": "tpa", "rank": given["tpa_rank"], "q_rank": given["tpa_q_rank"]} if tpa else "gqa"
    out["position"] = position(net, layer)
    out["softmax"] = SOFTMAXES[given["softmax_type"]]
    if out["softmax"] == "sink" and given["init_method_std"] != DEFAULTS["init_method_std"]:
        out["softmax"] = {"name": "sink", "init_std": given["init_method_std"]}
    out["value"] = "own"
    if given["value_residual"]:
        init = given["value_residual_init"]
        form = "sigmoid" if 0.01 <= init <= 0.99 else "linear"
        out["value"] = {"name": "residual", "init": init, "form": form}
    out["mlp"] = _mixture(net) if layer.routed else _dense(net)
    if layer.routed:
        out["router"] = router(net)
    return out


def position(net: Net, layer: NetLayer) -> object:
    """Return the position slot of one layer: a rotation, a distance bias, both or nothing."""
    given, parts = net.given, list[str | Choice]()
    if layer.rotates and net.position == "grapem":
        heads = {} if given["grapem_share_across_heads"] else {"per_head": True}
        rest = {"theta": float(given["rotary_base"]), "scale": given["grapem_log_freq_scale"], "share": "net"}
        parts.append({"name": "grape_m", "learnable": given["grapem_learnable_freq"], **heads, **rest})
    elif layer.rotates:
        parts.append(
            {"name": "rope", "theta": float(given["rotary_base"]), "fraction": _rotated(net, given["rotary_percent"])}
        )
    if layer.slopes:
        parts.append("grape_a")
    return parts[0] if len(parts) == 1 else parts or "nope"


def _rotated(net: Net, percent: float) -> float:
    """Return the share of channels that Megatron turns: int(head_dim * percent)."""
    return int(net.head_dim * percent) / net.head_dim if net.head_dim and percent < 1 else float(percent)


def _ratio(net: Net, width: int | None) -> dict[str, float]:
    return {"ratio": width / net.d_model} if width and net.d_model else {}


def _dense(net: Net) -> Choice:
    form = {"approximate": "tanh" if net.tanh_gelu else "none"} if net.activation == "gelu" else {}
    step = {"multiple": 1} if net.activation == "swiglu" and (net.width or 0) % 8 else {}
    return {"name": net.activation, **_ratio(net, net.width), **form, **step}


def _mixture(net: Net) -> Choice:
    given = net.given
    shared = given["moe_shared_expert_intermediate_size"]
    weight = given["moe_aux_loss_coeff"][0]
    balance = BALANCES.get(given["moe_router_load_balancing_type"][0], "none") if weight else "none"
    return {
        "name": "moe",
        "n_experts": given["num_experts"],
        **_ratio(net, net.expert_width),
        **({"shared": shared / net.d_model} if shared and net.d_model else {}),
        "activation": net.activation,
        "balance": balance,
        **({"balance_weight": weight} if balance != "none" else {}),
        **({"z_loss": given["moe_z_loss_coeff"]} if given["moe_z_loss_coeff"] else {}),
    }


def router(net: Net) -> Choice:
    """Return the router slot of a mixture."""
    given = net.given
    if given["moe_router_score_function"] == "softmax":
        order = "pre" if given["moe_router_pre_softmax"] else "post"
        return {"name": "softmax_topk", "top_k": given["moe_router_topk"], "order": order}
    groups = {}
    if given["moe_router_num_groups"] and given["moe_router_num_groups"] > 1:
        groups = {
            "n_groups": given["moe_router_num_groups"],
            "group_top_k": given["moe_router_group_topk"],
            "group_score": "megatron",
        }
    return {
        "name": "deepseek_v3",
        "top_k": given["moe_router_topk"],
        **groups,
        "scale": given["moe_router_topk_scaling_factor"] or 1.0,
        "normalize": True,
        "bias_rate": given["moe_router_bias_update_rate"] if given["moe_router_enable_expert_bias"] else 0.0,
    }


def _hoisted(kinds: dict[str, dict[str, object]]) -> dict[str, object]:
    """Move slots that all kinds share to the model, once for all; defaults are left out."""
    slots = list(dict.fromkeys(slot for kind in kinds.values() for slot in kind if slot != "window"))
    out: dict[str, object] = {}
    routed = [kind for kind in kinds.values() if "router" in kind]
    for slot in slots:
        having = routed if slot == "router" else list(kinds.values())
        if all(kind[slot] == having[0][slot] for kind in having):
            value = having[0][slot]
            for kind in having:
                del kind[slot]
            if value != DEFAULT.get(slot):
                out[slot] = value
    return {**out, **kinds}


def _string(letters: list[str]) -> str:
    """Write the layer string, with its period in parentheses where it has one: `D` + `(LLLG)*3`."""
    n = len(letters)
    best = "".join(letters)
    for start in range(min(n, 5)):
        rest = letters[start:]
        for period in range(1, len(rest) // 2 + 1):
            if len(rest) % period == 0 and rest == rest[:period] * (len(rest) // period):
                unit = "".join(rest[:period])
                unit = unit if period == 1 else f"({unit})"
                text = f"{''.join(letters[:start])}{unit}*{len(rest) // period}"
                best = min(best, text, key=len)
                break
    return best
