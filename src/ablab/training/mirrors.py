"""Copies of a run's metrics for people's own dashboards: they may be slow, hang, fail or die, and training does not hear of it.

metrics.jsonl is the truth and the queue at once: a thread of each mirror reads it behind the training, and remembers beside it
how far its dashboard has come (`mirror.NAME.json`). So nothing is kept in memory, whatever was not sent by the end of a run is
sent by its next sitting or by `ablab mirror`, and a step costs an event that is set.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypedDict

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, Refused, to_install
from ablab.core.files import read_json, write_json
from ablab.core.opened import opened
from ablab.records.settings import Settings
from ablab.report.shareable import shareable
from ablab.training.metrics import Mirrored

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
METRICS = "metrics.jsonl"
AT_ONCE = 1 << 20  # bytes of metrics that are read at a time
KEEP_EVERY = 5.0  # seconds: so much is sent twice after a kill, which dashboards take for the same
Row = Mapping[str, object]
Started = tuple[Callable[[int, Row], None], Callable[[], object]]  # how to write a row, how to end


class Copy:
    """What one dashboard has of the metrics in `out`, and how it gets the rest."""

    def __init__(self, name: str, asked: Mirrored, out: Path, settings: Settings) -> None:
        self.name, self.asked, self.out = name, asked, out
        self.settings = shareable(settings)  # a dashboard may be anybody's
        self.file, self.memo = out / METRICS, out / f"mirror.{name}.json"
        self.bytes, self.step = self._sent()
        self.kept = 0.0

    def start(self) -> Started:
        """Begin, or go on with, the dashboard's run."""
        first = next((step for step, _, _ in self.rows()), self.step + 1)
        begin = _tensorboard if self.name == "tensorboard" else _wandb
        module = importlib.import_module(MODULES[self.name])
        return begin(module, self.asked, self.out, self.settings, max(first, self.step + 1))

    def rows(self) -> Iterator[tuple[int, Row, int]]:
        """Yield step and content of every row that was not sent, and the place in the file behind it."""
        at, size = self.bytes, AT_ONCE
        with opened(self.file) as file:
            while True:
                file.seek(at)
                block = file.read(size)
                if b"\n" not in block:
                    if len(block) < size:
                        return  # the end, or a row that is still being written
                    size *= 2
                    continue
                lines = block.splitlines(keepends=True)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # cut by AT_ONCE, or still being written
                    at += len(line)
                    try:
                        row = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(row, dict) and isinstance(step := row.get("step"), int):
                        yield step, row, at

    def send(self, write: Callable[[int, Row], None]) -> int:
        """Send what there is; how many rows that was."""
        count = 0
        for step, row, at in self.rows():
            write(step, row)
            self.bytes, self.step = at, step
            count += 1
            if time.monotonic() - self.kept >= KEEP_EVERY:
                self.keep()
        return count

    def keep(self) -> None:
        """Remember how far the dashboard has come."""
        self.kept = time.monotonic()
        if self.out.is_dir():
            write_json(self.memo, {"bytes": self.bytes, "step": self.step})

    def behind(self) -> int:
        """Count the rows that were not sent."""
        try:
            return sum(1 for _ in self.rows())
        except OSError:
            return 0

    def _sent(self) -> tuple[int, int]:
        """Say of a file that was cut at a checkpoint that all that is left of it was sent."""
        try:
            memo = read_json(self.memo, form=_Memo)
            size = self.file.stat().st_size
        except (Refused, OSError):
            return 0, 0
        step = int(memo["step"])
        if size < memo["bytes"]:
            step = max((step for step, _, _ in _all_rows(self)), default=0)
        return max(0, min(int(memo["bytes"]), size)), step


class _Memo(TypedDict):
    """How far a dashboard has come: bytes of the run's metrics, and the step of the last row."""

    bytes: int
    step: int


class _Follower(threading.Thread):
    """Sends behind the training. `fault` says how it ended, if it did."""

    last: dict[str, _Follower] = {}  # noqa: RUF012, of this process: a dashboard's library has one run at a time

    def __init__(self, copy: Copy) -> None:
        super().__init__(daemon=True, name=f"mirror {copy.name}")
        self.copy, self.news, self.ending, self.fault = copy, threading.Event(), False, ""
        self.before = self.last.get(copy.name)
        self.last[copy.name] = self
        self.start()

    def run(self) -> None:
        what = "did not start"
        try:
            if self.before is not None:
                self.before.join()
                self.before = None
            write, end = self.copy.start()
            what = "stopped"
            try:
                while self.copy.send(write) or not self.ending:
                    if not self.ending:
                        self.news.wait()
                    self.news.clear()
            finally:
                self.copy.keep()
            what = "did not close"
            end()
        except BaseException as error:  # a library may do anything, leave by SystemExit too
            self.fault = f"{what} ({error})"


class Mirrors:
    """The mirrors of one sitting of a run; training goes on whatever they do, and what they say is said once."""

    def __init__(self, asked: Mirrored, out: Path, *, settings: Settings, say: Callable[[str], None]) -> None:
        for name in asked.names:
            check(name)
        self.say, self.told = say, set[str]()
        self.followers = [_Follower(Copy(name, asked, out, settings)) for name in asked.names]

    def write(self) -> None:
        """Wake the copies: a row was written."""
        for one in self.followers:
            one.news.set()
            self._tell(one)

    def close(self, patience: float) -> None:
        """Have every mirror end, and wait for all of them together so many seconds at most."""
        for one in self.followers:
            one.ending = True
            one.news.set()
        until = time.monotonic() + patience
        for one in self.followers:
            if one.before is None:  # else the run before still waits, and that was waited for
                one.join(max(0.0, until - time.monotonic()))
            self._tell(one)
            if one.is_alive():
                rows = one.copy.behind()
                self.say(f"mirror {one.copy.name} does not keep up: {rows:,} rows to go; {cure(one.copy.name)}")

    def _tell(self, one: _Follower) -> None:
        if one.fault and one.copy.name not in self.told:
            self.told.add(one.copy.name)
            self.say(f"mirror {one.copy.name} {one.fault}; {cure(one.copy.name)}")


def cure(name: str) -> str:
    """Say what to do about a mirror that has not got everything."""
    return f"metrics.jsonl has everything, and `ablab mirror STUDY --mirror {name}` sends what is missing"


def check(name: str) -> None:
    """Refuse a name that is no mirror's, and one that is not installed. Nothing is imported: that may hang."""
    if name not in MODULES:
        raise CheckFailed(Fault("mirrors", f"no mirror is called '{name}'", f"known: {', '.join(MODULES)}"))
    loaded = sys.modules.get(MODULES[name], False)
    if loaded is None or (loaded is False and importlib.util.find_spec(PACKAGES[name]) is None):
        raise CheckFailed(Fault("mirrors", f"{name} is not installed", to_install(PACKAGES[name])))


def _all_rows(copy: Copy) -> Iterator[tuple[int, Row, int]]:
    copy.bytes = 0
    yield from copy.rows()


def _numbers(row: Row) -> dict[str, float]:
    return {k: v for k, v in row.items() if isinstance(v, int | float) and k not in ("step", "tokens")}


def _tensorboard(module: ModuleType, asked: Mirrored, out: Path, settings: Settings, step: int) -> Started:
    folder = out / "tensorboard" if asked.boards is None else asked.boards / (asked.called or out.name)
    writer = module.SummaryWriter(str(places.folder(folder)), purge_step=step)
    writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```", step)

    def write(step: int, row: Row) -> None:
        for key, value in _numbers(row).items():
            writer.add_scalar(key, value, step)
        if "loss" not in row:
            writer.flush()

    return write, writer.close


def _wandb(module: ModuleType, asked: Mirrored, out: Path, settings: Settings, step: int) -> Started:
    # The directory's name is the run's identity, so a resumed run goes on under the same id, whatever it is called.
    called = asked.called or out.name
    places.folder(out / "wandb")  # W&B makes its own folder and links below it, and looks at nothing that lies there
    named = {"id": out.name, "name": called, "group": called.partition("/")[0]}
    run = module.init(project="ablab", **named, resume="allow", dir=str(out), config=dict(settings))

    def write(step: int, row: Row) -> None:
        run.log({**_numbers(row), "tokens": row["tokens"]}, step=step)

    return write, run.finish
