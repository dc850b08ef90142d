"""Roles of parameters to learning rates and decay: what every optimizer by role has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import nn

from ablab.runtime.ranks import Ranks


class RoleRates(TypedDict):
    """Peak learning rate and decay."""

    lr: float
    decay: float


class RatesOfRole(RoleRates):
    """Those of a parameter that has a role."""

    role: str


@dataclass(frozen=True)
class Rates:
    """Peak learning rate and decay of each role.

    `lr` and `decay` are the matrices'; `other` and `other_decay` hold for the roles without a rate of their own in
    `by_role`. `embedding` governs the head too, unless it has its own. Below two dimensions a matrix is a scalar, and decay
    is off whatever the role; so it is for scalars of any shape (norms, sinks, gates, frequencies).
    """

    lr: float
    decay: float
    other: float
    other_decay: float
    by_role: Mapping[str, float | None] = field(default_factory=dict)

    def rule(self, role: str, ndim: int = 2) -> RoleRates:
        """Return peak learning rate and decay of a role; `ndim` is the parameter's number of dimensions."""
        if role == "matrix" and ndim >= 2:
            return {"lr": self.lr, "decay": self.decay}
        role = "scalar" if role == "matrix" else role
        rate = self.by_role.get(role)
        if rate is None and role == "head":
            rate = self.by_role.get("embedding")
        flat = ndim < 2 or role == "scalar"
        return {"lr": self.other if rate is None else rate, "decay": 0.0 if flat else self.other_decay}

    def rules(self, parameters: Mapping[str, torch.Tensor], roles: Mapping[str, str]) -> dict[str, RatesOfRole]:
        """Return role, peak learning rate and decay of every parameter, by name: what `ablab check` prints.

        Raises ValueError where parameters and roles do not name the same things.
        """
        if odd := sorted(set(parameters) ^ set(roles)):
            raise ValueError(f"{odd[0]} has a parameter or a role, not both; give every parameter exactly one role")
        return {name: {"role": role, **self.rule(role, parameters[name].dim())} for name, role in roles.items()}

    def groups(self, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> list[dict[str, Any]]:
        """Make one optimizer group for each pair of role and decay, every parameter exactly once, in the order of `roles`.

        Each keeps its peak rate as `peak` and its decay as `decay`, beside what moves during training: `lr`, `weight_decay`
        and `spent`, the fraction of training behind the step, which the loop sets.
        """
        groups: dict[tuple[str, float], dict[str, Any]] = {}  # torch's own form of them
        for name, rule in self.rules(parameters, roles).items():
            role = "scalar" if rule["role"] == "matrix" and parameters[name].dim() < 2 else rule["role"]
            blank = {"params": [], "role": role, "lr": rule["lr"], "peak": rule["lr"], "spent": 0.0}
            blank |= {"decay": rule["decay"], "weight_decay": rule["decay"]}
            groups.setdefault((role, rule["decay"]), blank)["params"].append(parameters[name])
        return list(groups.values())


class Guarded(torch.optim.Optimizer):
    """Raises FloatingPointError where a gradient is not finite, before anything changes."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update once from the gradients at hand."""
        refuse_nonfinite(p for group in self.param_groups for p in group["params"])
        self.move()

    @abstractmethod
    def move(self) -> None:
        """Do the same where the caller has seen that every gradient is finite, so that they need not be read again."""

    def deal(self, group: Ranks) -> None:
        """Share the work of updates with the other processes of a group. By default each makes every update itself."""

    def gather(self) -> None:
        """Have all state here that other processes of the group keep; all of them are asked together."""


def not_negative(**settings: float | None) -> None:
    """Refuse the first setting below zero; None passes."""
    for name, value in settings.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} = {value} is negative; choose 0 or more")


def decays(**settings: Sequence[float] | float) -> None:
    """Refuse the first setting that is no pair of decays of running means, or no single one, in [0, 1)."""
    for name, value in settings.items():
        if isinstance(value, float | int):
            if not 0 <= value < 1:
                raise ValueError(f"{name} = {value} is no decay; choose a number from 0 to below 1")
        elif len(value) != 2 or not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"{name} = {list(value)} are no two decays; choose two numbers from 0 to below 1")


def positive(**settings: float) -> None:
    """Refuse the first divisor that is not above zero."""
    for name, value in settings.items():
        if value <= 0:
            raise ValueError(f"{name} = {value} divides by zero; choose a small positive number")


def refuse_nonfinite(parameters: Iterable[nn.Parameter]) -> None:
    """Raise FloatingPointError where any gradient is not finite; to be called before anything changes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients and not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
        raise FloatingPointError("a gradient is not finite; nothing was changed")
