"""The previous token's vector, mixed in."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ablab.core.lever import Choice, Sizes, value_or_none
from ablab.core.rng import Draw
from ablab.model.embeddings.embedding import Embedding
from ablab.model.parts.linear import Gate
from ablab.model.shape import Shape

WIDTH = 12  # channels that the token form reads unless told


class SmearGate(Embedding):
    """Mixes in the previous token's vector x', never one of another document.

    x' is 0 at a document's start, in both forms. At mix 0 only the mix has a gradient; w gets its first one when the mix
    has moved, one step later. carry: the previous column's input (B, D). Raises ValueError where width does not fit.

    form: token (#1667) is x + mix sigmoid(w . x[:width]) x', w zero at first; channel (#549) is (1 - g) x + g x', g =
        sigmoid(vector)
    width (channels): leading ones that w reads; the channel form has none; default: 12
    init: of token the learned mix at first (0: the identity); of channel each entry of the vector (0: half and half; -3
        leaves 0.95 on x, as the first record had it)
    """

    source = "openai/parameter-golf #549, #1667"
    reach = 1

    def __init__(
        self,
        shape: Shape,
        *,
        form: Literal["token", "channel"] = "token",
        width: int | None = None,
        init: float = 0.0,
    ) -> None:
        super().__init__()
        if form == "channel" and width is not None:
            raise ValueError(f'form "channel" reads no width (given: {width}); leave width out or use form = "token"')
        self.width = WIDTH if width is None else width
        if form == "token" and not 1 <= self.width <= shape.d_model:
            raise ValueError(
                f"width = {self.width} is not within d_model = {shape.d_model}; choose 1 to {shape.d_model}"
            )
        self.start = init
        self.gate = Gate(self.width, 1) if form == "token" else None
        self.mix = nn.Parameter(torch.empty(() if form == "token" else shape.d_model))

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the widest that a smaller model allows."""
        if choice["form"] == "channel":
            return {}
        return {"width": min(value_or_none(choice, "width", int) or WIDTH, small["d_model"])}

    def init(self, draw: Draw) -> None:
        nn.init.constant_(self.mix, self.start)

    def forward(
        self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        first_BD = torch.zeros_like(x_BTD[:, 0]) if carry is None else carry.to(x_BTD.dtype)
        before_BTD = torch.cat([first_BD[:, None], x_BTD[:, :-1]], dim=1)
        before_BTD = before_BTD.masked_fill((pos_BT == 0)[..., None], 0)
        if self.gate is None:
            mixed = torch.lerp(x_BTD, before_BTD, self.mix.sigmoid().to(x_BTD.dtype))
        else:
            gate_BT1 = self.mix * self.gate(x_BTD[..., : self.width]).sigmoid()
            mixed = x_BTD + gate_BT1.to(x_BTD.dtype) * before_BTD
        return mixed, x_BTD[:, -1]
