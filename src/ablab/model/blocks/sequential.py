"""The plain block."""

from __future__ import annotations

from ablab.model.blocks.block import Block


class Sequential(Block):
    """x + attn(x), then x + mlp(x): the plain pre-norm block."""

    source = "Radford et al. 2019 (GPT-2)"
