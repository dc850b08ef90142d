"""parameter-golf's `final_model.pt` in this model's names: the stack of #1493 on the preset golf_11x512, and that of #1716
with its gates, pair table and smear.

Two things differ beside the names. Its rotation turns by the negative angle, which is ours after the two halves of the
rotated channels change places, in the rows of queries and keys alike; and its norms add the epsilon of fp32
(torch.nn.functional.rms_norm without eps), which matters behind an embedding of standard deviation 0.005.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ablab.model.decoder import Decoder
from ablab.model.positions.rope import Rope
from ablab.records.settings import ModelSettings

EPS = torch.finfo(torch.float32).eps
WHOLE = {
    "tok_emb.weight": "embed.weight",
    "lm_head.weight": "lm_head.weight",
    "skip_weights": "skips.weight_nD",
    "skip_gates": "skips.gate_nD",
}
OF_BLOCK = {
    "attn.c_q.weight": "attn.projection.q_proj.weight",
    "attn.c_k.weight": "attn.projection.k_proj.weight",
    "attn.c_v.weight": "attn.projection.v_proj.weight",
    "attn.proj.weight": "attn.o_proj.weight",
    "attn.q_gain": "attn.temperature.gain_H",
    "mlp.fc.weight": "mlp.up_proj.weight",
    "mlp.proj.weight": "mlp.down_proj.weight",
}
# Levers stand in lists of their own order: their parameters lie below a part of the model, by the last part of our names.
LISTED = {
    "bigram.embed.weight": ("mixer", ("table.weight",)),
    "bigram.proj.weight": ("mixer", ("proj.weight",)),
    "bigram.scale": ("mixer", ("scale",)),
    "smear_gate.weight": ("mixer", ("gate.weight",)),
    "smear_lambda": ("mixer", ("mix",)),
}
LISTED_OF_BLOCK = {
    "attn_scale": ("residual", ("attn_D",)),
    "mlp_scale": ("residual", ("mlp_D",)),
    "resid_mix": ("residual", ("stream_D", "first_D")),
    "attn.attn_gate_proj.weight": ("attn.gate", ("gate.weight",)),
}
TEMPERATURE = "logit_temp"  # a number that their later scripts fit to the logits and save
TURNED = ("attn.c_q.weight", "attn.c_k.weight")


def fits(names: Collection[str]) -> bool:
    """Tell whether these are parameter-golf's names."""
    return "tok_emb.weight" in names and any(name.startswith("blocks.") for name in names)


def own(tensors: Mapping[str, Tensor], decoder: Decoder) -> dict[str, Tensor]:
    """Put the tensors under the decoder's names, queries and keys in its convention of rotation; unknown names stay.

    ValueError where positions turn in another way than rope's (what was learned is of no other one), where logits were
    given a temperature, and for a single number in place of rows.
    """
    done: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        place, leaf = (f"layers.{inside[1]}.", inside[2]) if inside else ("", name)
        listed, alone = (LISTED_OF_BLOCK, OF_BLOCK) if inside else (LISTED, WHOLE)
        if leaf == TEMPERATURE:
            _no_temperature(tensor)
        elif leaf in listed:
            done |= _in_list(place, *listed[leaf], name, tensor, decoder)
        elif leaf in TURNED and inside and int(inside[1]) < len(decoder.layers):
            done[place + alone[leaf]] = _halves(tensor, decoder, int(inside[1]))
        else:
            done[place + alone[leaf] if leaf in alone else name] = tensor
    return done


def notes(model: ModelSettings) -> list[str]:
    """Say what sets this model apart from the one that was trained, whatever the names say."""
    texts = ["parameter-golf trains over rows that run across documents; here attention ends at a document's start"]
    if abs(model["norm_eps"] - EPS) > 1e-3 * EPS:
        texts.append(f"parameter-golf trains with norm_eps = {EPS:.8g}, this study has {model['norm_eps']:g}")
    return texts


def _in_list(
    place: str, part: str, ends: tuple[str, ...], name: str, tensor: Tensor, decoder: Decoder
) -> dict[str, Tensor]:
    """Find the parameter of a lever below `place` + `part`, one row for each of our tensors; else its own name."""
    known = {n: p for n, p in decoder.named_parameters() if n.startswith(f"{place}{part}.")}
    names = [next((n for n in known if n.endswith(f".{end}")), "") for end in ends]
    if len(ends) > 1 and tensor.dim() == 0:
        fault = f"{name} is a single number, where parameter-golf has {len(ends)} rows"
        raise ValueError(f"{fault}; give the trained weights as they were saved")
    rows = tensor.unbind(0) if len(ends) > 1 else (tensor,)
    if not all(names) or len(rows) != len(ends):
        return {name: tensor}
    if tensor.shape == (1,) and known[names[0]].dim() == 0:
        rows = (tensor[0],)
    return dict(zip(names, rows))


def _no_temperature(value: Tensor) -> None:
    if value.numel() != 1 or float(value) != 1:
        shown = f"{float(value):g}" if value.numel() == 1 else "no number"
        raise ValueError(
            f"multiplies logits by a temperature ({TEMPERATURE} is {shown}); give the weights before it was fitted"
        )


def _halves(weight: Tensor, decoder: Decoder, layer: int) -> Tensor:
    """Exchange the two halves of the rotated channels in the rows of every head."""
    attn = decoder.stack()[layer].attn
    if not attn.position.turns:
        return weight
    if not isinstance(attn.position, Rope):
        raise ValueError('holds weights of parameter-golf, which turn by fixed frequencies; set position = "rope"')
    size = attn.shape.head_dim
    if weight.dim() != 2 or weight.shape[0] % size:
        return weight  # of another shape: what checks shapes says so
    order = torch.arange(size)
    rotated = attn.position.rotated
    order[:rotated] = order[:rotated].roll(rotated // 2)
    out: Tensor = weight.unflatten(0, (-1, size))[:, order].flatten(0, 1)
    return out
