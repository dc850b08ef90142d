"""The sizes a part of the model may read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of the model, seen from one layer.

    `window` is the number of tokens a query sees, the current one included (i - j < window); None is full attention.
    `layer` is the 0-based index of the layer that owns the part; -1 outside the layers. `bias`: linear layers of the
    layers have biases unless a lever says otherwise. `n_experts` is what a router chooses from; 0 where nothing is
    routed. `n_passes` counts the layers that a forward pass meets, loops unrolled.
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
    out_init_std: float | None = None
    bias: bool = False
    n_experts: int = 0
    norm_eps: float = 1e-5
    n_passes: int = 0

    @property
    def out_std(self) -> float:
        """Init std of the projections that write into the residual stream: init_std / sqrt(2 n_layers) unless given."""
        return self.init_std / (2 * self.n_layers) ** 0.5 if self.out_init_std is None else self.out_init_std
