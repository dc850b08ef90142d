"""Two streams, one read by attention, one by the mlp."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.core.lever import Choice, Sizes, value_of
from ablab.core.rng import Draw
from ablab.model.blocks.block import Block, Branch
from ablab.model.shape import Shape


class TwoLane(Block):
    """From layer `from_layer` on two lanes: lane_j = keep_j lane_j + attn_j attn(lane_0) + mlp_j mlp(lane_1).

    The six numbers are learned (parameter-golf #1530: keep 1.1 from layer 8). Both lanes start as the stream and end as
    their mean. What enters a block (a mix with the embedding, say) enters attention's reading alone. Sequential below.
    Raises ValueError where no layer has two lanes.

    from_layer: the first layer with two lanes, from 0
    keep: what keep_j starts at; attn_j and mlp_j start at 1
    """

    source = "openai/parameter-golf #1204, #1529, #1530"

    def __init__(self, shape: Shape, *, from_layer: int = 0, keep: float = 1.1) -> None:
        super().__init__()
        if not 0 <= from_layer < shape.n_layers:
            raise ValueError(
                f"from_layer = {from_layer} names none of {shape.n_layers} layers; give 0 to {shape.n_layers - 1}"
            )
        self.lanes, self.keep = (2 if shape.layer >= from_layer else 1), keep
        if self.lanes == 2:
            self.keep_2 = nn.Parameter(torch.empty(2))
            self.attn_2 = nn.Parameter(torch.empty(2))
            self.mlp_2 = nn.Parameter(torch.empty(2))

    def init(self, draw: Draw) -> None:
        """Set the constants; nothing is drawn."""
        if self.lanes == 2:
            nn.init.constant_(self.keep_2, self.keep)
            nn.init.ones_(self.attn_2)
            nn.init.ones_(self.mlp_2)

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the layer at the same share of a smaller model's depth."""
        share = len(small["layers"]) / len(full["layers"])
        return {"from_layer": min(len(small["layers"]) - 1, round(value_of(choice, "from_layer", int) * share))}

    def forward(self, x: Tensor, enter: Branch, attn: Branch, mlp: Branch) -> Tensor:
        if self.lanes == 1:
            x = enter(x)
            x = x + attn(x)
            return x + mlp(x)
        a_BTD, m_BTD = attn(enter(x[0])), mlp(x[1])
        keep, by_attn, by_mlp = (w.view(2, 1, 1, 1) for w in (self.keep_2, self.attn_2, self.mlp_2))
        return keep * x + by_attn * a_BTD + by_mlp * m_BTD
