"""YaRN: rotary embedding stretched by parts."""

from __future__ import annotations

import math

import torch

from ablab.core.rng import Draw
from ablab.model.parts.rotation import frequencies, turn
from ablab.model.parts.turns import check
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class Yarn(Position):
    """Rotary embedding by gpt-oss's YaRN: fast planes turn as before, slow ones `factor` times slower, and all are longer.

    Plane j < R of R = head_dim / 2 has RoPE's frequency f_j = theta^(-j/R), of which the share (j - low) / (high - low),
    within 0 and 1, is divided by factor. `low` is the plane that turns `fast` times within `original` tokens, `high` the
    one that turns `slow` times: R ln(original / (2 pi turns)) / ln(theta), not rounded to whole planes (gpt-oss; Hugging
    Face rounds unless told not to). q and k are each multiplied by 0.1 ln(factor) + 1. The defaults are gpt-oss's; it
    refuses a ramp that reaches beyond the planes, which here is cut off. The length of the tensor at hand never matters.
    ValueError where head_dim is odd, theta is not above 1, factor is below 1, or fast is not above slow.

    theta: base of the frequencies
    factor: how many times slower slow planes turn
    original (tokens): the length that turns are counted in
    fast (turns): planes that turn more often than this within `original` tokens stay as they are
    slow (turns): planes that turn less often than this are slowed down whole
    """

    source = "OpenAI gpt-oss, 2025; Peng et al. 2023 (YaRN), arXiv 2309.00071, sections 3.2 and 3.4"
    turns = True
    relative = True
    alike = True  # every head turns by the same angles: a decoder may turn what keys are made of
    freq: torch.Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        theta: float = 150000.0,
        factor: float = 32.0,
        original: int = 4096,
        fast: float = 32.0,
        slow: float = 1.0,
    ) -> None:
        super().__init__()
        check(shape.head_dim, original=original, slow=slow)
        if theta <= 1:
            raise ValueError(f"theta is {theta:g}, but slower planes need a base above 1; give theta > 1")
        if factor < 1:
            raise ValueError(f"factor is {factor:g}, but a context is stretched by 1 or more; give factor >= 1")
        if fast <= slow:
            raise ValueError(f"fast is {fast:g} and slow {slow:g}, which leaves no ramp; give fast > slow")
        self.theta, self.factor, self.original, self.fast, self.slow = theta, factor, original, fast, slow
        self.length = 0.1 * math.log(factor) + 1
        self.register_buffer("freq", torch.empty(shape.head_dim // 2), persistent=False)

    def init(self, draw: Draw) -> None:
        """Set the frequencies; nothing is drawn."""
        planes = len(self.freq)
        low, high = (
            planes * math.log(self.original / (2 * math.pi * turns)) / math.log(self.theta)
            for turns in (self.fast, self.slow)
        )
        freq = frequencies(2 * planes, self.theta)
        slowed = ((torch.arange(planes, dtype=freq.dtype) - low) / (high - low)).clamp(0, 1)
        self.freq.copy_(freq * (1 - slowed) + freq / self.factor * slowed)

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k = turn(q_BTHK, k_BTGK, self.freq, p)
        return q * self.length, k * self.length
