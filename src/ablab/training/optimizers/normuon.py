"""NorMuon: orthogonalised momentum, normalised by neuron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ablab.training.matrices import Matrices, build, check_taper
from ablab.training.optimizers.optimizer import Optimizer
from ablab.training.orthogonal import Orthogonaliser
from ablab.training.roles import Rates, decays, not_negative, positive

LEAST_EPS = 1e-16  # below, 1 / (eps ||O'||) of a matrix without gradient leaves fp32


class NorMuon(Optimizer):
    """Orthogonalised momentum with a running second moment per output row, for matrices; AdamW for all else.

    For each matrix (rows, cols) with gradient g: M <- momentum M + (1 - momentum) g; U = (1 - momentum) g + momentum M;
    O the orthogonaliser's answer to U; V <- beta2 V + (1 - beta2) mean(O^2) per row, from zero, no bias correction;
    O' = O / (sqrt(V) + eps), then W <- W (1 - lr decay) - lr O' after a rescaling. Repository zichongli5/NorMuon, with its
    newton_schulz; the paper's algorithm 1 is `nesterov` = false, `rescale` = rms and newton_schulz.

    `eps_form`: `added` is sqrt(V) + eps (repository and paper); `inside` sqrt(V + eps) (Megatron fork vpMoE), which holds
    back rows below 1e-5; `floor` sqrt(max(V, eps)) (KellerJordan/modded-nanogpt). `nesterov` = false: U is M.
    `second_moment`: `rows`, or `long_side` (one value for each index of the longer side, modded-nanogpt). `rescale`: `norm`
    gives O' the norm of O times sqrt(max(1, rows / cols)); `rms` is the paper's 0.2 sqrt(rows cols) / ||O'||: every step's
    root mean square is then 0.2, and rates are NOT interchangeable between the two. `decay_form`: `plain` as above;
    `cautious` shrinks only the entries that the step shrinks too, W O' >= 0 (Chen et al. 2025, arXiv 2510.12402);
    `modded` does so by lr^2 decay sqrt(max(1, rows / cols)) (modded-nanogpt). Both are the matrices' alone.
    `orthogonaliser` polar_express takes `steps`, `lower`, `cushion`, `safety` or ready `coefficients` (a list of triples);
    newton_schulz takes `steps`. `products`: type of its products; none is as published, bf16 on CUDA and fp32 on a CPU.

    `aux_lr` (none: lr), `aux_betas`, `aux_eps` and `aux_decay` are AdamW's; `embedding_lr` governs embedding and head, unless
    `head_lr` is given. No decay on scalars and below two dimensions. `taper` = [0.7, 0.5]: decay whole until 0.7 of
    training, then down in a line to half. Raises ValueError for settings outside their range.
    """

    source = "Li et al. 2025, arXiv 2510.05491; Polar Express: Amsel et al. 2025, arXiv 2505.16932"
    revision = 2  # 2: eps is added to the root, as the source has it, no longer to V

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-10,
        eps_form: Literal["added", "inside", "floor"] = "added",
        nesterov: bool = True,
        decay: float = 0.0,
        decay_form: Literal["plain", "cautious", "modded"] = "plain",
        second_moment: Literal["rows", "long_side"] = "rows",
        rescale: Literal["norm", "rms"] = "norm",
        orthogonaliser: Literal["polar_express", "newton_schulz"] = "polar_express",
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
        decays(momentum=momentum, beta2=beta2, aux_betas=aux_betas)
        positive(eps=eps, aux_eps=aux_eps)
        if eps < LEAST_EPS:
            raise ValueError(f"eps = {eps:g} is lost in fp32; choose {LEAST_EPS:g} or more")
        check_taper(taper)
        self.momentum, self.beta2, self.eps, self.eps_form = momentum, beta2, eps, eps_form
        self.nesterov, self.decay_form = nesterov, decay_form
        self.long_side, self.rms = second_moment == "long_side", rescale == "rms"
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
        """What is remembered of one matrix: M and V."""
        return {"momentum": (rows, cols), "second": (rows, 1) if self._by_rows(rows, cols) else (1, cols)}

    def __call__(self, grad_nRC: Tensor, state: Mapping[str, Tensor], spent: float) -> Tensor:
        """The rescaled O' of a stack of gradients."""
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
        """The share of W that decay takes in one step, and whether only where the step shrinks W too."""
        if self.decay_form == "modded":
            return lr * lr * decay * max(1.0, rows / cols) ** 0.5, True
        return lr * decay, self.decay_form == "cautious"

    def _root(self, second: Tensor) -> Tensor:
        if self.eps_form == "added":
            return second.sqrt().add_(self.eps)
        return (second + self.eps if self.eps_form == "inside" else second.clamp_min(self.eps)).sqrt_()

    def _by_rows(self, rows: int, cols: int) -> bool:
        return rows >= cols or not self.long_side
