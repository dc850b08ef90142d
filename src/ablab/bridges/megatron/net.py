"""What a set of Megatron flags really does: sizes, and every layer by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ablab.bridges.megatron.blends import HARMONY, stops
from ablab.bridges.megatron.grammar import MOST
from ablab.bridges.megatron.parse import Given
from ablab.core.fault import Fault, InvalidStudy
from ablab.data.tokenizers.o200k_harmony import VOCAB_SIZE

MAY_BE_ZERO = ("--num-experts", "--lr-warmup-iters", "--lr-warmup-samples", "--seed")
ROTATIONS = {"rope": "rope", "grapem": "grape_m"}


@dataclass(frozen=True)
class NetLayer:
    """One layer. `local`: it has Megatron's window, of `window` tokens, the current one included (None: all)."""

    local: bool
    window: int | None
    rotates: bool
    slopes: bool  # distance bias
    routed: bool


@dataclass(frozen=True)
class NetSizes:
    """Those that are not given are None. `width` is of a dense mlp."""

    d_model: int | None
    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    seq_len: int | None
    vocab_size: int | None
    width: int | None
    expert_width: int | None


@dataclass(frozen=True)
class Net(NetSizes):
    """The network of a command line. `assumed`: the number of layers is not given."""

    given: Given
    layers: tuple[NetLayer, ...]
    assumed: bool
    position: str  # --position-embedding-type in force

    @property
    def activation(self) -> str:
        """relu2, swiglu or gelu."""
        return "relu2" if self.given["squared_relu"] else "swiglu" if self.given["swiglu"] else "gelu"

    @property
    def bias(self) -> bool:
        """Whether linear layers have biases."""
        return bool(self.given["add_bias_linear"])

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k, v have: forced where linear layers have."""
        return self.bias or bool(self.given["add_qkv_bias"])

    @property
    def tanh_gelu(self) -> bool:
        """Megatron's fused bias and gelu is the tanh form; without the fusion it is the exact one."""
        return self.bias and "no_bias_gelu_fusion" not in self.given


def read(given: Given) -> Net:
    """Read the network. InvalidStudy with every fault at which Megatron itself would stop."""
    faults = _numbers(given)
    if faults:
        raise InvalidStudy(faults)
    n_layers, assumed = _count(given)
    local = _windows(given, n_layers, faults)
    rotation = "rope" if given["use_rotary_position_embeddings"] else given["position_embedding_type"]
    skips = _skips(given, n_layers, faults)
    routed = _routed(given, n_layers, faults)
    window = _tokens(given, faults)
    sizes = _sizes(given, faults)
    if given["use_tpa"]:
        if given["window_size"] is None:
            text = "needs --window-size: only windowed layers use it"
            faults.append(Fault("--use-tpa", text, "add --window-size (127,0)"))
        for rank in ("tpa_rank", "tpa_q_rank"):
            if given[rank] is None or given[rank] < 1:
                faults.append(Fault(f"--{rank.replace('_', '-')}", "is needed with --use-tpa", "give 1 or more"))
    if given["squared_relu"] and given["swiglu"]:
        faults.append(Fault("--squared-relu", "stands beside --swiglu", "keep one"))
    faults += [*_router(given), *stops(given)]
    if faults:
        raise InvalidStudy(faults)
    layers = tuple(
        NetLayer(
            local[i],
            window if local[i] else None,
            rotation in ROTATIONS and not skips[i],
            bool(given["grape_a"]) and not local[i],
            routed[i],
        )
        for i in range(n_layers)
    )
    return Net(**vars(sizes), given=given, layers=layers, assumed=assumed, position=rotation)


def _numbers(given: Given) -> list[Fault]:
    """Return faults for sizes below 1 and rates below 0."""
    out = []
    for flag in given.flags:
        value = given[flag.to]
        least = 0 if flag.name in MAY_BE_ZERO or flag.kind in ("float", "floats") else 1
        if flag.role in ("model", "train") and flag.kind in ("int", "float", "floats"):
            odd = [one for one in (value if isinstance(value, list) else [value]) if one < least]
            if odd:
                cure = "give 1 or more" if least else "give 0 or more"
                out.append(Fault(flag.name, f"{odd[0]:g} is too small", cure))
    return out


def _count(given: Given) -> tuple[int, bool]:
    """Count the layers; where their number is not given, as many as show every pattern once."""
    if given["num_layers"]:
        return min(given["num_layers"], MOST), False
    lists = [v for v in (given[f] for f in ("no_rope_freq", "window_attn_skip_freq", "moe_layer_freq")) if v]
    for value in lists:
        if isinstance(value, list):
            return len(value), True
    return max(1, min(MOST, math.lcm(*(v for v in lists if isinstance(v, int) and v > 0)))), True


def _windows(given: Given, n: int, faults: list[Fault]) -> list[bool]:
    """Tell for each layer whether it has the window: all, all but every Nth, or those with a 1 in the list."""
    if not given["window_size"]:
        return [False] * n
    skip = given["window_attn_skip_freq"]
    if skip is None:
        return [True] * n
    if isinstance(skip, int):
        if skip < 1:
            faults.append(Fault("--window-attn-skip-freq", f"{skip} divides by zero", "give 1 or more, or a list"))
            return [True] * n
        return [i % skip != 0 for i in range(1, n + 1)]
    return _list("--window-attn-skip-freq", skip, n, faults)


def _skips(given: Given, n: int, faults: list[Fault]) -> list[bool]:
    """Tell for each layer whether it has no rotation."""
    skip = given["no_rope_freq"]
    if not skip:
        return [False] * n
    if isinstance(skip, int):
        if skip < 0 or n % skip:
            text = f"{skip} does not divide {n} layers, so Megatron stops"
            faults.append(Fault("--no-rope-freq", text, f"give a divisor, or a list of {n}"))
            return [False] * n
        return [i % skip == 0 for i in range(1, n + 1)]
    return _list("--no-rope-freq", skip, n, faults)


def _routed(given: Given, n: int, faults: list[Fault]) -> list[bool]:
    """Tell for each layer whether it is a mixture: 0, f, 2f, ... counted from 0, or those with a 1 in the list."""
    freq = given["moe_layer_freq"]
    if not given["num_experts"]:
        return [False] * n
    if isinstance(freq, int):
        if freq < 1:
            faults.append(Fault("--moe-layer-freq", f"{freq} divides by zero", "give 1 or more, or a list"))
            return [True] * n
        return [i % freq == 0 for i in range(n)]
    return _list("--moe-layer-freq", freq, n, faults)


def _list(name: str, values: list[int], n: int, faults: list[Fault]) -> list[bool]:
    if len(values) != n:
        faults.append(
            Fault(name, f"a list of {len(values)} for {n} layers", f"write one 0 or 1 for each of {n} layers")
        )
        return [False] * n
    return [bool(value) for value in values]


def _tokens(given: Given, faults: list[Fault]) -> int | None:
    """Count the tokens that a windowed layer sees: left + 1, at most a row; None where there is no limit and no row."""
    if given["window_size"] is None:
        return None
    left, _ = given["window_size"]
    if left < -1:
        faults.append(Fault("--window-size", f"{left} keys to the left are no window", "give 0 or more"))
        return None
    row = given["seq_length"]
    out: int | None = row if left == -1 or (row is not None and left + 1 > row) else left + 1
    return out


def _sizes(given: Given, faults: list[Fault]) -> NetSizes:
    if given["num_layers"] and given["num_layers"] > MOST:
        faults.append(Fault("--num-layers", f"more than {MOST} layers", "is a digit too many?"))
    d_model, heads, head_dim = given["hidden_size"], given["num_attention_heads"], given["kv_channels"]
    kv = given["num_query_groups"] if given["group_query_attention"] else heads
    if heads and kv and heads % kv:
        faults.append(Fault("--num-query-groups", f"{heads} heads cannot share {kv} groups", f"divide {heads}"))
    if head_dim is None and d_model and heads:
        if d_model % heads:
            faults.append(Fault("--hidden-size", f"{d_model} is no multiple of {heads} heads", "give --kv-channels"))
        head_dim = d_model // heads
    width = given["ffn_hidden_size"]
    if width is None and d_model:
        width = int((4 * d_model * 2 / 3) / 64) * 64 if given["swiglu"] else 4 * d_model
    experts = given["moe_ffn_hidden_size"] or width
    return NetSizes(d_model, heads, kv, head_dim, given["seq_length"], _vocab(given), width, experts)


def _vocab(given: Given) -> int | None:
    if given["tokenizer_type"] == HARMONY:
        return VOCAB_SIZE
    if given["padded_vocab_size"] is not None:
        return int(given["padded_vocab_size"])
    size, multiple = given["vocab_size"], given["make_vocab_size_divisible_by"]
    return None if size is None else -(-size // multiple) * multiple


def _router(given: Given) -> list[Fault]:
    """Return a fault where the router's numbers do not fit together."""
    experts, top, groups = given["num_experts"], given["moe_router_topk"], given["moe_router_num_groups"]
    if not experts:
        return []
    out = []
    if top < 1 or top > experts:
        out.append(Fault("--moe-router-topk", f"{top} of {experts} experts cannot be chosen", f"give 1 to {experts}"))
    if groups:
        kept = given["moe_router_group_topk"]
        if experts % groups:
            out.append(
                Fault("--moe-router-num-groups", f"{groups} groups do not divide {experts} experts", "divide it")
            )
        if not kept or kept > groups or top % kept:
            text = f"{kept} of {groups} groups do not fit {top} experts a token"
            out.append(Fault("--moe-router-group-topk", text, "give a divisor of the top-k, at most the groups"))
    sigmoid = given["moe_router_score_function"] != "softmax"
    if given["moe_router_enable_expert_bias"] and not sigmoid:
        out.append(Fault("--moe-router-enable-expert-bias", "needs sigmoid scores", "use --moe-router-score-function"))
    if top == 1 and not sigmoid and not given["moe_router_pre_softmax"]:
        text = "one expert and a softmax over the chosen: the weight is always 1"
        out.append(Fault("--moe-router-topk", text, "add --moe-router-pre-softmax"))
    return out
