"""Parameters of a Megatron network by the rules of vpMoE's own counter (scripts/param_count_megatron.py).

Those rules leave out two things that the network has: the bias of a tensor product attention, and the scalars of a value
residual. `exact` adds them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ablab.bridges.megatron.net import Net


@dataclass(frozen=True)
class Count:
    """Parameters: by their rules, of those the ones that a token meets, and as they are. `parts` add up to `total`."""

    total: int
    active: int
    exact: int
    parts: dict[str, int]


def count(net: Net) -> Count | None:
    """Count the parameters, or None where a size is not given."""
    d, heads, kv, size, vocab = net.d_model, net.n_heads, net.n_kv_heads, net.head_dim, net.vocab_size
    if net.assumed or not d or not heads or not kv or not size or not vocab or not net.width or not net.expert_width:
        return None
    given, layers = net.given, net.layers
    norm = d * (2 if given["normalization"] == "LayerNorm" else 1)
    per_head = size * (2 if given["normalization"] == "LayerNorm" else 1)
    routed = sum(layer.routed for layer in layers)
    local = sum(layer.local for layer in layers)
    tables = {"embeddings": vocab * d, "output": vocab * d if given["untie_embeddings_and_output_weights"] else 0}
    if net.position == "learned_absolute":
        tables["positions"] = (given["max_position_embeddings"] or net.seq_len or 0) * d
    full, factored = _projection(net, d, heads, kv, size)
    experts = (given["num_experts"] or 0) * _mlp(net, d, net.expert_width) * routed
    shared = given["moe_shared_expert_intermediate_size"]
    parts = {
        **tables,
        "attention_local": (factored if given["use_tpa"] else full) * local,
        "attention_global": full * (len(layers) - local),
        "norms": norm * (2 * len(layers) + 1),
        "qk_norms": 2 * per_head * len(layers) if given["qk_layernorm"] else 0,
        "softmax_offset": heads * len(layers) if given["softmax_type"] == "learnable" else 0,
        "grapem": _frequencies(net, heads, size),
        "dense_mlp": _mlp(net, d, net.width) * (len(layers) - routed),
        "moe_experts": experts,
        "moe_router": (d + net.bias) * (given["num_experts"] or 0) * routed,
        "moe_shared_expert": _mlp(net, d, shared) * routed if shared else 0,
    }
    total = sum(parts.values())
    active = total - experts + (experts * given["moe_router_topk"] // given["num_experts"] if routed else 0)
    tpa_bias = (heads + 2 * kv) * size * local if given["use_tpa"] and net.qkv_bias else 0
    scalars = len(layers) - 1 if given["value_residual"] else 0
    return Count(total, active, total + tpa_bias + scalars, parts)


def _projection(net: Net, d: int, heads: int, kv: int, size: int) -> tuple[int, int]:
    """Count the parameters of one layer's attention, its output matrix included: full, and by tensor products."""
    out = heads * size * d + (d if net.bias else 0)
    rows = (heads + 2 * kv) * size
    full = out + d * rows + (rows if net.qkv_bias else 0)
    q, r = net.given["tpa_q_rank"] or 0, net.given["tpa_rank"] or 0
    return full, out + d * (q * (heads + size) + 2 * r * (kv + size))


def _mlp(net: Net, d: int, width: int) -> int:
    inner = 2 * width if net.activation == "swiglu" else width
    return d * inner + width * d + (inner + d if net.bias else 0)


def _frequencies(net: Net, heads: int, size: int) -> int:
    if net.position != "grapem":
        return 0
    pairs = int(size * net.given["rotary_percent"]) // 2
    return pairs if net.given["grapem_share_across_heads"] else pairs * heads
