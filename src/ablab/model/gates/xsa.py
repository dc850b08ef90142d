"""Attention's output without the token's own value."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ablab.core.lever import Choice, Sizes, value_of
from ablab.model.gates.output_gate import OutputGate
from ablab.model.shape import Shape

EPS = 1e-12  # a value shorter than this is not stretched to length 1: torch's normalize, as the sources call it


class Xsa(OutputGate):
    """y_h minus its part along the token's own value v of its kv head.

    Exclusive self attention: y - (y . v^) v^, v^ = v / max(|v|, 1e-12); in #287 in the last 4 layers, in #478 and #1019 in
    all 11. The first token of a document sees only itself, so its output becomes 0. No parameters. (B, T, H, K) -> the
    same. Raises ValueError where last is below 1 or above the number of layers.

    last (layers): it acts in so many of the last ones only; default: all
    """

    source = "openai/parameter-golf #287, #478"
    revision = 2  # 2: the least length is the sources' 1e-12, no longer 1e-6

    def __init__(self, shape: Shape, *, last: int | None = None) -> None:
        super().__init__()
        if last is not None and not 1 <= last <= shape.n_layers:
            raise ValueError(
                f"last = {last} of {shape.n_layers} layers; choose 1 to {shape.n_layers}, or leave it out for all"
            )
        self.acts = last is None or shape.layer >= shape.n_layers - last

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the same share of a smaller model's layers, at least one."""
        share = len(small["layers"]) / len(full["layers"])
        return {} if choice["last"] is None else {"last": max(1, round(value_of(choice, "last", int) * share))}

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        if not self.acts:
            return y_BTHK
        unit_BTG1K = F.normalize(v_BTGK, dim=-1, eps=EPS).unsqueeze(3)
        y_BTGRK = y_BTHK.unflatten(2, (v_BTGK.shape[2], -1))
        along = (y_BTGRK * unit_BTG1K).sum(-1, keepdim=True)
        out: Tensor = (y_BTGRK - along * unit_BTG1K).flatten(2, 3).to(y_BTHK.dtype)
        return out
