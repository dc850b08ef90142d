"""One run from tokens to scores: train, then every stage, each skipped where its result exists."""

from __future__ import annotations

import functools
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.core.fault import CheckFailed, Fault, Halted, Interrupted, InUse, OutOfMemory, Refused
from ablab.core.files import sha256_file
from ablab.runs.plan import Run
from ablab.runs.store import Store, Where, train_key
from ablab.runtime import machine, signals
from ablab.runtime.lock import locked
from ablab.runtime.signals import at_once
from ablab.study import outside

if TYPE_CHECKING:
    from ablab.data import Corpus

Say = Callable[[str], None]


def do(
    run: Run,
    *,
    store: Store,
    where: Where,
    mirrors: tuple[str, ...],
    stop: Callable[[], bool],
    say: Say,
    allow_changed: bool = False,
) -> str:
    """Bring `run` to its end; returns `done` or `diverged`.

    Raises Interrupted after a checkpoint where `stop()` turned true, CheckFailed where a file is wrong or in use.
    """
    from ablab.data import open_corpus
    from ablab.training.adopt import adopt
    from ablab.training.mirrors import Mirrored
    from ablab.training.train import train

    outside.again(run.levers)
    corpus = open_corpus(run.corpus)
    directory = store.train(run.train_key)
    how: dict[str, Any] = {"seed": run.seed, "out": directory, **where.as_json(), "say": say}
    how["allow_changed"] = allow_changed
    # a finished run is answered from its directory, its weights checked against their sha256
    if run.settings["train"]["weights"]:
        _unchanged(run, where)
        done = adopt(run.settings, corpus, **how)
    else:
        mirrored = Mirrored(mirrors, called=run.called, boards=store.root / "tensorboard")
        done = train(run.settings, corpus, mirrors=mirrored, stop=stop, **how)
    if done["status"] != "done":
        return str(done["status"])
    blobs: dict[str, Path] = {stage: store.score(key) for stage, key in run.score_keys.items()}
    for stage, key in run.score_keys.items():
        if stop():
            raise Interrupted
        if store.scored(key) is None:
            say(f"stage {stage}")
            _score(run, stage, corpus, store, where, blobs)
    return "done"


def _score(run: Run, stage: str, corpus: Corpus, store: Store, where: Where, blobs: dict[str, Path]) -> None:
    """Make one stage, unless another process has just made it. InUse where another one is at it."""
    from ablab.scoring.stage import run_stage

    key, weights = run.score_keys[stage], store.train(run.train_key) / "weights.safetensors"
    with locked(store.score(key)) as held, at_once():
        if store.scored(key) is not None:
            return
        run_stage(
            run.settings,
            stage,
            weights=weights,
            corpus=corpus,
            out=store.score(key),
            seed=run.seed,
            precision=where.precision,
            executor=where.executor,
            device=where.device,
            blobs=blobs,
            here=held.check,
        )


def _unchanged(run: Run, where: Where) -> None:
    """Refuse weights trained elsewhere whose file is no longer the one that the run was keyed by."""
    [file] = run.settings["train"]["weights"] or []
    found = sha256_file(Path(file)) if Path(file).is_file() else ""
    if train_key(run.settings, corpus=run.corpus.name, seed=run.seed, where=where, weights=found) != run.train_key:
        raise CheckFailed(Fault(file, "changed after the runs were planned", "start the study again"))


def serve(
    conn: Any,
    parent: int,
    root: str,
    where: dict[str, Any],
    threads: int,
    mirrors: tuple[str, ...],
    allow_changed: bool,
) -> None:
    """A worker process: takes runs from `conn` until it closes, answers each with its outcome.

    It dies with its parent (nobody would read its results), and turns signals into a checkpoint.
    """
    import os

    signals.die_with_parent()  # before anything slow: a parent killed meanwhile would leave a worker that nobody hears
    if os.getppid() != parent:
        return
    stopped = False

    def ask_to_stop(number: int, _: object) -> None:
        nonlocal stopped
        if number == signal.SIGINT:
            return  # the terminal sends it to the whole group; the parent decides
        stopped = True
        if signals.may_raise():
            raise Interrupted

    signals.heed(ask_to_stop)
    signals.let_in()

    import torch

    torch.set_num_threads(threads)

    def stop() -> bool:
        return stopped or os.getppid() != parent

    do_one = functools.partial(
        do, store=Store(Path(root)), where=Where(**where), mirrors=mirrors, stop=stop, allow_changed=allow_changed
    )
    try:
        _take(conn, do_one, stop)
    finally:
        conn.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # all is written; the interpreter's own end takes seconds, for which a person would wait


def _take(conn: Any, do_one: Callable[..., str], stop: Callable[[], bool]) -> None:
    """Do what comes through `conn`, and answer with (outcome, text), until it closes or `stop()`."""

    def say(text: str) -> None:
        with suppress(OSError):  # a parent that is gone hears nothing; `stop` notices
            conn.send(("say", text))

    while not stop():
        try:
            if not conn.poll(0.2):  # a blocking recv would sleep through SIGTERM
                continue
            run = conn.recv()
        except (EOFError, OSError):
            return
        try:
            conn.send((do_one(run, say=say), ""))
        except Interrupted:
            with suppress(OSError):  # a parent that is gone has its checkpoint all the same
                conn.send(("interrupted", ""))
            return
        except Exception as error:
            kind, text = _outcome(error)
            conn.send((kind, text))
            if kind == "memory":
                return  # and what is still held of it goes with this process


def _outcome(error: BaseException) -> tuple[str, str]:
    """What an error means for the study: (kind, text), kinds as `Board.ended` takes them."""
    if isinstance(error, OutOfMemory) or machine.ran_out(error) or machine.ran_out(error.__cause__):
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return "memory", first if isinstance(error, OutOfMemory) else f"out of memory ({first}); {machine.MORE_MEMORY}"
    if isinstance(error, Refused):
        kinds = {Halted: "halted", InUse: "in use"}
        return next((kind for cls, kind in kinds.items() if isinstance(error, cls)), "refused"), str(error)
    return "failed", traceback.format_exc()
