"""Softmax scores, the k largest."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablab.model.parts.routing import Routed, logits_of
from ablab.model.routers.router import Router
from ablab.model.shape import Shape


class SoftmaxTopk(Router):
    """The top_k largest logits; weights by softmax.

    x_ND -> Routed. Raises ValueError for impossible numbers, and for top_k = 1 with "post": that weight is always 1 and has
    no gradient.

    top_k (experts): of a token
    order: pre is softmax over all experts, then the choice, not normalised again (the weights add up to less than 1); post
        is softmax over the chosen logits alone
    """

    source = "Shazeer et al. 2017, arXiv 1701.06538, section 2.1; Megatron-LM's two orders"

    def __init__(self, shape: Shape, *, top_k: int = 2, order: Literal["pre", "post"] = "pre") -> None:
        super().__init__(shape, top_k=top_k)
        if order == "post" and top_k == 1:
            raise ValueError(
                'top_k = 1 with order = "post" weighs always 1, so the router cannot learn; use order = "pre"'
            )
        self.order = order

    def forward(self, x_ND: Tensor) -> Routed:  # type: ignore[override]
        logits_NE = logits_of(x_ND, self.weight, self.bias)
        shares_NE = logits_NE.softmax(-1)
        experts_NK = logits_NE.detach().topk(self.top_k, dim=-1).indices
        if self.order == "pre":
            return Routed(experts_NK, shares_NE.gather(1, experts_NK), logits_NE, shares_NE)
        return Routed(experts_NK, logits_NE.gather(1, experts_NK).softmax(-1), logits_NE, shares_NE)
