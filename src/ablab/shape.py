"""The sizes a part of the model may read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of the model, seen from one layer.

    `window` is the number of tokens a query sees, the current one included (i - j < window); None is full attention.
    `layer` is the 0-based index of the layer that owns the part; -1 outside the layers.
    """

    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    seq_len: int
    vocab_size: int
    n_layers: int
    window: int | None = None
    layer: int = -1
    init_std: float = 0.02

    @property
    def out_std(self) -> float:
        """Init std of the two projections that write into the residual stream: init_std / sqrt(2 n_layers)."""
        return self.init_std / (2 * self.n_layers) ** 0.5
