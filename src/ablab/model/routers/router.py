"""What every router is: the experts that each token meets."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.linear import Linear
from ablab.model.parts.routing import Routed, refuse
from ablab.model.shape import Shape


class Router(Linear, Sized):
    """One matrix (n_experts, d_model) whose logits choose `top_k` experts for each token.

    ValueError where top_k experts cannot be chosen.
    """

    def __init__(self, shape: Shape, *, top_k: int = 2) -> None:
        super().__init__(shape.d_model, shape.n_experts, std=shape.init_std, bias=shape.bias)
        refuse(top_k, shape.n_experts)
        self.top_k = top_k

    @abstractmethod
    def forward(self, x_ND: Tensor) -> Routed:  # type: ignore[override]
        """Choose experts for N tokens, and their weights."""

    def after_step(self, counts_E: Tensor) -> None:
        """Hear how many rows each expert got in one optimizer step, over all its micro-batches and processes."""

    def bias_range(self) -> float | None:
        """Return the largest bias that chooses less the smallest; None where there is none."""
        return None
