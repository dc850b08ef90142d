"""Training: one run's settings and tokens to weights. A loop that reads from top to bottom.

No global random numbers are used: weights come from named streams, batches from (seed, step). So a checkpoint is weights,
optimizer state and a few numbers, and on a CPU a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ablab.core.fault import CheckFailed, Fault, Interrupted, OutOfMemory
from ablab.core.files import key_of, sha256_file, write_json
from ablab.core.sealed import read_sealed, sealed
from ablab.data import Corpus, byte_check
from ablab.data.bands import band_edges
from ablab.model.size import parameters
from ablab.records.run import Checkpoint, End, Executed, Identity, MadeBy, Resumed, Trained, Where
from ablab.records.settings import Settings
from ablab.runtime import capacity, changed, machine, source
from ablab.runtime.at_once import at_once
from ablab.runtime.lock import locked
from ablab.runtime.provenance import of_ablab
from ablab.training import checkpoint, snapshot
from ablab.training.learner import Diverged, Learner, Spikes
from ablab.training.metrics import NO_MIRRORS, Metrics, Mirrored

if TYPE_CHECKING:
    from ablab.training.mirrors import Mirrors

REVISION = 3  # raised whenever a number that this file makes changes on purpose
PATIENCE = 10.0  # seconds that a run which has ended waits for its mirrors: a few hundred rows of one that works
HURRY = 0.5  # the same where the run was asked to stop: its checkpoint is written, and a scheduler waits
SAY_EVERY = 0.5  # seconds between two lines about a run
Say = Callable[[str], None]


@dataclass
class Progress:
    """The progress of a run, besides tensors: all that a checkpoint's header must hold."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training steps alone: validation and checkpoints are not counted, earlier sittings are
    token_hash: str = ""
    recent: list[float] = field(default_factory=list)
    spikes: int = 0
    trajectory: list[dict[str, float | None]] = field(default_factory=list)
    hashes: list[list[int | str]] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    untrained: dict[str, float | None] = field(default_factory=dict)  # scores before the first step
    positions: list[int] = field(default_factory=list)  # targets trained in each band of positions
    rounded: int = 0  # steps whose passes saw rounded weights
    resumed: list[Resumed] = field(default_factory=list)  # where it went on by other code or on another machine
    validate_seconds: float = 0.0  # of scoring a part of the held-out text, before the first step and on the way


@dataclass(frozen=True)
class Sitting:
    """What of a training is no part of its result.

    stop: whether to end after this step. say: hears how it goes. checkpoint_every: seconds. allow_changed: take what other
    code made, go on with what it, another torch or machine began (`ablab.runtime.changed`). company: who is at `follow`.
    """

    stop: Callable[[], bool] = lambda: False
    say: Say = print
    checkpoint_every: float = 60.0
    mirrors: Mirrored = NO_MIRRORS
    allow_changed: bool = False
    company: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


def train(settings: Settings, corpus: Corpus, where: Where, *, seed: int, out: Path, sitting: Sitting) -> Trained:
    """Train one run in directory `out` to the end of its budget; returns what done.json holds. Goes on where it stopped.

    status is `done`, or `diverged` where loss or gradient were not finite (a result, not an error).
    Raises Interrupted after a checkpoint once the sitting stops; CheckFailed where `out` is in use, cannot be written, or holds
    another run or one of changed code; InvalidStudy for impossible sizes.
    """
    ran = executed(where)
    identity = _identity(settings, corpus, {"seed": seed, **ran})
    here: MadeBy = {"source": source.of_training(settings), "machine": machine.kind(where.device)}
    if (done := finished(out, identity, here, sitting.allow_changed)) is not None:
        checkpoint.drop_all(out)  # which a kill between done.json and their end has left
        return done  # without the lock: arms that share weights ask side by side
    with locked(out) as held:
        checkpoint.sweep(out)
        if (done := finished(out, identity, here, sitting.allow_changed)) is not None:
            return done
        with sitting.company():
            with at_once():
                learner = Learner(settings, corpus, seed=seed, **where.as_json())
            progress, size = _resume(learner, out, identity, here, sitting)
            learner.group.told(dataclasses.asdict(progress))
            source.keep(out, here["source"])
            metrics = Metrics(out / "metrics.jsonl", keep=size, here=held.check)
            mirror = _mirror(sitting, out, settings)
            try:
                patience = HURRY
                fault = _sit(learner, progress, metrics, mirror, out, {"identity": identity, **here}, sitting)
                patience = PATIENCE
            except RuntimeError as error:
                raise (_out_of_memory(error, out, where.micro_rows) or error) from None
            finally:
                metrics.close()
                if mirror is not None:
                    mirror.close(patience)
        kept: Identity = {"identity": identity, "seed": seed, **ran}
        held.check()
        end: End = {"rows": metrics.rows, "chain": metrics.head}
        return _finish(learner, progress, corpus, fault, out, kept, end, here["source"])


def follow(settings: Settings, corpus: Corpus, where: Where, *, seed: int, out: Path, stop: Callable[[], bool]) -> None:
    """Take part in a run whose first process is at `train`: the same steps on other micro-batches, and nothing is written."""
    learner = Learner(settings, corpus, seed=seed, **where.as_json())
    progress = Progress(**cast("dict[str, Any]", learner.group.told({})))
    if progress.step:
        snapshot.restore(learner, checkpoint.tensors_at(out, progress.step))
    progress.untrained = progress.untrained or _untrained(learner, progress, out)
    quiet = Sitting(stop, say=lambda _: None, checkpoint_every=math.inf)
    _loop(
        learner, progress, quiet, write=lambda _: None, save=lambda: snapshot.tensors(learner)
    )  # what is only here goes to the first process


def _mirror(sitting: Sitting, out: Path, settings: Settings) -> Mirrors | None:
    """Begin the copies of the metrics that are asked for."""
    if not sitting.mirrors.names:
        return None
    from ablab.training.mirrors import Mirrors

    return Mirrors(sitting.mirrors, out, settings=settings, say=sitting.say)


def executed(where: Where) -> Executed:
    """Say how a run is executed, on whichever device of its kind."""
    return {**where.as_json(), "device": torch.device(where.device).type}


def _sit(
    learner: Learner,
    progress: Progress,
    metrics: Metrics,
    mirror: Mirrors | None,
    out: Path,
    header: Mapping[str, object],
    sitting: Sitting,
) -> str:
    """Score the weights as they were drawn, once, and step to the end of the budget (`_loop`); its answer."""

    def write(row: Mapping[str, object]) -> None:
        metrics.write(row)
        if mirror is not None:
            mirror.write()

    def save() -> None:
        here = {**header, "metrics_bytes": metrics.sync(), "progress": dataclasses.asdict(progress)}
        checkpoint.save(out, progress.step, snapshot.tensors(learner), here)

    if not progress.untrained:
        with at_once():
            progress.untrained = _untrained(learner, progress, out)
    fault = _loop(learner, progress, sitting, write=write, save=save)
    metrics.sync()
    return fault


def _identity(settings: Settings, corpus: Corpus, how: Mapping[str, object]) -> str:
    """Identify what a directory holds: another question gets another identity."""
    asked = {k: settings[k] for k in ("budget", "model", "train")}
    data = {k: v for k, v in settings["data"].items() if k in ("span", "order", "weights")}
    return key_of({"settings": asked, **how, "data": data, "corpus": corpus.key, "revision": REVISION})


def _validate(learner: Learner, progress: Progress) -> dict[str, float]:
    """Return what `validate` measures, its seconds written down."""
    began = time.perf_counter()
    held_out = learner.validate()
    progress.validate_seconds += time.perf_counter() - began
    return held_out


def _untrained(learner: Learner, progress: Progress, out: Path) -> dict[str, float | None]:
    """Score the weights as they were drawn. A loss that is not finite is left to the first step, which says so."""
    held_out = _validate(learner, progress)
    if not all(map(math.isfinite, held_out.values())):
        return {"nats_per_token": None}
    return byte_check.untrained(held_out, learner.held_out, place=str(out))


def _loop(
    learner: Learner,
    progress: Progress,
    sitting: Sitting,
    *,
    write: Callable[[Mapping[str, object]], None],
    save: Callable[[], object],
) -> str:
    """Step until the budget is spent; returns "", or what was not finite."""
    if learner.compiled and learner.steps is None:
        # A budget in seconds begins after compilation, on resume too: else arms with more kinds of layers, and runs that
        # were stopped more often, would get fewer steps.
        learner.warm_up(progress.step, learner.spent(progress.step, progress.seconds))
    spikes, saved, said = Spikes(progress.recent), time.monotonic(), 0.0
    while (spent := learner.spent(progress.step, progress.seconds)) < 1:
        if any(learner.group.most([sitting.stop()])):  # all at the same step, or they would wait for one another
            save()
            raise Interrupted(f"stopped after step {progress.step}; the next run goes on from there")
        began = time.perf_counter()
        fed = learner.feed.take(progress.step, progress.token_hash)
        try:
            loss, norm, rate = learner.step(fed.batch, progress.step + 1, spent)
        except Diverged as fault:
            return f"{fault} at step {progress.step + 1}"
        progress.seconds += time.perf_counter() - began
        if learner.steps is None:
            [progress.seconds] = learner.group.most([progress.seconds])
        progress.step += 1
        progress.tokens += fed.batch.tokens_BT.numel()
        progress.token_hash = fed.token_hash
        progress.positions = [a + b for a, b in zip_longest(progress.positions, fed.positions, fillvalue=0)]
        progress.rounded += bool(learner.rounds) and learner.qat.acts(spent)
        progress.spikes += spikes.seen(loss)
        here = {"step": progress.step, "tokens": progress.tokens}
        row = {**here, "loss": loss, "lr": rate, "grad_norm": norm, "token_hash": progress.token_hash}
        row |= {f"moe.{name}": value for name, value in learner.health.items() if name != "layers"}
        row |= {f"loss_{name}": value for name, value in learner.spanned.items()}
        write({**row, "seconds": round(progress.seconds, 6)})
        over = learner.spent(progress.step, progress.seconds) >= 1
        if over or learner.validates(progress.tokens):
            held_out = _validate(learner, progress)
            if not all(map(math.isfinite, held_out.values())):
                return f"the validation loss is not finite after step {progress.step}"
            progress.trajectory.append({**here, **held_out})
            progress.hashes.append([progress.tokens, progress.token_hash])
            layers = {"moe.layers": learner.health["layers"]} if learner.health else {}
            write({**here, **{f"valid_{name}": value for name, value in held_out.items()}, **layers})
        if not over and any(learner.group.most([time.monotonic() - saved >= sitting.checkpoint_every])):
            save()
            saved = time.monotonic()
        if over or time.monotonic() - said >= SAY_EVERY:
            sitting.say(_line(learner, progress, loss))
            said = time.monotonic()
    return ""


def _resume(learner: Learner, out: Path, identity: str, here: MadeBy, sitting: Sitting) -> tuple[Progress, int]:
    """Bring the learner to the newest whole checkpoint; its progress, and the bytes of metrics that belong to it.

    Raises CheckFailed where the checkpoint is of another run (another question gets another directory), or of other code than
    is `here` and that is not allowed.
    """
    other, say = list[str](), sitting.say

    def fit(header: Checkpoint) -> str:
        if header["identity"] != identity:
            fault = "holds a checkpoint of a run with other settings, data, seed, precision or micro-batch"
            raise _Another(CheckFailed(Fault(str(out), fault, "choose another directory, or delete this one")))
        other[:] = changed.since(header, here, out)
        if other and not sitting.allow_changed:
            raise _Another(changed.refused(out, f"its checkpoint of step {header['step']}", other))
        path, size = out / "metrics.jsonl", header["metrics_bytes"]
        if not path.exists() or path.stat().st_size < size:
            return f"metrics.jsonl is shorter than the {size} bytes that it had then"
        return ""

    try:
        newest = checkpoint.newest(out, fit=fit, say=say)
    except _Another as another:
        raise another.refused from None
    if newest is None:
        checkpoint.drop_all(out)
        return Progress(machines=[machine.kind(learner.device)]), 0
    header, tensors = newest
    snapshot.restore(learner, tensors)
    progress = Progress(**header["progress"])
    if here["machine"] not in progress.machines:
        progress.machines.append(here["machine"])
    if "source" not in header:
        say(f"{out}: {changed.UNKNOWN}")
    if other:
        say(f"{out}: goes on though {'; '.join(other)}; it will not be bit-identical to an uninterrupted run")
        progress.resumed.append({"step": progress.step, "changed": other})
    say(f"step {progress.step}: resumed")
    return progress, header["metrics_bytes"]


class _Another(Exception):
    """Carries a refusal past the search for a whole checkpoint, which passes over ordinary faults."""

    def __init__(self, refused: CheckFailed) -> None:
        self.refused = refused


def finished(out: Path, identity: str, here: MadeBy, allow_changed: bool) -> Trained | None:
    """Read done.json of this very run, its weights checked; None where unfinished. CheckFailed where other code made it."""
    path = out / "done.json"
    if not path.exists():
        return None
    done = read_sealed(path, "identity", "weights", form=Trained, cure=f"delete {out} to have the run made again")
    if done["identity"] != identity:
        fault = "is of a run with other settings, data, seed, precision or micro-batch"
        raise CheckFailed(Fault(str(path), fault, "choose another directory, or delete this one"))
    if (other := source.changes(done, here, out)) and not allow_changed:
        raise changed.refused(out, "it", other)
    for name, digest in done["weights"].items():
        if not (out / name).exists() or sha256_file(out / name) != digest:
            fault = "is missing or does not match the sha256 in done.json"
            raise CheckFailed(Fault(str(out / name), fault, f"delete {out} to have the run made again"))
    return done


def _finish(
    learner: Learner,
    progress: Progress,
    corpus: Corpus,
    fault: str,
    out: Path,
    identity: Identity,
    metrics: End,
    made_by: dict[str, str],
) -> Trained:
    """Write the weights, then done.json, then drop the checkpoints: whatever is killed in between is made again."""
    weights = {}
    if not fault:
        for name, tensors in zip(("weights.safetensors", "weights.last.safetensors"), learner.weights()):
            if tensors:
                metadata = {"tokenizer": corpus.fingerprint}
                weights[name] = checkpoint.save_tensors(out / name, tensors, metadata)
    done: Trained = {
        "status": "diverged" if fault else "done",
        "fault": fault or None,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "validate_seconds": progress.validate_seconds,
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
        "token_hash": progress.token_hash,
        "hashes": progress.hashes,
        "trajectory": progress.trajectory,
        "untrained": progress.untrained,
        "validated": {
            "documents": len(learner.held_out.valid),
            "tokens": learner.held_out.valid.n_targets,
            "bytes": learner.held_out.valid.n_scored_bytes,
            "whole": learner.held_out is corpus,
        },
        "spikes": progress.spikes,
        "parameters": parameters(learner.model),
        "routing": learner.health,
        "positions": {"edges": band_edges(learner.seq_len), "tokens": progress.positions},
        "rounded": {"steps": progress.rounded, "tensors": len(learner.rounds)},
        "epochs": learner.stream.epochs(progress.tokens),
        "weights": weights,
        "resumed": progress.resumed,
        "identity": identity["identity"],
        "seed": identity["seed"],
        "precision": identity["precision"],
        "micro_rows": identity["micro_rows"],
        "executor": identity["executor"],
        "compiled": identity["compiled"],
        "device": identity["device"],
        "source": made_by,
        "metrics": metrics,
        "machine": "; ".join(progress.machines),
        "code": of_ablab(),
        "threads": torch.get_num_threads(),
    }
    done = sealed(done)
    write_json(out / "done.json", done)
    checkpoint.drop_all(out)
    return done


def _line(learner: Learner, progress: Progress, loss: float) -> str:
    """Write one line for people: place, loss, speed, time left."""
    spent = learner.spent(progress.step, progress.seconds)
    of, left = f"/{learner.steps}" if learner.steps else f" ({spent:.0%})", progress.seconds * (1 - spent) / spent
    return f"step {progress.step}{of}, loss {loss:.3f}, {progress.tokens / progress.seconds:,.0f} tokens/s, {left:.0f} s left"


def _out_of_memory(error: RuntimeError, out: Path, micro_rows: int) -> OutOfMemory | None:
    """Return a refusal with a hint where memory ran out: the batch is never made smaller in silence."""
    if not capacity.ran_out(error):
        return None
    return OutOfMemory(Fault(str(out), f"out of memory with {micro_rows} rows per micro-batch", capacity.MORE_MEMORY))
