"""What a Harmony build is asked to do, cut into units, and whether what lies at its place belongs to it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, InvalidStudy
from ablab.core.files import read_json, write_json
from ablab.core.forms import fits, misfit
from ablab.core.inputs import Inputs
from ablab.core.sealed import changed, sealed
from ablab.data.harmony import held
from ablab.data.harmony.rows import RowSource, find
from ablab.data.harmony.unit import PARTS, Job, Unit
from ablab.data.vocabulary import SHA256
from ablab.records.harmony import BuildIdentity, Built, RowsFile

R = TypeVar("R", Built, BuildIdentity)
FORMAT = 2  # raised when the same inputs and settings would give other files
CHECK_EVERY = 256
LEAST, MOST, SHARES = 2048, 65_536, 64
OURS = {PARTS, "train", "valid", "manifest.json", "quarantine.jsonl"}


@dataclass(frozen=True)
class BuildSettings:
    """What decides the files of a build, the inputs apart. Workers and max_bad do not."""

    valid_fraction: float
    max_rows: int | None
    max_tokens: int | None
    rows_per_shard: int
    check_every: int


def settings(
    valid_fraction: float = 0.001,
    max_rows: int | None = None,
    max_tokens: int | None = None,
    rows_per_shard: int | None = None,
    check_every: int = CHECK_EVERY,
) -> BuildSettings:
    """Return the settings, rows_per_shard 0 where it is yet to be chosen. InvalidStudy with every one that means nothing.

    Rows with a hash of their id below valid_fraction are held out (see held). max_rows: only the first rows. max_tokens:
    longer conversations are truncated. rows_per_shard: by default a 64th of the rows, within 2048 and 65536. check_every:
    about one row in so many is rendered by openai-harmony too; 0 for none.
    """
    faults = []
    try:
        held.threshold(valid_fraction)
    except ValueError as error:
        faults.append(Fault("valid_fraction", str(error)))
    least = {"max_rows": (max_rows, 1), "max_tokens": (max_tokens, 1), "rows_per_shard": (rows_per_shard, 1)}
    for name, (value, lowest) in (least | {"check_every": (check_every, 0)}).items():
        if value is not None and value < lowest:
            faults.append(Fault(name, f"{value} is below {lowest}", "give a larger one, or leave it out"))
    if faults:
        raise InvalidStudy(faults)
    return BuildSettings(float(valid_fraction), max_rows, max_tokens, rows_per_shard or 0, check_every)


@dataclass(frozen=True)
class BuildPlan:
    """A build: its settings, its inputs and the units of work."""

    settings: BuildSettings
    inputs: tuple[RowSource, ...]
    units: tuple[Unit, ...]
    rows: int  # that are read, at most max_rows

    @property
    def identity(self) -> BuildIdentity:
        """What two builds must share to give the same files."""
        return {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "inputs": [one.identity for one in self.inputs],
            "tokenizer": SHA256,
        }

    def job(self, out: Path, vocab: str) -> Job:
        """Return what the workers need to know."""
        asked = self.settings
        below = held.threshold(asked.valid_fraction)
        return Job(out, self.inputs, below, asked.max_tokens, asked.check_every, vocab)


def plan(asked: BuildSettings, sources: Sequence[str], inputs: Inputs) -> BuildPlan:
    """Find the inputs and cut their rows. CheckFailed where they hold no row; errors as rows.find."""
    inputs_read = find(sources, inputs)
    inputs.save()
    total = sum(one.rows for one in inputs_read)
    if not total:
        raise CheckFailed(
            Fault("SOURCE", f"no row in {', '.join(one.name for one in inputs_read)}", "give files with rows")
        )
    rows = total if asked.max_rows is None else min(total, asked.max_rows)
    # By the rows alone, so that files do not depend on the machine: enough units for many workers, few files for many rows.
    per_shard = asked.rows_per_shard or min(MOST, max(LEAST, math.ceil(rows / SHARES)))
    units: list[Unit] = []
    left = rows
    for index, one in enumerate(inputs_read):
        end = min(one.rows, left)
        left -= end
        for start in range(0, end, per_shard):
            units.append(Unit(len(units), index, start, min(end, start + per_shard)))
    return BuildPlan(replace(asked, rows_per_shard=per_shard), tuple(inputs_read), tuple(units), rows)


def settle(out: Path, wanted: BuildPlan) -> Built | None:
    """Make sure that `out` is empty, or of this very build. Returns the manifest where it is finished.

    CheckFailed naming what differs, or what else is there. The caller holds the lock.
    """
    if (out / "manifest.json").exists():
        manifest = _read(out, out / "manifest.json", Built)
        _same(out, manifest["identity"], wanted.identity, "was built")
        _whole(out, manifest)
        shutil.rmtree(out / PARTS, ignore_errors=True)  # left where a build was killed at its very end
        return manifest
    begun = out / PARTS / "plan.json"
    if begun.exists():
        before = _read(out, begun, BuildIdentity)
        _same(out, before, wanted.identity, "was begun")
    else:
        odd = strangers(out, {PARTS})
        if odd:
            fault = f"holds other things ({', '.join(odd[:5])}) and no build that was begun"
            raise CheckFailed(Fault(str(out), fault, "choose another --out, or empty it"))
        write_json(begun, sealed(wanted.identity))
    sweep(out)
    return None


def _read(out: Path, path: Path, form: type[R]) -> R:
    """Read a record of a build as it was written. CheckFailed with a cure that can be followed: it is not made again alone."""
    cure = f"delete {out} with all in it and build again, or choose another --out"
    try:
        record: object = read_json(path)
    except CheckFailed as error:
        raise CheckFailed(Fault(str(path), error.faults[0].fault, cure)) from error
    if isinstance(record, dict) and record.get("kind", "harmony") != "harmony":
        raise CheckFailed(Fault(str(out), "holds another kind of dataset", "choose another --out"))
    if not fits(record, form):
        raise CheckFailed(Fault(str(path), misfit(record, form), cure))
    if fault := changed(record, path, cure):
        raise CheckFailed(fault)
    return record


def _whole(out: Path, manifest: Built) -> None:
    """Check names and sizes only: `ablab data verify` reads the files."""
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            for name, entry in shard["files"].items():
                if not (out / name).is_file() or (out / name).stat().st_size != entry["size"]:
                    fault = (
                        "is missing" if not (out / name).is_file() else f"has not the {entry['size']:,} bytes it had"
                    )
                    raise CheckFailed(Fault(str(out / name), fault, f"delete {out} and build again"))


def strangers(out: Path, known: set[str]) -> list[str]:
    """List what lies in `out` besides the `known` names and what a killed build was writing there."""
    return sorted(path.name for path in out.iterdir() if path.name not in known and not _half(path))


def sweep(out: Path) -> None:
    """Remove what a killed process was writing."""
    for folder in (out / PARTS, out / "train", out / "valid"):
        places.check(folder)
        for path in folder.glob(".*.part") if folder.is_dir() else ():
            path.unlink(missing_ok=True)
    for path in filter(_half, out.iterdir()):
        path.unlink(missing_ok=True)


def _half(path: Path) -> bool:
    return path.name.endswith(".part") and path.name.startswith((".manifest.json.", ".quarantine.jsonl."))


def _same(out: Path, before: BuildIdentity, now: BuildIdentity, how: str) -> None:
    faults = [
        f"with {name} {_shown(before['settings'].get(name))}, not {_shown(value)}"
        for name, value in now["settings"].items()
        if before["settings"].get(name) != value
    ]
    faults += _other_inputs(before["inputs"], now["inputs"])
    for name, old, new in (
        ("format", before["format"], now["format"]),
        ("tokenizer", before["tokenizer"], now["tokenizer"]),
    ):
        if old != new:
            faults.append(f"with {name} {old}, not {new}")
    if faults:
        cure = "give the same again to go on, or choose another --out"
        raise CheckFailed(Fault(str(out), f"{how} {'; '.join(faults)}", cure))


def _other_inputs(before: list[RowsFile], now: list[RowsFile]) -> list[str]:
    if len(before) != len(now):
        return [f"from {len(before)} inputs, not {len(now)}"]
    faults = []
    for old, new in zip(before, now):
        if old["name"] != new["name"]:
            faults.append(f"from {old['name']} where {new['name']} is given now")
        elif old != new:
            faults.append(
                f"from another content of {new['name']} (sha256 {old['sha256'][:12]}, not {new['sha256'][:12]})"
            )
    return faults


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
