"""ablab's weights under the names, and in the layout, of an architecture of transformers.

Shapes are suffixes: E experts, I hidden units, D d_model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ablab.bridges.hf.express import Translated

LAYER = re.compile(r"layers\.(\d+)\.(.+)\.([a-zA-Z_]+)")
OUTER = {
    "embed.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "attn.projection.q_proj": "self_attn.q_proj",
    "attn.projection.k_proj": "self_attn.k_proj",
    "attn.projection.v_proj": "self_attn.v_proj",
    "attn.o_proj": "self_attn.o_proj",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
    "mlp.shared.gate_proj": "mlp.shared_experts.gate_proj",
    "mlp.shared.up_proj": "mlp.shared_experts.up_proj",
    "mlp.shared.down_proj": "mlp.shared_experts.down_proj",
}


def renamed(expressed: Translated, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ablab's weights (a state_dict) as the architecture's; KeyError for one that has no name there."""
    make = _gpt2 if expressed.of.model_type == "gpt2" else _theirs
    out = dict(make(expressed, weights))
    if expressed.model["norm"] == "bare":
        out |= _ones(expressed, weights["embed.weight"])
    return {name: tensor.contiguous() for name, tensor in sorted(out.items())}


def _theirs(expressed: Translated, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of an architecture that is laid out as Llama."""
    gpt_oss, stacks = expressed.of.model_type == "gpt_oss", dict[str, dict[str, Tensor]]()
    for name, tensor in weights.items():
        found = LAYER.fullmatch(name)
        if found is None:
            yield OUTER[name], tensor
            continue
        at, part, leaf = f"model.layers.{found[1]}", found[2], found[3]
        if part == "attn.softmax" and leaf == "sink_H":
            yield f"{at}.self_attn.sinks", tensor
        elif part == "mlp.router":
            yield _router(at, leaf, gpt_oss), tensor
        elif part.startswith("mlp.experts."):
            which = part.removeprefix("mlp.experts.")
            if gpt_oss:
                stacks.setdefault(at, {})[f"{which}.{leaf}"] = tensor
            else:
                for number, of_one in enumerate(tensor):
                    yield f"{at}.mlp.experts.{number}.{which}.{leaf}", of_one
        else:
            yield f"{at}.{INNER[part]}.{leaf}", tensor
    for at, stack in stacks.items():
        yield from _interleaved(f"{at}.mlp.experts", stack)


def _router(at: str, leaf: str, gpt_oss: bool) -> str:
    if leaf == "expert_bias":
        return f"{at}.mlp.gate.e_score_correction_bias"
    return f"{at}.mlp.{'router' if gpt_oss else 'gate'}.{leaf}"


def _interleaved(at: str, stack: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield gpt-oss's stacks, (E, in, out), in which even columns are gate_proj's and odd ones up_proj's."""
    both_EID = torch.stack([stack["gate_proj.weight"], stack["up_proj.weight"]], 2).flatten(1, 2)
    yield f"{at}.gate_up_proj", both_EID.transpose(1, 2)
    yield f"{at}.gate_up_proj_bias", torch.stack([stack["gate_proj.bias"], stack["up_proj.bias"]], 2).flatten(1, 2)
    yield f"{at}.down_proj", stack["down_proj.weight"].transpose(1, 2)
    yield f"{at}.down_proj_bias", stack["down_proj.bias"]


def _gpt2(expressed: Translated, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of GPT-2, whose matrices are (in, out), and q, k and v one."""
    outer = {"embed.weight": "wte.weight", "mixer.table.weight": "wpe.weight"}
    outer |= {f"final_norm.{leaf}": f"ln_f.{leaf}" for leaf in ("weight", "bias")}
    inner = {"attn_norm": "ln_1", "mlp_norm": "ln_2", "attn.o_proj": "attn.c_proj"}
    inner |= {"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
    for name, tensor in weights.items():
        if name == "lm_head.weight":
            yield name, tensor
        elif (found := LAYER.fullmatch(name)) is None:
            yield f"transformer.{outer[name]}", tensor
        elif (part := found[2]).startswith("attn.projection."):
            if part.endswith("q_proj"):
                parts = [weights[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                whole = torch.cat(parts)
                yield f"transformer.h.{found[1]}.attn.c_attn.{found[3]}", whole.T if whole.dim() == 2 else whole
        else:
            yield f"transformer.h.{found[1]}.{inner[part]}.{found[3]}", tensor.T if tensor.dim() == 2 else tensor


def _ones(expressed: Translated, like: Tensor) -> dict[str, Tensor]:
    """Return weights of ones for norms that have none in ablab."""
    model, out = expressed.model, {"model.norm.weight": like.new_ones(like.shape[1])}
    for at in range(len(model["layers"])):
        for name in ("attn_norm", "mlp_norm"):
            out[f"model.layers.{at}.{INNER[name]}.weight"] = like.new_ones(like.shape[1])
        for name in ("attn.q_norm", "attn.k_norm") if model["qk_norm"] else ():
            out[f"model.layers.{at}.{INNER[name]}.weight"] = like.new_ones(model["head_dim"])
    return out
