"""OLMo-core's metrics_step{N}.json: the metrics of a checkpoint, one file for each; of a folder the last one is the run."""

from __future__ import annotations

import re

from ablab.judging.logs.building import unit_of
from ablab.judging.logs.document import document, fields, level
from ablab.judging.logs.text import Text
from ablab.records.log import Level, LoggedRun

NAME = "olmo"
MARK = re.compile(rb"\A\s*\{")
FILE = re.compile(r"metrics_step(\d{1,12})\.json")
_TRAIN = re.compile(r"(?:^|/)(?:train|optim|throughput|system)(?:/|$)", re.IGNORECASE)


def read(text: Text) -> list[LoggedRun]:
    """Read the run at this step; labels are the metrics' names. Losses of training are left out where there are others."""
    match = FILE.fullmatch(text.path.name)
    held = {
        name: value
        for name, value in _flat(fields(document(text))).items()
        if unit_of(name) != "value" or "eval" in name
    }
    scored = {name: value for name, value in held.items() if not _TRAIN.search(name)} or held
    stages: dict[str, Level] = {}
    gone: dict[str, int] = {}
    for name, value in scored.items():
        if (one := level(text, name.rpartition("\n")[2], value, gone=gone)) is not None:
            stages[name.replace("\n", "/")] = one
    steps = int(match[1]) if match else None
    run = LoggedRun(text.path, 1, stages, seed_in_name=text.seed_in_name, steps=steps, reader=NAME, lost=gone)
    return [run] if stages or gone else []


def _flat(held: dict[str, object]) -> dict[str, object]:
    """Flatten metrics of nested objects, their names one after the other."""
    metrics: dict[str, object] = {}
    for name, value in held.items():
        if isinstance(value, dict):
            metrics |= {f"{name}\n{inner}": one for inner, one in _flat(value).items()}
        else:
            metrics[name] = value
    return metrics
