"""Rows cut out of the flat batch and laid back, with gradients that never scatter."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ablab.model.parts.context import Context


def take(x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Take x[index] along the first axis; the gradient is d[back], zero where not `real`: the caller knows the way back."""
    out: torch.Tensor = _Take.apply(x, index, back, real)
    return out


def blocks(x: torch.Tensor, block: int, before: int, ahead: int = 0) -> torch.Tensor:
    """Cut (N, ...) -> (n, before + block, ...): blocks of rows with the `before` rows ahead of them, zeros beyond both
    ends.

    The first block starts at row `ahead` of x; what it needs ahead of x is zeros.
    """
    out: torch.Tensor = _Blocks.apply(x, block, before, ahead)
    return out


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(back, real)
        ctx.axes = index.ndim
        return x[index]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        back, real = ctx.saved_tensors
        d = d.flatten(0, ctx.axes - 1)
        return d[back] * real.view(-1, *[1] * (d.ndim - 1)), None, None, None


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: torch.Tensor, block: int, before: int, ahead: int) -> torch.Tensor:
        n = -(-(len(x) - ahead) // block)
        front, behind = before - ahead, n * block + ahead - len(x)
        ctx.sizes = (len(x), block, before, front)
        padded = F.pad(x, (*[0, 0] * (x.ndim - 1), front, behind)) if front or behind else x
        # A copy where blocks overlap is made by whoever needs one: this is a view.
        return padded.unfold(0, before + block, block).movedim(-1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Context, d: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        length, block, before, front = ctx.sizes
        if not before:
            return d.flatten(0, 1)[:length], None, None, None
        n, pieces = len(d), -(-(before + block) // block)
        total = d.new_zeros((n + pieces - 1, block, *d.shape[2:]))
        for piece in range(pieces):
            part = d[:, piece * block : (piece + 1) * block]
            total[piece : piece + n, : part.shape[1]] += part
        return total.flatten(0, 1)[front : front + length], None, None, None
