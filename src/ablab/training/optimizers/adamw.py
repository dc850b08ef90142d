"""AdamW by role."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ablab.training.optimizers.optimizer import Optimizer
from ablab.training.roles import Guarded, Rates, decays, not_negative, positive


class AdamW(Optimizer):
    """Adam with decoupled weight decay, learning rate and decay by role.

    Each step shrinks a weight by lr * decay. Raises ValueError for settings outside their range.

    lr: peak learning rate of matrices and of every role without one of its own
    betas: decays of the running means of the gradient and of its square
    eps: added to the root of the second
    decay: of matrices, embedding and head; scalars (norms, sinks, frequencies), and what is below two dimensions, have none
    embedding_lr: peak learning rate of embedding and head; default: as lr
    head_lr: that of the head; default: as embedding_lr
    scalar_lr: that of scalars; default: as lr
    """

    source = "Loshchilov and Hutter 2019, arXiv 1711.05101"
    revision = 2  # 2: embedding_lr governs the head too

    def __init__(
        self,
        *,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        decay: float = 0.1,
        embedding_lr: float | None = None,
        head_lr: float | None = None,
        scalar_lr: float | None = None,
    ) -> None:
        not_negative(lr=lr, embedding_lr=embedding_lr, head_lr=head_lr, scalar_lr=scalar_lr)
        decays(betas=betas)
        positive(eps=eps)
        not_negative(decay=decay)
        self.betas, self.eps = betas, eps
        by_role = {"embedding": embedding_lr, "head": head_lr, "scalar": scalar_lr}
        self.rates = Rates(lr, decay, lr, decay, by_role)

    def build(self, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> torch.optim.Optimizer:
        """Build the optimizer over `parameters`, each exactly once; every group keeps its peak rate as `peak`.

        Raises ValueError where parameters and roles do not name the same things.
        """
        groups = self.rates.groups(parameters, roles)
        # fused: one pass over memory instead of a dozen; bit-identical for 1 and 2 threads and across resume.
        return _AdamW(groups, betas=self.betas, eps=self.eps, fused=True)


class _AdamW(Guarded, torch.optim.AdamW):
    """torch's AdamW, which would write a NaN into its state."""

    def move(self) -> None:
        torch.optim.AdamW.step(self)
