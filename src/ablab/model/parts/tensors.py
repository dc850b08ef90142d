"""What keeps a tensor from being plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def oddity(tensor: Tensor) -> str:
    """Say what keeps a tensor's numbers from simply lying there ("sparse", "nested", "quantised", "on no device")."""
    if tensor.is_nested:
        return "nested"
    if tensor.is_meta:
        return "on no device (meta)"
    if tensor.is_quantized:
        return "quantised"
    return "" if str(tensor.layout) == "torch.strided" else "sparse"


def refuse_odd(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose numbers do not simply lie there: sparse, nested, quantised, or on no device."""
    if odd := oddity(tensor):
        raise ValueError(f"{name} is {odd}, which cannot be packed; give the numbers themselves, densely")
