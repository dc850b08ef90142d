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
