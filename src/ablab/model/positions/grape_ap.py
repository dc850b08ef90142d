"""GRAPE-AP: the bias as an integral along the path from key to query."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ablab.core.rng import Draw
from ablab.model.parts.columns import alibi_slopes
from ablab.model.parts.linear import Linear
from ablab.model.parts.rotation import turned
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class GrapeAP(Position):
    """Bias sum_{l=j+1..t} slope_h logsigmoid(<p_t, R_l r_l> / P) of query t over key j.

    p = W x has P = p_head_dim channels for every head, r is p without its root mean square, R_l turns every plane by l
    radians: as the official code has it (the paper normalises p_t too), l = t included. The slopes are ALiBi's. R makes the
    bias depend on the place within the document, not on the distance alone. Turning by -l instead, as that code does, is
    the same lever with the halves of every head's p exchanged (`ablab.model.parts.turns.in_heads`). Keys may come in any
    order; all between the oldest key and the query must be there. ValueError where p_head_dim is odd or below 2, or eps not
    positive.

    p_head_dim (channels): of p in every head
    eps: added to r's mean square (the torch 2.4 of the official runs took bf16's own in bf16: eps = 0.0078125); default:
        that of the type it is computed in, as torch's rms_norm has it: 2^-23 in fp32 and bf16, 2^-52 in fp64
    """

    source = "GRAPE, arXiv 2512.07805, path-integral GRAPE-AP"
    pairwise = True
    revision = 2  # 2: the eps of fp64 is fp64's own
    slope_H: torch.Tensor

    def __init__(self, shape: Shape, *, p_head_dim: int = 8, eps: float | None = None) -> None:
        super().__init__()
        if p_head_dim < 2 or p_head_dim % 2:
            raise ValueError(
                f"p_head_dim is {p_head_dim}, but its channels turn in pairs; give an even number from 2 on"
            )
        if eps is not None and not eps > 0:
            raise ValueError(f"eps is {eps:g}, which would divide nothing by zero; give eps > 0, or leave it out")
        self.width, self.eps = p_head_dim, eps
        self.path = Linear(shape.d_model, shape.n_heads * p_head_dim, std=shape.init_std)
        self.register_buffer("slope_H", torch.empty(shape.n_heads), persistent=False)

    def init(self, draw: Draw) -> None:
        """Set the slopes; the projection draws its own weight."""
        self.slope_H.copy_(torch.tensor(alibi_slopes(len(self.slope_H)), dtype=torch.float64))

    def place(
        self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: torch.Tensor | None = None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return p (B, T, H, P), R r likewise, and the number of the token in the row; `carry` (B,) counts earlier tokens."""
        p_BTHP = self.path(x_BTD).unflatten(-1, (-1, self.width))
        p_BTHP = p_BTHP.to(torch.promote_types(p_BTHP.dtype, torch.float32))
        angle = pos_BT.to(torch.float64)[..., None, None].expand(*pos_BT.shape, 1, self.width // 2)
        eps = torch.finfo(p_BTHP.dtype).eps if self.eps is None else self.eps
        unit = p_BTHP * (p_BTHP.square().mean(-1, keepdim=True) + eps).rsqrt()
        r_BTHP = turned(unit, angle.cos().to(unit.dtype), angle.sin().to(unit.dtype))
        order_BT = torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device).expand(pos_BT.shape)
        order_BT = order_BT if carry is None else order_BT + carry[:, None]
        return (p_BTHP, r_BTHP, order_BT), order_BT[:, -1]

    def bias(
        self,
        p_query: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        p_key: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        query, at_query, (_, key, at_key) = p_query[0], p_query[2], p_key
        sorted_keys = bool((at_key[:, 1:] > at_key[:, :-1]).all())
        back = None
        if not sorted_keys:  # a ring of keys
            order = at_key.argsort(1)
            back = order.argsort(1)
            key, at_key = key.take_along_dim(order[..., None, None], 1), at_key.take_along_dim(order, 1)
        edge_BHTS = F.logsigmoid(torch.einsum("bthp,bshp->bhts", query, key) / self.width)
        edge_BHTS = edge_BHTS * self.slope_H.to(edge_BHTS.dtype)[:, None, None]
        edge_BHTS = edge_BHTS.masked_fill((at_key[:, None, :] > at_query[:, :, None])[:, None], 0.0)
        # From the query's end: what lies far away must not round what is near.
        bias_BHTS = edge_BHTS.flip(-1).cumsum(-1).flip(-1) - edge_BHTS
        return bias_BHTS if back is None else bias_BHTS.take_along_dim(back[:, None, None], -1)
