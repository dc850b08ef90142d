"""How many rows of a batch fit into memory at once: a function of sizes alone, the same for every run of a study."""

from __future__ import annotations

from collections.abc import Iterable

from ablab.model.cross_entropy import AT_ONCE
from ablab.model.decoder import skeleton
from ablab.model.parts.linear import Stacked
from ablab.records.settings import ModelSettings, Settings

# Tensors of (T, D) per layer for backward, on top of the matrices' own widths: together 1.2 to 1.5 times what autograd keeps
# (counted at d_model 128), the rest being room for temporaries.
ACTIVATIONS = 16


EXPERT_ACTIVATIONS = 3  # what a matrix gave, its activation, and that times the router's weight


def fit_micro_rows(settings: Iterable[Settings], *, memory_bytes: int, vocab_size: int) -> int:
    """Count the rows per micro-batch that fit into memory for every one of `settings` (all arms): a power of two, at least 1.

    A function of sizes alone, never of a trial at run time, so that it is the same for all arms and all runs. No more than
    the largest batch. The estimate is `activation_bytes` per row on top of weights, gradients and optimizer state.
    """
    rows, arms = 1, list(settings)
    most = max(s["budget"]["batch_tokens"] // s["model"]["seq_len"] for s in arms)
    fits = min(_rows(s, memory_bytes, vocab_size) for s in arms)
    while rows * 2 <= fits and rows < most:
        rows *= 2
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


def _rows(settings: Settings, memory: int, vocab_size: int) -> int:
    model = settings["model"]
    weights = sum(p.numel() for p in skeleton(model, vocab_size=vocab_size).parameters())
    rounded = settings["train"]["qat"]["name"] != "off"
    copies = (
        4 + (1 if settings["train"]["ema"] else 0) + rounded
    )  # weights, gradients, two moments, average, rounded ones
    left = memory - 4 * copies * weights
    row, logits = activation_bytes(model, vocab_size), 4 * 3 * model["seq_len"] * vocab_size
    # Logits of many rows are made in pieces of AT_ONCE: from then on they need a fixed amount, and the head's
    # gradient once more, with its weight in bf16.
    fixed = 4 * 3 * AT_ONCE + 6 * vocab_size * model["d_model"]
    out: int = max(0, left // (row + logits), (left - fixed) // row)
    return out
