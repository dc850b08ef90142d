"""One stage of a run: pack the trained weights, unpack them, evaluate, write one score per document."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ablab import audit, compressors, evaluators
from ablab.compressors.digest import digest
from ablab.data import Corpus
from ablab.evaluators import gates
from ablab.evaluators.subset import first
from ablab.fault import Fault, GateFailed
from ablab.files import read_json, write_atomic, write_json
from ablab.machine import dtype_of
from ablab.model import Decoder, build
from ablab.scores import Scores, finite

REVISION = 1  # raised whenever a number that this file makes changes on purpose
RESULT, BLOB = "result.json", "blob"


def run_stage(
    settings: Mapping[str, Any],
    name: str,
    *,
    weights: Path,
    corpus: Corpus,
    out: Path,
    seed: int,
    precision: str,
    executor: str,
    device: str = "cpu",
    blobs: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Run stage `name` on the weights file and write `out`/scores.npz, then `out`/result.json, whose content is returned.

    `blobs`: the directory of every stage of this run, where a stage that is built on (`after`) has left its packed bytes.
    result: metrics {nats_per_token, bits_per_byte, nats_per_SPAN_token}, bytes and sha256 of the blob, bands, extra, probe
    (of an evaluator that does not decide, else None), gates (rules that were violated, in words: they make the arm invalid,
    nothing is raised), checked, scores {file, sha256}, seconds, peak_bytes. GateFailed where a file is missing, damaged, or
    does not fit.
    """
    began, stage = time.perf_counter(), settings["stage"][name]
    root = _root(settings, name)
    blob = _blob(settings, name, weights, blobs or {}, corpus)
    unpacked = _unpack(settings, root, blob)
    model = _model(settings, unpacked, corpus, seed=seed, precision=precision, executor=executor, device=device)
    before, packed = digest(_tensors(model)), time.perf_counter()
    violated, checked = gates.check(model, corpus, settings, precision=precision, executor=executor)
    evaluator, gated = evaluators.slot.build(stage["evaluate"]), time.perf_counter()
    scores = _scored(evaluator, name, stage, model, corpus, settings, seed=seed, precision=precision)
    evaluated = time.perf_counter()
    violated += scores.gates
    if evaluator.decides:
        violated += gates.complete(scores, corpus, limit := getattr(evaluator, "documents", None))
        violated += audit.told(scores.metrics, first(corpus, limit).valid)
    if digest(_tensors(model)) != before:
        violated.append("weights: the evaluation changed the model")
    scores.gates = violated
    if root == name and _is_built_on(settings, name):
        write_atomic(out / BLOB, blob)
    result: dict[str, Any] = finite(
        {
            "stage": name,
            "metrics": scores.metrics,
            "bytes": len(blob),
            "blob": hashlib.sha256(blob).hexdigest(),
            "gates": violated,
            "checked": checked,
            "bands": scores.bands,
            **_extra(evaluator, scores),
            "seconds": evaluated - began,
            "timing": {"pack": packed - began, "check": gated - packed, "evaluate": evaluated - gated},
            "peak_bytes": peak_bytes(device),
            "scores": scores.save(out),
        }
    )
    write_json(out / RESULT, result)
    return result


def _scored(evaluator: Any, name: str, stage: Mapping[str, Any], *parts: Any, **how: Any) -> Scores:
    try:
        found: Scores = evaluator(*parts, **how)
        return found
    except ValueError as error:
        raise GateFailed(Fault(f"stage.{name}.evaluate", f"{stage['evaluate']['name']}: {error}")) from error


def _extra(evaluator: Any, scores: Scores) -> dict[str, Any]:
    """What an evaluator wants to show, as a probe's or beside scores of the text."""
    return {"probe": None, "extra": scores.extra} if evaluator.decides else {"probe": scores.extra, "extra": {}}


def read_stage(out: Path) -> tuple[dict[str, Any], Scores]:
    """What `run_stage` left in `out`. GateFailed, naming the file, where one is missing, truncated or edited."""
    result = read_json(out / RESULT)
    return result, Scores.load(out, result)


def peak_bytes(device: str) -> int:
    """Most memory held: by tensors on a GPU since the process began, by the whole process on the CPU."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trained_decoder(
    settings: Mapping[str, Any], weights: Path, corpus: Corpus, *, seed: int, precision: str, executor: str, device: str
) -> Decoder:
    """The decoder with the weights of a finished training, as they were trained. GateFailed where the file does not fit."""
    return _model(
        settings, _load(weights, corpus), corpus, seed=seed, precision=precision, executor=executor, device=device
    )


def _root(settings: Mapping[str, Any], name: str) -> str:
    """The stage whose packed bytes stage `name` evaluates: itself, or the start of its chain of `after`."""
    chain = [name]
    while (after := settings["stage"][chain[-1]]["after"]) is not None:
        place = f"stage.{chain[-1]}.after"
        if after not in settings["stage"]:
            raise GateFailed(Fault(place, f"there is no stage '{after}'", f"known: {', '.join(settings['stage'])}"))
        if after in chain:
            raise GateFailed(Fault(place, f"'{after}' stands after itself", "break the circle"))
        chain.append(after)
    return chain[-1]


def _is_built_on(settings: Mapping[str, Any], name: str) -> bool:
    return any(other != name and _root(settings, other) == name for other in settings["stage"])


def _blob(settings: Mapping[str, Any], name: str, weights: Path, blobs: Mapping[str, Path], corpus: Corpus) -> bytes:
    """The packed weights: those that the root stage left, else packed here; they must be the bytes that it counted."""
    root = _root(settings, name)
    directory = blobs.get(root) if root != name else None
    kept = directory / BLOB if directory else None
    if kept is not None and kept.exists():
        blob = kept.read_bytes()
    else:
        blob = compressors.slot.build(settings["stage"][root]["compress"]).pack(_load(weights, corpus))
    if directory is not None and (directory / RESULT).exists():
        wanted = read_json(directory / RESULT)["blob"]
        if hashlib.sha256(blob).hexdigest() != wanted:
            fault = f"stage '{name}' would not evaluate the bytes that stage '{root}' counted (sha256 differs)"
            raise GateFailed(Fault(str(kept), fault, f"delete {directory} to have it made again"))
    return blob


def _unpack(settings: Mapping[str, Any], root: str, blob: bytes) -> dict[str, torch.Tensor]:
    compressor = compressors.slot.build(settings["stage"][root]["compress"])
    try:
        unpacked: dict[str, torch.Tensor] = compressor.unpack(blob)
        return unpacked
    except ValueError as error:
        raise GateFailed(Fault(f"stage.{root}.compress", str(error))) from error


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _load(weights: Path, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Trained weights. They carry the hash of their tokenizer; on text of another one they are not scored."""
    try:
        with safe_open(weights, "pt") as file:
            found = (file.metadata() or {}).get("tokenizer", "")
        loaded: dict[str, torch.Tensor] = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise GateFailed(
            Fault(str(weights), f"cannot be read ({error})", "delete its directory to train again")
        ) from error
    if found != corpus.fingerprint:
        made = f"made with the tokenizer {found[:12]}" if found else "made with no known tokenizer"
        fault = f"{made}, this corpus has {corpus.fingerprint[:12] or 'none'}"
        raise GateFailed(Fault(str(weights), fault, "score them on text of their own tokenizer"))
    return loaded


def _model(
    settings: Mapping[str, Any],
    unpacked: Mapping[str, torch.Tensor],
    corpus: Corpus,
    *,
    seed: int,
    precision: str,
    executor: str,
    device: str,
) -> Decoder:
    """The decoder of the settings with the unpacked weights; every name and shape must fit."""
    model = build(
        settings["model"],
        vocab_size=corpus.vocab_size,
        seed=seed,
        salt=settings["train"]["salt"],
        device=device,
        dtype=dtype_of(precision),
        executor=executor,
    )
    try:
        model.load_state_dict(dict(unpacked), strict=True)
    except RuntimeError as error:
        fault = f"the weights are of another model ({' '.join(str(error).split())})"
        raise GateFailed(Fault("stage", fault, "use the settings they were trained with")) from error
    return model
