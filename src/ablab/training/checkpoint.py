"""Checkpoints: two generations, each whole or not at all, each with its checksum; no pickle.

checkpoint-STEP.safetensors holds tensors, checkpoint-STEP.json what is no tensor and the checksum of the tensors; the JSON
is written last, so a pair without it never was. Its own bytes are guarded by `digest`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ablab.core.fault import CheckFailed
from ablab.core.files import atomic, canonical, read_json, sha256_file, write_json
from ablab.core.forms import fits, misfit
from ablab.records.run import Checkpoint

KEPT = 2


def save(out: Path, step: int, tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> None:
    """Write the generation of `step`, then drop all but the newest two. CheckFailed where the disk refuses; older ones stay."""
    digest = save_tensors(out / f"checkpoint-{step:09d}.safetensors", tensors)
    body = {**header, "step": step, "sha256": digest}
    write_json(out / f"checkpoint-{step:09d}.json", {**body, "digest": _digest(body)})
    _drop(_generations(out)[KEPT:])


def newest(
    out: Path, *, fit: Callable[[Checkpoint], str], say: Callable[[str], None]
) -> tuple[Checkpoint, dict[str, Tensor]] | None:
    """Read header and tensors of the newest generation that is whole; None where there is none.

    `fit(header)` returns what is wrong with the rest of the run at that generation ("" for nothing). Every generation that
    is passed over is named by `say`, with the reason: nothing is loaded or skipped in silence.
    """
    generations = _generations(out)
    for passed, path in enumerate(generations):
        try:
            header = read_json(path)
            if not fits(header, Checkpoint):
                fault = f"{path.name} {misfit(header, Checkpoint)}"
            elif not (fault := _fault(path, header) or fit(header)):
                tensors = load_file(path.with_suffix(".safetensors"))
                _drop(generations[:passed])  # or they would count among the newest two from now on
                return header, tensors
        except (CheckFailed, SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
            fault = f"cannot be read ({error})"
        say(f"{path.with_suffix('.safetensors')}: {fault}; going back one generation")
    if generations:
        say(f"{out}: no checkpoint is whole; starting over")
    return None


def tensors_at(out: Path, step: int) -> dict[str, Tensor]:
    """Read the tensors of the generation of `step`, which another process of this run has found whole."""
    return load_file(out / f"checkpoint-{step:09d}.safetensors")


def drop_all(out: Path) -> None:
    """Remove every checkpoint: the run starts over, or has ended. Then without the lock, too: nobody goes on from one."""
    _drop(_generations(out))


def sweep(out: Path) -> None:
    """Remove what a killed process left half-written: temporary files, and tensors whose JSON never came.

    Once, before a sitting begins: then such files are of this sitting, and the processes of a run meet at one of them.
    """
    for part in out.glob(".*.part"):
        part.unlink(missing_ok=True)
    for path in out.glob("checkpoint-*.safetensors"):
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors as safetensors, with `metadata` in the header, whole or not at all; returns the file's sha256."""
    needed = sum(tensor.nbytes for tensor in tensors.values())
    with atomic(path, needed, more=True) as part:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        return sha256_file(part)


def _as_os_error(error: SafetensorError) -> Exception:
    """Return what the system refused, which safetensors tells as `(os error 28)` only; else the error itself."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def _drop(generations: Iterable[Path]) -> None:
    for path in generations:
        path.unlink(missing_ok=True)  # the JSON first: tensors alone are no checkpoint
        path.with_suffix(".safetensors").unlink(missing_ok=True)


def _generations(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoint-*.json"), reverse=True)


def _fault(path: Path, header: Checkpoint) -> str:
    if header["digest"] != _digest({k: v for k, v in header.items() if k != "digest"}):
        return f"{path.name} does not match its digest"
    if sha256_file(path.with_suffix(".safetensors")) != header["sha256"]:
        return "does not match its sha256"
    return ""


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical(dict(body)).encode()).hexdigest()
