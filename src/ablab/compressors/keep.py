"""The identity: weights as they are, in safetensors."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ablab.compressors.digest import digest

Weights = dict[str, torch.Tensor]


class Keep:
    """Keeps the weights as trained: one safetensors blob, lossless, the same bytes for the same weights.

    The header carries a sha256 of names, types, shapes and values, so that a damaged blob is refused, never loaded.
    """

    source = "safetensors 0.4"

    def pack(self, weights: Weights, calibration: Any = None) -> bytes:
        """The blob; `len(blob)` is the size of the artifact. Names are sorted; tensors that share memory are written apart."""
        own: Weights = {}
        seen: set[int] = set()
        for name in sorted(weights):
            tensor = weights[name].detach().cpu().contiguous()
            shared = tensor.untyped_storage().data_ptr() in seen
            seen.add(tensor.untyped_storage().data_ptr())
            own[name] = tensor.clone() if shared else tensor
        return bytes(save(own, metadata={"sha256": digest(own)}))

    def unpack(self, blob: bytes) -> Weights:
        """The weights, bit for bit. Raises ValueError where the blob is truncated or altered."""
        try:
            weights: Weights = load(blob)
            size = int.from_bytes(blob[:8], "little")
            metadata = json.loads(blob[8 : 8 + size])["__metadata__"]
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"packed weights cannot be read ({error}); pack them again") from error
        if digest(weights) != metadata.get("sha256"):
            raise ValueError(
                "packed weights are damaged (their sha256 differs from the one in the header); pack them again"
            )
        return weights
