"""What a Megatron command line really does, and the study that says the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ablab.bridges.megatron import to_data, to_model, to_train
from ablab.bridges.megatron.net import ROTATIONS, Net, NetLayer, read
from ablab.bridges.megatron.notes import Note, ignored, on_model, warn
from ablab.bridges.megatron.parse import DEFAULTS, Given, parse
from ablab.core.fault import Fault

SAME = (
    *("reset_attention_mask", "reset_position_ids", "eod_mask_loss", "dataloader_inter_document_masking"),
    "attention_softmax_in_fp32",
)
Tree = dict[str, dict[str, object]]  # the tables of a study
DROPOUTS = ("hidden_dropout", "attention_dropout")


@dataclass(frozen=True)
class Count:
    """Parameters: by their rules, of those the ones that a token meets, and as they are. `parts` add up to `total`."""

    total: int
    active: int
    exact: int
    parts: dict[str, int]


@dataclass(frozen=True)
class LikeLayers:
    """Equal layers, counted from 1, and what they do in words."""

    numbers: tuple[int, ...]
    attention: str
    position: str
    projection: str
    softmax: str
    mlp: str


@dataclass(frozen=True)
class Explanation:
    """All that the flags say: layers in groups, traps, what stays behind, and the study's tables.

    `tree`: {"budget", "data", "model", "train"}; where `refused` is not empty it must not be written.
    """

    net: Net
    groups: tuple[LikeLayers, ...]
    notes: tuple[Note, ...]
    fork_only: tuple[str, ...]
    upstream_only: tuple[str, ...]
    not_carried: tuple[tuple[str, str], ...]
    how_it_runs: tuple[str, ...]
    refused: tuple[Fault, ...]
    tree: Tree
    parameters: Count | None


def explain(argv: list[str]) -> Explanation:
    """Explain a command line. InvalidStudy with every fault at which Megatron would stop."""
    given = parse(argv)
    net = read(given)
    fork, upstream = tuple(_own(given, "fork")), tuple(_own(given, "upstream"))
    mixed = (
        [warn(upstream[0], f"is upstream's and {fork[0]} the fork's: neither takes both")] if fork and upstream else []
    )
    return Explanation(
        net,
        groups(net),
        (*mixed, *on_model(net), *to_train.on_training(net), *to_data.on_data(net)),
        fork,
        upstream,
        tuple(_left(net)),
        tuple(flag.name for flag in given.flags if flag.role == "runs"),
        (*to_model.refusals(net), *to_train.refusals(net), *to_data.refusals(net)),
        tree(net),
        count(net),
    )


def tree(net: Net) -> Tree:
    """Return the study's tables: budget, data, model, train, and the first seed; empty ones are left out."""
    out: Tree = {
        "budget": {**to_train.budget(net)},
        "data": to_data.data(net),
        "model": to_model.model(net),
        "train": to_train.train(net) | to_data.loss(net),
    }
    if (first := to_data.first_seed(net.given)) is not None:
        out["decision"] = {"seeds": {"first": first}}
    return {key: value for key, value in out.items() if value}


def groups(net: Net) -> tuple[LikeLayers, ...]:
    """Group equal layers, in the order of their first."""
    numbers_of: dict[NetLayer, list[int]] = {}
    for number, layer in enumerate(net.layers, 1):
        numbers_of.setdefault(layer, []).append(number)
    return tuple(_group(net, layer, tuple(numbers)) for layer, numbers in numbers_of.items())


def _group(net: Net, layer: NetLayer, numbers: tuple[int, ...]) -> LikeLayers:
    given = net.given
    whole = layer.window is None or layer.window == net.seq_len or ignored(net)
    seen = "all tokens" if whole else f"{layer.window:,} tokens"
    tpa = given["use_tpa"] and layer.local
    projection = f"tpa, rank {given['tpa_rank']}, queries {given['tpa_q_rank']}" if tpa else "gqa"
    return LikeLayers(
        numbers,
        f"{'local' if layer.local else 'global'}, {seen}",
        _position(net, layer),
        projection + (", bias" if net.qkv_bias else ""),
        to_model.SOFTMAXES[given["softmax_type"]],
        _mlp(net, layer),
    )


def _position(net: Net, layer: NetLayer) -> str:
    parts = []
    if layer.rotates:
        fixed = ", fixed" if net.position == "grapem" and not net.given["grapem_learnable_freq"] else ""
        heads = ", per head" if net.position == "grapem" and not net.given["grapem_share_across_heads"] else ""
        parts.append(ROTATIONS[net.position] + fixed + heads)
    if layer.slopes:
        parts.append("grape_a (ALiBi)")
    if net.position not in (*ROTATIONS, "none"):
        parts.append(net.position)
    return " + ".join(parts) or "none"


def _mlp(net: Net, layer: NetLayer) -> str:
    given, act = net.given, net.activation
    if not layer.routed:
        return f"dense {act}, width {'?' if net.width is None else net.width}"
    shared = given["moe_shared_expert_intermediate_size"]
    width = "?" if net.expert_width is None else net.expert_width
    text = f"{given['moe_router_topk']} of {given['num_experts']} experts {act}, width {width}"
    return text + (f", + shared {shared}" if shared else "")


def _own(given: Given, code: str) -> Iterator[str]:
    """Yield the flags (or the values of flags) that only one of the two programs has."""
    for flag in given.flags:
        if flag.code == code:
            yield flag.name
        elif given[flag.to] in (flag.fork_words if code == "fork" else flag.upstream_words):
            yield f"{flag.name} {given[flag.to]}"


def missing(tree: Tree) -> list[str]:
    """List the keys that a study needs and the flags leave open."""
    needs: dict[str, tuple[str, ...]] = {
        "model": ("layers", "d_model", "n_heads", "seq_len"),
        "budget": ("tokens", "batch_tokens"),
    }
    data = tree.get("data", {})
    if data.get("order") == "megatron":
        needs["data"] = ("valid_source",)  # Megatron's order holds for files that are training data as a whole
    elif "source" not in data and "valid_source" in data:
        needs["data"] = ("source",)
    return [f"{table}.{key}" for table, keys in needs.items() for key in keys if key not in tree.get(table, {})]


def _left(net: Net) -> list[tuple[str, str]]:
    """List the flags that say something which no study can: with what they are about."""
    given, out = net.given, list[tuple[str, str]]()
    for dest in DROPOUTS:
        if given[dest]:
            said = "" if dest in given else " (the default)"
            out.append((f"--{dest.replace('_', '-')} {given[dest]:g}{said}", "ablab has no dropout"))
    for flag in given.flags:
        if flag.role == "lost" and flag.to not in (*SAME, *DROPOUTS) and given[flag.to] != DEFAULTS[flag.to]:
            out.append((_said(given, flag.name), flag.meaning))
    out += to_data.left(net)
    if "value_residual" in given and not 0.01 <= given["value_residual_init"] <= 0.99:
        out.append((_said(given, "--value-residual-init"), 'written as form = "linear": the sigmoid could not learn'))
    size = to_train.length(given)
    if "eval_interval" in given and size.steps and given["eval_interval"] > size.steps:
        out.append((_said(given, "--eval-interval"), "is beyond the training; ablab validates"))
    return out


def _said(given: Given, name: str) -> str:
    return f"{name} {given.texts.get(name, '')}".strip()


def count(net: Net) -> Count | None:
    """Count the parameters by vpMoE's own rules (scripts/param_count_megatron.py); None where a size is not given.

    Those rules leave out two things that the network has: the bias of a tensor product attention, and the scalars of a value
    residual. `exact` adds them.
    """
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
    full, factored = _in_projection(net, d, heads, kv, size)
    experts = (given["num_experts"] or 0) * _in_mlp(net, d, net.expert_width) * routed
    shared = given["moe_shared_expert_intermediate_size"]
    parts = {
        **tables,
        "attention_local": (factored if given["use_tpa"] else full) * local,
        "attention_global": full * (len(layers) - local),
        "norms": norm * (2 * len(layers) + 1),
        "qk_norms": 2 * per_head * len(layers) if given["qk_layernorm"] else 0,
        "softmax_offset": heads * len(layers) if given["softmax_type"] == "learnable" else 0,
        "grapem": _in_rotation(net, heads, size),
        "dense_mlp": _in_mlp(net, d, net.width) * (len(layers) - routed),
        "moe_experts": experts,
        "moe_router": (d + net.bias) * (given["num_experts"] or 0) * routed,
        "moe_shared_expert": _in_mlp(net, d, shared) * routed if shared else 0,
    }
    total = sum(parts.values())
    active = total - experts + (experts * given["moe_router_topk"] // given["num_experts"] if routed else 0)
    tpa_bias = (heads + 2 * kv) * size * local if given["use_tpa"] and net.qkv_bias else 0
    scalars = len(layers) - 1 if given["value_residual"] else 0
    return Count(total, active, total + tpa_bias + scalars, parts)


def _in_projection(net: Net, d: int, heads: int, kv: int, size: int) -> tuple[int, int]:
    """Count the parameters of one layer's attention, its output matrix included: full, and by tensor products."""
    out = heads * size * d + (d if net.bias else 0)
    rows = (heads + 2 * kv) * size
    full = out + d * rows + (rows if net.qkv_bias else 0)
    q, r = net.given["tpa_q_rank"] or 0, net.given["tpa_rank"] or 0
    return full, out + d * (q * (heads + size) + 2 * r * (kv + size))


def _in_mlp(net: Net, d: int, width: int) -> int:
    inner = 2 * width if net.activation == "swiglu" else width
    return d * inner + width * d + (inner + d if net.bias else 0)


def _in_rotation(net: Net, heads: int, size: int) -> int:
    if net.position != "grapem":
        return 0
    pairs = int(size * net.given["rotary_percent"]) // 2
    return pairs if net.given["grapem_share_across_heads"] else pairs * heads
