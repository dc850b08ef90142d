"""Traps about the model in a Megatron command line: what it does not say, and what it says in vain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ablab.bridges.megatron.net import ROTATIONS, Net


@dataclass(frozen=True)
class Note:
    """Something to know. "warning": probably not what was meant."""

    kind: Literal["warning", "note"]
    place: str
    text: str


def warn(place: str, text: str) -> Note:
    return Note("warning", place, text)


def note(place: str, text: str) -> Note:
    return Note("note", place, text)


def on_model(net: Net) -> list[Note]:
    """List every trap about the model, worst first within a subject."""
    return [*_attention(net), *_position(net), *_backend(net), *_values(net), *_mixture(net), *_rest(net)]


def _attention(net: Net) -> Iterator[Note]:
    given = net.given
    window = given["window_size"]
    if window is not None:
        left, right = window
        if left >= 0:
            tokens = f"({left},{right}) counts the keys beside the current one: {left + 1} tokens are seen"
            if left and left & (left - 1) == 0:
                yield warn("--window-size", f"{tokens}; for {left} tokens write ({left - 1},0)")
            else:
                yield note("--window-size", tokens)
        if right != 0:
            yield warn("--window-size", f"{right} keys to the right: the windowed layers would see the future")
        if left == -1:
            yield warn("--window-size", "-1 is no limit with Transformer Engine; the local backend masks every key")
    elif given["window_attn_skip_freq"] is not None:
        yield warn("--window-attn-skip-freq", "does nothing without --window-size: every layer is global")
    if window is not None and given["window_attn_skip_freq"] is None:
        yield note("--window-size", "without --window-attn-skip-freq every layer has the window; none is global")
    skip, n = given["window_attn_skip_freq"], len(net.layers)
    if isinstance(skip, int) and not net.assumed and window is not None and skip > 0 and n % skip:
        yield note("--window-attn-skip-freq", f"{skip} does not divide {n} layers: the last {n % skip} are windowed")
    if "num_query_groups" in given and not given["group_query_attention"]:
        yield warn("--num-query-groups", "is ignored without --group-query-attention: every head has its own keys")
    if net.bias and not given["add_qkv_bias"]:
        yield note(
            "--add-qkv-bias", "q, k and v have biases anyway, because linear layers have (no --disable-bias-linear)"
        )
    if given["add_qkv_bias"] and not net.bias:
        yield warn("--add-qkv-bias", "in the fork the output projection then has a bias too")
    if given["use_tpa"] and not any(layer.local for layer in net.layers):
        yield warn("--use-tpa", "no layer is windowed, so no layer uses it")


def _position(net: Net) -> Iterator[Note]:
    given, rotates = net.given, net.position in ROTATIONS
    lists = isinstance(given["window_attn_skip_freq"], list)
    both = [i for i, layer in enumerate(net.layers, 1) if layer.slopes and layer.rotates]
    if both:
        more = "; the renderer never writes it for a list" if lists else ""
        text = f"layers {spans(both)} rotate AND have the distance bias: --no-rope-freq is missing there{more}"
        yield warn("--grape-a", text)
    if given["grape_a"]:
        if not any(layer.slopes for layer in net.layers):
            yield warn("--grape-a", "every layer is windowed, so no layer has the distance bias")
        yield note("--grape-a", "trains only: packed sequences and inference with a cache raise (ablab decodes it)")
        if net.n_heads and net.seq_len and any(layer.slopes for layer in net.layers):
            size = 4 * net.n_heads * net.seq_len**2 / 2**20
            yield note("--grape-a", f"its bias takes {size:,.0f} MiB for each global layer, and no flash attention")
    if given["no_rope_freq"] and not rotates:
        yield warn("--no-rope-freq", f"skips nothing: --position-embedding-type {net.position} does not rotate")
    if "position_embedding_type" not in given and not given["use_rotary_position_embeddings"]:
        yield warn("--position-embedding-type", "is not given: the default is learned_absolute, a learned table")
    learned = [name for name in ("grapem_learnable_freq", "grapem_share_across_heads") if name in given]
    if learned and net.position != "grapem":
        yield warn(f"--{learned[0].replace('_', '-')}", "does nothing without --position-embedding-type grapem")
    if net.position == "grapem":
        yield note("--position-embedding-type", "grapem has one log_freq for the whole net; no flash-decode")
        if not given["grapem_share_across_heads"] and net.n_heads != net.n_kv_heads:
            yield warn("--grapem-per-head", "raises with grouped key and value heads")
    skip = given["no_rope_freq"]
    aligned = all(layer.rotates == layer.local for layer in net.layers)
    if rotates and skip and any(layer.local for layer in net.layers) and not aligned:
        yield note("--no-rope-freq", "the layers without rotation are not the layers without a window")


def _backend(net: Net) -> Iterator[Note]:
    given = net.given
    if not given["attention_softmax_in_fp32"]:
        slopes = " and the distance bias" if given["grape_a"] else ""
        text = f"is off by default: with bf16 the local backend does the softmax{slopes} in bf16 (ablab: fp32)"
        yield note("--attention-softmax-in-fp32", text)
    if given["transformer_impl"] != "local":
        if given["window_size"] is not None and given["softmax_type"] == "vanilla":
            text = "with --transformer-impl local and fp16 or bf16 the fused softmax kernel ignores the window"
            yield note("--window-size", text)
        return
    if ignored(net):
        text = "the fused softmax kernel of the local backend ignores it: windowed layers see everything"
        yield warn("--window-size", f"{text}; add --no-masked-softmax-fusion")
    if given["window_size"] is not None and given["reset_attention_mask"]:
        yield warn("--reset-attention-mask", "on windowed layers the local backend replaces it: documents leak")


def ignored(net: Net) -> bool:
    """Tell whether the local backend's fused kernel runs, which knows no window (as far as the sizes are known)."""
    given, heads, tokens = net.given, net.n_heads or 4, net.seq_len or 1024
    return (
        given["transformer_impl"] == "local"
        and given["window_size"] is not None
        and given["softmax_type"] == "vanilla"
        and ("bf16" in given or bool(given["fp16"]))
        and "no_masked_softmax_fusion" not in given
        and 16 < tokens <= 4096
        and tokens % 4 == 0
        and (given["micro_batch_size"] or 1) * heads % 4 == 0
    )


def _values(net: Net) -> Iterator[Note]:
    given = net.given
    if given["value_residual"]:
        init = given["value_residual_init"]
        if not 0.01 <= init <= 0.99:
            clamped = min(max(init, 1e-4), 1 - 1e-4)
            text = (
                f"{init:g} saturates the sigmoid: its gradient is {clamped * (1 - clamped):.0e} of full, the mix hardly"
            )
            yield warn(
                "--value-residual-init", f"{text} moves; ablab takes the plain number, which starts there and learns"
            )
        yield note(
            "--value-residual", "its scalars get weight decay (they are 0-D); pipelines and cached decoding raise"
        )
    elif "value_residual_init" in given:
        yield warn("--value-residual-init", "does nothing without --value-residual")


def _mixture(net: Net) -> Iterator[Note]:
    given = net.given
    if not given["num_experts"]:
        odd = [flag.name for flag in given.flags if flag.name.startswith("--moe-") and flag.role == "model"]
        if odd:
            yield warn(odd[0], "does nothing without --num-experts")
        return
    sigmoid = given["moe_router_score_function"] == "sigmoid"
    if given["moe_router_pre_softmax"] and sigmoid:
        yield warn("--moe-router-pre-softmax", "has no effect with sigmoid scores")
    if given["moe_router_num_groups"] and given["moe_router_topk"] // given["moe_router_group_topk"] == 1:
        text = "limits nothing: a group's score is its best expert, so the best groups hold the best experts"
        yield warn("--moe-router-num-groups", f"{text} (DeepSeek sums the best two)")
    kinds, weights = given["moe_router_load_balancing_type"], given["moe_aux_loss_coeff"]
    if kinds != ["none"] and not any(weights):
        yield warn("--moe-aux-loss-coeff", f"is 0, so {kinds[0]} balances nothing")
    if kinds != ["none"] and any(weights) and given["moe_router_enable_expert_bias"]:
        yield note("--moe-router-load-balancing-type", f"{kinds[0]} and an expert bias: both balance")
    if "aux_loss" in kinds and any(weights):
        yield note(
            "--moe-router-load-balancing-type", "aux_loss is of a micro-batch; ablab's switch of the whole batch"
        )
    if given["moe_router_dtype"] is None:
        yield note("--moe-router-dtype", "is not given: the router runs in the model's precision (ablab: fp32)")
    dense = [layer for layer in net.layers if not layer.routed]
    if dense and net.width and net.d_model and net.width < net.d_model:
        text = f"dense layers have width {net.width} too, narrower than d_model {net.d_model}"
        yield warn("--ffn-hidden-size", f"{text}: dense warm-up layers take it, experts take --moe-ffn-hidden-size")
    if "moe_ffn_hidden_size" not in given:
        yield note("--moe-ffn-hidden-size", "is not given: experts have the dense width")
    if given["moe_shared_expert_intermediate_size"]:
        yield note("--moe-shared-expert-intermediate-size", "is the width of all shared experts together, unweighted")
    if net.bias:
        yield note("--disable-bias-linear", "is not given: the router has a bias, N(0, 0.02) there, zero in ablab")


def _rest(net: Net) -> Iterator[Note]:
    given = net.given
    dropped = [name for name in ("hidden", "attention") if f"{name}_dropout" not in given]
    if dropped:
        names = " and ".join(f"--{name}-dropout" for name in dropped)
        yield warn(names, "not given: the default is 0.1, so the run trains with dropout (ablab has none)")
    if net.activation == "relu2" and net.bias and "no_bias_gelu_fusion" not in given:
        yield warn("--squared-relu", "needs --no-bias-gelu-fusion where linear layers have biases, or Megatron stops")
    if net.activation == "gelu":
        form = "tanh" if net.tanh_gelu else "exact"
        yield note("mlp", f"gelu in its {form} form: tanh with biases and their fusion, exact otherwise")
    if given["normalization"] == "LayerNorm" and "normalization" not in given:
        yield note("--normalization", "is not given: LayerNorm, with weight and bias")
    if given.repeated:
        yield warn(given.repeated[0], "is given twice; the last one counts")
    tables = (given["max_position_embeddings"], net.seq_len)
    if net.position == "learned_absolute" and None not in tables and tables[0] != tables[1]:
        yield note(
            "--max-position-embeddings", f"{tables[0]} learned rows for {tables[1]} tokens: the rest never learn"
        )


def spans(numbers: list[int]) -> str:
    """Spell sorted numbers as `1-3, 5, 7-8`; an even step is said in short: `4, 8, ... 80`."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 0
    if len(numbers) > 3 and step > 1 and all(b - a == step for a, b in zip(numbers, numbers[1:])):
        return f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join([*shown[:2], "...", shown[-1]] if len(shown) > 6 else shown)
