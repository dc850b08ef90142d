"""Weights to the bytes that count, and back: a compressor chooses the numbers, a codec makes bytes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ablab.artifact import code as script
from ablab.artifact import codecs, compressors, container
from ablab.artifact.arrays import Array, Packed
from ablab.core.fault import Interrupted, Refused
from ablab.core.lever import Choice, value_of
from ablab.records.result import Artifact

if TYPE_CHECKING:
    from ablab.artifact.compressors.calibration import Calibration

REVISION = 1  # raised whenever bytes or weights that this file makes change on purpose
Weights = dict[str, torch.Tensor]
BAND = (1.00, 1.05)  # of file over prediction: what a good codec reaches on codes of rounded weights
FEWEST = 100_000  # codes; of fewer, header and scales decide the size, and the ratio says nothing


def pack(
    compress: Choice, codec: Choice, weights: Weights, calibration: Calibration | None = None
) -> tuple[bytes, Artifact]:
    """Pack the artifact, whose size is its `len`, and its account: the same bytes for the same weights in any order.

    Raises ValueError ("fault; cure") where the compressor or the codec cannot take the weights.
    """
    called = value_of(codec, "name", str)
    packed = compressors.slot.build(compress).quantise(weights, calibration)
    meta = {"compress": compress["name"], "meta": packed.meta}
    blob = codecs.slot.build(codec).encode(packed.parts, meta)
    report: Artifact = {"schemes": {}, "predicted_bytes": None, "notes": [], "hadamard": [], "lqer": []}
    report |= packed.report
    predicted = report["predicted_bytes"]
    ratio = len(blob) / predicted if predicted else None
    notes = [*report["notes"], *_outside(ratio, packed, called)]
    raw = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return blob, {**report, "ratio": ratio, "raw_bytes": raw, "codec": called, "notes": notes}


def unpack(blob: bytes) -> Weights:
    """Unpack the weights: exact names, shapes and types, each time the same.

    Raises ValueError "packed weights ...; pack them again" for bytes that are cut short, altered, or of another kind.
    CheckFailed where the codec's library is missing.
    """
    try:
        name = container.codec_of(blob)
        if name not in codecs.slot.table:
            raise ValueError(f"name the codec '{name}', which this ablab does not have")
        parts, meta = container.read(blob, codecs.slot.load(name).expand)
        if not isinstance(meta, dict):
            raise ValueError("do not say how they were made")
        compress = meta.get("compress")
        if not isinstance(compress, str) or compress not in compressors.slot.table:
            known = f"the compressor '{compress}', which this ablab does not have" if compress else "no compressor"
            raise ValueError(f"name {known}")
        return _restored(compress, parts, meta.get("meta", {}))
    except ValueError as error:
        raise ValueError(f"packed weights {error}; pack them again") from error


def code_bytes(path: Path) -> int:
    """Count the bytes that a Python script adds to an artifact: minified, compressed, and wrapped in the line that runs it.

    Raises ValueError ("fault; cure") where `path` is no file or no Python.
    """
    return len(script.wrapped(script.minified(script.read(path))))


def _restored(name: str, parts: list[Array], meta: Mapping[str, object]) -> Weights:
    try:
        return compressors.slot.load(name).restore(parts, meta)
    except (Refused, Interrupted):
        raise
    except Exception as error:  # whole bytes, written by a compressor of another form
        raise ValueError(f"are whole, but not what '{name}' restores ({error!r})") from error


def _outside(ratio: float | None, packed: Packed, codec: str) -> list[str]:
    """Return a note where the file is not as large as the entropy of its codes lets expect."""
    coded = [part.array for part in packed.parts if part.bits is not None]
    if ratio is None or sum(array.size for array in coded) < FEWEST or BAND[0] <= ratio <= BAND[1]:
        return []
    other = sum(part.array.nbytes for part in packed.parts if part.bits is None)
    said = f"the file is {ratio:.3f} times what the entropy formula predicts"
    if codec == "raw":
        return [f"{said}: the codec is raw, which does not compress"]
    if ratio > BAND[1] and other:
        return [f"{said}; {other} bytes before the codec are scales and numbers that are not rounded"]
    return [said]
