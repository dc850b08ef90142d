"""Attention and mlp side by side."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Choice, Sizes, value_of
from ablab.model.blocks.block import Block, Branch
from ablab.model.shape import Shape


class Parallel(Block):
    """x + attn(x) + mlp(x) from layer `from_layer` (0-based) on, sequential below.

    Each branch keeps its own norm, as in GPT-NeoX; with norm = "bare" the two are one and the block is GPT-J's. Raises
    ValueError where no layer is parallel.

    from_layer: the first parallel layer, from 0
    """

    source = "Wang and Komatsuzaki 2021 (GPT-J); openai/parameter-golf #1412"

    def __init__(self, shape: Shape, *, from_layer: int = 0) -> None:
        super().__init__()
        if not 0 <= from_layer < shape.n_layers:
            raise ValueError(
                f"from_layer = {from_layer} names none of {shape.n_layers} layers; give 0 to {shape.n_layers - 1}"
            )
        self.parallel = shape.layer >= from_layer

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the layer at the same share of a smaller model's depth."""
        share = len(small["layers"]) / len(full["layers"])
        return {"from_layer": min(len(small["layers"]) - 1, round(value_of(choice, "from_layer", int) * share))}

    def forward(self, x_BTD: Tensor, enter: Branch, attn: Branch, mlp: Branch) -> Tensor:
        x_BTD = enter(x_BTD)
        if self.parallel:
            return x_BTD + attn(x_BTD) + mlp(x_BTD)
        x_BTD = x_BTD + attn(x_BTD)
        return x_BTD + mlp(x_BTD)
