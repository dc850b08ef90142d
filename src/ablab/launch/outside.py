"""One run on processes that another program has started (torchrun, srun): the first plans and judges, the others serve.

They know one another by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. At that address a store of names and texts is kept, by
torchrun or by the first process: there the first one writes each run as an errand, and, at its end, how it ended.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault, Halted, Interrupted, OutOfMemory, Refused
from ablab.launch.ranks import GRACE, Errand, opened, served
from ablab.records.run import Where
from ablab.runtime import at_once, capacity, signals
from ablab.runtime.ranks import Ranks, joined

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from ablab.runs.plan import Run

LOOK = 0.2  # seconds between two looks at what the first process says
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Member:
    """What the environment says of this process, the `rank`-th of `world`, and where they meet.

    local, beside: which it is on its machine, of how many.
    """

    rank: int
    world: int
    local: int
    beside: int
    address: str
    port: int

    def store(self, *, keeps: bool = False) -> Store:
        """Open the store of the group, which is kept at the address by torchrun, else by the process that says `keeps`."""
        from torch._C._distributed_c10d import PrefixStore, TCPStore

        keeps = keeps and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        patience = datetime.timedelta(minutes=10)
        kept = TCPStore(self.address, self.port, None, keeps, patience, wait_for_workers=False)
        return PrefixStore(f"ablab{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}", kept)

    def settle(self, device: str) -> None:
        """Take this process's own GPU, before anything looks for one, and the network of a group on one machine."""
        if sys.platform == "linux" and (self.beside == self.world or self.address in LOOPBACK):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if device == "cuda":
            os.environ["CUDA_VISIBLE_DEVICES"] = own_gpu(capacity.gpus(), self.local, self.beside)


def own_gpu(gpus: list[str], local: int, beside: int) -> str:
    """Name the GPU of the `local`-th of the processes on this machine. One alone is what a scheduler has given to it."""
    if len(gpus) == 1 or local < len(gpus):
        return gpus[local if len(gpus) > 1 else 0]
    fault = f"are {len(gpus)}, and processes on this machine {beside}"
    raise CheckFailed(Fault("GPUs", fault, "start as many processes as there are GPUs"))


def told(environment: Mapping[str, str] = os.environ) -> Member | None:
    """Read RANK and WORLD_SIZE; None where neither is set, or there is one process. CheckFailed where they contradict."""
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return None
    cure = "start ablab by torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of every process"

    def number(name: str, default: int | None = None) -> int:
        given = environment.get(name, "" if default is None else str(default)).strip()
        if not given.isdecimal():
            raise CheckFailed(Fault(name, f"is {given!r}, and no number" if given else "is not set", cure))
        return int(given)

    rank, world = number("RANK"), number("WORLD_SIZE")
    if rank >= world:
        raise CheckFailed(
            Fault("RANK", f"is {rank}, of {world} processes (WORLD_SIZE)", f"count from 0 to {world - 1}")
        )
    if world == 1:
        return None
    if not environment.get("MASTER_ADDR"):
        raise CheckFailed(Fault("MASTER_ADDR", "is not set", cure))
    local, beside = number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", world)
    return Member(rank, world, local, beside, environment["MASTER_ADDR"], number("MASTER_PORT"))


def processes(here: Member | None, per_run: int | None, jobs: int | None, gpus: int | None = None) -> int:
    """Return how many processes make one run. CheckFailed where options and environment contradict."""
    if here is None:
        return per_run or 1
    if per_run not in (None, here.world):
        fault = f"{per_run} were asked for, and {here.world} have been started (WORLD_SIZE)"
        raise CheckFailed(Fault("--per-run", fault, "leave it out, or start as many"))
    if jobs not in (None, 1):
        fault = f"{jobs} were asked for, and the processes that have been started make one run at a time"
        raise CheckFailed(Fault("--jobs", fault, "leave it out, or start ablab by itself"))
    if gpus is not None:
        fault = f"{gpus} were asked for, and each process that has been started takes its own"
        raise CheckFailed(Fault("--gpus", fault, "leave it out"))
    return here.world


# --- the first process ---


def lead(here: Member, command: Callable[[], None]) -> None:
    """Do the command, for which the other processes wait; at its end tell them how it ended, and hear that they go."""
    store, code = here.store(keeps=True), 1
    try:
        command()
        code = 0
    except (Refused, Interrupted) as error:
        code = error.exit_code
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # torchrun has gone, and its store with it
            store.set("end", str(code))
            deadline = time.monotonic() + GRACE
            while store.add("left", 0) < here.world - 1 and time.monotonic() < deadline:
                time.sleep(LOOK)


@contextlib.contextmanager
def company(run: Run, where: Where, out: Path, patience: float) -> Iterator[Ranks]:
    """Have the other processes make a run with this one, a child of the first. Halted where one of them ends or hangs.

    It cannot be started again from here; whoever started all of them can, and the run then goes on.
    """
    here = told()
    assert here is not None
    store = here.store()
    n = store.add("errands", 1)
    text = {
        "settings": run.settings, "corpus": str(run.corpus.absolute()), "levers": run.levers, "where": where.as_json(),
        "seed": run.seed, "out": str(out.absolute()), "patience": patience,
    }  # fmt: skip
    store.set(f"errand{n}", json.dumps(text))
    try:
        with joined(_meeting(store, n), 0, here.world, device=where.device, patience=patience) as group:
            yield group
    except RuntimeError as error:
        if capacity.ran_out(error):
            raise
        raise _why(store, n, here.world) or _lost(f"one says nothing more ({error})") from error


def _meeting(store: Store, n: int) -> Store:
    """Return where the processes meet for their n-th run."""
    from torch._C._distributed_c10d import PrefixStore

    return PrefixStore(f"run{n}", store)


def _lost(fault: str) -> Halted:
    return Halted(Fault("processes of this run", fault, "start all of them again: the run goes on from its checkpoint"))


def _why(store: Store, n: int, world: int) -> Exception | None:
    """Hear why the others have left the n-th run, of the first that knows; None where none says so in time."""
    deadline, silent = time.monotonic() + GRACE, set(range(1, world))
    with contextlib.suppress(RuntimeError):
        while silent and time.monotonic() < deadline:
            for rank in sorted(silent):
                if not store.check([f"said{n}.{rank}"]):
                    continue
                silent.remove(rank)
                kind, text = json.loads(store.get(f"said{n}.{rank}"))
                if kind == "memory":
                    return OutOfMemory(Fault(f"process {rank}", f"out of memory ({text})", capacity.MORE_MEMORY))
                if kind == "failed":
                    return _lost(f"{rank} of {world}: {text.strip()}")
            time.sleep(LOOK)
    return None


# --- the others ---


def serve(here: Member) -> int:
    """Take part in every run of the first process until it ends; returns its exit status."""
    asked = False

    def hear(number: int, _: object) -> None:
        nonlocal asked
        asked = True
        if at_once.may_raise():
            raise Interrupted

    import torch

    previous = signals.heed(hear)
    torch.set_num_threads(capacity.threads(here.beside))
    n = 1
    try:
        store = here.store()
        while not store.check(["end"]):
            if store.check([f"errand{n}"]):
                said = _do(store, n, here, lambda: asked)
                store.set(f"said{n}.{here.rank}", json.dumps(said))
                n += 1
            else:
                time.sleep(LOOK)
        code = int(store.get("end"))
        store.add("left", 1)
        return code
    except RuntimeError as error:
        if asked:
            return Interrupted.exit_code
        raise _lost(f"the first is gone ({str(error).partition(chr(10))[0]})") from error
    finally:
        signals.restore(previous)


def _do(store: Store, n: int, here: Member, stop: Callable[[], bool]) -> tuple[str, str]:
    """Make the n-th run with the others; how that ended, for this process."""
    text = json.loads(store.get(f"errand{n}"))
    where, out = Where.read(text["where"]), Path(text["out"])
    corpus = partial(opened, text["levers"], Path(text["corpus"]))
    errand = Errand(text["settings"], corpus, where, text["seed"], out, 1, text["patience"])
    meeting = joined(_meeting(store, n), here.rank, here.world, device=where.device, patience=errand.patience)
    return served(errand, corpus(), meeting, stop)
