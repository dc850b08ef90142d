"""A lever from its slot's table, filled from the named streams, and inputs to try it with."""

from __future__ import annotations

import torch
from torch import nn

from ablab.core.rng import Draw, stream
from ablab.core.slot import Slot
from ablab.model.shape import Shape

SHAPE = Shape(d_model=32, n_heads=4, n_kv_heads=2, head_dim=8, seq_len=32, vocab_size=50, n_layers=4, layer=2)


def made(
    slot: Slot, name: str, shape: Shape = SHAPE, dtype: torch.dtype = torch.float64, **settings: object
) -> nn.Module:
    """Lever `name` with `settings`, initialised as the model does it."""
    choice, faults = slot.coerce({"name": name, **settings}, slot.name)
    assert not faults, faults
    return started(slot.build(choice, shape)).to(dtype)


def started(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter and buffer filled by its own `init`."""
    for path, part in module.named_modules():
        if hasattr(part, "init"):
            part.init(Draw(seed, path))
    return module


def drawn(name: str, *size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal numbers from the stream `name`."""
    return torch.from_numpy(stream(0, "conformance", name).standard_normal(size)).to(dtype)


def shaken(module: nn.Module, size: float = 0.5) -> nn.Module:
    """Every parameter moved off its start, so that nothing is multiplied by zero."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            p += size * drawn(name, *p.shape, dtype=p.dtype)
    return module
