"""What the tests of Harmony builds share."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablab.data.harmony import build as core
from ablab.data.harmony import mock
from ablab.data.harmony.plan import BuildSettings, settings
from ablab.data.harmony.unit import Builder, Job, Unit, finished

SETTINGS = {field.name for field in dataclasses.fields(BuildSettings)}
SMALL = {"rows_per_shard": 60, "valid_fraction": 0.1, "check_every": 64}


def build(source: Sequence[str], out: Path, **asked: Any) -> Any:
    """A build, its settings and everything else by their names."""
    chosen = settings(**{name: asked.pop(name) for name in SETTINGS & asked.keys()})
    return core.build(source, out, chosen, **asked)


def here(job: Job, units: Sequence[Unit], workers: int, hear: Callable[[str, Any], object]) -> None:
    """What the worker processes do, in this one: they are slow to start."""
    builder = Builder(job)
    for unit in units:
        record, damage = finished(job, unit)
        if damage:
            hear("damaged", f"unit {unit.number} is damaged and made again: {damage}")
        hear(*(("kept", record) if record is not None else ("done", builder.make(unit))))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def synth(count: int) -> list[dict]:
    return [dict(zip(mock.FIELDS, row)) for row in mock.rows(0, count)]


def quiet(text: str) -> None:
    pass


def bad_rows() -> list[dict]:
    rows = synth(200)
    rows[3]["query"] = ""
    rows[70]["synthetic_answer"] = "\ud800 half a pair"
    rows[71]["synthetic_reasoning"] = None
    rows[150]["synth_id"] = None
    return rows
