"""The one decoder. Pre-norm, QK-norm, grouped queries; every other choice sits in a slot and this file knows none by name.

Shapes are suffixes: B batch, T query positions, S key positions, D d_model, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablab import mlps, positions, projections, softmaxes
from ablab.attend import Documents, attend
from ablab.fault import Fault, InvalidStudy
from ablab.linear import Linear
from ablab.norm import Norm
from ablab.positions.composed import Composed
from ablab.rng import Draw
from ablab.shape import Shape
from ablab.slot import Slot

REVISION = 1  # raised whenever a number that this file makes changes on purpose
LOGITS_AT_ONCE = 1 << 26  # elements; more rows than this are scored in pieces whose logits are made again in backward


class Embedding(nn.Module):
    """Token ids to vectors, weight (vocab_size, d_model). Role `embedding`; when tied it is the head too."""

    role = "embedding"

    def __init__(self, vocab_size: int, d_model: int, *, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def init(self, draw: Draw) -> None:
        draw.normal_(self.weight, "weight", self.std)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT, self.weight)


class Head(Linear):
    """The untied head. Role `head`."""

    role = "head"


class Attention(nn.Module):
    """Projection, QK-norm, position, one call of the attention core, output matrix."""

    def __init__(self, kind: Mapping[str, Any], shape: Shape, *, qk_norm: bool, eps: float, executor: str) -> None:
        super().__init__()
        place = f"model.{kind['table']}"
        self.window, self.executor = shape.window, executor
        self.projection = _build(projections.slot, kind["projection"], shape, place)
        self.q_norm = Norm(shape.head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = Norm(shape.head_dim, eps) if qk_norm else nn.Identity()
        self.position = _position(kind["position"], shape, place)
        self.softmax = _build(softmaxes.slot, kind["softmax"], shape, place)
        self.o_proj = Linear(shape.n_heads * shape.head_dim, shape.d_model, std=shape.out_std)

    def forward(self, x_BTD: Tensor, documents: Documents) -> Tensor:
        q_BTHK, k_BTGK, v_BTGK = self.projection(x_BTD)
        q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        p, _ = self.position.place(x_BTD, documents.pos_BT)
        q_BTHK, k_BTGK = self.position.rotate(q_BTHK, k_BTGK, p)
        y_BTHK = attend(
            q_BTHK,
            k_BTGK,
            v_BTGK,
            window=self.window,
            documents=documents,
            columns=self.position.columns(q_BTHK, k_BTGK, p),
            bias=self.position.bias(p),
            sink_H=self.softmax.sink(),
            executor=self.executor,
        )
        return self.o_proj(y_BTHK.flatten(2))


class Layer(nn.Module):
    """x + attn(norm x), then x + mlp(norm x)."""

    def __init__(self, kind: Mapping[str, Any], shape: Shape, *, qk_norm: bool, eps: float, executor: str) -> None:
        super().__init__()
        self.attn_norm = Norm(shape.d_model, eps)
        self.attn = Attention(kind, shape, qk_norm=qk_norm, eps=eps, executor=executor)
        self.mlp_norm = Norm(shape.d_model, eps)
        self.mlp = _build(mlps.slot, kind["mlp"], shape, f"model.{kind['table']}")

    def forward(self, x_BTD: Tensor, documents: Documents) -> Tensor:
        x_BTD = x_BTD + self.attn(self.attn_norm(x_BTD), documents)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class Decoder(nn.Module):
    """A decoder-only language model over packed rows of documents, from the settings' `model` table."""

    def __init__(self, model: Mapping[str, Any], *, vocab_size: int, executor: str = "lift") -> None:
        super().__init__()
        shape, eps = _shape(model, vocab_size), model["norm_eps"]
        self.softcap = float(model["softcap"])
        self.embed = Embedding(vocab_size, shape.d_model, std=shape.init_std)
        self.layers = nn.ModuleList(
            Layer(
                model["kinds"][letter],
                _at_layer(shape, model["kinds"][letter], i),
                qk_norm=model["qk_norm"],
                eps=eps,
                executor=executor,
            )
            for i, letter in enumerate(model["layers"])
        )
        self.final_norm = Norm(shape.d_model, eps)
        # Tied means that there is no second tensor at all: a tie that does not exist cannot break.
        self.lm_head = None if model["tied"] else Head(shape.d_model, vocab_size, std=shape.init_std)

    def forward(self, tokens_BT: Tensor, ids_BT: Tensor) -> Tensor:
        """Hidden states after the final norm, (B, T, D). `ids_BT` says which document each token belongs to."""
        documents = Documents(ids_BT)
        x_BTD = self.embed(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, documents)
        return self.final_norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits (..., vocab_size), the soft cap c tanh(z / c) applied (Gemma 2, 2408.00118); fp64 stays fp64."""
        z = F.linear(hidden, self.embed.weight) if self.lm_head is None else self.lm_head(hidden)
        z = z if z.dtype == torch.float64 else z.float()
        return self.softcap * torch.tanh(z / self.softcap) if self.softcap else z

    def nll(self, tokens_BT: Tensor, targets_BT: Tensor, ids_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, fp32 (B, T); 0 where the target is -1."""
        hidden_ND, targets_N = self(tokens_BT, ids_BT).flatten(0, 1), targets_BT.flatten()
        rows = max(1, LOGITS_AT_ONCE // self.embed.weight.shape[0])
        if len(targets_N) <= rows:
            return self._nll(hidden_ND, targets_N).view(targets_BT.shape)
        pieces = [
            checkpoint(self._nll, hidden, targets, use_reentrant=False, preserve_rng_state=False)
            for hidden, targets in zip(hidden_ND.split(rows), targets_N.split(rows))
        ]
        return torch.cat(pieces).view(targets_BT.shape)

    def _nll(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(hidden_ND), targets_N, ignore_index=-1, reduction="none")

    def roles(self) -> dict[str, str]:
        """Role of every parameter, each exactly once, in the order of `named_parameters`.

        A role is the class attribute `role` of the module that owns the parameter; without one it is `scalar`.
        """
        owners = dict(self.named_modules())
        return {name: getattr(owners[name.rpartition(".")[0]], "role", "scalar") for name, _ in self.named_parameters()}


def build(
    model: Mapping[str, Any],
    *,
    vocab_size: int,
    seed: int,
    salt: str = "",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    executor: str = "lift",
) -> Decoder:
    """A decoder with every parameter drawn from its own named stream.

    Built on the meta device, filled with NaN, then initialised by each module's `init`: what nobody initialised is found,
    not guessed. dtype is fp32, or fp64 for the oracle (draws in fp32, widened; constants such as frequencies in fp64).
    Raises InvalidStudy for impossible sizes and RuntimeError for a parameter or buffer left uninitialised.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"weights are float32 or float64, not {dtype}; for bf16 use precision = bf16 (autocast)")
    decoder = skeleton(model, vocab_size=vocab_size, executor=executor).to(dtype=dtype).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*decoder.parameters(), *decoder.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        draw = Draw(seed, salt=salt)
        for path, module in decoder.named_modules():
            if callable(fill := getattr(module, "init", None)):
                fill(draw.at(path))
    owners = dict(decoder.named_modules())
    for name, tensor in (*decoder.named_parameters(), *decoder.named_buffers()):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            owner = type(owners[name.rpartition(".")[0]]).__name__
            raise RuntimeError(f"{name} was never initialised; give class {owner} an init(draw) that fills it")
    return decoder.to(device=device)


def skeleton(model: Mapping[str, Any], *, vocab_size: int, executor: str = "lift") -> Decoder:
    """The decoder on the meta device: names and sizes, no numbers. Enough for `parameters` and `roles`."""
    with torch.device("meta"):
        return Decoder(model, vocab_size=vocab_size, executor=executor)


def parameters(decoder: Decoder) -> dict[str, int]:
    """Numbers of parameters: embedding (the untied head counted in), body (all others), total."""
    count = {"body": 0, "embedding": 0, "total": 0}
    roles = decoder.roles()
    for name, parameter in decoder.named_parameters():
        count["embedding" if roles[name] in ("embedding", "head") else "body"] += parameter.numel()
        count["total"] += parameter.numel()
    return count


def flops_per_token(model: Mapping[str, Any], vocab_size: int) -> float:
    """Floating-point operations per trained token, forward and backward, attention counted by what its window shows.

    6 per weight of every matrix and of the head (2 forward, 4 backward); attention 12 n_heads head_dim times the mean
    number of visible keys in a full row. Norms, softmax and the optimizer are not counted.
    """
    decoder = skeleton(model, vocab_size=vocab_size)
    roles = decoder.roles()
    weights = sum(p.numel() for name, p in decoder.named_parameters() if roles[name] == "matrix")
    weights += decoder.embed.weight.numel()  # the head, tied or not; looking a token up costs nothing
    total, length = 6.0 * weights, model["seq_len"]
    for letter in model["layers"]:
        window = min(model["kinds"][letter]["window"] or length, length)
        keys = window * (length - (window - 1) / 2) / length  # mean over i of min(i + 1, window)
        total += 12.0 * model["n_heads"] * model["head_dim"] * keys
    return total


def _shape(model: Mapping[str, Any], vocab_size: int) -> Shape:
    faults = [
        Fault(f"model.{name}", f"{model[name]} is no size", "give an integer of at least 1")
        for name in ("d_model", "n_heads", "n_kv_heads", "head_dim", "seq_len")
        if model[name] < 1
    ]
    if unknown := sorted(set(model["layers"]) - set(model["kinds"])):
        faults.append(
            Fault("model.layers", f"no table for {', '.join(unknown)}", "add the table or change the letters")
        )
    if not model["layers"]:
        faults.append(Fault("model.layers", "no layer", "name at least one"))
    if faults:
        raise InvalidStudy(faults)
    sizes = {name: model[name] for name in ("d_model", "n_heads", "n_kv_heads", "head_dim", "seq_len", "init_std")}
    return Shape(vocab_size=vocab_size, n_layers=len(model["layers"]), **sizes)


def _at_layer(shape: Shape, kind: Mapping[str, Any], layer: int) -> Shape:
    return Shape(**{**vars(shape), "window": kind["window"], "layer": layer})


def _build(slot: Slot, choice: dict[str, Any], shape: Shape, place: str) -> Any:
    """The slot's lever; its ValueError becomes InvalidStudy with the place."""
    try:
        return slot.build(choice, shape)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise InvalidStudy(Fault(f"{place}.{slot.name}", f"{choice['name']}: {fault}", cure)) from error


def _position(choice: Any, shape: Shape, place: str) -> Any:
    """One position lever, or several composed where the choice is a list."""
    if not isinstance(choice, list):
        return _build(positions.slot, choice, shape, place)
    parts = [_build(positions.slot, part, shape, place) for part in choice]
    try:
        return parts[0] if len(parts) == 1 else Composed(parts)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise InvalidStudy(Fault(f"{place}.position", fault, cure)) from error
