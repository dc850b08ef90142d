"""Rotations by a phase, and those of other programs.

The interleaved convention pairs (2j, 2j + 1): it is ours (`ablab.model.parts.rotation`) after the channels are permuted
(`interleaved`). GRAPE's and TPA's own code turn by the negative angle: it is ours after the halves are exchanged
(`exchanged`), and no learned frequency could flip the sign, being exp(log_freq) > 0. `in_heads` applies either to a checkpoint.
"""

from __future__ import annotations

import torch

from ablab.model.parts.rotation import turned


def check(head_dim: int, **positive: float) -> None:
    """Refuse head_dim channels that make no pairs, or a named number that is not positive."""
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}, but a rotation needs pairs of channels; make head_dim even")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} is {value:g}; give {name} > 0")


def interleaved(channels: int) -> torch.Tensor:
    """Return the permutation that takes interleaved channels to halves: x[..., p] has pair (2j, 2j+1) at (j, j + R).

    Its argsort takes halves to interleaved channels.
    """
    return torch.arange(channels).view(-1, 2).t().flatten()


def exchanged(channels: int) -> torch.Tensor:
    """Return [R .. 2R-1, 0 .. R-1], its own inverse: turned by -angle as (a, b), x turns by +angle as (b, a)."""
    return torch.arange(channels).roll(-(channels // 2))


def in_heads(weight: torch.Tensor, order_K: torch.Tensor) -> torch.Tensor:
    """Return a checkpoint's tensor with the channels of every head in another order, (H K, ...) or (K,) -> the same.

    Of a layer's q and k alike: weights, biases and the weights of their norms. Scores stay what they were, because both
    sides of q.k are permuted; v and the output matrix are left alone. ValueError where the rows are not whole heads.
    """
    if len(weight) % len(order_K):
        raise ValueError(f"{len(weight)} rows are no whole heads of {len(order_K)}; give the tensor of q or of k alone")
    out: torch.Tensor = weight.unflatten(0, (-1, len(order_K)))[:, order_K].flatten(0, 1)
    return out


def turn_by(
    q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, freq_R: torch.Tensor, phase_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate q and k by phase * freq, where the phase is any number: differentiable in it too.

    Angles are taken in fp64, because a phase is a long sum; cosines and sines have the type of freq.
    """
    angle = phase_BT.to(torch.float64)[..., None, None] * freq_R.to(torch.float64)
    cos, sin = angle.cos().to(freq_R.dtype), angle.sin().to(freq_R.dtype)
    return turned(q_BTHK, cos, sin), turned(k_BTGK, cos, sin)
