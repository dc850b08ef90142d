"""Nearest orthogonal matrices by products alone: composed odd quintics of the singular values, for whole stacks at once.

Each step is X <- a X + b (X X^T) X + c (X X^T)^2 X: singular vectors stay, each singular value s becomes a s + b s^3 + c s^5.
`newton_schulz` repeats one triple (Jordan 2024, Muon); `polar_express` gives the minimax triple of each step (Amsel, Persson,
Musco and Gower 2025, 2505.16932, section 3 and appendix G).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Triple = tuple[float, float, float]

JORDAN: Triple = (3.4445, -4.7750, 2.0315)
CHUNK_BYTES = (
    1 << 21
)  # of one chunk on a CPU: with its products it must stay in the cache, and small matrices need company
CHUNK_ELEMENTS = 1 << 30  # of one chunk elsewhere: one launch for all of a shape, short of a 4 GiB scratch
MOST_STEPS = 100  # a dozen reach every digit of fp64
HIGHEST = 3.0  # a minimax composition stays below 2; beyond 3 the next quintic explodes


def newton_schulz(steps: int = 5) -> list[Triple]:
    """Return `steps` times Jordan's triple: steep at zero, it ends about 1 (0.68 to 1.13). ValueError below 1 step."""
    _at_least_one(steps)
    return [JORDAN] * steps


def polar_express(steps: int = 5, *, lower: float = 1e-3, cushion: float = 0.02, safety: float = 0.02) -> list[Triple]:
    """Compute greedy minimax triples for singular values in [lower, 1]; the defaults give the published table of five to 1e-13.

    Each triple is the best on [max(l, cushion u), u], recentred on 1 over [l, u]. All but the last take x / (1 + safety)
    INSIDE the recursion, so that the next interval is the one that really comes out; then l <- p(l), u <- 2 - l. The
    published table is commented "cushion=2": only 0.02 gives its numbers. ValueError for settings outside their range.
    """
    _at_least_one(steps)
    if not 0 < lower < 1:
        raise ValueError(f"lower = {lower} is no share of the interval; choose a number above 0 and below 1")
    if not 0 <= cushion < 1:
        raise ValueError(f"cushion = {cushion} is no share of the interval; choose a number from 0 to below 1")
    if safety < 0:
        raise ValueError(f"safety = {safety} is negative; choose 0 or more")
    triples, l, u = [], lower, 1.0
    for step in range(steps):
        triple = _minimax(max(l, cushion * u), u)
        centre = 2 / (value_at(triple, l) + value_at(triple, u))
        triple = (triple[0] * centre, triple[1] * centre, triple[2] * centre)
        if step < steps - 1:
            triple = damped(triple, safety)
        triples.append(triple)
        l = float(value_at(triple, l))
        u = 2 - l
    return triples


def damped(triple: Triple, safety: float) -> Triple:
    """Return the triple of p(x / (1 + safety))."""
    a, b, c = triple
    return a / (1 + safety), b / (1 + safety) ** 3, c / (1 + safety) ** 5


def value_at(triple: Triple, x: float) -> float:
    """Compute a x + b x^3 + c x^5; `x` may be an array."""
    a, b, c = triple
    return x * (a + x * x * (b + x * x * c))


def check(coefficients: Sequence[Sequence[float]], safety: float = 0.0) -> list[Triple]:
    """Check the coefficients as triples on every singular value that can come, (0, 1 / (1 + safety)], before training.

    Raises ValueError where there are none, where one is no triple, where a value leaves [-3, 3] at some step or where it
    ends at zero or below: there the direction would be lost or reversed.
    """
    if not coefficients:
        raise ValueError("coefficients is empty; give at least one triple, or none for the generated ones")
    if len(coefficients) > MOST_STEPS:
        raise ValueError(f"coefficients has {len(coefficients)} triples; give at most {MOST_STEPS}")
    triples: list[Triple] = []
    for i, triple in enumerate(coefficients):
        if len(triple) != 3 or not all(math.isfinite(part) for part in triple):
            raise ValueError(
                f"coefficients[{i}] = {list(triple)} is no triple of numbers; give a, b, c of step {i + 1}"
            )
        triples.append((float(triple[0]), float(triple[1]), float(triple[2])))
    top = (1 + 1e-6) / (1 + safety)  # the norm is rounded
    start = np.concatenate([np.geomspace(1e-6, 1e-2, 401), np.linspace(1e-2, top, 4001)])
    x = start
    for i, triple in enumerate(triples):
        with np.errstate(all="ignore"):
            x = np.asarray(value_at(triple, x))  # type: ignore[arg-type]
        if (worst := int(np.abs(x).argmax())) >= 0 and not abs(x[worst]) <= HIGHEST:
            raise ValueError(
                f"coefficients diverge: a singular value of {start[worst]:.4g} stands at {x[worst]:.4g} after step "
                f"{i + 1} of {len(triples)}; raise safety, or give triples that hold up to 1 / (1 + safety)"
            )
    if (worst := int(x.argmin())) >= 0 and x[worst] <= 0:
        raise ValueError(
            f"coefficients lose directions: a singular value of {start[worst]:.4g} ends at {x[worst]:.4g}, not above "
            "zero; give triples whose composition stays positive, or none"
        )
    return triples


def orthogonalise(
    stack_nRC: Tensor,
    coefficients: Sequence[Triple],
    *,
    safety: float = 0.02,
    floor: float = 1e-6,
    products: torch.dtype | None = None,
) -> Tensor:
    """Move every matrix of a stack (n, R, C), or one (R, C), towards its polar factor; a new tensor of the same shape.

    First X = M / (||M||_F (1 + safety) + floor), the norm in the stack's own type; the products in `products` (the stack's
    type where None), the result in the stack's. A matrix of zeros stays zeros. Products are of the smaller side: for tall
    matrices X <- X (a + b A + c A^2) with A = X^T X, the transposed iteration without a transposed copy. Of matrices at
    least twice as long as wide several steps act on A alone before X is made again, half the work, except in bf16.
    """
    stack = stack_nRC if stack_nRC.dim() == 3 else stack_nRC[None]
    n, rows, cols = stack.shape
    kind = products or stack.dtype
    out = torch.empty(stack.shape, dtype=stack.dtype, device=stack.device)
    size, side = min(n, chunk(rows, cols, stack)), min(rows, cols)
    blocks = _blocks(coefficients, long=max(rows, cols) >= 2 * side and kind != torch.bfloat16)
    # Products are written into the same few buffers: fresh ones would be fresh pages at every step.
    wide = [torch.empty((size, rows, cols), dtype=kind, device=stack.device) for _ in range(2)]
    small = [torch.empty((size, side, side), dtype=kind, device=stack.device) for _ in range(4)]
    for part, target in zip(stack.split(size), out.split(size), strict=True):
        k = part.shape[0]
        x, y, *rest = (buffer[:k] for buffer in (*wide, *small))
        norm_n = torch.linalg.vector_norm(part.reshape(k, -1), dim=1)
        scale_n11 = norm_n.mul_(1 + safety).add_(floor).reciprocal_().view(k, 1, 1)
        x.copy_(part * scale_n11) if kind != stack.dtype else torch.mul(part, scale_n11, out=x)
        for i, block in enumerate(blocks):
            last = target if i == len(blocks) - 1 and kind == stack.dtype else y
            _advance(x, block, rest, last)
            x, y = last, x
        if kind != stack.dtype:
            target.copy_(x)
    return out if stack_nRC.dim() == 3 else out[0]


def _blocks(coefficients: Sequence[Triple], *, long: bool) -> list[Sequence[Triple]]:
    """Split the steps where X itself is made: each alone, or of long matrices two, then three at a time.

    A = X X^T squares the singular values, so a long way in A alone loses the small ones: all five at once cost a part in
    1000 in fp32 on matrices with singular values down to 1e-7; two and three are as exact as one by one.
    """
    if not long:
        return [[triple] for triple in coefficients]
    return [part for at in range(-1, len(coefficients), 3) if (part := coefficients[max(0, at) : at + 3])]


def _advance(x_nRC: Tensor, block: Sequence[Triple], small: list[Tensor], out: Tensor) -> None:
    """Take several steps of X into `out`: B = a + b A + c A^2 of each step is gathered in Q while A <- B A B; then X <- Q X."""
    tall = x_nRC.shape[1] > x_nRC.shape[2]
    a, b, q, t = small
    torch.bmm(x_nRC.mT, x_nRC, out=a) if tall else torch.bmm(x_nRC, x_nRC.mT, out=a)
    for i, (linear, cubic, quintic) in enumerate(block):
        torch.baddbmm(a, a, a, beta=cubic, alpha=quintic, out=b)
        if (
            x_nRC.dtype == torch.bfloat16
        ):  # a + b s^2 + c s^4 cancels: a X is added in the accumulator, not rounded into B
            left, right = (x_nRC, b) if tall else (b, x_nRC)
            torch.baddbmm(x_nRC, left, right, beta=linear, out=out)
            return
        b.diagonal(dim1=1, dim2=2).add_(linear)  # and no copy of X to accumulate on
        if i < len(block) - 1:
            torch.bmm(b, torch.bmm(a, b, out=t), out=a)
        if i == 0:
            b, q = q, b
        else:
            torch.bmm(b, q, out=t)
            q, t = t, q
    torch.bmm(x_nRC, q, out=out) if tall else torch.bmm(q, x_nRC, out=out)


def chunk(rows: int, cols: int, like: Tensor) -> int:
    """Count the matrices (rows, cols) of the type and on the device of `like` to take at a time.

    On a CPU as many as stay in the cache: all 128 of 128 x 1024 at once are slower than one after another. Elsewhere all.
    """
    if like.device.type == "cpu":
        return max(1, CHUNK_BYTES // (rows * cols * like.element_size()))
    return max(1, CHUNK_ELEMENTS // (rows * cols))


@dataclass(frozen=True)
class Orthogonaliser:
    """Takes a stack of matrices towards its polar factors, by name and settings: what `muon` and `normuon` share.

    polar_express: norm times (1 + safety), plus 1e-6. newton_schulz: Jordan's triple at each step; norm plus 1e-7. fp64
    matrices are multiplied in fp64 whatever `products` says. Raises ValueError for settings that could not act, and for
    coefficients that diverge.

    name: which coefficients: newton_schulz repeats one triple, polar_express has the best one at each step
    steps: of the iteration
    lower: of polar_express: the smallest singular value that it is made for, of a norm of 1
    cushion: of polar_express: what of the interval's upper end a step takes for its lower end at least
    safety: of polar_express: what it allows beyond 1, for rounding
    coefficients: of polar_express: ready triples, one for each step; default: generated from steps, lower, cushion, safety
    products: type of the products; default: as published, bf16 on CUDA and fp32 on a CPU
    """

    name: Literal["newton_schulz", "polar_express"] = "newton_schulz"
    steps: int = 5
    lower: float = 1e-3
    cushion: float = 0.02
    safety: float = 0.02
    coefficients: tuple[tuple[float, ...], ...] | None = None
    products: Literal["fp32", "bf16"] | None = None

    def __post_init__(self) -> None:
        try:
            self.triples  # noqa: B018  made once, so that what cannot be made is heard of here
        except ValueError as error:
            raise ValueError(f"orthogonaliser.{error}") from None

    @functools.cached_property
    def triples(self) -> list[Triple]:
        """The coefficients of each step. ValueError for settings that act on nothing, or outside their range."""
        asked = {name: getattr(self, name) for name in ("steps", "lower", "cushion", "safety")}
        changed = [name for name, value in asked.items() if value != getattr(type(self), name)]
        if self.name == "newton_schulz":
            if self.coefficients is not None:
                raise ValueError('coefficients are not newton_schulz\'s; choose orthogonaliser.name = "polar_express"')
            if idle := [name for name in changed if name != "steps"]:
                cure = 'leave it out or choose orthogonaliser.name = "polar_express"'
                raise ValueError(f"{idle[0]} does nothing for newton_schulz; {cure}")
            return check(newton_schulz(self.steps))
        if self.coefficients is not None:
            # safety still acts, on the norm; the other three would act on nothing.
            if idle := [name for name in changed if name != "safety"]:
                raise ValueError(f"{idle[0]} does nothing where coefficients are given; leave one of the two out")
            if self.safety < 0:
                raise ValueError(f"safety = {self.safety} is negative; choose 0 or more")
            return check(self.coefficients, self.safety)
        made = polar_express(self.steps, lower=self.lower, cushion=self.cushion, safety=self.safety)
        return check(made, self.safety)

    def __call__(self, stack_nRC: Tensor) -> Tensor:
        half = self.products == "bf16" or (self.products is None and stack_nRC.is_cuda)
        kind = torch.bfloat16 if half and stack_nRC.dtype != torch.float64 else stack_nRC.dtype
        safety, floor = (0.0, 1e-7) if self.name == "newton_schulz" else (self.safety, 1e-6)
        return orthogonalise(stack_nRC, self.triples, safety=safety, floor=floor, products=kind)


def _minimax(l: float, u: float) -> Triple:
    """Find the odd quintic nearest to 1 on [l, u] in the largest error, by Remez with its four points known in kind."""
    if l / u >= 1 - 5e-6:  # the interval is a point: the quintic Newton-Schulz step about it
        return 15 / 8 / u, -10 / 8 / u**3, 3 / 8 / u**5
    q, r, error, before = (3 * l + u) / 4, (l + 3 * u) / 4, math.inf, 0.0
    for _ in range(100):
        before = error
        rows = [[x, x**3, x**5, sign] for x, sign in ((l, 1), (q, -1), (r, 1), (u, -1))]
        a, b, c, error = (float(part) for part in np.linalg.solve(np.array(rows), np.ones(4)))
        if abs(before - error) <= 1e-15:
            break
        if (inside := 9 * b * b - 20 * a * c) <= 0:  # the interval is so short that rounding decides: p is 1 there
            break
        root = math.sqrt(inside)  # p' = a + 3 b x^2 + 5 c x^4 vanishes at q and r
        q, r = math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))
    return a, b, c


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps = {steps} orthogonalises nothing; choose at least 1")
    if steps > MOST_STEPS:
        raise ValueError(f"steps = {steps} is more than any matrix needs; choose at most {MOST_STEPS}")
