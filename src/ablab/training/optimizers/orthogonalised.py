"""What optimizers share that step along orthogonalised matrices: decay, AdamW for the rest, and how the two are built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ablab.core.lever import Choice, Sizes, value_of
from ablab.training.matrices import Matrices, Update, build
from ablab.training.optimizers.optimizer import Optimizer
from ablab.training.orthogonal import Orthogonaliser
from ablab.training.roles import Rates, decays, not_negative, positive


@dataclass(frozen=True)
class Decay:
    """Decoupled decay of the matrices. Raises ValueError for settings outside their range.

    rate: of the matrices; each step shrinks them by lr * rate
    taper ([fraction, share]): every decay is whole until that fraction of training, then falls in a line to that share of
        itself, that of aux too; default: whole to the end
    """

    rate: float = 0.0
    taper: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        not_negative(**{"decay": self.rate})
        taper = self.taper
        if taper is not None and not (len(taper) == 2 and 0 <= taper[0] < 1 and 0 <= taper[1] <= 1):
            fault = f"decay.taper = {list(taper)} is no taper"
            raise ValueError(f"{fault}; give [fraction it starts at, share left at the end]")


@dataclass(frozen=True)
class Aux:
    """AdamW for all that is no matrix. Raises ValueError for settings outside their range.

    lr: peak learning rate; default: as lr
    embedding_lr: that of embedding and head; default: as aux.lr
    head_lr: that of the head; default: as aux.embedding_lr
    betas: decays of the running means of the gradient and of its square
    eps: added to the root of the second
    decay: decoupled decay of embedding and head; scalars, and what is below two dimensions, have none
    """

    lr: float | None = None
    embedding_lr: float | None = None
    head_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        rates = {"lr": self.lr, "embedding_lr": self.embedding_lr, "head_lr": self.head_lr, "decay": self.decay}
        not_negative(**{f"aux.{name}": value for name, value in rates.items()})
        decays(**{"aux.betas": self.betas})
        positive(**{"aux.eps": self.eps})


class Orthogonalised(Optimizer, Update):
    """An update of matrices by an orthogonaliser, and AdamW beside it."""

    def __init__(self, lr: float, decay: Decay, orthogonaliser: Orthogonaliser, aux: Aux) -> None:
        not_negative(lr=lr)
        self.orthogonaliser = orthogonaliser
        by_role = {"embedding": aux.embedding_lr, "head": aux.head_lr}
        self.rates = Rates(lr, decay.rate, lr if aux.lr is None else aux.lr, aux.decay, by_role)
        self.taper, self.aux = decay.taper, aux

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Leave out `products`: a miniature is in fp64, where they do not act; an arm of them is not inert for that."""
        return {"orthogonaliser": {**value_of(choice, "orthogonaliser", dict[str, object]), "products": None}}

    def build(self, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> Matrices:
        """Build the optimizer over `parameters`, each exactly once; every group keeps its peak rate as `peak`.

        Raises ValueError where parameters and roles do not name the same things.
        """
        betas, eps = self.aux.betas, self.aux.eps
        return build(self.rates, self, parameters, roles, betas=betas, eps=eps, taper=self.taper)
