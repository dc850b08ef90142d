"""Tensors of a file: safetensors, or a torch state_dict read without running anything."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ablab.core.fault import CheckFailed, Fault, Interrupted, Refused
from ablab.core.kinds import text_of
from ablab.core.opened import opened
from ablab.model.parts.tensors import oddity
from ablab.training.adopt.names import unwrapped
from ablab.training.adopt.pickled import LEGACY, in_legacy, in_zip
from ablab.training.adopt.strange import weights_at

NESTED = ("model", "state_dict", "model_state_dict", "module")  # where checkpoints keep the weights
DEEP = 3  # how often one lies in another
FLOATS = ("float16", "bfloat16", "float32", "float64")
NO_NUMBERS = ("complex", "bits", "quint", "qint")
ZIP = b"PK\x03\x04"
SHOWN = 40  # characters of a file that is text
SAFE = "save the state_dict alone, or as safetensors"


@dataclass
class FileWeights:
    """What a file holds. names: whose they are ("own" or "golf"); tokenizer: the hash it was made with, "" if unknown."""

    tensors: dict[str, Tensor]
    tokenizer: str = ""
    names: str = "own"
    notes: list[str] = field(default_factory=list)


def read(file: Path) -> FileWeights:
    """Read the tensors of a file by name, on the CPU.

    CheckFailed where it cannot be read, is damaged, would run code, holds no state_dict, or tensors that are no plain numbers,
    and where it is something else (see strange).
    """
    weights_at(file)
    try:
        with opened(file) as begun:
            head = begun.read(64)
        if len(head) > 8 and head[8:9] == b"{":
            return _safetensors(file)
        if head.startswith(ZIP):
            _whole(file)
        elif LEGACY.match(head):
            _finite(file)
        else:  # not for torch: it would take it for a tar archive of its first version, and unpack that
            raise pickle.UnpicklingError if head[:1] == b"\x80" else ValueError("torch.save did not write it")
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (Refused, Interrupted):
        raise
    except Exception as error:  # torch, zipfile and safetensors each have their own faults for damaged bytes
        raise CheckFailed(_unread(file, error)) from error
    return _plain(loaded, file)


def _unread(file: Path, error: Exception) -> Fault:
    """Say what a file is that nothing could be read from."""
    if text := text_of(file, SHOWN):
        fault = f"is a text file and no weights: it begins with '{text}'"
        return Fault(str(file), fault, "give safetensors, or what torch.save wrote")
    if isinstance(error, pickle.UnpicklingError):
        return Fault(str(file), "is a pickle that holds more than tensors, and reading it could run code", SAFE)
    said = "" if isinstance(error, KeyError) else " ".join(str(error).split())
    return Fault(str(file), f"cannot be read ({said or type(error).__name__})", "check that the file is whole")


def _whole(file: Path) -> None:
    """Refuse a file of which an entry of torch's zip differs from its checksum: torch itself does not look."""
    with zipfile.ZipFile(file) as archive:
        if said := in_zip(archive, file.stat().st_size):
            raise CheckFailed(Fault(str(file), said, SAFE))
        broken = archive.testzip()
    if broken is not None:
        fault = f"is damaged: {broken} differs from the checksum that the file carries"
        raise CheckFailed(Fault(str(file), fault, "copy the file again, or save the weights anew, with checksums"))


def _finite(file: Path) -> None:
    """Refuse an old file of torch that holds what would be read without end."""
    with opened(file) as begun:
        if said := in_legacy(begun):
            raise CheckFailed(Fault(str(file), said, SAFE))


def _safetensors(file: Path) -> FileWeights:
    with safe_open(file, "pt") as file_open:
        tokenizer = (file_open.metadata() or {}).get("tokenizer", "")
        tensors = {name: file_open.get_tensor(name) for name in file_open.keys()}  # noqa: SIM118
    return FileWeights(_own(_dense(tensors, file), file), tokenizer)


def _plain(loaded: object, file: Path) -> FileWeights:
    """Take a state_dict, alone or nested in a checkpoint, with the prefixes of torch's wrappers taken off."""
    notes = []
    for _ in range(DEEP):
        inside = loaded if isinstance(loaded, Mapping) else {}
        key = next((k for k in NESTED if isinstance(inside.get(k), Mapping)), None)
        if key is None:
            break
        others = sorted(str(other) for other in inside if other != key)
        notes.append(f"its '{key}' was taken" + (f", {', '.join(others)} left" if others else ""))
        loaded = inside[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckFailed(Fault(str(file), f"holds {_kind(loaded)} and no state_dict", SAFE))
    odd = [f"{name} ({_kind(value)})" for name, value in loaded.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckFailed(Fault(str(file), f"holds more than tensors: {', '.join(odd[:4])}", SAFE))
    tensors = _dense({str(name): tensor for name, tensor in loaded.items()}, file)
    return FileWeights(_own(tensors, file), notes=notes)


def _own(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the tensors under names without those of wrappers."""
    try:
        return unwrapped(tensors)
    except ValueError as error:
        fault, _, cure = str(error).rpartition("; ")
        raise CheckFailed(Fault(str(file), fault, cure)) from None


def _dense(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the same. CheckFailed for the first that is sparse, nested, quantised or meta, or of no plain type of number."""
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if odd := oddity(tensor):
            raise CheckFailed(Fault(str(file), f"{name} is {odd}", "give the numbers themselves, densely"))
        if tensor.is_floating_point() and kind not in FLOATS:
            raise CheckFailed(Fault(str(file), f"{name} is {kind}: packed or rounded weights", "give the trained ones"))
        if kind.startswith(NO_NUMBERS):
            fault = f"{name} is {kind}, which no model here has"
            raise CheckFailed(Fault(str(file), fault, "give weights of real numbers"))
    return tensors


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) else type(value).__name__
