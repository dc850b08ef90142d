"""NorMuon: orthogonalised momentum, normalised by neuron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ablab.training.optimizers import orthogonalised
from ablab.training.optimizers.orthogonalised import Aux, Orthogonalised
from ablab.training.orthogonal import Orthogonaliser
from ablab.training.roles import decays, positive

LEAST_EPS = 1e-16  # below, 1 / (eps ||O'||) of a matrix without gradient leaves fp32


@dataclass(frozen=True)
class Decay(orthogonalised.Decay):
    """Decoupled decay of the matrices. Raises ValueError for settings outside their range.

    rate: of the matrices
    taper ([fraction, share]): every decay is whole until that fraction of training, then falls in a line to that share of
        itself, that of aux too; default: whole to the end
    form: plain shrinks W by lr rate; cautious only the entries that the step shrinks too, W O' >= 0 (Chen et al. 2025, arXiv
        2510.12402); modded does so by lr^2 rate sqrt(max(1, rows / cols)) (modded-nanogpt)
    """

    form: Literal["plain", "cautious", "modded"] = "plain"


@dataclass(frozen=True)
class Moment:
    """The running second moment of O. Raises ValueError for settings outside their range.

    over: one value for each row of a matrix, or for each index of its long side (modded-nanogpt)
    beta2: its decay
    eps: keeps its root from zero
    eps_form: added is sqrt(V) + eps (repository and paper); inside sqrt(V + eps) (Megatron fork vpMoE), which holds back rows
        below 1e-5; floor sqrt(max(V, eps)) (KellerJordan/modded-nanogpt)
    """

    over: Literal["rows", "long_side"] = "rows"
    beta2: float = 0.95
    eps: float = 1e-10
    eps_form: Literal["added", "inside", "floor"] = "added"

    def __post_init__(self) -> None:
        decays(**{"second_moment.beta2": self.beta2})
        positive(**{"second_moment.eps": self.eps})
        if self.eps < LEAST_EPS:
            raise ValueError(f"second_moment.eps = {self.eps:g} is lost in fp32; choose {LEAST_EPS:g} or more")


class NorMuon(Orthogonalised):
    """Steps matrices along orthogonalised momentum over its second moment by output row, and all else by AdamW.

    For each matrix (rows, cols) with gradient g: M <- momentum M + (1 - momentum) g; U = (1 - momentum) g + momentum M;
    O the orthogonaliser's answer to U; V <- beta2 V + (1 - beta2) mean(O^2) per row, from zero, no bias correction;
    O' = O / (sqrt(V) + eps), then W <- W (1 - lr decay) - lr O' after a rescaling. Repository zichongli5/NorMuon, with its
    newton_schulz; the paper's algorithm 1 is `nesterov` = false, `rescale` = rms and newton_schulz. Raises ValueError for
    settings outside their range.

    lr: peak learning rate of the matrices
    momentum: decay of the running mean
    nesterov: U as above; false: U is M
    decay: of the matrices, as a number, or with its form and taper
    second_moment: over what V runs, or a table with its settings
    rescale: norm gives O' the norm of O times sqrt(max(1, rows / cols)); rms is the paper's 0.2 sqrt(rows cols) / ||O'||: every
        step's root mean square is then 0.2, and rates are NOT interchangeable between the two
    orthogonaliser: its name, or a table with its settings
    aux: AdamW for all that is no matrix; a number is its lr
    """

    source = "Li et al. 2025, arXiv 2510.05491; Polar Express: Amsel et al. 2025, arXiv 2505.16932"
    revision = 3  # 3: orthogonaliser, second_moment, decay and aux are tables; 2: eps is added to the root

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        decay: Decay = Decay(),
        second_moment: Moment = Moment(),
        rescale: Literal["norm", "rms"] = "norm",
        orthogonaliser: Orthogonaliser = Orthogonaliser("polar_express"),
        aux: Aux = Aux(),
    ) -> None:
        super().__init__(lr, decay, orthogonaliser, aux)
        decays(momentum=momentum)
        self.momentum, self.nesterov, self.decay_form = momentum, nesterov, decay.form
        self.beta2, self.eps, self.eps_form = second_moment.beta2, second_moment.eps, second_moment.eps_form
        self.long_side, self.rms = second_moment.over == "long_side", rescale == "rms"

    def state(self, rows: int, cols: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what is remembered of one matrix: M and V."""
        return {"momentum": (rows, cols), "second": (rows, 1) if self._by_rows(rows, cols) else (1, cols)}

    def __call__(self, grad_nRC: Tensor, state: Mapping[str, Tensor], spent: float) -> Tensor:
        """Compute the rescaled O' of a stack of gradients."""
        _, rows, cols = grad_nRC.shape
        moment, second = state["momentum"], state["second"]
        moment.lerp_(grad_nRC, 1 - self.momentum)
        o_nRC = self.orthogonaliser(torch.lerp(grad_nRC, moment, self.momentum) if self.nesterov else moment)
        along, length = (2, cols) if self._by_rows(rows, cols) else (1, rows)
        squares = torch.linalg.vector_norm(o_nRC, dim=along, keepdim=True).square_()  # one sum for each row
        second.lerp_(squares / length, 1 - self.beta2)
        root = self._root(second)
        # ||O'||^2 is the sum of the rows' sums over their roots squared: O' itself need not be read for it.
        after = (squares / root.square()).flatten(1).sum(1).view(-1, 1, 1)
        tiny = torch.finfo(after.dtype).tiny  # a matrix without gradient: 0 / 0 is 0 here
        if self.rms:
            length_n11 = 0.2 * (rows * cols) ** 0.5 * after.clamp_min_(tiny).rsqrt_()
        else:
            before = squares.flatten(1).sum(1).view(-1, 1, 1)
            length_n11 = max(1.0, rows / cols) ** 0.5 * (before / after.clamp_min_(tiny)).sqrt_()
        return o_nRC.mul_(length_n11 / root)

    def shrink(self, lr: float, decay: float, rows: int, cols: int) -> tuple[float, bool]:
        """Return the share of W that decay takes in one step, and whether only where the step shrinks W too."""
        if self.decay_form == "modded":
            return lr * lr * decay * max(1.0, rows / cols) ** 0.5, True
        return lr * decay, self.decay_form == "cautious"

    def _root(self, second: Tensor) -> Tensor:
        if self.eps_form == "added":
            return second.sqrt().add_(self.eps)
        return (second + self.eps if self.eps_form == "inside" else second.clamp_min(self.eps)).sqrt_()

    def _by_rows(self, rows: int, cols: int) -> bool:
        return rows >= cols or not self.long_side
