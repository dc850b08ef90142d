"""Muon: orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ablab.training.optimizers.orthogonalised import Aux, Decay, Orthogonalised
from ablab.training.orthogonal import Orthogonaliser
from ablab.training.roles import decays


class Muon(Orthogonalised):
    """Steps matrices along orthogonalised Nesterov momentum, and all else by AdamW.

    For each matrix (rows, cols) with gradient g: B <- momentum B + g; U = g + momentum B; O the orthogonaliser's answer to U;
    W <- W (1 - lr decay) - lr sqrt(max(1, rows / cols)) O. Raises ValueError for settings outside their range.

    lr: peak learning rate of the matrices
    momentum: decay of the running mean
    momentum_warmup ([momentum, fraction]): momentum rises in a line from this one over that fraction of training, as
        [0.92, 0.3] does in parameter-golf (1500 of about 5000 steps); default: momentum from the start
    decay: of the matrices, as a number or with its taper
    row_normalise: rows of U over max(norm, 1e-7) before the orthogonaliser (MuonEq-R, parameter-golf 1217 and 1285)
    orthogonaliser: its name, or a table with its settings
    aux: AdamW for all that is no matrix; a number is its lr
    """

    source = "Jordan et al. 2024, kellerjordan.github.io/posts/muon; rows: openai/parameter-golf #1217"
    revision = 3  # 3: orthogonaliser, decay and aux are tables; 2: normalised rows are divided by max(norm, 1e-7)

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        momentum_warmup: tuple[float, float] | None = None,
        decay: Decay = Decay(),
        row_normalise: bool = False,
        orthogonaliser: Orthogonaliser = Orthogonaliser("newton_schulz"),
        aux: Aux = Aux(),
    ) -> None:
        super().__init__(lr, decay, orthogonaliser, aux)
        decays(momentum=momentum)
        if (warmup := momentum_warmup) and not (len(warmup) == 2 and 0 <= warmup[0] < 1 and 0 < warmup[1] <= 1):
            fault = f"momentum_warmup = {list(warmup)} is no warm-up"
            raise ValueError(f"{fault}; give [momentum it starts at, fraction of training it ends at]")
        self.momentum, self.momentum_warmup, self.row_normalise = momentum, momentum_warmup, row_normalise

    def state(self, rows: int, cols: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of what is remembered of one matrix: B."""
        return {"momentum": (rows, cols)}

    def shrink(self, lr: float, decay: float, rows: int, cols: int) -> tuple[float, bool]:
        """Return the share of W that decay takes in one step; of every entry alike."""
        return lr * decay, False

    def __call__(self, grad_nRC: Tensor, state: Mapping[str, Tensor], spent: float) -> Tensor:
        """Compute the scaled O of a stack of gradients."""
        _, rows, cols = grad_nRC.shape
        momentum = self.momentum
        if self.momentum_warmup is not None:
            start, until = self.momentum_warmup
            momentum = start + (momentum - start) * min(1.0, spent / until)
        buffer = state["momentum"].mul_(momentum).add_(grad_nRC)
        u_nRC = torch.add(grad_nRC, buffer, alpha=momentum)
        if self.row_normalise:
            u_nRC /= torch.linalg.vector_norm(u_nRC, dim=2, keepdim=True).clamp_min_(1e-7)
        return self.orthogonaliser(u_nRC).mul_(max(1.0, rows / cols) ** 0.5)
