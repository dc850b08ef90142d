"""What every optimizer is: rates and decay by role, and something that steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ablab.core.lever import Sized
from ablab.training.roles import Rates, RatesOfRole, RoleRates


class Optimizer(Sized):
    """Parameters by role to updates. A constructor leaves `rates`; `build` makes what steps."""

    rates: Rates

    def rule(self, role: str, ndim: int = 2) -> RoleRates:
        """Return peak learning rate and decay of a role."""
        return self.rates.rule(role, ndim)

    def rules(self, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> dict[str, RatesOfRole]:
        """Return role, peak learning rate and decay of every parameter: what `ablab check` prints."""
        return self.rates.rules(parameters, roles)

    @abstractmethod
    def build(self, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> torch.optim.Optimizer:
        """Build the optimizer over `parameters`, each exactly once; every group keeps its peak rate as `peak`.

        Any of torch's will do; one that looks for gradients that are not finite is `ablab.training.roles.Guarded`. Raises
        ValueError where parameters and roles do not name the same things.
        """
