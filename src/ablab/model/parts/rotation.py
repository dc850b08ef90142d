"""The rotation of queries and keys: y = x cos + rot(x) sin, rot([a, b]) = [-b, a], by the angle +place * freq.

The convention of every rotation here, stated once: the planes are (j, j + R) for R frequencies (half-split, as NeoX,
Hugging Face and Megatron have it), turned by the positive angle; a score depends on the difference of places alone.
Angles, cosines and sines are fp32 or better whatever the input is. Other conventions are in `ablab.model.parts.turns`.
"""

from __future__ import annotations

import torch

from ablab.model.parts.context import Context


def frequencies(rotated: int, theta: float) -> torch.Tensor:
    """Compute freq_j = theta^(-2j/rotated), j < rotated/2, fp64 on the CPU."""
    return theta ** (-2.0 * torch.arange(rotated // 2, dtype=torch.float64, device="cpu") / rotated)


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
