"""How an evaluator runs a model: no gradients, the study's precision, forwards of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ablab.model.decoder import Decoder
from ablab.runtime.machine import autocast, dtype_of

# On 2 CPU cores (seq_len 256, d_model 128) 1k to 4k tokens a forward run alike; 8k and more are a third slower.
FORWARD_TOKENS = 4096


@contextmanager
def inference(model: Decoder, precision: str) -> Iterator[torch.device]:
    """Run in evaluation mode, torch.inference_mode and, for bf16, autocast; yields the device. The model's mode is restored."""
    dtype_of(precision)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(precision, str(device)):
            yield device
    finally:
        model.train(training)
