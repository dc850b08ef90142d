"""How many rows of a batch fit into memory at once: a function of sizes alone, the same for every run of a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from ablab.model.cross_entropy import AT_ONCE, AT_ONCE_ON_GPU
from ablab.model.decoder import skeleton
from ablab.model.parts.grouped import Stacked
from ablab.records.settings import ModelSettings, Settings
from ablab.training.sums import micro_batches_fault

# Tensors of (T, D) per layer for backward, on top of the matrices' own widths: together 1.2 to 1.5 times what autograd keeps
# (counted at d_model 128), the rest being room for temporaries.
ACTIVATIONS = 16


EXPERT_ACTIVATIONS = 3  # what a matrix gave, its activation, and that times the router's weight


class _Need(NamedTuple):
    """What a run keeps, in bytes: of each row, of its logits, of logits made in pieces, of one copy of all weights.

    rows: of a batch. copies: of all weights, whatever the micro-batch: those of a step but for sums that wait.
    """

    rows: int
    row: int
    logits: int
    fixed: int
    weights: int
    copies: int

    def fits(self, micro_rows: int, memory: int) -> bool:
        """Tell whether micro-batches of so many rows fit into so many bytes."""
        waiting = halvings(-(-self.rows // micro_rows))  # gradients of one half while the other half is made
        left = memory - (self.copies + waiting) * self.weights
        return micro_rows <= max(left // (self.row + self.logits), (left - self.fixed) // self.row)


def fit_micro_rows(
    settings: Iterable[Settings], *, memory_bytes: int, vocab_size: int, device: str = "cpu", per_run: int = 1
) -> int:
    """Count the rows per micro-batch that fit into memory for every one of `settings` (all arms): a power of two, at least 1.

    A function of sizes alone, never of a trial at run time, so that it is the same for all arms and all runs. No more than
    the largest batch, and so few that `per_run` processes share every arm's batch, where they can at all. The estimate is
    `activation_bytes` per row on top of weights, gradients and optimizer state.
    """
    needs = [_need(one, vocab_size, torch.device(device).type) for one in settings]
    rows = 1 << (max(need.rows for need in needs) - 1).bit_length()
    shared = not any(micro_batches_fault(need.rows, 1, per_run) for need in needs)
    while rows > 1 and not all(
        need.fits(rows, memory_bytes) and not (shared and micro_batches_fault(need.rows, rows, per_run))
        for need in needs
    ):
        rows //= 2
    return rows


def activation_bytes(model: ModelSettings, vocab_size: int) -> int:
    """Estimate of the bytes that one row keeps in the layers between forward and backward, in fp32 and rounded up.

    Of a mixture a token meets its chosen experts: of each it keeps EXPERT_ACTIVATIONS numbers for each output of a matrix.
    """
    decoder = skeleton(model, vocab_size=vocab_size)
    widths = sum(max(p.shape) for p in decoder.layers.parameters() if p.dim() == 2)
    for stack in decoder.layers.modules():
        if isinstance(stack, Stacked):
            experts, d_out, _ = stack.weight.shape
            widths += EXPERT_ACTIVATIONS * d_out * round(experts * stack.used)
    passes = len(decoder.looped)
    out: int = (
        4 * model["seq_len"] * (passes * ACTIVATIONS * model["d_model"] + widths * passes // len(model["layers"]))
    )
    return out


def _need(settings: Settings, vocab_size: int, kind: str) -> _Need:
    model = settings["model"]
    weights = sum(p.numel() for p in skeleton(model, vocab_size=vocab_size).parameters())
    rounded = settings["train"]["qat"]["name"] != "off"
    copies = (
        4 + (1 if settings["train"]["ema"] else 0) + rounded
    )  # weights, gradients, two moments, average, rounded ones
    # Logits of many rows are made in pieces: from then on they need a fixed amount, and the head's gradient once more, with its
    # weight in bf16. A GPU's pieces are larger, beside each its gradient alone, and the head's product is whole, in bf16.
    pieces, head = (4 * 2 * AT_ONCE_ON_GPU, 8) if kind == "cuda" else (4 * 3 * AT_ONCE, 6)
    return _Need(
        rows=settings["budget"]["batch_tokens"] // model["seq_len"],
        row=activation_bytes(model, vocab_size),
        logits=4 * 3 * model["seq_len"] * vocab_size,
        fixed=pieces + head * vocab_size * model["d_model"],
        weights=4 * weights,
        copies=copies,
    )


def halvings(n: int) -> int:
    """Count how often `n` micro-batches are halved: the sums that wait, at most, while another half is made."""
    return (n & -n).bit_length() - 1
