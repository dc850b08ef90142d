"""How large a model is: parameters, arithmetic per token, and what decoding keeps of a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.decoder import Decoder
from ablab.model.layer import Attention
from ablab.model.parts.norm import Norm
from ablab.model.parts.norms import Bare
from ablab.model.parts.pairs import across
from ablab.records.settings import ModelSettings


def parameters(decoder: Decoder) -> dict[str, int]:
    """Count the parameters: embedding (the untied head counted in), body (all others), total."""
    count = {"body": 0, "embedding": 0, "total": 0}
    roles = decoder.roles()
    for name, parameter in decoder.named_parameters():
        count["embedding" if roles[name] in ("embedding", "head") else "body"] += parameter.numel()
        count["total"] += parameter.numel()
    return count


def active_parameters(decoder: Decoder) -> int:
    """Count the parameters that one token meets: of a mixture, its chosen experts alone."""
    owners = decoder.owners()
    return sum(round(p.numel() * owners[name].used) for name, p in decoder.named_parameters())


def flops_per_token(decoder: Decoder, model: ModelSettings) -> float:
    """Count floating-point operations per trained token, forward and backward, attention counted by what its window shows.

    model: the settings that the decoder is of.

    6 per weight of every matrix that a token meets and of the head (2 forward, 4 backward); attention 12 n_heads head_dim
    times the mean number of visible keys in a full row. A layer counts as often as it is met, loops weighed by the share
    of training in which they run. Norms, softmax and the optimizer are not counted.
    """
    owners, roles = decoder.owners(), decoder.roles()
    looped = 1.0 - decoder.loop_from
    met = [decoder.straight.count(i) * (1 - looped) + decoder.looped.count(i) * looped for i in decoder.straight]
    total = 6.0 * decoder.embed.weight.numel()  # the head, tied or not; looking a token up costs nothing
    for name, parameter in decoder.named_parameters():
        if roles[name] == "matrix":
            times = met[int(name.split(".")[1])] if name.startswith("layers.") else 1.0
            total += 6.0 * times * parameter.numel() * owners[name].used
    length = model["seq_len"]
    for i, letter in enumerate(model["layers"]):
        window = min(model["kinds"][letter]["window"] or length, length)
        keys = window * (length - (window - 1) / 2) / length  # mean over i of min(i + 1, window)
        total += 12.0 * met[i] * model["n_heads"] * model["head_dim"] * keys
    return total


def cache_size(decoder: Decoder, length: int, *, itemsize: int) -> dict[str, int]:
    """Count what decoding a row of `length` tokens keeps: elements of keys and values (or factors), and bytes of everything.

    Bytes: `itemsize` for each element; bias columns and places in the types that they have. Needs no numbers: a decoder
    on the meta device will do.
    """
    elements = other = 0
    for attention in met(decoder):
        columns = length if attention.window is None else min(length, attention.window)
        elements += columns * _elements(attention)
        other += columns * _other_bytes(attention)
    return {"elements": elements, "bytes": elements * itemsize + other}


def _elements(attention: Attention) -> int:
    """Count the elements of keys and values, or of their factors, for each token."""
    parts = attention.projection.factors(_nothing(attention, attention.shape.d_model))
    if parts is not None and factored(attention):
        return sum(part.numel() for part in parts)
    return 2 * _values(attention).numel()


def _values(attention: Attention) -> Tensor:
    return _nothing(attention, attention.shape.n_kv_heads, attention.shape.head_dim)


def _nothing(attention: Attention, *size: int) -> Tensor:
    """Make zeros of one token where the layer is, on the meta device too."""
    return attention.o_proj.weight.new_zeros(1, 1, *size)


@torch.no_grad()
def _other_bytes(attention: Attention) -> int:
    """Count the bytes of bias columns and of pairwise places for each token."""
    x_BTD = _nothing(attention, attention.shape.d_model)
    q_BTHK = _nothing(attention, attention.shape.n_heads, attention.shape.head_dim)
    p, _ = attention.position.place(x_BTD, torch.zeros(1, 1, dtype=torch.int64, device=x_BTD.device), None)
    columns = attention.position.columns(q_BTHK, _values(attention), p)
    n_bytes = 0 if columns is None else columns.w.nbytes
    if attention.position.pairwise:
        sizes: list[int] = []
        across(lambda x: sizes.append(x.nbytes), p)
        n_bytes += sum(sizes)
    return n_bytes


def met(decoder: Decoder) -> list[Attention]:
    """List the attention of every layer that a pass meets, loops unrolled."""
    layers = decoder.stack()
    return [layers[i].attn for i in decoder.order]


def factored(attention: Attention) -> bool:
    """Tell whether a layer keeps its projection's factors instead of keys and values: they are exact, and smaller.

    Exact where the projection offers them (no bias), the norm is RMS before the rotation or none, all heads turn alike
    (`alike` of the position), and the values are the layer's own.
    """
    if not attention.position.alike:
        return False
    if not isinstance(attention.k_norm, nn.Identity | Norm | Bare):
        return False
    if attention.norm_after:  # it measures and weighs what is turned already
        return False
    parts, v_BTGK = attention.projection.factors(_nothing(attention, attention.shape.d_model)), _values(attention)
    if parts is None or attention.value(v_BTGK, v_BTGK.clone()) is not v_BTGK:
        return False
    out: bool = sum(part.numel() for part in parts) < 2 * v_BTGK.numel()
    return out
