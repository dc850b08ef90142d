"""Where things lie, and under which key.

Every step (tokens, training, stage) lies under the hash of everything that can change its result, so any study that needs
a result finds it. Keys hold what was done (settings with their defaults, data, seed, component revisions) and what the
machine was asked for (precision, micro-batch, executor); torch version and instruction set are provenance, not identity.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar

from ablab.core import chain, places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of, sha256_file
from ablab.core.forms import fits
from ablab.core.lever import Choice
from ablab.core.opened import NoFile, opened
from ablab.core.sealed import read_sealed
from ablab.core.strict_json import MOST, record
from ablab.records.decision import Asked, keyed
from ablab.records.result import Result, present
from ablab.records.run import Trained, Where
from ablab.records.settings import KindSettings, ModelSettings, Settings, TrainSettings

if TYPE_CHECKING:
    from ablab.scoring.scores import Scores

T = TypeVar("T")
TORN = 1 << 24  # bytes of a last line that are looked at: no row of this program's is as long


@dataclass(frozen=True)
class Store:
    """The directory that holds corpora, trained runs, scores and studies. It may be a link; below it there is none."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.realpath(self.root)))

    @property
    def data(self) -> Path:
        return self.root / "data"

    def train(self, key: str) -> Path:
        return self.root / "train" / key

    def score(self, key: str) -> Path:
        return self.root / "score" / key

    def study(self, name: str, scale: str | None) -> Path:
        return self.root / "studies" / (f"{name}.{scale}" if scale else name)

    def ladder(self, name: str, scales: Sequence[str]) -> Path:
        """Return where the page of a study over these scales lies."""
        return self.root / "ladders" / f"{name}.{'-'.join(scales)}"

    def trained(self, key: str) -> Trained | None:
        """Return the finished training under `key`, or None while it is missing or unfinished."""

        def read(path: Path) -> Trained:
            return read_sealed(path, form=Trained, cure=f"delete {path.parent} to have the run made again")

        return self.once(f"{self.root}/train/{key}/done.json", "done", read)

    def scored(self, key: str) -> Result | None:
        """Return the finished stage under `key`, or None. CheckFailed where the file is not what the stage wrote there."""
        return self.once(f"{self.root}/score/{key}/result.json", "result", lambda path: _result(path, key))

    def scores(self, key: str, result: Result) -> Scores:
        """Return the scores of the finished stage under `key` with record `result`. CheckFailed where they are not there."""
        from ablab.scoring.scores import FILE, Scores

        kept = self.once(
            f"{self.root}/score/{key}/{FILE}", result["scores"]["sha256"], lambda path: Scores.load(path.parent, result)
        )
        return kept or Scores.load(self.score(key), result)  # a file that is missing says so

    def once(self, path: str, what: str, reader: Callable[[Path], T]) -> T | None:
        """Return what `reader` gives of the file `path`, None where it is missing. A `Look` reads it once; `what` names it.

        path: a text, because whoever judges a large store asks for its records thousands of times.
        """
        file = Path(path)
        return reader(file) if file.exists() else None

    def since(self, path: str) -> float | None:
        """Return when the file was written, in seconds; None while it is missing."""
        file = Path(path)
        return file.stat().st_mtime_ns / 1e9 if file.exists() else None


def _result(path: Path, key: str) -> Result:
    """Read the record of a stage, which must be that of `key`."""
    cure = f"delete {path.parent} to have the stage run again"
    result = read_sealed(path, form=Result, cure=cure, present=present)
    if result["key"] != key:
        raise CheckFailed(Fault(str(path), f"is of another stage ({result['key']})", cure))
    return result


def train_key(settings: Settings, *, corpus: str, seed: int, where: Where, weights: str = "") -> str:
    """Return the key of one training: what was asked, on which tokens, from which seed, executed how.

    weights: sha256 of the file, where they were trained elsewhere; the budget and [train] are then no part of it.
    """
    if weights:
        asked = {"weights": weights, "model": settings["model"], "data": {"corpus": corpus}, "seed": seed}
        return key_of({"step": "adopt", **asked, **where.as_json(), "revisions": revisions(settings)})
    asked = {part: settings[part] for part in ("budget", "model", "train")}
    data = {"corpus": corpus, **{key: settings["data"][key] for key in ("span", "order", "weights")}}
    return key_of(
        {"step": "train", **asked, "data": data, "seed": seed, **where.as_json(), "revisions": revisions(settings)}
    )


def score_key(settings: Settings, stage: str, *, trained: str) -> str:
    """Return the key of one stage: the weights' key, how they are packed and evaluated, and the revisions of the parts."""
    asked = stage_asked(settings, stage)
    return key_of({"step": "score", "train": trained, **asked, "revisions": _stage_revisions(asked)})


class StageAsked(TypedDict):
    """What one stage asks: how weights are packed, at the stage that it stands on if it stands on one, and evaluated.

    code: the sha256 of a script whose bytes count, None where it is gone. windows: of layer kinds by their names.
    """

    compress: Choice
    codec: Choice
    evaluate: Choice
    windows: dict[str, int] | None
    code: NotRequired[str | None]


def stage_asked(settings: Settings, stage: str) -> StageAsked:
    """Return what a stage asks, of the settings."""
    here, root = settings["stage"][stage], settings["stage"][stage]
    while root["after"] is not None:
        root = settings["stage"][root["after"]]
    asked: StageAsked = {
        "compress": root["compress"],
        "codec": root["codec"],
        "evaluate": here["evaluate"],
        "windows": here["windows"] or None,
    }
    if root["code"] is not None:
        code = Path(root["code"])
        asked["code"] = sha256_file(code) if code.is_file() else None
    return asked


def revisions(settings: Settings) -> dict[str, int | str]:
    """Return the revision of every component that can change trained weights."""
    from ablab.data.batches import stream
    from ablab.model import decoder as model
    from ablab.model.attention import attend
    from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS
    from ablab.training import adopt, losses, optimizers, qats, schedules, train

    asked = settings["train"]
    numbers: dict[str, int | str] = {"attend": attend.REVISION, "model": model.REVISION}
    if asked["weights"]:
        numbers["adopt"] = adopt.REVISION
    else:
        slots = {"optimizer": optimizers.slot, "schedule": schedules.slot, "loss": losses.slot, "qat": qats.slot}
        numbers |= {"batches": stream.REVISION, "train": train.REVISION}
        numbers |= {name: slots[name].revision(choice) for name, choice in chosen(asked, slots)}
    kinds = settings["model"]["kinds"].items()
    places = [(f"{letter}.{slot}", choice) for letter, kind in kinds for slot, choice in chosen(kind, IN_MODEL)]
    for place, choice in [*places, *chosen(settings["model"], OF_MODEL)]:
        for one in choice if isinstance(choice, list) else [choice]:
            if one is not None:
                numbers[f"{place}.{one['name']}"] = SLOTS[place.split(".")[-1]].revision(one)
    return numbers


def _stage_revisions(asked: StageAsked) -> dict[str, int | str]:
    from ablab.artifact import codecs, compressors
    from ablab.artifact import pack as artifact
    from ablab.scoring import evaluators, stage

    return {
        "stage": stage.REVISION,
        "artifact": artifact.REVISION,
        "compress": compressors.slot.revision(asked["compress"]),
        "codec": codecs.slot.revision(asked["codec"]),
        "evaluate": evaluators.slot.revision(asked["evaluate"]),
    }


def append_line(path: Path, row: Mapping[str, object]) -> None:
    """Append one JSON line, whole or not at all, by one process at a time; a row torn by a crash is repaired first.

    CheckFailed where the disk is full, with the bytes needed: the lines before it stay as they were.
    """
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    handle = places.opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        with suppress(OSError):  # where the file system has no locks, whoever shares the file takes turns at its folder
            fcntl.flock(handle, fcntl.LOCK_EX)
        mend = _mended(handle)
        line = (json.dumps(chain.linked(row, chain.end_of(_last(handle))), allow_nan=False) + "\n").encode()
        places.extend(handle, mend + line)
        os.fsync(handle)
    except OSError as error:
        raise places.unwritable(path, error, len(line)) from error
    finally:
        os.close(handle)


def _mended(handle: int) -> bytes:
    """Return what must be before the next line: the end of the last one where a crash has torn it off.

    Half a row is cut off: no reader of JSON lines could take the file any more. What is no row of this program's stays.
    """
    end = os.fstat(handle).st_size
    if end == 0 or os.pread(handle, 1, end - 1) == b"\n":
        return b""
    torn = _last(handle)
    try:
        json.loads(torn)
    except ValueError:
        if torn.startswith(b"{"):
            os.ftruncate(handle, end - len(torn))
            return b""
    return b"\n"


def _last(handle: int) -> bytes:
    """Read the last line, its newline taken off, as far back as TORN bytes; b"" of an empty file."""
    at, tail, step = os.fstat(handle).st_size, b"", 1 << 16
    while at > 0 and b"\n" not in tail[:-1] and len(tail) < TORN:
        at, tail = max(at - step, 0), os.pread(handle, min(step, at), max(at - step, 0)) + tail
    whole = tail.removesuffix(b"\n")
    return whole[whole.rfind(b"\n") + 1 :]


def read_lines(path: Path) -> list[dict[str, object]]:
    """Read the rows of a JSON-lines file; lines that are no JSON object (a crash while writing) are left out."""
    if not path.exists():
        return []
    rows = []
    try:
        with opened(path) as file:
            for line in iter(lambda: file.readline(MOST), b""):
                with suppress(ValueError):
                    row = record(line)
                    rows += [row] if isinstance(row, dict) else []
    except OSError as error:
        said = error.strerror if isinstance(error, NoFile) else f"cannot be read ({error})"
        raise CheckFailed(Fault(str(path), str(said), "move it away, or make it readable")) from error
    return rows


def read_decisions(path: Path) -> list[Asked]:
    """Read the whole rows of a `decisions.jsonl`: nothing is read from a line that this program did not write."""
    return [row for row in read_lines(path) if fits(row, Asked) and keyed(row)]


def chosen(table: KindSettings | ModelSettings | TrainSettings, slots: Iterable[str]) -> list[tuple[str, Any]]:
    """List (slot, what it chooses) for these slots of a table: a choice, a list of them, or None."""
    plain: Mapping[str, Any] = table
    return [(slot, plain[slot]) for slot in slots]
