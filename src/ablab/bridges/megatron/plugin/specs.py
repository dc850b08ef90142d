"""An arm as a TransformerConfig and the specs of its layers: what `GPTModel` of Megatron-Core is built from.

Imported only where megatron-core is: `ablab.bridges.megatron.plugin` looks first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from ablab.bridges.megatron.plugin.express import GATED, Expressed, Placed
from ablab.bridges.megatron.plugin.layer import OurAttention, OurLayer, OurNorm, StageParts
from ablab.core.fault import Fault, InvalidStudy
from ablab.core.files import canonical
from ablab.core.rng import Draw
from ablab.model.decoder import shape_of
from ablab.model.mlps.activations import leaky_relu2
from ablab.model.mlps.relu2 import relu2
from ablab.records.settings import ModelSettings


@dataclass(frozen=True)
class Spec:
    """An arm for Megatron-Core: `config` and `here()` are what GPTModel takes, `expressed` where they come from."""

    expressed: Expressed
    config: Any  # TransformerConfig
    layers: Any  # TransformerBlockSubmodules

    def build(self, vocab_size: int, **theirs: Any) -> Any:
        """Build the GPTModel of this process's stage; `theirs` are further arguments of it (pre_process, vp_stage, ...).

        InvalidStudy where the vocabulary cannot be split over the tensor parallel processes.
        """
        model, tensor = self.expressed.model, self.config.tensor_model_parallel_size
        if vocab_size % tensor:
            text = f"{vocab_size} words cannot be split over {tensor} tensor parallel processes"
            raise InvalidStudy(Fault("vocab_size", text, "use a tokenizer of another size, or fewer processes"))
        return GPTModel(
            self.config,
            self.here(theirs.get("vp_stage")),
            vocab_size=vocab_size,
            max_sequence_length=model["seq_len"],
            share_embeddings_and_output_weights=model["tied"],
            position_embedding_type="none",
            **theirs,
        )

    def here(self, vp_stage: int | None = None) -> Any:
        """Return the specs of the layers of this process's pipeline stage."""
        begin, count = (find(self.config, vp_stage) for find in (get_transformer_layer_offset, get_num_layers_to_build))
        specs = self.layers.layer_specs[begin : begin + count]
        return TransformerBlockSubmodules(layer_specs=specs, layer_norm=self.layers.layer_norm)


def spec(expressed: Expressed, *, seed: int = 0, **changes: Any) -> Spec:
    """Make the spec of an expressed arm; `changes` are fields of TransformerConfig that say how the work is done.

    Raises InvalidStudy, with both values, where a change says otherwise than the arm, and for what cannot be split.
    """
    faults = [
        Fault(f"config.{key}", f"is {value!r}, but the arm says {expressed.config[key]!r}", "leave it out")
        for key, value in changes.items()
        if key in expressed.config and value != expressed.config[key]
    ]
    faults += _parallel(expressed, changes)
    if faults:
        raise InvalidStudy(faults)
    config = TransformerConfig(**{**expressed.config, **changes})
    config.has_cond_embedder = True  # what makes Megatron add up gradients marked pipeline_parallel over the stages
    draw = Draw(seed, salt=expressed.settings["train"]["salt"])
    net = StageParts(draw, _once(expressed), expressed.model, shape_of(expressed.model, 0))
    layers = [_layer(placed, config, expressed.model, net) for placed in expressed.layers]
    norm = ModuleSpec(module=OurNorm, params={"norm": expressed.model["norm"]})
    return Spec(expressed, config, TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm))


def _parallel(expressed: Expressed, changes: dict[str, Any]) -> list[Fault]:
    """Return faults where an arm cannot be cut as asked."""
    model, faults = expressed.model, list[Fault]()
    tensor, pipeline = changes.get("tensor_model_parallel_size", 1), changes.get("pipeline_model_parallel_size", 1)
    for key in ("n_heads", "n_kv_heads"):
        if (heads := cast(dict[str, int], model)[key]) % tensor:
            text = f"{heads} cannot be split over {tensor} tensor parallel processes"
            faults.append(Fault(f"model.{key}", text, f"use a divisor of {heads}"))
    if changes.get("context_parallel_size", 1) > 1:
        faults.append(Fault("config.context_parallel_size", "the plugin's attention needs whole rows", "use 1"))
    stages = [[*_once(expressed, part)] for part in _stages(expressed, pipeline)]
    if pipeline > 1 and any(stage != stages[0] for stage in stages):
        text = "stages differ in the positions of which the network has one, so their gradients cannot be added up"
        faults.append(Fault("config.pipeline_model_parallel_size", text, 'use share = "layer", or one stage'))
    mixes = any(placed.kind["value"]["name"] != "own" for placed in expressed.layers)
    again = changes.get("recompute_granularity") == "full"
    if mixes and (pipeline > 1 or again):
        why = "which other pipeline stages lack" if pipeline > 1 else "which recomputed layers lack"
        key = "pipeline_model_parallel_size" if pipeline > 1 else "recompute_granularity"
        faults.append(Fault(f"config.{key}", f"model.value reads the first layer's values, {why}", "leave it out"))
    return faults


def _stages(expressed: Expressed, pipeline: int) -> list[list[Placed]]:
    """Cut the layers into stages of one size."""
    size = -(-len(expressed.layers) // pipeline)
    return [list(expressed.layers[i * size : (i + 1) * size]) for i in range(pipeline)]


def _once(expressed: Expressed, layers: Sequence[Placed] | None = None) -> dict[str, int]:
    """Number the positions of which the network has one, in the order in which its layers (or those given) meet them."""
    out: dict[str, int] = {}
    for placed in expressed.layers if layers is None else layers:
        choice = placed.kind["position"]
        if isinstance(choice, dict) and choice.get("share") == "net":
            out.setdefault(canonical(choice), len(out))
    return out


def _layer(placed: Placed, config: Any, model: ModelSettings, net: StageParts) -> Any:
    """Make the spec of one layer: Megatron's own, its attention and its TransformerConfig ours."""
    own = {key: value for key, value in placed.own.items() if key != "activation"}
    own |= _activation(cast(tuple[Any, ...], placed.own["activation"]))
    norm = ModuleSpec(module=OurNorm, params={"norm": model["norm"]})
    made = get_gpt_layer_local_spec(num_experts=own["num_moe_experts"], normalization=config.normalization)
    made.submodules.input_layernorm = made.submodules.pre_mlp_layernorm = norm
    made.module, made.params = OurLayer, {"own": own, "net": net}
    attention = made.submodules.self_attention
    attention.module = OurAttention
    attention.params = {**attention.params, "kind": placed.kind, "net": net}
    attention.submodules.core_attention = ModuleSpec(module=IdentityOp)
    if placed.kind["projection"]["name"] != "gqa":
        attention.submodules.linear_qkv = ModuleSpec(module=IdentityOp)
    if model["qk_norm"] is True:
        attention.submodules.q_layernorm = attention.submodules.k_layernorm = norm
    return made


def _activation(activation: tuple[Any, ...]) -> dict[str, object]:
    """Return the fields of what stands between the products of an mlp."""
    name, *numbers = activation
    out: dict[str, object] = {"gated_linear_unit": name in GATED}
    if name == "gptoss_swiglu":
        alpha, limit = numbers
        return out | {
            "activation_func": partial(_sloped, alpha=alpha),
            "activation_func_clamp_value": limit,
            "glu_linear_offset": 1.0,
        }
    plain: dict[str, Callable[..., Tensor]] = {"relu2": relu2, "swiglu": F.silu}
    if name == "leaky_relu2":
        return out | {"activation_func": partial(leaky_relu2, slope=numbers[0])}
    if name == "gelu":
        return out | {"activation_func": partial(F.gelu, approximate=numbers[0])}
    return out | {"activation_func": plain[name]}


def _sloped(gate: Tensor, alpha: float) -> Tensor:
    """Compute gate sigmoid(alpha gate)."""
    return gate * torch.sigmoid(alpha * gate)
