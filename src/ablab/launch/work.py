"""One run from tokens to scores: train, then every stage, each skipped where its result exists."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault, Halted, Interrupted, InUse, OutOfMemory, Refused
from ablab.core.files import sha256_file
from ablab.launch import outside, program, ranks
from ablab.launch.ranks import BY_ITSELF, Together
from ablab.records.run import Where
from ablab.runs.plan import Run
from ablab.runs.store import Store, train_key
from ablab.runtime import capacity
from ablab.runtime.at_once import at_once
from ablab.runtime.lock import locked

if TYPE_CHECKING:
    from ablab.data import Corpus

Say = Callable[[str], None]
Said = tuple[str, str]


def do(
    run: Run,
    *,
    store: Store,
    where: Where,
    mirrors: tuple[str, ...],
    stop: Callable[[], bool],
    say: Say,
    allow_changed: bool = False,
    together: Together = BY_ITSELF,
) -> str:
    """Bring `run` to its end; returns `done` or `diverged`.

    Raises Interrupted after a checkpoint where `stop()` turned true, CheckFailed where a file is wrong or in use.
    """
    if run.program is not None:
        return program.do(run, store=store, stop=stop, say=say)
    from ablab.training.adopt import adopt
    from ablab.training.metrics import Mirrored
    from ablab.training.train import Sitting, train

    corpus = ranks.opened(run.levers, run.corpus)
    directory = store.train(run.train_key)
    # a finished run is answered from its directory, its weights checked against their sha256
    make = adopt if run.settings["train"]["weights"] else train
    if make is adopt:
        _unchanged(run, where)
    mirrored = Mirrored(mirrors, called=run.called, boards=store.root / "tensorboard")
    sitting = Sitting(stop, say, mirrors=mirrored, allow_changed=allow_changed)
    if together.processes > 1:
        sitting = replace(sitting, company=_company(run, where, directory, together))
    done = make(run.settings, corpus, where, seed=run.seed, out=directory, sitting=sitting)
    if done["status"] != "done":
        return str(done["status"])
    folders = {stage: store.score(key) for stage, key in run.score_keys.items()}
    for stage, key in run.score_keys.items():
        if stop():
            raise Interrupted
        if store.scored(key) is None:
            say(f"stage {stage}")
            _score(run, stage, corpus, store, where, folders)
    return "done"


def _company(
    run: Run, where: Where, directory: Path, together: Together
) -> Callable[[], AbstractContextManager[object]]:
    """Return what gathers the processes that make a run with this one."""
    if together.started:
        return partial(outside.company, run, where, directory, together.patience)
    import torch

    opened = partial(ranks.opened, run.levers, run.corpus)
    errand = ranks.Errand(run.settings, opened, where, run.seed, directory, torch.get_num_threads(), together.patience)
    return partial(ranks.company, errand, together.processes)


def _score(run: Run, stage: str, corpus: Corpus, store: Store, where: Where, folders: dict[str, Path]) -> None:
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
            seed=run.seed,
            where=where,
            folders=folders,
            here=held.check,
        )


def _unchanged(run: Run, where: Where) -> None:
    """Refuse weights trained elsewhere whose file is no longer the one that the run was keyed by."""
    [file] = run.settings["train"]["weights"] or []
    sha256 = sha256_file(Path(file)) if Path(file).is_file() else ""
    if train_key(run.settings, corpus=run.corpus.name, seed=run.seed, where=where, weights=sha256) != run.train_key:
        raise CheckFailed(Fault(file, "changed after the runs were planned", "start the study again"))


@dataclass(frozen=True)
class Terms:
    """What is the same for all runs of one command."""

    store: Store
    where: Where
    threads: int
    mirrors: tuple[str, ...]
    allow_changed: bool
    together: Together = BY_ITSELF
    gpus: tuple[str, ...] = ()  # this worker's own

    def beside(self, others: Sequence[Terms]) -> Terms:
        """Return the terms of one more worker: with the GPUs that the fewest of the `others` have."""
        return replace(self, gpus=self.together.free([one.gpus for one in others]))


def begin(terms: Terms, stop: Callable[[], bool]) -> Callable[[Run, Callable[[Said], None]], Said]:
    """Return what a worker process does with a run (`ablab.runtime.workers`): answers with its outcome, (kind, text)."""
    import torch

    torch.set_num_threads(terms.threads)
    if terms.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(terms.gpus)  # before any is looked at

    def do_one(run: Run, say: Callable[[Said], None]) -> Said:
        def tell(text: str) -> None:
            with suppress(OSError):  # a parent that is gone hears nothing; `stop` notices
                say(("say", text))

        try:
            if _there(run, terms.store):
                return "there", ""
            done = do(
                run, store=terms.store, where=terms.where, mirrors=terms.mirrors, allow_changed=terms.allow_changed,
                together=terms.together, stop=stop, say=tell,
            )  # fmt: skip
            return done, ""
        except Interrupted:  # a parent that is gone has its checkpoint all the same
            return "interrupted", ""
        except Exception as error:
            return _outcome(error)

    return do_one


def _there(run: Run, store: Store) -> bool:
    """Tell whether a run was made by another command since it was handed out."""
    return store.trained(run.train_key) is not None and all(map(store.scored, run.score_keys.values()))


def _outcome(error: BaseException) -> tuple[str, str]:
    """Say what an error means for the study: (kind, text), kinds as `Board.ended` takes them."""
    if isinstance(error, OutOfMemory) or capacity.ran_out(error) or capacity.ran_out(error.__cause__):
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return "memory", first if isinstance(error, OutOfMemory) else f"out of memory ({first}); {capacity.MORE_MEMORY}"
    if isinstance(error, Refused):
        kinds = {Halted: "halted", InUse: "in use"}
        return next((kind for cls, kind in kinds.items() if isinstance(error, cls)), "refused"), str(error)
    if isinstance(error, program.Failed):
        return "failed", str(error)
    return "failed", traceback.format_exc()
