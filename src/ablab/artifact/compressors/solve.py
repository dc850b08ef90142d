"""GPTQ without an inverse: one Cholesky factor of the Hessian, and columns rounded one after another against it.

Names: n matrices at once, R rows (outputs), C columns (inputs). With H = M M^T, M upper triangular in the order of rounding,
the error tr((W - Q) H (W - Q)^T) is |(W - Q) M|^2, and the column j that makes its part of it zero is
w_j + sum_{i<j} (w_i - q_i) M_ij / M_jj: rounded, that is GPTQ's column (Frantar et al. 2022, 2210.17323) in the form of LDLQ
(Chee et al. 2023, 2307.13304, theorem 6). It needs neither H^-1 nor its factor, two thirds of the usual arithmetic. M is a
lower Cholesky factor read backwards, so columns lie here in the opposite order and the last one is rounded first.
Everything is fp64: numbers of codes then hang on exact ties alone, not on threads or blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ablab.model.parts.rounding import most

MOST_DAMP = 1e3  # of the mean diagonal: a Hessian that needs more holds no numbers
ROWS_AT_ONCE = 2**23  # numbers of weights, of which there are a few copies


@dataclass(frozen=True)
class How:
    """How a matrix is rounded against its Hessian. Raises ValueError for numbers out of range.

    damp (share): of the mean diagonal over living columns, added to the whole diagonal; raised tenfold, and said, until a
        factor exists
    act_order: columns by falling diagonal, else as they stand
    block (columns): per matrix product; it changes the speed and nothing else
    """

    damp: float = 0.01
    act_order: bool = True
    block: int = 128

    def __post_init__(self) -> None:
        if self.damp <= 0:
            fault = f"solver.damp = {self.damp} leaves a singular Hessian as it is"
            raise ValueError(f"{fault}; choose a positive number, 0.01 as usual")
        if self.block < 1:
            raise ValueError(f"solver.block = {self.block} holds no column; choose 1 or more, 128 as usual")


class Solved(NamedTuple):
    """Codes (n, R, C), int8 up to 8 bits and int16 above, and the damping that each of the n matrices needed."""

    codes_nRC: Tensor
    damps: list[float]


def dead_columns(h_nCC: Tensor) -> Tensor:
    """Find dead inputs, bool (n, C): those that were never anything but 0."""
    return h_nCC.diagonal(dim1=-2, dim2=-1) == 0


def solve(w_nRC: Tensor, h_nCC: Tensor, scale_nR1: Tensor, bits: int, how: How) -> Solved:
    """Round n matrices of one size, each against the Hessian of its inputs.

    A column that is dead weighs nothing in H and gets code 0. ValueError for a Hessian that is not finite or not positive.
    """
    n, rows, columns = w_nRC.shape
    factor_nCC = torch.empty(n, columns, columns, dtype=torch.float64, device=h_nCC.device).mT  # as LAPACK lays it
    orders, damps, dead_nC = [], [], dead_columns(h_nCC)
    for h_CC, dead_C, factor_CC in zip(h_nCC, dead_nC, factor_nCC):
        order_C = torch.arange(columns, device=h_CC.device)
        if how.act_order:
            order_C = torch.argsort(h_CC.diagonal().masked_fill(dead_C, 1), descending=True, stable=True)
        orders.append(order_C.flip(0))
        damps.append(_factor(h_CC, dead_C, orders[-1], how.damp, factor_CC))
    codes_nRC = torch.empty(w_nRC.shape, dtype=torch.int8 if bits <= 8 else torch.int16, device=h_nCC.device)
    step = max(1, ROWS_AT_ONCE // (n * columns))
    for start in range(0, rows, step):  # rows hang on nothing but the factor
        end = min(start + step, rows)
        v_nCR = factor_nCC.new_empty(n, columns, end - start)
        for i, order_C in enumerate(orders):
            v_RC = w_nRC[i, start:end].double() / scale_nR1[i, start:end].double()
            torch.index_select(v_RC.masked_fill(dead_nC[i], 0).mT.contiguous(), 0, order_C, out=v_nCR[i])
        for i, rounded_CR in enumerate(_rounded(v_nCR, factor_nCC, most(bits), how.block)):
            codes_nRC[i, start:end] = rounded_CR.index_select(0, orders[i].argsort()).mT
    return Solved(codes_nRC, damps)


def _factor(h_CC: Tensor, dead_C: Tensor, order_C: Tensor, damp: float, out_CC: Tensor) -> float:
    """Write the unit lower factor of the damped Hessian into out_CC (column j divided by L_jj); returns the damping.

    Dead columns get a diagonal of 1 and stay out of the mean, or they would damp the living ones.
    """
    living_C = h_CC.diagonal()[~dead_C].double()
    mean = living_C.mean() if len(living_C) else living_C.new_ones(())
    here_CC = h_CC.index_select(0, order_C).index_select(1, order_C).double()
    bare_C = here_CC.diagonal().masked_fill(dead_C[order_C], 1.0)
    while damp <= MOST_DAMP:
        here_CC.diagonal().copy_(bare_C + damp * mean)
        lower_CC, fault = torch.linalg.cholesky_ex(here_CC)
        if not int(fault) and bool(lower_CC.diagonal().isfinite().all()):
            torch.div(lower_CC, lower_CC.diagonal(), out=out_CC)
            return damp
        damp *= 10
    if not bool(h_CC.isfinite().all()):
        raise ValueError("a Hessian is not finite; calibrate with weights that compute finite numbers")
    fault = f"a Hessian is not positive, and damping up to {MOST_DAMP:g} of its mean diagonal does not make it so"
    raise ValueError(f"{fault}; give sums of squares of inputs, as calibration makes them")


def _rounded(v_nCR: Tensor, unit_nCC: Tensor, reach: int, block: int) -> Tensor:
    """Round columns in units of their row's scale to codes, the last first; errors are carried on by the unit lower factor."""
    error_nCR, columns = torch.empty_like(v_nCR), v_nCR.shape[1]
    for end in range(columns, 0, -block):
        start = max(0, end - block)
        here_nbR, wrong_nbR = v_nCR[:, start:end], error_nCR[:, start:end]
        target_nbR = torch.baddbmm(here_nbR, unit_nCC[:, end:, start:end].mT, error_nCR[:, end:])
        carry_nbb = unit_nCC[:, start:end, start:end].mT.contiguous()
        for j in range(end - start - 1, -1, -1):
            one = slice(j, j + 1)
            t_n1R = torch.baddbmm(target_nbR[:, one], carry_nbb[:, one, j + 1 :], wrong_nbR[:, j + 1 :])
            torch.sub(here_nbR[:, one], t_n1R.round_().clamp_(-reach, reach), out=wrong_nbR[:, one])
    return (v_nCR - error_nCR).round_()
