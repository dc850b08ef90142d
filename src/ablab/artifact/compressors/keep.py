"""The identity: weights as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ablab.artifact.arrays import Array, Packed
from ablab.artifact.compressors.compressor import Compressor
from ablab.core.forms import fits, misfit
from ablab.model.parts.tensors import refuse_odd
from ablab.records.result import Artifact, Scheme

Weights = dict[str, torch.Tensor]
SAME_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # of types that numpy lacks


class Keep(Compressor):
    """Keeps the weights as trained, bit for bit. Nothing is copied before a codec reads it."""

    source = "ablab"

    def quantise(self, weights: Weights, calibration: object = None) -> Packed:
        """Store every tensor as an array, names sorted; types that numpy lacks (bfloat16, float8) as integers of their width.

        Raises ValueError for a tensor that is sparse, nested, quantised, or without numbers (meta).
        """
        parts, foreign, counted = [], {}, dict[str, Scheme]()
        for name in sorted(weights):
            refuse_odd(name, weights[name])
            tensor = weights[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
            kind = str(tensor.dtype).removeprefix("torch.")
            try:
                array = tensor.numpy()
            except TypeError:
                foreign[name] = kind
                array = tensor.view(SAME_WIDTH[tensor.element_size()]).numpy()
            parts.append(Array(name, array, None, kind))
            entry = counted.setdefault(f"keep {kind}", {"tensors": 0, "numbers": 0, "bytes": 0})
            entry["tensors"] += 1
            entry["numbers"] += tensor.numel()
            entry["bytes"] += tensor.numel() * tensor.element_size()
        report: Artifact = {"schemes": counted, "predicted_bytes": None}
        return Packed(parts, {"types": foreign} if foreign else {}, report)

    @staticmethod
    def restore(parts: list[Array], meta: Mapping[str, object]) -> Weights:
        """Restore the weights, bit for bit, in memory of their own."""
        foreign, weights = meta.get("types", {}), {}
        if not fits(foreign, dict[str, str]):
            raise ValueError(misfit(foreign, dict[str, str]))
        for part in parts:
            array = part.array if part.array.flags.writeable else np.array(part.array)
            tensor = torch.from_numpy(array)
            weights[part.name] = tensor.view(getattr(torch, foreign[part.name])) if part.name in foreign else tensor
        return weights
