"""What torch hands to the forward and the backward of an autograd Function."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Context(Protocol):
    """Keeps tensors from forward for backward, and by any name what is no tensor."""

    saved_tensors: tuple[torch.Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None: ...
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...


def in_type(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast y where it is of another type: the only form in which a Function's forward may end.

    torch 2.11 gives wrong gradients in silence where a compiled Function ends in a cast to the type that is there already.
    """
    return y if y.dtype == dtype else y.to(dtype)
