"""Metrics: a file of JSON lines is the truth; TensorBoard and W&B only mirror it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab import places
from ablab.fault import Fault, GateFailed, to_install
from ablab.files import write_atomic
from ablab.shareable import shareable

WALL = ("seconds",)  # keys that hold wall time: the only ones that differ between two runs of the same thing
MIRRORS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


class Metrics:
    """Append-only JSON lines. Opening with `keep` bytes drops, atomically, all that was written after a checkpoint.

    here(): raises where the run's folder is gone, before anything is written.
    """

    def __init__(self, path: Path, *, keep: int, here: Callable[[], None] = lambda: None) -> None:
        self.path, self.here = path, here
        places.check(path)
        if path.exists() and path.stat().st_size > keep:
            with path.open("rb") as file:
                write_atomic(path, file.read(keep))
        self.file = places.opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.size = keep

    def write(self, row: Mapping[str, Any]) -> None:
        """One row, whole or not at all. GateFailed where the disk is full: the rows before it stay as they were."""
        self.here()
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            places.extend(self.file, line)
        except OSError as error:
            raise places.unwritable(self.path, error, len(line)) from error
        self.size += len(line)

    def sync(self) -> int:
        """Bring the rows to the disk; returns the file's size, which a checkpoint remembers."""
        self.here()
        try:
            os.fsync(self.file)
        except OSError as error:
            raise places.unwritable(self.path, error, self.size) from error
        return self.size

    def close(self) -> None:
        os.close(self.file)


Started = tuple[Callable[[Mapping[str, Any]], None], Callable[[], Any]]  # how to write a row, how to end


@dataclass(frozen=True)
class Mirrored:
    """Which dashboards copy the metrics of a run, and under which name.

    called: `study/arm/seed`, what people see; "" is the name of the run's directory, a key. boards: the folder below which
    TensorBoard's files lie, each run in the folder that it is called (that path is all TensorBoard knows of a name); None is
    the run's own directory.
    """

    names: tuple[str, ...] = ()
    called: str = ""
    boards: Path | None = None


NO_MIRRORS = Mirrored()


class Mirrors:
    """Copies of the metrics for people's own dashboards. They may fail; training goes on and says so once."""

    def __init__(
        self, asked: Mirrored, out: Path, *, settings: Mapping[str, Any], step: int, say: Callable[[str], None]
    ) -> None:
        self.say = say
        settings = shareable(settings)  # a dashboard may be anybody's
        self.writers: dict[str, Callable[[Mapping[str, Any]], None]] = {}
        self.closers: dict[str, Callable[[], Any]] = {}
        for name in asked.names:
            module = _import(name)
            start = _tensorboard if name == "tensorboard" else _wandb
            try:
                self.writers[name], self.closers[name] = start(module, asked, out, settings, step)
            except Exception as error:
                say(f"mirror {name} did not start ({error}); metrics.jsonl has everything")

    def close(self) -> None:
        """End every mirror's run, so that the next one of this process starts its own."""
        for name, end in self.closers.items():
            try:
                end()
            except Exception as error:
                self.say(f"mirror {name} did not close ({error}); metrics.jsonl has everything")

    def write(self, row: Mapping[str, Any]) -> None:
        for name, writer in list(self.writers.items()):
            try:
                writer(row)
            except Exception as error:
                del self.writers[name]
                self.say(f"mirror {name} stopped ({error}); metrics.jsonl has everything")


def _import(name: str) -> Any:
    if name not in MIRRORS:
        raise GateFailed(Fault("mirrors", f"no mirror is called '{name}'", f"known: {', '.join(MIRRORS)}"))
    try:
        return importlib.import_module(MIRRORS[name])
    except ImportError as error:
        raise GateFailed(Fault("mirrors", f"{name} is not installed", to_install(name))) from error


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in row.items() if isinstance(v, int | float) and k not in ("step", "tokens")}


def _tensorboard(module: Any, asked: Mirrored, out: Path, settings: Mapping[str, Any], step: int) -> Started:
    folder = out / "tensorboard" if asked.boards is None else asked.boards / (asked.called or out.name)
    writer = module.SummaryWriter(str(places.folder(folder)), purge_step=step)
    writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```", step)

    def write(row: Mapping[str, Any]) -> None:
        for key, value in _numbers(row).items():
            writer.add_scalar(key, value, row["step"])
        if "loss" not in row:
            writer.flush()

    return write, writer.close


def _wandb(module: Any, asked: Mirrored, out: Path, settings: Mapping[str, Any], step: int) -> Started:
    # The directory's name is the run's identity, so a resumed run goes on under the same id, whatever it is called.
    called = asked.called or out.name
    places.folder(out / "wandb")  # W&B makes its own folder and links below it, and looks at nothing that lies there
    named = {"id": out.name, "name": called, "group": called.partition("/")[0]}
    run = module.init(project="ablab", **named, resume="allow", dir=str(out), config=dict(settings))

    def write(row: Mapping[str, Any]) -> None:
        run.log({**_numbers(row), "tokens": row["tokens"]}, step=row["step"])

    return write, run.finish
