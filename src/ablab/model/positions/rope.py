"""Rotary position embedding."""

from __future__ import annotations

import torch

from ablab.core.lever import Choice, Sizes, value_of
from ablab.core.rng import Draw
from ablab.model.parts.rotation import frequencies, turn
from ablab.model.positions.position import Position
from ablab.model.shape import Shape

NEAR = 1e-3  # of a channel: what a share like 1/3 is off by when it is written with five digits


class Rope(Position):
    """Rotary embedding, whole or partial, with NTK-aware scaling on request.

    The length of the tensor at hand never matters, so cached keys stay valid. Raises ValueError where R is not an even
    number of channels, theta is not positive, or ntk has fewer than 4 to scale.

    theta: base of the frequencies theta^(-2j/R)
    fraction: the share R / head_dim of a head that is rotated, its first channels; the rest carries no position
    ntk: beyond the trained length T, a stage that declares an evaluation length L turns with the base theta *
        (L/T)^(R/(R-2))
    """

    source = "Su et al. 2021, arXiv 2104.09864; NTK: parameter-golf's flag rope_yarn"
    turns = True
    relative = True
    alike = True  # every head turns by the same angles: a decoder may turn what keys are made of
    freq: torch.Tensor

    def __init__(self, shape: Shape, *, theta: float = 10000.0, fraction: float = 1.0, ntk: bool = False) -> None:
        super().__init__()
        rotated = fraction * shape.head_dim
        self.rotated = round(rotated)
        if abs(rotated - self.rotated) > NEAR or self.rotated % 2 or not 2 <= self.rotated <= shape.head_dim:
            pairs = min(max(1, round(rotated / 2)), shape.head_dim // 2)
            raise ValueError(
                f"fraction {fraction:g} of head_dim {shape.head_dim} is {rotated:.9g} channels, but an even number "
                f"from 2 to {shape.head_dim} can be rotated; choose fraction = {2 * pairs / shape.head_dim:.9g}"
            )
        if not theta > 0:
            raise ValueError(f"theta is {theta:g}, but a base is positive; give theta > 0")
        if ntk and self.rotated < 4:
            raise ValueError(
                f"ntk scales by L/T to the power R/(R-2), but R is {self.rotated}; rotate 4 channels or more"
            )
        self.theta, self.ntk, self.trained = theta, ntk, shape.seq_len
        self.declared, self.needs_length = shape.seq_len, ntk
        self.register_buffer("freq", torch.empty(self.rotated // 2), persistent=False)

    def init(self, draw: Draw) -> None:
        """Set the frequencies; nothing is drawn."""
        self._fill()

    def _fill(self) -> None:
        stretch = max(1.0, self.declared / self.trained) if self.ntk else 1.0
        theta = self.theta * stretch ** (self.rotated / (self.rotated - 2)) if stretch > 1.0 else self.theta
        self.freq.copy_(frequencies(self.rotated, theta))

    def declare(self, seq_len: int) -> None:
        """Declare the length that a stage evaluates at; moves the base if `ntk` is on, does nothing otherwise."""
        self.declared = seq_len
        if self.ntk:
            self._fill()

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the nearest share of a narrower head that is pairs of channels; two pairs where there are two, as theta is no
        base of one."""
        fraction = value_of(choice, "fraction", float)
        least = 4 if round(fraction * full["head_dim"]) >= 4 and small["head_dim"] >= 4 else 2
        return {"fraction": max(least, 2 * round(fraction * small["head_dim"] / 2)) / small["head_dim"]}

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return turn(q_BTHK, k_BTGK, self.freq, p)
