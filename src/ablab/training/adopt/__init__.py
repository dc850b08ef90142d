"""Weights trained elsewhere, taken in place of a training: read, checked name by name, and written as a run's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of, sha256_file, write_json
from ablab.core.sealed import sealed
from ablab.data import Corpus
from ablab.model.decoder import Decoder, skeleton
from ablab.model.size import parameters
from ablab.records.run import Adopted, Identity, MadeBy, Trained, Where
from ablab.records.settings import Settings
from ablab.runtime import machine, provenance, source
from ablab.runtime.lock import locked
from ablab.training import checkpoint
from ablab.training.adopt import golf
from ablab.training.adopt.found import FileWeights, read
from ablab.training.adopt.names import closest, fitted, without_copies
from ablab.training.adopt.strange import weights_at
from ablab.training.train import Sitting, executed, finished

REVISION = 1  # raised whenever a number that this file makes changes on purpose
SHOWN = 4  # differences of one kind that an error lists


def adopt(settings: Settings, corpus: Corpus, where: Where, *, seed: int, out: Path, sitting: Sitting) -> Trained:
    """Write the weights of `settings["train"]["weights"]` (one file) into `out` as a training would have left them.

    Returns what done.json holds: the keys of a training's, with no steps, tokens, seconds or trajectory, the token hash
    "adopted:SHA256", and `adopted` {file, sha256, names, tokenizer, notes}. Arguments are those of `train`.
    CheckFailed where the file cannot be read, runs code, is of another model or tokenizer, or holds what is not finite.
    """
    [file] = map(Path, settings["train"]["weights"] or ())
    ran, digest = executed(where), _sha256(file)
    identity = key_of({"adopted": digest, "model": settings["model"], "seed": seed, **ran,
                       "corpus": corpus.key, "revision": REVISION})  # fmt: skip
    here: MadeBy = {"source": source.of_training(settings), "machine": machine.kind(where.device)}
    if (
        done := finished(out, identity, here, sitting.allow_changed)
    ) is not None:  # without the lock: arms that share weights ask side by side
        return done
    with locked(out) as held:
        checkpoint.sweep(out)
        if (done := finished(out, identity, here, sitting.allow_changed)) is not None:
            return done
        sitting.say(f"weights of {file.name}")
        weights, notes, decoder = taken(settings, corpus, file, precision=where.precision)
        name = "weights.safetensors"
        held.check()
        saved = checkpoint.save_tensors(out / name, weights.tensors, {"tokenizer": corpus.fingerprint})
        adopted: Adopted = {
            "file": file.name,
            "sha256": digest,
            "names": weights.names,
            "tokenizer": weights.tokenizer or None,
            "notes": notes,
        }
        kept: Identity = {"identity": identity, "seed": seed, **ran}
        source.keep(out, here["source"])
        done = sealed(_untrained(kept, here, adopted, {name: saved}, decoder))
        held.check()
        write_json(out / "done.json", done)
        return done


def _untrained(kept: Identity, here: MadeBy, adopted: Adopted, weights: dict[str, str], decoder: Decoder) -> Trained:
    """Return what done.json says where nothing was trained."""
    return {
        "status": "done",
        "fault": None,
        "steps": 0,
        "tokens": 0,
        "seconds": 0.0,
        "validate_seconds": 0.0,
        "tokens_per_second": None,
        "hashes": [],
        "trajectory": [],
        "untrained": {},
        "validated": {},
        "spikes": 0,
        "resumed": [],
        "routing": {},
        "positions": None,
        "rounded": {"steps": 0, "tensors": 0},
        "epochs": 0.0,
        "token_hash": f"adopted:{adopted['sha256']}",
        "parameters": parameters(decoder),
        "weights": weights,
        "identity": kept["identity"],
        "seed": kept["seed"],
        "device": kept["device"],
        "precision": kept["precision"],
        "micro_rows": kept["micro_rows"],
        "executor": kept["executor"],
        "compiled": kept["compiled"],
        "source": here["source"],
        "machine": here["machine"],
        "code": provenance.of_ablab(),
        "threads": torch.get_num_threads(),
        "adopted": adopted,
    }


def taken(settings: Settings, corpus: Corpus, file: Path, *, precision: str) -> tuple[FileWeights, list[str], Decoder]:
    """Read what a file holds, under the model's own names and in its types; what must be known of it; the model's skeleton."""
    weights = read(file)
    if weights.tokenizer and weights.tokenizer != corpus.fingerprint:
        fault = f"made with the tokenizer {weights.tokenizer[:12]}, this corpus has {corpus.fingerprint[:12] or 'none'}"
        raise CheckFailed(Fault(str(file), fault, "score them on text of their own tokenizer"))
    notes = list(weights.notes)
    if not weights.tokenizer:
        notes.append("its tokenizer is not known: that it made these tokens is taken on trust, bytes are audited")
    decoder = skeleton(settings["model"], vocab_size=corpus.vocab_size)
    if golf.fits(weights.tensors):
        try:
            weights.tensors = golf.own(weights.tensors, decoder)
        except ValueError as error:
            fault, _, cure = str(error).partition("; ")
            raise CheckFailed(Fault(str(file), fault, cure)) from error
        weights.names, notes = "golf", notes + golf.notes(settings["model"])
    try:
        if weights.names == "own":
            weights.tensors, left = fitted(weights.tensors, decoder.state_dict().keys())
            notes += left
        weights.tensors, copies = without_copies(weights.tensors, bool(settings["model"]["tied"]))
    except ValueError as error:
        fault, _, cure = str(error).rpartition("; ")
        raise CheckFailed(Fault(str(file), fault, cure)) from None
    notes += copies
    weights.tensors = _checked(weights.tensors, decoder, file, machine.dtype_of(precision))
    return weights, notes, decoder


def _checked(tensors: Mapping[str, Tensor], decoder: Decoder, file: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copy the tensors in the model's order and types; a fault lists every kind of difference."""
    wanted = decoder.state_dict()
    faults = _differences({name: tuple(t.shape) for name, t in tensors.items()}, wanted)
    if faults:
        cure = "use the settings they were trained with"
        if near := closest(wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()):
            faults.append(f"closest are {near}")
        raise CheckFailed(Fault(str(file), f"holds weights of another model: {'; '.join(faults)}", cure))
    done: dict[str, Tensor] = {}
    for name, like in wanted.items():
        tensor = tensors[name].detach().cpu()
        if tensor.is_floating_point() != like.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckFailed(Fault(str(file), f"{name} is {kind}: packed or rounded weights", "give the trained ones"))
        cast = tensor.to(dtype if like.is_floating_point() else like.dtype, copy=True)
        if (lost := _lost(tensor, cast)) is not None:
            raise CheckFailed(Fault(str(file), f"{name} {lost[0]}", lost[1]))
        done[name] = cast
    return done


def _lost(tensor: Tensor, cast: Tensor) -> tuple[str, str] | None:
    """Return fault and cure where numbers are not finite, or do not survive the change of type."""
    kind = str(cast.dtype).removeprefix("torch.")
    if bad := int((~tensor.isfinite()).sum()):
        fault = f"holds {bad:,} number{'s' if bad > 1 else ''} that {'are' if bad > 1 else 'is'} not finite"
        return fault, "give weights of a run that did not diverge"
    if bad := int((~cast.isfinite()).sum()):
        fault = f"holds {bad:,} number{'s' if bad > 1 else ''} beyond the largest of {kind}"
        return fault, "give weights of a run that did not diverge"
    if not cast.is_floating_point() and (bad := int((cast.to(tensor.dtype) != tensor).sum())):
        return f"holds {bad:,} whole number{'s' if bad > 1 else ''} that {kind} does not hold", "give the trained ones"
    return None


def _differences(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor]) -> list[str]:
    """List names that are missing or unknown and shapes that differ, each kind in one text."""
    missing, unknown = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    wrong = [
        f"{name} is {shapes[name]}, the model's is {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & shapes.keys())
        if shapes[name] != tuple(wanted[name].shape)
    ]
    kinds = {"lacks ": missing, "has ": [f"{name}, which the model has not" for name in unknown], "": wrong}
    return [f"{word}{_some(rows)}" for word, rows in kinds.items() if rows]


def _some(rows: list[str]) -> str:
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return ", ".join(rows[:SHOWN]) + more


def _sha256(file: Path) -> str:
    weights_at(file)
    try:
        return sha256_file(file)
    except OSError as error:
        raise CheckFailed(Fault(str(file), f"cannot be read ({error.strerror})", "check train.weights")) from error
