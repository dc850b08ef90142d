"""What every module of the decoder is that owns numbers or has something to say while the model is built and used."""

from __future__ import annotations

from torch import nn

from ablab.core.rng import Draw


class Part(nn.Module):
    """A module of the decoder, at rest: it draws nothing, asks for nothing and has nothing to say.

    Whatever owns a parameter is a Part: that is how a parameter gets its role and its first value.
    """

    role = "scalar"  # of its parameters of two dimensions and more: matrix, embedding, head or scalar
    used = 1.0  # the share of its numbers that one token meets
    border = False  # a compiled layer leaves it as it is
    whole_batch = False  # a batch must go through in one piece

    def __init__(self, *_: object) -> None:
        """Take whatever a lever is made with (a Shape): at rest it needs none of it."""
        super().__init__()

    def init(self, draw: Draw) -> None:
        """Fill its own parameters and buffers, each from the stream of its name; what stays unset is seen."""

    def declare(self, seq_len: int) -> None:
        """Hear the length that a stage evaluates at, and the trained one again afterwards."""

    def within(self, last: int) -> None:
        """Refuse a place `last` that cannot be read."""

    def notes(self) -> list[str]:
        """List what a reader of the report must know of these settings."""
        return []
