"""Muon: orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ablab.training.matrices import Matrices, build, check_taper
from ablab.training.optimizers.optimizer import Optimizer
from ablab.training.orthogonal import Orthogonaliser
from ablab.training.roles import Rates, decays, not_negative, positive


class Muon(Optimizer):
    """Orthogonalised Nesterov momentum for matrices, AdamW for all else.

    For each matrix (rows, cols) with gradient g: B <- momentum B + g; U = g + momentum B; O the orthogonaliser's answer to U;
    W <- W (1 - lr decay) - lr sqrt(max(1, rows / cols)) O. `row_normalise` (MuonEq-R, parameter-golf 1217 and 1285): rows
    of U over max(norm, 1e-7) before the orthogonaliser. `momentum_warmup` = [0.92, 0.3]: momentum rises in a line from 0.92 to
    `momentum` over the first 0.3 of training (golf: 1500 of about 5000 steps).

    `orthogonaliser` newton_schulz takes `steps`; polar_express takes `steps`, `lower`, `cushion`, `safety` or ready
    `coefficients` (a list of triples). `products`: type of its products; none is as published, bf16 on CUDA and fp32 on a CPU.
    `aux_lr` (none: lr), `aux_betas`, `aux_eps` and `aux_decay` are AdamW's; `embedding_lr` governs embedding and head, unless
    `head_lr` is given. No decay on scalars and below two dimensions. `taper` = [0.7, 0.5]: decay whole until 0.7 of
    training, then down in a line to half. Raises ValueError for settings outside their range.
    """

    source = "Jordan et al. 2024, kellerjordan.github.io/posts/muon; rows: openai/parameter-golf #1217"
    revision = 2  # 2: normalised rows are divided by max(norm, 1e-7), as the source has it, no longer by norm + 1e-7

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        momentum_warmup: tuple[float, float] | None = None,
        decay: float = 0.0,
        row_normalise: bool = False,
        orthogonaliser: Literal["newton_schulz", "polar_express"] = "newton_schulz",
        steps: int = 5,
        lower: float = 1e-3,
        cushion: float = 0.02,
        safety: float = 0.02,
        coefficients: tuple[tuple[float, ...], ...] | None = None,
        products: Literal["fp32", "bf16"] | None = None,
        aux_lr: float | None = None,
        embedding_lr: float | None = None,
        head_lr: float | None = None,
        aux_betas: tuple[float, float] = (0.9, 0.95),
        aux_eps: float = 1e-8,
        aux_decay: float = 0.0,
        taper: tuple[float, float] | None = None,
    ) -> None:
        not_negative(lr=lr, decay=decay, aux_lr=aux_lr, embedding_lr=embedding_lr, head_lr=head_lr, aux_decay=aux_decay)
        decays(momentum=momentum, aux_betas=aux_betas)
        positive(aux_eps=aux_eps)
        check_taper(taper)
        if (warmup := momentum_warmup) and not (len(warmup) == 2 and 0 <= warmup[0] < 1 and 0 < warmup[1] <= 1):
            fault = f"momentum_warmup = {list(warmup)} is no warm-up"
            raise ValueError(f"{fault}; give [momentum it starts at, fraction of training it ends at]")
        self.momentum, self.momentum_warmup, self.row_normalise = momentum, momentum_warmup, row_normalise
        self.orthogonaliser = Orthogonaliser(
            orthogonaliser,
            steps=steps,
            lower=lower,
            cushion=cushion,
            safety=safety,
            coefficients=coefficients,
            products=products,
        )
        by_role = {"embedding": embedding_lr, "head": head_lr}
        self.rates = Rates(lr, decay, lr if aux_lr is None else aux_lr, aux_decay, by_role)
        self.rest: dict[str, Any] = {"betas": aux_betas, "eps": aux_eps, "taper": taper}

    @staticmethod
    def miniature(choice: Mapping[str, Any], full: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
        """Without `products`: a miniature is in fp64, where they do not act, and an arm of them is not inert for that."""
        return {"products": None}

    def build(self, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> Matrices:
        """The optimizer over `parameters`, each exactly once; every group keeps its peak rate as `peak`.

        Raises ValueError where parameters and roles do not name the same things.
        """
        return build(self.rates, self, parameters, roles, **self.rest)

    def state(self, rows: int, cols: int) -> dict[str, tuple[int, ...]]:
        """What is remembered of one matrix: B."""
        return {"momentum": (rows, cols)}

    def shrink(self, lr: float, decay: float, rows: int, cols: int) -> tuple[float, bool]:
        """The share of W that decay takes in one step; of every entry alike."""
        return lr * decay, False

    def __call__(self, grad_nRC: Tensor, state: Mapping[str, Tensor], spent: float) -> Tensor:
        """The scaled O of a stack of gradients."""
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
