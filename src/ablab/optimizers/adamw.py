"""AdamW by role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class AdamW:
    """Adam with decoupled weight decay, learning rate and decay by role. Loshchilov and Hutter 2019, 1711.05101.

    `lr` holds for matrices and for every role without a rate of its own (`embedding_lr`, `head_lr`, `scalar_lr`). `decay`
    acts on matrices, embedding and head, never on scalars (norms, sinks, frequencies); each step shrinks a weight by
    lr * decay. Raises ValueError for settings outside their range.
    """

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
        rates = {"lr": lr, "embedding_lr": embedding_lr, "head_lr": head_lr, "scalar_lr": scalar_lr}
        for name, rate in rates.items():
            if rate is not None and rate < 0:
                raise ValueError(f"{name} = {rate} is negative; choose 0 or more")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas = {list(betas)} are no two decays; choose two numbers from 0 to below 1")
        if eps <= 0:
            raise ValueError(f"eps = {eps} divides by zero; choose a small positive number")
        if decay < 0:
            raise ValueError(f"decay = {decay} is negative; choose 0 or more")
        self.lr, self.betas, self.eps, self.decay = lr, betas, eps, decay
        self.by_role = {"embedding": embedding_lr, "head": head_lr, "scalar": scalar_lr}

    def rule(self, role: str) -> dict[str, Any]:
        """Peak learning rate and decay of a role."""
        own = self.by_role.get(role)
        return {"lr": self.lr if own is None else own, "decay": 0.0 if role == "scalar" else self.decay}

    def rules(self, roles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Role, peak learning rate and decay of every parameter: what `ablab check` can print."""
        return {name: {"role": role, **self.rule(role)} for name, role in roles.items()}

    def build(self, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> torch.optim.Optimizer:
        """The optimizer over `parameters`, each exactly once; every group keeps its peak rate as `peak`.

        Raises ValueError where parameters and roles do not name the same things.
        """
        if odd := sorted(set(parameters) ^ set(roles)):
            raise ValueError(f"{odd[0]} has a parameter or a role, not both; give every parameter exactly one role")
        groups = []
        for role in dict.fromkeys(roles.values()):
            rule = self.rule(role)
            members = [parameters[name] for name in roles if roles[name] == role]
            groups.append({"params": members, "lr": rule["lr"], "peak": rule["lr"], "weight_decay": rule["decay"]})
        # fused: one pass over memory instead of a dozen; bit-identical for 1 and 2 threads and across resume.
        return _Guarded(groups, betas=self.betas, eps=self.eps, fused=True)


class _Guarded(torch.optim.AdamW):
    """torch's AdamW, which would write a NaN into its state: here a non-finite gradient raises before anything changes.

    `checked`: the caller has seen that every gradient is finite, so that they need not be read again.
    """

    def step(self, closure: None = None, *, checked: bool = False) -> None:  # type: ignore[override]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not checked and gradients and not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            raise FloatingPointError("a gradient is not finite; nothing was changed")
        super().step(closure)
