"""No skips."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.model.shape import Shape


class Straight(nn.Module):
    """No connection past a layer: the stream alone."""

    source = "the plain form"

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def before(self, x: Tensor, step: int, n_steps: int, kept: list[Tensor]) -> Tensor:
        return x

    def after(self, x: Tensor, step: int, n_steps: int, kept: list[Tensor]) -> None:
        return None
