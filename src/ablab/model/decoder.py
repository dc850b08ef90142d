"""The one decoder. Every choice sits in a slot and this file knows none by name.

One forward serves training, evaluation and decoding. Shapes are suffixes: B batch, T query positions, D d_model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.fault import Fault, InvalidStudy
from ablab.core.files import canonical
from ablab.core.rng import Draw
from ablab.model import embeddings, skips
from ablab.model.attention.attend import Documents
from ablab.model.cross_entropy import AT_ONCE, nll
from ablab.model.embeddings.composed import Composed as Embeddings
from ablab.model.layer import Layer, Pass, Remembering, build_lever, build_levers, build_position
from ablab.model.parts.linear import Linear, Table
from ablab.model.parts.norms import NORMS
from ablab.model.parts.part import Part
from ablab.model.parts.routing import MixtureTally
from ablab.model.positions.position import Position
from ablab.model.shape import Shape
from ablab.records.settings import ModelSettings
from ablab.runtime.machine import autocast, dtype_of

# What takes the place of torch's own modules: it has a role and draws its own numbers.
OURS: dict[type[nn.Module], str] = {
    nn.Linear: "ablab.model.parts.linear.Linear(d_in, d_out, std=shape.init_std, bias=shape.bias)",
    nn.Embedding: "ablab.model.parts.linear.Table(rows, size, std=shape.init_std)",
    nn.LayerNorm: "ablab.model.parts.norms.LayerNorm(size, shape.norm_eps)",
    nn.RMSNorm: "ablab.model.parts.norm.Norm(size, shape.norm_eps)",
}
REVISION = 2  # raised whenever a number that this file makes changes on purpose


class Head(Linear):
    """The untied head. Role `head`."""

    role = "head"

    def init(self, draw: Draw) -> None:
        draw.normal_(self.weight, "weight", self.std)


class Decoder(nn.Module):
    """A decoder-only language model over packed rows of documents, from the settings' `model` table."""

    def __init__(self, model: ModelSettings, *, vocab_size: int, executor: str = "lift") -> None:
        super().__init__()
        shape = shape_of(model, vocab_size)
        self.softcap = float(model["softcap"])
        std = shape.init_std if model["embed_std"] is None else model["embed_std"]
        self.embed = Table(vocab_size, shape.d_model, std=std)
        self.mixer = build_levers(embeddings.slot, Embeddings, model["embedding"], shape, "model")
        self.straight, self.looped = list(range(shape.n_layers)), order(shape.n_layers, model["loops"])
        self.loop_from, self.looping = model["loop_from"] or 0.0, True
        self.shared = nn.ModuleDict()  # positions of which the network has one
        self.layers = nn.ModuleList()
        owners: dict[str, Position] = {}
        for i, letter in enumerate(model["layers"]):
            kind = model["kinds"][letter]
            here = Shape(**{**vars(shape), "window": kind["window"], "layer": i})
            position = build_position(kind["position"], here, f"model.{kind['table']}")
            if shared := position.share == "net":
                name = canonical(kind["position"])
                if name not in owners:
                    self.shared[str(len(owners))] = position
                    owners[name] = position
                position = owners[name]
            self.layers.append(
                Layer(
                    kind,
                    here,
                    position,
                    shared,
                    norm=model["norm"],
                    qk_norm=model["qk_norm"],
                    executor=executor,
                )
            )
        self.skips = build_lever(skips.slot, model["skips"], shape, "model")
        self.final_norm = NORMS[model["norm"]](shape.d_model, shape.norm_eps)
        # Tied means that there is no second tensor at all: a tie that does not exist cannot break.
        self.lm_head = None if model["tied"] else Head(shape.d_model, vocab_size, std=shape.init_std)

    def at(self, spent: float) -> None:
        """Say what fraction of training is spent: loops of the layer string run from `loop_from` on, and afterwards."""
        self.looping = spent >= self.loop_from

    @property
    def order(self) -> list[int]:
        """The layers in the order that a forward pass meets them now."""
        return self.looped if self.looping else self.straight

    def forward(
        self, tokens_BT: Tensor, ids_BT: Tensor, aux: MixtureTally | None = None, cache: Remembering | None = None
    ) -> Tensor:
        """Compute the hidden states after the final norm, (B, T, D). `ids_BT` says which document each token belongs to.

        aux collects what mixtures lose and count; cache holds what earlier stretches left (`ablab.model.cache`).
        """
        documents = Documents(ids_BT) if cache is None else cache.documents(ids_BT)
        x_BTD, carry = self.mixer(
            self.embed(tokens_BT), tokens_BT, documents.pos_BT, None if cache is None else cache.carry
        )
        if cache is not None:
            cache.carry = carry
        run = Pass(documents, x_BTD, aux, None if cache is None else cache.memories)
        steps, layers, kept, stream = self.order, self.stack(), list[Tensor](), x_BTD
        for run.step, i in enumerate(steps):
            layer = layers[i]
            stream = self._lanes(stream, layer.block.lanes)
            stream = self.skips.before(stream, run.step, len(steps), kept)
            stream = layer(stream, run)
            self.skips.after(stream, run.step, len(steps), kept)
        hidden: Tensor = self.final_norm(self._lanes(stream, 1))
        return hidden

    @staticmethod
    def _lanes(stream: Tensor, lanes: int) -> Tensor:
        if lanes == 1:
            return stream.mean(0) if stream.dim() == 4 else stream
        return stream if stream.dim() == 4 else torch.stack([stream] * lanes)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute fp32 logits (..., vocab_size), the soft cap c tanh(z / c) applied (Gemma 2, 2408.00118); fp64 stays fp64."""
        return self.capped(F.linear(hidden, self.head_weight))

    def capped(self, z: Tensor) -> Tensor:
        """Cap logits from what the head's product gave: fp32 (fp64 stays), the soft cap applied."""
        z = z if z.dtype == torch.float64 else z.float()
        return self.softcap * torch.tanh(z / self.softcap) if self.softcap else z

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix (vocab_size, d_model): its own, or the embedding's where it is tied."""
        return self.embed.weight if self.lm_head is None else self.lm_head.weight

    def nll(self, tokens_BT: Tensor, targets_BT: Tensor, ids_BT: Tensor, *, aux: MixtureTally | None = None) -> Tensor:
        """Compute the negative log-likelihood of each target in nats, fp32 (B, T); 0 where the target is -1."""
        hidden_ND, targets_N = self(tokens_BT, ids_BT, aux).flatten(0, 1), targets_BT.flatten()
        if targets_N.numel() * self.embed.weight.shape[0] <= AT_ONCE:
            z = self.logits(hidden_ND)
            return F.cross_entropy(z, targets_N, ignore_index=-1, reduction="none").view(targets_BT.shape)
        return nll(hidden_ND, self.head_weight, targets_N, softcap=self.softcap).view(targets_BT.shape)

    def roles(self) -> dict[str, str]:
        """Return the role of every parameter, each exactly once, in the order of `named_parameters`.

        A role is the attribute `role` of the part that owns the parameter; `scalar` is whatever is called bias or has fewer
        than two dimensions.
        """
        owners, roles = self.owners(), {}
        for name, parameter in self.named_parameters():
            flat = name.rpartition(".")[2] == "bias" or parameter.dim() < 2
            roles[name] = "scalar" if flat else owners[name].role
        return roles

    def stack(self) -> list[Layer]:
        """List the layers, from the first."""
        return cast(list[Layer], list(self.layers))

    def parts(self) -> dict[str, Part]:
        """Map every part's path to it, in the order of `named_modules`."""
        return {path: part for path, part in self.named_modules() if isinstance(part, Part)}

    def owners(self) -> dict[str, Part]:
        """Map every parameter to the part that it belongs to. InvalidStudy where it belongs to anything else."""
        owners = {}
        for path, module in self.named_modules():
            for leaf, _ in module.named_parameters(recurse=False):
                name = f"{path}.{leaf}" if path else leaf
                if not isinstance(module, Part):
                    raise InvalidStudy(_stranger(name, module))
                owners[name] = module
        return owners


def build(
    model: ModelSettings,
    *,
    vocab_size: int,
    seed: int,
    salt: str = "",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    executor: str = "lift",
) -> Decoder:
    """Build a decoder with every parameter drawn from its own named stream.

    Built on the meta device, filled with NaN, then initialised by each module's `init`: what nobody initialised is seen,
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
        draw = Draw(seed, salt=salt, orthogonal=model["init"] == "orthogonal")
        for path, part in decoder.parts().items():
            part.init(draw.at(path))
    owners = dict(decoder.named_modules())
    for name, tensor in (*decoder.named_parameters(), *decoder.named_buffers()):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            owner = type(owners[name.rpartition(".")[0]]).__name__
            raise RuntimeError(f"{name} was never initialised; give class {owner} an init(draw) that fills it")
    return decoder.to(device=device)


def skeleton(model: ModelSettings, *, vocab_size: int, executor: str = "lift") -> Decoder:
    """Build the decoder on the meta device: names and sizes, no numbers. Enough for counting and `roles`."""
    with torch.device("meta"):
        decoder = Decoder(model, vocab_size=vocab_size, executor=executor)
    decoder.owners()
    return decoder


def order(n_layers: int, loops: list[list[int]]) -> list[int]:
    """List the layers by number as one forward pass meets them: those of a loop (first, end, passes) again and again."""
    met, at = list[int](), 0
    for first, end, passes in loops:
        met += [*range(at, first), *(list(range(first, end)) * passes)]
        at = end
    return met + list(range(at, n_layers))


def _stranger(name: str, module: nn.Module) -> Fault:
    """Say what is wrong with a parameter of a module that has no role and draws nothing: torch's own, or a plain nn.Module."""
    own = type(module).__name__
    fault = f"is a parameter of {type(module).__module__}.{own}, which has no role and draws nothing from the study's streams"
    ours = next((ours for theirs, ours in OURS.items() if isinstance(module, theirs)), None)
    cure = f"use {ours}" if ours else f"let class {own} inherit ablab.model.parts.part.Part and fill it in init(draw)"
    return Fault(name, fault, cure)


def shape_of(model: ModelSettings, vocab_size: int) -> Shape:
    """Return the sizes that the parts of a model are built with. InvalidStudy for sizes that are none."""
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
    n_layers = len(model["layers"])
    return Shape(
        vocab_size=vocab_size,
        n_layers=n_layers,
        n_passes=len(order(n_layers, model["loops"])),
        out_init_std=model["out_std"],
        d_model=model["d_model"],
        n_heads=model["n_heads"],
        n_kv_heads=model["n_kv_heads"],
        head_dim=model["head_dim"],
        seq_len=model["seq_len"],
        init_std=model["init_std"],
        norm_eps=model["norm_eps"],
        bias=model["bias"],
    )


# On 2 CPU cores (seq_len 256, d_model 128) 1k to 4k tokens a forward run alike; 8k and more are a third slower.
FORWARD_TOKENS = 4096


@contextmanager
def inference(model: Decoder, precision: str) -> Iterator[torch.device]:
    """Run in evaluation mode, torch.inference_mode and, for bf16, autocast; yields the device. The model's mode is restored."""
    dtype_of(precision)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(precision, str(device)):
            yield device
    finally:
        model.train(training)
