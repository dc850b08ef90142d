"""All that a run's learner must have again to go on where it stopped, as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ablab.training.learner import Learner
from ablab.training.roles import Guarded


def tensors(learner: Learner) -> dict[str, Tensor]:
    """Return everything that a checkpoint must hold; all processes of the group are asked together."""
    if isinstance(learner.optimizer, Guarded):
        learner.optimizer.gather()
    state = optimizer_tensors(learner.optimizer, learner.parameters)
    return {
        **{f"model/{name}": tensor for name, tensor in learner.model.state_dict().items()},
        **{f"optimizer/{name}": tensor for name, tensor in state.items()},
        **{f"mean/{name}": tensor for name, tensor in learner.mean.items()},
    }


def restore(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors` back. KeyError or RuntimeError where they belong to another model."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "mean": {}}
    for full, tensor in tensors.items():
        part, _, name = full.partition("/")
        parts[part][name] = tensor
    learner.model.load_state_dict(parts["model"])
    restore_optimizer(learner.optimizer, learner.parameters, parts["optimizer"])
    for name in learner.mean:
        learner.mean[name].copy_(parts["mean"][name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's state by parameter name: `NAME:KEY`; without rates, which follow from settings and progress."""
    return {
        f"{name}:{key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put `optimizer_tensors` back, on each parameter's device (0-dimensional counters stay on the CPU)."""
    for full, value in tensors.items():
        name, _, key = full.rpartition(":")
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.clone() if value.dim() == 0 else value.to(parameter.device, copy=True)
