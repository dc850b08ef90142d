"""The packed bytes that a stage evaluates: made here, or left by the stage that it is built on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch

from ablab.artifact import compressors
from ablab.artifact import pack as artifact
from ablab.artifact.compressors.calibration import Calibration, Sealed
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import read_json
from ablab.core.lever import value_of
from ablab.core.opened import read_whole
from ablab.data import Corpus
from ablab.model.decoder import Decoder
from ablab.records.result import Artifact
from ablab.records.settings import Settings, StageSettings

RESULT, BLOB = "result.json", "blob"
LEARNED = "C3 score before update: compression read held-out text"


@dataclasses.dataclass(frozen=True)
class Blob:
    """Packed weights, what was said while they were packed, and the bytes of the code beside them."""

    content: bytes
    report: Artifact
    code_bytes: int
    root: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class _Packed(TypedDict):
    """The fields of a stage's result that identify the bytes which others use."""

    blob: str
    artifact: Artifact


def root(settings: Settings, name: str) -> str:
    """Return the stage whose packed bytes stage `name` evaluates: itself, or the start of its chain of `after`."""
    chain = [name]
    while (after := settings["stage"][chain[-1]]["after"]) is not None:
        place = f"stage.{chain[-1]}.after"
        if after not in settings["stage"]:
            raise CheckFailed(Fault(place, f"there is no stage '{after}'", f"known: {', '.join(settings['stage'])}"))
        if after in chain:
            raise CheckFailed(Fault(place, f"'{after}' stands after itself", "break the circle"))
        chain.append(after)
    return chain[-1]


def is_built_on(settings: Settings, name: str) -> bool:
    """Tell whether another stage evaluates what this one packs."""
    return any(other != name and root(settings, other) == name for other in settings["stage"])


def packed(
    settings: Settings,
    name: str,
    weights: Callable[[], Mapping[str, torch.Tensor]],
    *,
    blobs: Mapping[str, Path],
    corpus: Corpus,
    seed: int,
    precision: str,
    model: Callable[[Mapping[str, torch.Tensor]], Decoder],
) -> Blob:
    """Return the packed bytes of stage `name`: the root stage's, else packed here; they must be the bytes that it counted.

    weights(): as trained, read only where they must be packed. model(weights): the decoder with them, for a compressor
    that calibrates. CheckFailed where the bytes are not those, or cannot be made.
    """
    at = root(settings, name)
    stage, directory = settings["stage"][at], blobs.get(at) if at != name else None
    result = (
        read_json(directory / RESULT, form=_Packed) if directory is not None and (directory / RESULT).exists() else None
    )
    kept = directory / BLOB if directory is not None else None
    if kept is not None and kept.exists() and result is not None:
        content, report = _kept(kept), result["artifact"]
    else:
        content, report = _pack(stage, at, weights(), corpus, settings, seed, precision, model)
    blob = Blob(content, report, _code(stage, at), at)
    if result is not None and directory is not None and blob.sha256 != result["blob"]:
        fault = f"stage '{name}' would not evaluate the bytes that stage '{at}' counted (sha256 differs)"
        raise CheckFailed(Fault(str(kept), fault, f"delete {directory} to have it made again"))
    return blob


def _kept(blob: Path) -> bytes:
    try:
        return read_whole(blob)
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
        raise CheckFailed(Fault(str(blob), fault, f"delete {blob.parent} to have it made again")) from error


def _pack(
    stage: StageSettings,
    name: str,
    weights: Mapping[str, torch.Tensor],
    corpus: Corpus,
    settings: Settings,
    seed: int,
    precision: str,
    model: Callable[[Mapping[str, torch.Tensor]], Decoder],
) -> tuple[bytes, Artifact]:
    sealed, calibration = None, None
    if compressors.slot.load(value_of(stage["compress"], "name", str)).calibrates:
        sealed = Sealed(corpus.valid)
        training = dataclasses.replace(corpus, valid=sealed)
        calibration = Calibration(
            lambda: model(weights), training, settings["model"]["seq_len"], seed=seed, precision=precision
        )
    try:
        content, report = artifact.pack(stage["compress"], stage["codec"], dict(weights), calibration)
    except ValueError as error:
        raise CheckFailed(Fault(f"stage.{name}.compress", *str(error).split("; ", 1))) from error
    learned = sealed is not None and sealed.read
    return content, {**report, "violations": [LEARNED] if learned else []}


def unpacked(blob: Blob) -> dict[str, torch.Tensor]:
    """Unpack the weights. CheckFailed where the bytes do not give any."""
    try:
        return artifact.unpack(blob.content)
    except ValueError as error:
        raise CheckFailed(Fault(f"stage.{blob.root}.compress", *str(error).split("; ", 1))) from error


def _code(stage: StageSettings, name: str) -> int:
    if stage["code"] is None:
        return 0
    try:
        return artifact.code_bytes(Path(stage["code"]))
    except ValueError as error:
        raise CheckFailed(Fault(f"stage.{name}.code", *str(error).split("; ", 1))) from error
