"""One stage of a run: pack the trained weights, unpack them, evaluate, write one score per document."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ablab.artifact import blob as packing
from ablab.artifact.blob import BLOB, RESULT
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import write_atomic, write_json
from ablab.core.forms import fits, misfit
from ablab.core.opened import opened
from ablab.core.sealed import sealed
from ablab.data import Corpus, byte_check
from ablab.model.decoder import Decoder, build
from ablab.records.result import Result
from ablab.records.run import MadeBy, Where
from ablab.records.settings import Settings
from ablab.runtime import machine, source
from ablab.runtime.machine import Peak, dtype_of
from ablab.scoring import evaluators
from ablab.scoring.evaluators.evaluator import Evaluator, sample
from ablab.scoring.ledger import Ledger
from ablab.scoring.legality import forward, replay
from ablab.scoring.legality.kept import Observed
from ablab.scoring.scores import Scores, finite

REVISION = 4  # raised whenever a number that this file makes changes on purpose


def run_stage(
    settings: Settings,
    name: str,
    *,
    weights: Path,
    corpus: Corpus,
    folders: Mapping[str, Path],
    seed: int,
    where: Where,
    here: Callable[[], None] = lambda: None,
) -> Result:
    """Run stage `name` on the weights file and write scores.npz, then result.json, whose content is returned.

    folders: of every stage of this run; one that is built on (`after`) has left its packed bytes in its own.
    here(): raises where this stage's is gone, before anything is written.
    result: metrics {nats_per_token, bits_per_byte, nats_per_SPAN_token}, bytes (of the artifact: model_bytes, which is the
    size of its file, and code_bytes), blob (its sha256), artifact (what was said while packing), bands, extra, probe (of
    an evaluator that does not decide, else None), violations (nothing is raised), checked, diverged, scores {file, sha256},
    seconds, peak_bytes; source (`ablab.runtime.source`) and machine say what made it; key and digest guard the rest.
    CheckFailed where a file is missing, damaged, or does not fit.
    """
    began, out, peak = time.perf_counter(), folders[name], Peak(where.device)
    make = functools.partial(decoder_of, corpus=corpus, seed=seed, where=where)
    blob = packing.packed(
        settings,
        name,
        functools.partial(_load, weights, corpus),
        blobs=folders,
        corpus=corpus,
        seed=seed,
        precision=where.precision,
        model=functools.partial(make, settings),
    )
    model = make(windowed(settings, name), packing.unpacked(blob))
    before, packed = _digest(model), time.perf_counter()
    evaluator = evaluators.slot.build(settings["stage"][name]["evaluate"])
    violated, checked = legal(evaluator, name, model, corpus, settings, seed=seed, where=where)
    after = time.perf_counter()
    scores, told, seen, looked = _kept(
        evaluator, name, model, corpus, settings, before, seed=seed, precision=where.precision
    )
    evaluated = time.perf_counter()
    checked |= seen
    scores.violations = [*violated, *told, *blob.report.get("violations", []), *scores.violations]
    scores.violations += _totals(evaluator, scores, corpus)
    if _digest(model) != before:
        scores.violations.append("weights: the evaluation changed the model")
    here()
    if blob.root == name and packing.is_built_on(settings, name):
        write_atomic(out / BLOB, blob.content)
    timing = {"pack": packed - began, "check": after - packed + looked, "evaluate": evaluated - after - looked}
    record = {"stage": name, **_sizes(blob), **_scored_as(scores), "checked": checked, **_extra(evaluator, scores)}
    record |= {"seconds": sum(timing.values()), "timing": timing, "peak_bytes": peak.read(), "scores": scores.save(out)}
    record |= _made_by(out, settings, name, where.device)
    return _written({**record, "key": out.name}, name, out)


def _written(record: Mapping[str, object], name: str, out: Path) -> Result:
    """Write the result, sealed, as result.json. CheckFailed where its reader would refuse it for a lever's report."""
    result = sealed(finite(record))
    if not fits(result, Result):
        fault = f"its evaluator or compressor reports what no result holds (it {misfit(result, Result)})"
        raise CheckFailed(
            Fault(f"stage.{name}", fault, "report that under another name, or as ablab.records.result has it")
        )
    write_json(out / RESULT, result)
    return result


def _made_by(out: Path, settings: Settings, name: str, device: str) -> MadeBy:
    """Return the source, kept beside, and the machine."""
    made_by = source.of_stage(settings, name)
    source.keep(out, made_by)
    return {"source": made_by, "machine": machine.kind(device)}


def _sizes(blob: packing.Blob) -> dict[str, object]:
    """Return the sizes of the artifact."""
    size = len(blob.content)
    parts = {"bytes": size + blob.code_bytes, "model_bytes": size, "code_bytes": blob.code_bytes}
    return {**parts, "blob": blob.sha256, "artifact": blob.report}


def _scored_as(scores: Scores) -> dict[str, object]:
    """Return the metrics, violations and bands of the scores."""
    record = {"metrics": scores.metrics, "violations": scores.violations, "bands": scores.bands}
    return {**record, "diverged": scores.extra.get("diverged")}


def _totals(evaluator: Evaluator, scores: Scores, corpus: Corpus) -> list[str]:
    """Say where totals of an evaluator that decides are not those of the text."""
    if not evaluator.decides:
        return []
    limit = evaluator.documents
    return forward.complete(scores, corpus, limit) + byte_check.told(scores.metrics, sample(corpus, limit).valid)


def windowed(settings: Settings, name: str) -> Settings:
    """Return the settings with the windows that stage `name` sets for its evaluation; 0 sees everything."""
    chosen = settings["stage"][name]["windows"]
    if not chosen:
        return settings
    changed = copy.deepcopy(settings)
    for kind in changed["model"]["kinds"].values():
        if kind["table"] in chosen:
            kind["window"] = chosen[kind["table"]] or None
    return changed


def legal(
    evaluator: Evaluator,
    name: str,
    model: Decoder,
    corpus: Corpus,
    settings: Settings,
    *,
    seed: int,
    where: Where,
) -> tuple[list[str], dict[str, float]]:
    """Check the model, then the evaluator: what they violate, and the largest deviations seen."""
    how = {"precision": where.precision, "executor": where.executor}
    violated, checked = forward.check(model, corpus, settings, **how)
    if evaluator.decides:
        with _said_of(name, settings):
            more, seen = replay.check(evaluator, model, corpus, settings, seed=seed, **how)
        violated, checked = violated + more, checked | seen
    return violated, checked


@contextlib.contextmanager
def _said_of(name: str, settings: Settings) -> Iterator[None]:
    """Turn a ValueError within the block into the fault of this stage's evaluator."""
    evaluate = settings["stage"][name]["evaluate"]
    try:
        yield
    except ValueError as error:
        raise CheckFailed(Fault(f"stage.{name}.evaluate", f"{evaluate['name']}: {error}")) from error


def _kept(
    evaluator: Evaluator,
    name: str,
    model: Decoder,
    corpus: Corpus,
    settings: Settings,
    digest: str,
    *,
    seed: int,
    precision: str,
) -> tuple[Scores, list[str], dict[str, float], float]:
    """Return the scores, what they violate, the largest deviations, and the seconds that were spent on looking."""

    def evaluate(on: Decoder, text: Corpus, ledger: Ledger | None) -> Scores:
        fresh = evaluators.slot.build(settings["stage"][name]["evaluate"])
        with _said_of(name, settings):
            return fresh(on, text, settings, seed=seed, precision=precision, ledger=ledger)

    kept = Observed(model, corpus, evaluator, seed=seed, digest=digest)
    scores, began = kept.run(evaluate), time.perf_counter()
    told, seen = kept.check(evaluate, scores, precision=precision)
    return scores, told, seen, kept.calls.seconds + time.perf_counter() - began


def _extra(evaluator: Evaluator, scores: Scores) -> dict[str, object]:
    """Return what an evaluator wants to show, as a probe's or beside scores of the text."""
    return {"probe": None, "extra": scores.extra} if evaluator.decides else {"probe": scores.extra, "extra": {}}


def trained_decoder(settings: Settings, weights: Path, corpus: Corpus, *, seed: int, where: Where) -> Decoder:
    """Build the decoder with the weights of a finished training, as trained. CheckFailed where the file does not fit."""
    return decoder_of(settings, _load(weights, corpus), corpus=corpus, seed=seed, where=where)


def _digest(model: torch.nn.Module) -> str:
    """Hash (sha256) the type, shape and bytes of every parameter and buffer, by sorted names."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _load(weights: Path, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Load trained weights. They carry the hash of their tokenizer; on text of another one they are not scored."""
    try:
        opened(weights).close()  # the library waits at a pipe
        with safe_open(weights, "pt") as file:
            tokenizer = (file.metadata() or {}).get("tokenizer", "")
        loaded: dict[str, torch.Tensor] = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise CheckFailed(
            Fault(str(weights), f"cannot be read ({error})", "delete its directory to train again")
        ) from error
    if tokenizer != corpus.fingerprint:
        made = f"made with the tokenizer {tokenizer[:12]}" if tokenizer else "made with no known tokenizer"
        fault = f"{made}, this corpus has {corpus.fingerprint[:12] or 'none'}"
        raise CheckFailed(Fault(str(weights), fault, "score them on text of their own tokenizer"))
    return loaded


def decoder_of(
    settings: Settings, unpacked: Mapping[str, torch.Tensor], *, corpus: Corpus, seed: int, where: Where
) -> Decoder:
    """Build the decoder of the settings with the unpacked weights; every name and shape must fit."""
    model = build(
        settings["model"],
        vocab_size=corpus.vocab_size,
        seed=seed,
        salt=settings["train"]["salt"],
        device=where.device,
        dtype=dtype_of(where.precision),
        executor=where.executor,
    )
    try:
        model.load_state_dict(dict(unpacked), strict=True)
    except RuntimeError as error:
        fault = f"the weights are of another model ({' '.join(str(error).split())})"
        raise CheckFailed(Fault("stage", fault, "use the settings they were trained with")) from error
    return model
