"""Span-normalised: reasoning and final answers weigh what they are told to, however long they are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ablab.core.lever import Choice, Sizes, value_of
from ablab.data.spans import FINAL, REASONING
from ablab.training.losses.loss import Loss


class Spans(Loss):
    """reasoning * mean nats over reasoning targets + final * mean nats over final targets; a span without targets adds 0.

    The means are over the whole batch, so that micro-batches do not weigh. Targets in no span weigh nothing. ValueError for
    weights below 0 or both 0.

    reasoning: weight of the mean over reasoning targets
    final: weight of the mean over final targets
    group_rows (rows): means are over each so many, one after another, and then over the groups: the original's rule, where
        they were a micro-batch; 0 takes the whole batch
    """

    source = "vpareek2/vpMoE, pretrain_gpt.py (loss over reasoning and final spans)"
    spans: ClassVar[bool] = True

    def __init__(self, *, reasoning: float = 1.0, final: float = 1.0, group_rows: int = 0) -> None:
        for name, value in (("reasoning", reasoning), ("final", final)):
            if value < 0:
                raise ValueError(f"{name} = {value:g} is below 0; give a weight of at least 0")
        if not reasoning and not final:
            raise ValueError("reasoning and final are both 0: nothing is trained; give one a weight")
        if group_rows < 0:
            raise ValueError(f"group_rows = {group_rows} is no number of rows; give 0 for the whole batch")
        self.reasoning, self.final, self.group_rows = reasoning, final, group_rows

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return groups of one row, where there are groups: a miniature's batch has fewer rows."""
        return {"group_rows": min(1, value_of(choice, "group_rows", int))}

    def weigh(self, targets_BT: Tensor, spans_BT: Tensor) -> tuple[Tensor | None, float]:
        """Return the weight of each target (fp64; 0 where there is none) and 1: the loss is the weighted sum of nats.

        ValueError where the rows of the batch are no multiple of `group_rows`.
        """
        rows = len(targets_BT)
        if self.group_rows and rows % self.group_rows:
            raise ValueError(
                f"group_rows = {self.group_rows} does not divide the {rows} rows of a batch; choose a divisor"
            )
        size = self.group_rows or rows
        weight_BT = torch.zeros(targets_BT.shape, dtype=torch.float64)
        groups = rows // size
        for at in range(0, rows, size):
            here = slice(at, at + size)
            for span, asked in ((REASONING, self.reasoning), (FINAL, self.final)):
                inside = (spans_BT[here] == span) & (targets_BT[here] >= 0)
                weight_BT[here][inside] = asked / (max(1, int(inside.sum())) * groups)
        return weight_BT, 1.0
