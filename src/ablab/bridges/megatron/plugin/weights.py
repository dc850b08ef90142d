"""ablab's weights and Megatron-Core's, name by name: put in, taken out, and cut over tensor and expert parallel processes.

A pair says where a matrix of ablab's lies in a parameter of Megatron's: q, k and v in one, an expert of a stack alone. Imported
only where megatron-core is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ablab.core.fault import Fault, InvalidStudy

LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.*)")
RENAMED = {
    "input_layernorm": "attn_norm",
    "pre_mlp_layernorm": "mlp_norm",
    "self_attention.q_layernorm": "attn.q_norm",
    "self_attention.k_layernorm": "attn.k_norm",
    "self_attention.linear_proj": "attn.o_proj",
    "mlp.linear_fc2": "mlp.down_proj",
    "mlp.shared_experts.linear_fc2": "mlp.shared.down_proj",
    "mlp.router": "mlp.router",
}
OURS = ("position", "softmax", "temperature", "gate", "value", "projection", "q_norm", "k_norm")


def _all(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Pair:
    """`view` of Megatron's tensor `theirs` holds ablab's `ours`, of which it is matrix `expert` (None: all of it).

    axis: of ours, along which it is cut over the processes of `group`; None where each has all.
    """

    theirs: str
    ours: str
    tensor: Tensor
    view: Callable[[Tensor], Tensor] = _all
    axis: int | None = None
    group: Any = None
    expert: int | None = None
    here: int | None = None  # the number of the expert among those of this process
    mixed: bool = False  # `view` has groups, heads of a group and head_dim apart

    def mine(self, whole: Tensor, own: bool) -> Tensor:
        """Return this process's share of ablab's tensor; `own`: of its stack, which has this process's experts alone."""
        expert = self.here if own else self.expert
        part = whole if expert is None else whole[expert]
        if self.axis is not None and self.group is not None and self.group.size() > 1:
            part = part.chunk(self.group.size(), self.axis)[self.group.rank()]
        return part

    @torch.no_grad()
    def put(self, whole: Tensor, own: bool) -> None:
        """Copy this process's share of ablab's tensor into Megatron's. InvalidStudy where the sizes do not meet."""
        part, view = self.mine(whole, own), self.view(self.tensor)
        if part.numel() != view.numel():
            text = f"has {tuple(part.shape)} for {tuple(view.shape)} of {self.theirs}"
            raise InvalidStudy(Fault(self.ours, text, "take weights of the same arm"))
        view.copy_(part.reshape(view.shape))

    @torch.no_grad()
    def take(self, tensor: Tensor) -> Tensor:
        """Return ablab's tensor (of an expert: its matrix) from one laid out as Megatron's, of all processes."""
        view = self.view(tensor)
        part = view.flatten(0, 2) if self.mixed else view
        if self.axis is None or self.group is None or self.group.size() == 1:
            return part
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.group.size())]
        torch.distributed.all_gather(parts, part, group=self.group)
        return torch.cat(parts, self.axis)


def pairs(model: Any) -> list[Pair]:
    """Pair every parameter of a GPTModel, and its routers' biases, with ablab's. InvalidStudy for one without a partner."""
    numbers = {i: layer.layer_number - 1 for i, layer in enumerate(model.decoder.layers)}
    named = [*model.named_parameters()]
    named += [(name, b) for name, b in model.named_buffers() if name.endswith(".expert_bias") and b is not None]
    out = list[Pair]()
    for name, tensor in named:
        found = LAYER.fullmatch(name)
        if found is None:
            out.append(_outer(name, tensor, model))
            continue
        layer, rest = model.decoder.layers[int(found[1])], found[2]
        made = list(_inner(name, rest, tensor, layer, f"layers.{numbers[int(found[1])]}"))
        if not made:
            raise InvalidStudy(Fault(name, "is no parameter that an arm has", "build the model by the arm's spec"))
        for pair in made:
            if (number := vars(tensor).get("of_network")) is not None:
                leaf = rest.removeprefix("self_attention.position.")
                pair = replace(pair, ours=f"shared.{number}.{leaf}")
            out.append(pair)
    return out


def load(model: Any, weights: Mapping[str, Tensor], *, own: bool = False) -> None:
    """Put ablab's weights (a state_dict) into a GPTModel.

    own: they are what `gather` has found here, stacks of this process's experts, and what they lack stays as it is.
    InvalidStudy where one is missing or of another size.
    """
    made = [pair for pair in pairs(model) if not own or pair.ours in weights]
    missing = sorted({pair.ours for pair in made} - set(weights))
    if missing:  # what is left over belongs to another stage
        raise InvalidStudy(Fault(missing[0], "is not among the weights", "take weights of the same arm"))
    for pair in made:
        pair.put(weights[pair.ours], own)


def gather(model: Any, of: Callable[[Tensor], Tensor | None] = _all) -> dict[str, Tensor]:
    """Take ablab's tensors out of a GPTModel: its weights, or what `of` says of each parameter (its gradient).

    Of a stage of a pipeline those of its layers, of expert parallel processes each its own experts; over tensor parallel ones
    whole, the same on each.
    """
    out: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for pair in pairs(model):
        tensor = of(pair.tensor)
        if tensor is None:
            continue
        whole = pair.take(tensor)
        if pair.expert is None:
            out[pair.ours] = whole.clone()
        else:
            stacks.setdefault(pair.ours, {})[pair.expert] = whole
    for name, experts in stacks.items():
        out[name] = torch.stack([experts[i] for i in sorted(experts)])
    return out


def _outer(name: str, tensor: Tensor, model: Any) -> Pair:
    """Pair what lies outside the layers."""
    group = model.pg_collection.tp
    if name == "embedding.word_embeddings.weight":
        return Pair(name, "embed.weight", tensor, axis=0, group=group)
    if name == "output_layer.weight":
        tied = model.share_embeddings_and_output_weights
        return Pair(name, "embed.weight" if tied else "lm_head.weight", tensor, axis=0, group=group)
    if name.startswith("decoder.final_layernorm."):
        return Pair(name, name.replace("decoder.final_layernorm", "final_norm"), tensor)
    raise InvalidStudy(Fault(name, "is no parameter that an arm has", "build the model by the arm's spec"))


def _inner(name: str, rest: str, tensor: Tensor, layer: Any, path: str) -> Iterator[Pair]:
    """Pair a parameter of a layer."""
    part, _, leaf = rest.rpartition(".")
    group = layer.self_attention.tp_group
    if part.startswith("self_attention.") and part.split(".")[1] in OURS:
        axis = vars(tensor).get("partition_dim", -1)
        yield Pair(
            name,
            f"{path}.attn.{rest.removeprefix('self_attention.')}",
            tensor,
            _all,
            axis if axis >= 0 else None,
            group,
        )
    elif part == "self_attention.linear_qkv":
        attention = layer.self_attention
        groups, heads = attention.num_query_groups_per_partition, attention.num_attention_heads_per_partition
        yield from _mixed(name, tensor, groups, heads // groups, f"{path}.attn.projection", leaf, group)
    elif part.endswith("linear_fc1") or (part.endswith("linear_fc2") and "local_experts" in part):
        yield from _mlp(name, part, leaf, tensor, layer, path)
    elif part in RENAMED:
        axis = 1 if part.endswith(("linear_proj", "linear_fc2")) and leaf == "weight" else None
        yield Pair(name, f"{path}.{RENAMED[part]}.{leaf}", tensor, axis=axis, group=group)


def _mixed(name: str, tensor: Tensor, groups: int, each: int, path: str, leaf: str, group: Any) -> Iterator[Pair]:
    """Pair q, k and v, which Megatron lays out group by group: the group's queries, its key, its value."""

    def cut(begin: int, end: int) -> Callable[[Tensor], Tensor]:
        return lambda t: t.unflatten(0, (groups, each + 2, -1))[:, begin:end]

    for which, begin, end in (("q", 0, each), ("k", each, each + 1), ("v", each + 1, each + 2)):
        yield Pair(name, f"{path}.{which}_proj.{leaf}", tensor, cut(begin, end), 0, group, mixed=True)


def _mlp(name: str, part: str, leaf: str, tensor: Tensor, layer: Any, path: str) -> Iterator[Pair]:
    """Pair the first product of an mlp, gate and up one after the other, and both of an expert."""
    group, expert, here, where = layer.self_attention.tp_group, None, None, f"{path}.mlp"
    if "local_experts" in part:
        experts = layer.mlp.experts
        here = int(part.split("local_experts.")[1].split(".")[0])
        expert = layer.mlp.local_expert_indices[here]
        group, where = experts.tp_group, f"{path}.mlp.experts"
    elif "shared_experts" in part:
        where = f"{path}.mlp.shared"
    if part.endswith("linear_fc2"):
        yield Pair(
            name, f"{where}.down_proj.{leaf}", tensor, _all, 1 if leaf == "weight" else None, group, expert, here
        )
    elif layer.config.gated_linear_unit:
        for i, which in enumerate(("gate_proj", "up_proj")):
            yield Pair(name, f"{where}.{which}.{leaf}", tensor, _half(i), 0, group, expert, here)
    else:
        yield Pair(name, f"{where}.up_proj.{leaf}", tensor, _all, 0, group, expert, here)


def _half(i: int) -> Callable[[Tensor], Tensor]:
    return lambda t: t.chunk(2, 0)[i]
