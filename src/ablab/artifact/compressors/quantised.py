"""What compressors of few bits have in common: which tensors are matrices, their codes as parts, the way back, the report.

Parts of a tensor `X`: `X` (codes, or the numbers where it is kept), `X:scale`, and of its low-rank factors `X:a`, `X:a_scale`,
`X:b`, `X:b_scale`. A tensor with a scale is codes times scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from ablab.artifact.arrays import Array, Packed
from ablab.artifact.compressors import hadamard, lqer
from ablab.artifact.compressors.lqer import Factors
from ablab.artifact.compressors.passthrough import (
    Policy,
    is_exact,
    is_matrix,
    passed,
    reaches_end,
    to_numpy,
)
from ablab.core.forms import fits, misfit
from ablab.model.parts.rounding import LEAST, Per, codes, kept, most, scales
from ablab.model.parts.tensors import refuse_odd
from ablab.records.result import Artifact, Corrected, Rotated, Scheme

Weights = dict[str, Tensor]
ROUNDED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
GROUPS = {
    "attn_q": ("q_proj", "a_q", "b_q"),
    "attn_kv": ("k_proj", "v_proj", "a_k", "b_k", "a_v", "b_v"),
    "attn_o": ("o_proj",),
    "mlp_in": ("up_proj", "gate_proj"),
    "mlp_out": ("down_proj",),
    "embedding": ("embed", "lm_head"),
}


class Meta(TypedDict):
    """What restoring needs: the types of tensors that were not fp32, and which have rotated inputs."""

    dtypes: dict[str, str]
    rotated: list[str]


@dataclass(frozen=True)
class Rounding:
    """How a matrix is rounded: bits, clip in standard deviations (0: none), one scale per row or per matrix."""

    bits: int
    sigmas: float
    per: Per = "row"


@dataclass(frozen=True, eq=False)
class Coded:
    """A tensor of few bits: int codes of its shape, scale (..., R, 1) or (..., 1, 1).

    `schemes` says how each of its matrices was made. `signs` are there where its inputs are rotated. `bare`: numbers of
    those matrices whose scale is the largest magnitude, whatever the rule's clip.
    """

    codes: Tensor
    scale: Tensor
    rule: Rounding
    schemes: tuple[str, ...]
    signs: Tensor | None = None
    factors: Factors | None = None
    bare: tuple[int, ...] = ()

    def value(self) -> Tensor:
        """Compute the rounded matrix, fp64: the one arithmetic by which it is judged here and restored later."""
        return _value(self.codes, self.scale, self.signs, self.factors)


def _value(codes: Tensor, scale: Tensor, signs: Tensor | None, factors: Factors | None) -> Tensor:
    value = codes.double() * scale.double()  # exact: 16 and 11 binary digits (or 24)
    value = value if signs is None else hadamard.unrotated(value, signs.to(value.device))
    return value if factors is None else lqer.added(value, factors)


def kind(name: str) -> str:
    """Return the family of a matrix, by its path: attn, mlp, embedding, or matrix."""
    if name in ("embed.weight", "lm_head.weight"):
        return "embedding"
    return "attn" if ".attn." in name else "mlp" if ".mlp." in name else "matrix"


def group(name: str, tensor: Tensor) -> str:
    """Return the role of a tensor for a codec: like is stored beside like."""
    if not is_matrix(name, tensor):
        return "control"
    module = name.split(".")[-2] if "." in name else ""
    return next((role for role, modules in GROUPS.items() if module in modules), "matrix")


def refuse_nonfinite(weights: Mapping[str, Tensor]) -> None:
    """Refuse the first tensor whose numbers are not there to be rounded, or are not finite."""
    for name in sorted(weights):
        refuse_odd(name, weights[name])
        if weights[name].is_floating_point() and weights[name].dtype not in ROUNDED:
            kind = str(weights[name].dtype).removeprefix("torch.")
            raise ValueError(f"{name} is {kind}, which is rounded already; pack the weights as trained, or use keep")
        if weights[name].is_floating_point() and not bool(weights[name].isfinite().all()):
            raise ValueError(f"{name} holds a number that is not finite; pack weights of a run that did not diverge")


def matrices(weights: Mapping[str, Tensor], small: int) -> list[str]:
    """List the names of what is rounded: matrices of more than `small` numbers that are not kept exact, sorted."""
    return [
        name
        for name in sorted(weights)
        if is_matrix(name, weights[name]) and not is_exact(name, weights[name]) and weights[name].numel() > small
    ]


def wide(tensor: Tensor) -> Tensor:
    """Convert to fp32 (fp64 stays): the type in which a matrix is rounded."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def entropy(bits: int, sigmas: float) -> float | None:
    """Return bits per code of normal numbers clipped at sigmas: 0.5 log2(2 pi e) - log2(sigmas / (2^(bits-1) - 1)).

    None without a clip (the step then hangs on one number), and below 1 bit, where steps are too coarse for the formula.
    Source: parameter-golf, PR #1394.
    """
    if not sigmas:
        return None
    entropy = 0.5 * math.log2(2 * math.pi * math.e) - math.log2(sigmas / most(bits))
    return entropy if entropy >= 1 else None


def nearest(name: str, w: Tensor, rule: Rounding, scheme: str, signs: Tensor | None = None) -> Coded:
    """Round a tensor to nearest, its inputs rotated where signs are given. ValueError where fp16 cannot hold a scale."""
    w = wide(w) if signs is None else hadamard.rotated(w, signs.to(w.device))
    scale = scales(w, rule.bits, sigmas=rule.sigmas, per=rule.per)
    if reaches_end(scale):
        raise ValueError(f"{name} holds numbers too large for a fp16 scale; scale the weights down, or use keep")
    return Coded(codes(w, scale, rule.bits), scale, rule, (scheme,) * w[..., 0, 0].numel(), signs)


def pack(
    weights: Mapping[str, Tensor],
    coded: Mapping[str, Coded],
    policy: Policy,
    notes: list[str],
    hadamard: list[Rotated],
    lqer: list[Corrected],
) -> Packed:
    """Pack the codes, and everything else as the policy keeps it, in the order of the names; the report counts them."""
    if odd := [name for name in sorted(weights) if ":" in name]:
        raise ValueError(f"{odd[0]} has a colon, which parts of a tensor have; rename it")
    parts, schemes, notes = list[Array](), _Schemes(), list(notes)
    notes += _lost(weights, coded) if coded else ["no matrix is large enough to be rounded; lower `small`"]
    predicted: float | None = 0.0 if coded else None  # the formula is about codes
    for name in sorted(weights):
        if name in coded:
            made, bits = _parts(name, coded[name], weights[name], schemes)
            predicted = None if predicted is None or bits is None else predicted + bits / 8
        else:
            kept = passed(name, weights[name], policy, group(name, weights[name]))
            made = kept.parts
            schemes.add(kept.scheme, name, weights[name].numel(), _size(made))
            notes += [kept.note] if kept.note else []
            predicted = None if predicted is None else predicted + _size(made)
        parts += made
    dtypes = {n: str(t.dtype).removeprefix("torch.") for n, t in sorted(weights.items()) if t.dtype != torch.float32}
    meta = {
        "dtypes": {n: kind for n, kind in dtypes.items() if weights[n].is_floating_point()},
        "rotated": [name for name in sorted(coded) if coded[name].signs is not None],
    }
    counts: Artifact = {"schemes": schemes.table(), "predicted_bytes": predicted, "notes": notes}
    return Packed(parts, meta, {**counts, "hadamard": hadamard, "lqer": lqer})


def _lost(weights: Mapping[str, Tensor], coded: Mapping[str, Coded]) -> list[str]:
    """Return the note on rows whose largest code stays below half of their root mean square: their mean is far from 0.

    The clip is a number of standard deviations about 0, whatever the mean: that is the field's rule, and stays.
    """
    names = []
    for name, one in sorted(coded.items()):
        size = weights[name].detach().double().square().mean(-1, keepdim=True).sqrt()  # a rotation leaves it as it is
        lost = (one.scale.double().to(size.device) * most(one.rule.bits) < size / 2).expand_as(size)
        if bool(lost.any()):
            names.append(f"{name} ({int(lost.sum())} of {lost.numel()})")
    if not names:
        return []
    why = "the clip in standard deviations takes most of rows whose mean is far from 0, or whose clip is narrow"
    return [f"{why}: {', '.join(names)}; raise sigmas, or round by the largest magnitude (rtn, sigmas = 0)"]


def _parts(name: str, one: Coded, tensor: Tensor, schemes: _Schemes) -> tuple[list[Array], float | None]:
    """Return the parts of a coded tensor and the bits that are predicted for them, None where nothing can be."""
    scale = one.scale[..., 0] if one.rule.per == "row" else one.scale[..., 0, 0]
    parts = [
        Array(name, to_numpy(one.codes), one.rule.bits, group(name, tensor)),
        Array(f"{name}:scale", to_numpy(scale.to(kept(one.rule.bits))), group="scale"),
    ]
    for scheme in sorted(set(one.schemes)):
        share = one.schemes.count(scheme) / len(one.schemes)
        schemes.add(scheme, name, round(share * tensor.numel()), round(share * _size(parts)))
    bits = _predicted(one)
    bits = None if bits is None else bits + 8 * parts[1].array.nbytes
    if one.factors is not None:
        widths = {"a": lqer.A_BITS, "a_scale": None, "b": lqer.B_BITS, "b_scale": None}
        factors = [
            Array(f"{name}:{key}", to_numpy(getattr(one.factors, key)), width, "factor" if width else "scale")
            for key, width in widths.items()
        ]
        schemes.add(f"lqer rank {one.factors.a.shape[-1]}", name, 0, _size(factors))
        bits = None if bits is None else bits + sum(part.array.size * (part.bits or 16) for part in factors)
        parts += factors
    return parts, bits


def _predicted(one: Coded) -> float | None:
    """Predict the bits of the codes by `entropy`; of bare matrices, of which no formula speaks, by their measured entropy."""
    every = one.codes.reshape(-1, *one.codes.shape[-2:])
    clipped = [i for i in range(len(every)) if i not in one.bare]
    bits = sum(measured_bits(every[i]) for i in one.bare)
    if clipped:
        per_code = entropy(one.rule.bits, one.rule.sigmas)
        if per_code is None:
            return None
        scale = one.scale.reshape(-1, *one.scale.shape[-2:])[clipped]
        alive = float((scale > LEAST).double().mean())  # rows of zeros cost nothing
        bits += per_code * alive * every[clipped].numel()
    return bits


def measured_bits(codes: Tensor) -> float:
    """Measure what codes cost by how often each occurs: -sum log2 of their shares."""
    counts = codes.unique(return_counts=True)[1].double()
    return float((counts * (counts.sum() / counts).log2()).sum())


class _Schemes:
    """How many tensors, numbers and bytes each scheme holds. Factors come on top of tensors counted elsewhere."""

    def __init__(self) -> None:
        self.rows: dict[str, Scheme] = {}

    def add(self, scheme: str, name: str, numbers: int, size: int) -> None:
        row = self.rows.setdefault(scheme, {"tensors": 0, "numbers": 0, "bytes": 0})
        row["tensors"] += 1
        row["numbers"] += numbers
        row["bytes"] += size

    def table(self) -> dict[str, Scheme]:
        return dict(sorted(self.rows.items()))


def _size(parts: list[Array]) -> int:
    return sum(part.array.nbytes for part in parts)


def restore(parts: list[Array], meta: Mapping[str, object]) -> Weights:
    """Restore the tensors, sorted by name, in the types that they had: the same bits each time, on any machine."""
    if not fits(meta, Meta):
        raise ValueError(misfit(meta, Meta))
    arrays = {part.name: part.array for part in parts}
    weights = {}
    for name in sorted(name for name in arrays if ":" not in name):
        stored = _tensor(arrays[name])
        dtype = getattr(torch, meta["dtypes"].get(name, "float32"))
        if f"{name}:scale" in arrays:
            scale = _tensor(arrays[f"{name}:scale"])
            scale = scale.reshape(*scale.shape, *(1,) * (stored.dim() - scale.dim()))
            signs = hadamard.signs(name, stored.shape[-1]) if name in meta["rotated"] else None
            keys = [f"{name}:{key}" for key in Factors._fields]
            factors = Factors(*(_tensor(arrays[key]) for key in keys)) if keys[0] in arrays else None
            weights[name] = _value(stored, scale, signs, factors).to(dtype)
        elif stored.dtype == torch.int16 and dtype == torch.bfloat16 and name in meta["dtypes"]:
            weights[name] = stored.view(torch.bfloat16)
        else:
            weights[name] = stored.to(dtype) if stored.is_floating_point() else stored
    return weights


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
