"""One run from tokens to scores: train, then every stage, each skipped where its result exists."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablab.fault import Fault, GateFailed, Interrupted, Refused
from ablab.files import sha256_file
from ablab.plan import Run
from ablab.signals import die_with_parent
from ablab.store import Store, Where, train_key

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

    Raises Interrupted after a checkpoint where `stop()` turned true, GateFailed where a file is wrong or in use.
    """
    from ablab.adopt import adopt
    from ablab.data import open_corpus
    from ablab.metrics import Mirrored
    from ablab.stage import run_stage
    from ablab.train import train

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
        if store.scored(key) is not None:
            continue
        if stop():
            raise Interrupted
        say(f"stage {stage}")
        run_stage(
            run.settings,
            stage,
            weights=directory / "weights.safetensors",
            corpus=corpus,
            out=store.score(key),
            seed=run.seed,
            precision=where.precision,
            executor=where.executor,
            device=where.device,
            blobs=blobs,
        )
    return "done"


def _unchanged(run: Run, where: Where) -> None:
    """Refuse weights trained elsewhere whose file is no longer the one that the run was keyed by."""
    [file] = run.settings["train"]["weights"]
    found = sha256_file(Path(file)) if Path(file).is_file() else ""
    if train_key(run.settings, corpus=run.corpus.name, seed=run.seed, where=where, weights=found) != run.train_key:
        raise GateFailed(Fault(file, "changed after the runs were planned", "start the study again"))


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

    It dies with its parent (nobody would read its results), and turns SIGTERM into a checkpoint.
    """
    import os
    import signal

    die_with_parent()  # before anything slow: a parent killed meanwhile would leave a worker that nobody hears
    if os.getppid() != parent:
        return

    import torch

    stopped = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group; the parent decides
    torch.set_num_threads(threads)

    def stop() -> bool:
        return stopped or os.getppid() != parent

    do_one = functools.partial(
        do, store=Store(Path(root)), where=Where(**where), mirrors=mirrors, stop=stop, allow_changed=allow_changed
    )
    _take(conn, do_one, stop)


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
        except Refused as refused:
            conn.send(("refused", str(refused)))
        except Exception:
            conn.send(("failed", traceback.format_exc()))
