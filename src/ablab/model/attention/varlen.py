"""Windows and documents by the hand-written flash kernel of a GPU in one launch, over the flat batch.

The kernel is that of `torch.nn.attention.varlen.varlen_attn` (FlashAttention 2; 3 where
`torch.nn.attention.activate_flash_attention_impl` put it behind the same operators). Its operators are called by their own
names: varlen_attn's backward drops the gradient of the log-sum-exp that a sink needs, without a word, and its arguments
differ between torch 2.11 (no enable_gqa) and 2.13. Sinks are `stock`'s, exact by the corrected log-sum-exp; columns are lifted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ablab.model.attention.documents import Added
from ablab.model.attention.lifted import centres, lifted
from ablab.model.attention.stock import Stock, causal

_aten = torch.ops.aten
WIDEST = 256  # channels of a head, lifted columns included
TYPES = (torch.bfloat16, torch.float16)


class Launch(NamedTuple):
    """The stretches of the flat batch that attend to themselves, and how.

    edges: their first tokens and the end, int32 (n + 1,). longest: tokens of the longest, or more. left: tokens before its own
    that a query sees, -1 for all.
    """

    edges: Tensor
    longest: int
    left: int
    scale: float


Forward = Callable[[Tensor, Tensor, Tensor, Launch], tuple[Tensor, Tensor, list[Tensor]]]  # of q, k, v
# of d, q, k, v, out, log-sum-exp and what was kept
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor], Launch], tuple[Tensor, Tensor, Tensor]
]


class Kernel(NamedTuple):
    """A causal kernel over q (N, H, K), k, v (N, G, K): forward gives out, lse (H, N) and what backward wants kept."""

    forward: Forward
    backward: Backward


def varlen(q: Tensor, k: Tensor, v: Tensor, added: Added, scale: float, by: Kernel | None = None) -> Tensor:
    """Attend, out (B, T, H, K); time is linear in T under a window. by: the kernel, else torch's own.

    ValueError for types that it does not take, or heads that with their columns are wider than 256.
    """
    if by is None and q.dtype not in TYPES:
        raise ValueError(f"executor 'varlen' has no kernel for {q.dtype}; use bf16 or fp16, or executor 'lift'")
    documents, columns = added.documents, added.columns
    rival = None if added.sink_H is None else added.sink_H.expand(q.shape[:3])
    if columns is not None:
        centre = centres(columns.w.detach(), documents.pos_BT)
        q, k, rival = lifted(q, k, columns, centre, centre, rival, scale)
    if q.shape[3] > WIDEST:
        fault = f"executor 'varlen' has no kernel for heads of {q.shape[3]} channels, columns included"
        raise ValueError(f"{fault}; use at most {WIDEST}, or executor 'lift'")
    launch = Launch(documents.edges, documents.longest, -1 if added.window is None else added.window - 1, scale)
    silent, shape = None if rival is None else rival.flatten(0, 1)[None], (*v.shape[:2], q.shape[2], v.shape[3])
    q, k, v = (x.flatten(0, 1)[None] for x in (q, k, v))
    return causal(q, k, v, silent, scale, _of(by or FLASH, launch)).view(shape)


def _of(kernel: Kernel, launch: Launch) -> Stock:
    """Return this launch of the kernel as one over a batch (1, H, N, K) of one row."""

    def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, list[Tensor]]:
        out, lse, kept = kernel.forward(_flat(q), _flat(k), _flat(v), launch)
        if lse.shape != (q.shape[1], q.shape[2]):
            fault = f"gave a log-sum-exp of {tuple(lse.shape)} for {q.shape[1]} heads of {q.shape[2]} tokens"
            raise RuntimeError(f"the flash kernel of torch {torch.__version__} {fault}; use executor 'flex'")
        return out.transpose(0, 1)[None], lse[None], kept

    def backward(
        d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kept: list[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out = _flat(q), _flat(k), _flat(v), _flat(out)
        dq, dk, dv = kernel.backward(_flat(d), q, k, v, out, lse[0].contiguous(), kept, launch)
        return _batch(dq), _batch(dk), _batch(dv)

    return Stock(forward, backward)


def _flat(x_1HNK: Tensor) -> Tensor:
    return x_1HNK[0].transpose(0, 1)


def _batch(x_NHK: Tensor) -> Tensor:
    return x_NHK.transpose(0, 1)[None]


def _flash(q: Tensor, k: Tensor, v: Tensor, launch: Launch) -> tuple[Tensor, Tensor, list[Tensor]]:
    sizes, window = _asked(launch)
    out, lse, state, unused, _ = _aten._flash_attention_forward(
        q, k, v, *sizes, 0.0, launch.left < 0, False, scale=launch.scale, **window
    )
    return out, lse, [state, unused]


def _flash_backward(
    d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kept: list[Tensor], launch: Launch
) -> tuple[Tensor, Tensor, Tensor]:
    sizes, window = _asked(launch)
    dq, dk, dv = _aten._flash_attention_backward(
        d, q, k, v, out, lse, *sizes, 0.0, launch.left < 0, *kept, scale=launch.scale, **window
    )
    return dq, dk, dv


def _asked(launch: Launch) -> tuple[tuple[Tensor, Tensor, int, int], dict[str, int]]:
    """Return the operators' arguments; with a window it is the zero to the right that hides what is ahead, not `causal`."""
    sizes = (launch.edges, launch.edges, launch.longest, launch.longest)
    return sizes, {"window_size_left": launch.left, "window_size_right": 0}


FLASH = Kernel(_flash, _flash_backward)
