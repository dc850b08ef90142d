"""The compiled step: torch.compile over each layer of a model, with the attention core left as it is.

Once per study and for all arms alike (`plan`), on GPUs alone: compiled CPU runs differ between thread counts. Layers are
compiled in place one by one, so that names of parameters stay, layers of a kind share their code, and a loop of layers
is no longer a graph than one of them.
"""

from __future__ import annotations

import torch

from ablab.model.attention.attend import attend
from ablab.model.decoder import Decoder
from ablab.model.layer import Layer
from ablab.model.parts.part import Part

# Compilations of one piece of code: kinds of layers times shapes times with and without gradients. A limit that is hit
# raises, where torch would go on uncompiled in silence.
MOST_COMPILED = 256


def compiles(device: str) -> bool:
    """Tell whether runs on this device are compiled: on a GPU, never on the CPU."""
    return torch.device(device).type == "cuda"


def compile_layers(model: Decoder, *, backend: str = "inductor") -> None:
    """Compile every layer of `model` in place. Attention is a border of its graphs: its kernels are written or compiled
    by themselves, and its plans of documents are made by ordinary Python.
    """
    import torch._dynamo.config

    settings = torch._dynamo.config
    settings.recompile_limit = settings.accumulated_recompile_limit = MOST_COMPILED
    settings.fail_on_recompile_limit_hit = True
    outside = torch.compiler.disable(attend)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        layer.attn.core = outside
        for part in layer.modules():
            if isinstance(part, Part) and part.border:  # grouped experts: torch traces their product in bf16 alone
                part.forward = torch.compiler.disable(part.forward)
        layer.compile(backend=backend, dynamic=False)
