"""The rotation of queries and keys: y = x cos + rot(x) sin, rot([a, b]) = [-b, a], by the angle +place * freq.

The convention of every rotation here, stated once: the planes are (j, j + R) for R frequencies (half-split, as NeoX,
Hugging Face and Megatron have it), turned by the positive angle; a score depends on the difference of places alone.
The interleaved convention pairs (2j, 2j + 1): it is this one after the channels are permuted (`interleaved`). GRAPE's and
TPA's own code turn by the negative angle: it is this one after the halves are exchanged (`exchanged`), and no learned
frequency could flip the sign, being exp(log_freq) > 0. `in_heads` applies either to a checkpoint. Angles, cosines and
sines are fp32 or better whatever the input is.
"""

from __future__ import annotations

import torch

from ablab.model.parts.context import Context


def check(head_dim: int, **positive: float) -> None:
    """Refuse head_dim channels that make no pairs, or a named number that is not positive."""
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}, but a rotation needs pairs of channels; make head_dim even")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} is {value:g}; give {name} > 0")


def frequencies(rotated: int, theta: float) -> torch.Tensor:
    """Compute freq_j = theta^(-2j/rotated), j < rotated/2, fp64 on the CPU."""
    return theta ** (-2.0 * torch.arange(rotated // 2, dtype=torch.float64, device="cpu") / rotated)


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


def turn(
    q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, freq: torch.Tensor, pos_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the first 2R channels of q and k by pos * freq; freq is (R,) or one row for each kv head (G, R).

    Heads share the frequencies of their kv head, so that a score depends on the distance alone. Differentiable in all
    of q, k, freq.
    """
    with torch.no_grad():
        cos, sin = _table(freq, pos_BT)
    if not torch.is_grad_enabled():
        return turned(q_BTHK, cos, sin), turned(k_BTGK, cos, sin)
    return _Turn.apply(q_BTHK, freq, pos_BT, cos, sin), _Turn.apply(k_BTGK, freq, pos_BT, cos, sin)


def turn_by(
    q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, freq_R: torch.Tensor, phase_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate q and k by phase * freq, where the phase is any number: differentiable in it too.

    Angles are taken in fp64, because a phase is a long sum; cosines and sines have the type of freq.
    """
    angle = phase_BT.to(torch.float64)[..., None, None] * freq_R.to(torch.float64)
    cos, sin = angle.cos().to(freq_R.dtype), angle.sin().to(freq_R.dtype)
    return turned(q_BTHK, cos, sin), turned(k_BTGK, cos, sin)


def _table(freq: torch.Tensor, pos_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute cos and sin, (B|1, T, G|1, R), of every place times every frequency.

    An eager CPU takes them once for each distinct place and looks them up. That reads the longest document on the host,
    which a GPU would wait for, and which makes a new graph of a compiled layer for every new length: there, as for one step
    of decoding (the places before it are nobody's), they are taken element by element, to the same bits.
    """
    if pos_BT.shape[1] == 1 or not pos_BT.is_cpu or torch.compiler.is_compiling():
        angle = pos_BT.to(freq.dtype)[..., None, None] * freq.reshape(1, 1, -1, freq.shape[-1])
        return angle.cos(), angle.sin()
    place = torch.arange(int(pos_BT.max()) + 1, device=pos_BT.device)
    angle = place.to(freq.dtype)[:, None, None] * freq.reshape(1, -1, freq.shape[-1])
    cos, sin = angle.cos(), angle.sin()
    if pos_BT.shape[1] == len(place) and bool((pos_BT == place).all()):
        return cos[None], sin[None]
    return cos[pos_BT], sin[pos_BT]


class _Turn(torch.autograd.Function):
    """y = R(pos * freq) x. d freq_j = sum pos * (x_j dx_{j+R} - x_{j+R} dx_j): a rotation keeps the cross product."""

    @staticmethod
    def forward(
        ctx: Context, x: torch.Tensor, freq: torch.Tensor, pos_BT: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, freq, pos_BT, cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, freq, pos_BT, cos, sin = ctx.saved_tensors
        dx, dfreq = turned(dy, cos, -sin), None
        if ctx.needs_input_grad[1]:
            r, g = cos.shape[-1], cos.shape[-2]
            x1, x2 = x[..., :r].to(cos.dtype), x[..., r : 2 * r].to(cos.dtype)
            d1, d2 = dx[..., :r].to(cos.dtype), dx[..., r : 2 * r].to(cos.dtype)
            cross = (x1 * d2 - x2 * d1).unflatten(2, (g, -1)).sum(3)
            dfreq = torch.einsum("bt,btgr->gr", pos_BT.to(cos.dtype), cross).reshape(freq.shape)
        return dx, dfreq, None, None, None


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the first 2R channels of x_BTHK by angles whose cosines and sines are (B|1, T, G|1, R)."""
    r, groups = cos.shape[-1], cos.shape[-2]
    if groups > 1 and x.shape[2] != groups:
        cos, sin = (t.repeat_interleave(x.shape[2] // groups, dim=-2) for t in (cos, sin))
    x1, x2 = x[..., :r], x[..., r : 2 * r]
    y = [x1 * cos - x2 * sin, x2 * cos + x1 * sin]
    return torch.cat([*(t.to(x.dtype) for t in y), x[..., 2 * r :]], dim=-1)
