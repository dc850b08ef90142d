"""Tensors that are not worth few bits: which they are, and how they are kept."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablab.artifact.arrays import Array
from ablab.model.parts.rounding import codes, most, scales

Policy = Literal["fp16", "int8"]
CONTROL = 16  # numbers from which on a vector is stored as int8; q_gain and single numbers stay fp16
INT8 = 8


class Passed(NamedTuple):
    """A tensor's parts, how it was kept ("fp16", "int8 row", "int8 tensor", "fp32", "as is"), and a note or nothing."""

    parts: list[Array]
    scheme: str
    note: str = ""


def is_exact(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is kept bit for bit: whatever is no floating number, and routers.

    Whole and truth values mean something else when they are rounded. A router's matrix and its bias make choices, and a
    choice that falls otherwise changes a token's whole path; they are small. Sinks, gains and mixes enter sums only and go
    the way of other vectors.
    """
    return not tensor.is_floating_point() or ".router." in name


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is one or more matrices, by its name and shape: vectors in a stack (`skips.weight_nD`) are none."""
    return tensor.dim() >= 2 and name.rpartition(".")[2] == "weight"


def passed(name: str, tensor: Tensor, policy: Policy, group: str) -> Passed:
    """Encode a tensor as `policy` keeps it.

    "fp16": every float in fp16. "int8" (parameter-golf #1716, "Path A v3"): small matrices int8 with a fp16 scale per row;
    other tensors of CONTROL numbers or more int8 with one fp32 scale; fewer numbers in fp16. Its bigram table, int6 by row
    maximum, is no small matrix and is rounded: a table has no inputs, and so gptq gives it that. Exact ones as they are. What
    fp16 cannot reach is kept in fp32 (fp64 if that is too small as well), and said.
    """
    if is_exact(name, tensor) or not tensor.numel():
        return Passed([Array(name, to_numpy(tensor), group=group)], "as is")
    wide = tensor.double() if tensor.dtype == torch.float64 else tensor.float()
    if policy == "int8" and tensor.dim() >= 2 and is_matrix(name, tensor):
        scale = scales(wide, INT8)
        if not reaches_end(scale):
            parts = [
                Array(name, to_numpy(codes(wide, scale, INT8)), INT8, group),
                Array(f"{name}:scale", to_numpy(scale[..., 0].to(torch.float16)), group="scale"),
            ]
            return Passed(parts, "int8 row")
    elif policy == "int8" and tensor.numel() >= CONTROL:
        largest = wide.double().abs().amax() / most(INT8)
        scale = largest.clamp(min=torch.finfo(torch.float32).tiny).float()
        if bool(scale.isfinite()):
            parts = [
                Array(name, to_numpy(codes(wide.double(), scale.double(), INT8)), INT8, group),
                Array(f"{name}:scale", to_numpy(scale), group="scale"),
            ]
            return Passed(parts, "int8 tensor")
    for kind, words in ((torch.float16, "fp16"), (torch.float32, "fp32"), (torch.float64, "fp64")):
        if bool((kept := wide.to(kind)).isfinite().all()):
            note = "" if words == "fp16" else f"{name} holds numbers beyond fp16 and is kept in {words}"
            return Passed([Array(name, to_numpy(kept), group=group)], words, note)
    raise AssertionError("finite numbers fit into fp64")


def reaches_end(scale: Tensor) -> bool:
    """Tell whether a scale is the largest fp16: it may have been cut there."""
    return bool((scale >= torch.finfo(torch.float16).max).any())


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return the numbers in C order; bf16, which numpy lacks, as the int16 of the same bits."""
    here = tensor.detach().cpu().contiguous()
    array: np.ndarray = (here.view(torch.int16) if here.dtype == torch.bfloat16 else here).numpy()
    return array
