"""Attention as tests ask for it: whatever is added to the scores by its name."""

from __future__ import annotations

from typing import Any

import torch

from ablab.model.attention import attend as core


def attend(
    q_BTHK: torch.Tensor, k_BSGK: torch.Tensor, v_BSGK: torch.Tensor, *, executor: str, **added: Any
) -> torch.Tensor:
    """`ablab.model.attention.attend.attend` of `Added(**added)`."""
    scale = added.pop("scale", None)
    return core.attend(q_BTHK, k_BSGK, v_BSGK, core.Added(**added), scale=scale, executor=executor)
