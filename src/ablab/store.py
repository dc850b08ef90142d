"""Where things lie, and under which key.

Every step (tokens, training, stage) lies under the hash of everything that can change its result, so any study that needs
a result finds it. Keys hold what was done (settings with their defaults, data, seed, component revisions) and what the
machine was asked for (precision, micro-batch, executor); torch version and instruction set are provenance, not identity.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab.fault import Fault, GateFailed
from ablab.files import key_of, read_json, write_json

DONE = (
    "status",
    "token_hash",
    "tokens",
    "seconds",
    "tokens_per_second",
    "trajectory",
    "spikes",
    "steps",
    "weights",
    "untrained",
)
RESULT = ("metrics", "bytes", "gates", "bands", "probe", "seconds", "scores")


@dataclass(frozen=True)
class Where:
    """How runs are executed: resolved once per study, the same for all arms, part of the training key."""

    device: str
    precision: str
    executor: str
    micro_rows: int
    compiled: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "precision": self.precision,
            "executor": self.executor,
            "micro_rows": self.micro_rows,
            "compiled": self.compiled,
        }


@dataclass(frozen=True)
class Store:
    """The directory that holds corpora, trained runs, scores and studies."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def train(self, key: str) -> Path:
        return self.root / "train" / key

    def score(self, key: str) -> Path:
        return self.root / "score" / key

    def study(self, name: str, scale: str | None) -> Path:
        return self.root / "studies" / (f"{name}.{scale}" if scale else name)

    def trained(self, key: str) -> dict[str, Any] | None:
        """The finished training under `key`, or None while it is missing or unfinished."""
        path = self.train(key) / "done.json"
        return read_json(path, *DONE) if path.exists() else None

    def scored(self, key: str) -> dict[str, Any] | None:
        """The finished stage under `key`, or None."""
        path = self.score(key) / "result.json"
        return read_json(path, *RESULT) if path.exists() else None


def train_key(settings: dict[str, Any], *, corpus: str, seed: int, where: Where) -> str:
    """Key of one training: what was asked, on which tokens, from which seed, executed how."""
    asked = {part: settings[part] for part in ("budget", "model", "train")}
    data = {"corpus": corpus, **{key: settings["data"][key] for key in ("span", "order", "weights")}}
    return key_of(
        {"step": "train", **asked, "data": data, "seed": seed, **where.as_json(), "revisions": revisions(settings)}
    )


def score_key(settings: dict[str, Any], stage: str, *, trained: str) -> str:
    """Key of one stage: the weights' key, the chain of stages it builds on, and the revisions of its parts."""
    chain: list[dict[str, Any]] = []
    name: str | None = stage
    while name is not None:
        here = settings["stage"][name]
        chain.append({k: v for k, v in here.items() if k != "evaluate" or name == stage})
        name = here["after"]
    chain = [{k: v for k, v in link.items() if k != "after"} for link in chain]
    return key_of({"step": "score", "train": trained, "chain": chain, "revisions": _stage_revisions(chain)})


def revisions(settings: dict[str, Any]) -> dict[str, int]:
    """Revision of every component that can change trained weights."""
    from ablab import attend, losses, model, optimizers, schedules, train
    from ablab.data import stream
    from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS

    found = {
        "attend": attend.REVISION,
        "batches": stream.REVISION,
        "model": model.REVISION,
        "train": train.REVISION,
        "optimizer": optimizers.slot.revision(settings["train"]["optimizer"]),
        "schedule": schedules.slot.revision(settings["train"]["schedule"]),
        "loss": losses.slot.revision(settings["train"]["loss"]),
    }
    chosen = settings["model"]
    places = [(f"{letter}.{slot}", kind[slot]) for letter, kind in chosen["kinds"].items() for slot in IN_MODEL]
    for place, choice in [*places, *((slot, chosen[slot]) for slot in OF_MODEL)]:
        for one in choice if isinstance(choice, list) else [choice]:
            if one is not None:
                found[f"{place}.{one['name']}"] = SLOTS[place.split(".")[-1]].revision(one)
    return found


def _stage_revisions(chain: list[dict[str, Any]]) -> dict[str, int]:
    from ablab import compressors, evaluators, stage

    slots = {"compress": compressors.slot, "evaluate": evaluators.slot}
    found = {"stage": stage.REVISION}
    for i, link in enumerate(chain):
        found |= {f"{i}.{k}": slots[k].revision(c) for k, c in link.items() if k in slots and c}
    return found


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line in a single write; a line torn by a crash stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((("\n" if torn else "") + json.dumps(row, allow_nan=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; lines that are no JSON object (a crash while writing) are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def resolve_where(path: Path, *, device: str, precision: str, executor: str, micro_rows: int, compiled: bool) -> Where:
    """The study's `where.json`: written at first use, kept afterwards, so that all its runs are executed alike.

    Raises GateFailed where the machine of today cannot execute what the study began with.
    """
    here = Where(device, precision, executor, micro_rows, compiled)
    if not path.exists():
        write_json(path, here.as_json())
        return here
    found = read_json(path, *here.as_json())
    kept = Where(**{name: found[name] for name in here.as_json()})
    if (kept.device, kept.precision, kept.executor) != (device, precision, executor):
        began = f"{kept.precision} by {kept.executor} on {kept.device}"
        fault = f"this study began with {began}, this machine offers {precision} by {executor} on {device}"
        raise GateFailed(Fault(str(path), fault, "go on where it began, or choose another --out"))
    return kept
