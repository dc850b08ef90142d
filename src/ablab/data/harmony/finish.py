"""The end of a Harmony build: held-out rows merged into shards, the quarantine, and the manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import atomic, read_json, write_json
from ablab.core.opened import read_whole
from ablab.core.sealed import sealed
from ablab.data.formats.indexed import IndexedWriter, open_indexed
from ablab.data.harmony import held
from ablab.data.harmony.plan import BuildPlan
from ablab.data.harmony.unit import COUNTS, KINDS, Job, Unit, entry_of
from ablab.data.tokenizers.o200k_harmony import O200kHarmony
from ablab.records.harmony import Built, Counted, Finished, Quarantine, Shard

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

PIECE = 4096  # documents copied at a time
REASONS = 3  # that an error names where no row is left


def finish(wanted: BuildPlan, job: Job) -> Built:
    """Write what is left to write once every unit has its record; the manifest, which says that all is there, last.

    CheckFailed where no row is left to write.
    """
    listed = job.out / "quarantine.jsonl"
    bad = [one for unit in wanted.units if (one := job.quarantine(unit)).exists()]
    with atomic(listed, sum(one.stat().st_size for one in bad)) as part, part.open("wb") as file:
        for one in bad:
            file.write(read_whole(one))
    records = [read_json(job.record(unit), form=Finished) for unit in wanted.units]
    if not any(record["train_rows"] + record["valid_rows"] for record in records):
        raise CheckFailed(_nothing_left(listed, records, wanted.settings.max_tokens))
    train = [_train(job, unit, record) for unit, record in zip(wanted.units, records) if record["train_rows"]]
    valid = list(_valid(job, wanted, records))
    manifest = sealed(_manifest(wanted, job, records, train, valid, {"name": listed.name, **entry_of(listed)}))
    write_json(job.out / "manifest.json", manifest)
    return manifest


def _nothing_left(listed: Path, records: Sequence[Finished], max_tokens: int | None) -> Fault:
    """Say why no row is left: the commonest reasons, and what would leave one."""
    bad, dropped = sum(record["bad"] for record in records), sum(record["dropped"] for record in records)
    with listed.open(encoding="utf-8") as lines:
        reasons = Counter(json.loads(line)["reason"] for line in lines).most_common(REASONS)
    why = "; ".join(f"{count:,} because: {reason}" for reason, count in reasons)
    fault = f"no row is left: {bad:,} failed{f' ({why})' if why else ''}, {dropped:,} were dropped as too long"
    cures = [f"repair those that failed (all of them: {listed})"] if bad else []
    if dropped:
        shortest = min(record["shortest_dropped"] for record in records if record["dropped"])
        cures.append(f"raise --max-tokens from {max_tokens} to {shortest} or more, which the shortest has")
    return Fault("SOURCE", fault, f"{' or '.join(cures)}, and choose another --out or delete this one")


def _manifest(
    wanted: BuildPlan,
    job: Job,
    records: Sequence[Finished],
    train: list[Shard],
    valid: list[Shard],
    quarantine: Quarantine,
) -> Built:
    asked = wanted.settings
    config = held.config(asked.valid_fraction, O200kHarmony.eod_id)
    count: dict[Counted, int] = {name: sum(record[name] for record in records) for name in COUNTS}
    return {
        "kind": "harmony",
        "config": config,
        "config_hash": held.config_hash(config),
        "renderer": {"rules": "openai-harmony 0.0.8", "auto_drop_analysis": False, "checked_every": asked.check_every},
        "tokenizer": {
            "name": "o200k_harmony",
            "sha256": wanted.identity["tokenizer"],
            "vocab_size": O200kHarmony.vocab_size,
        },
        "inputs": [{"name": one.name, "sha256": one.sha256, "rows": one.rows} for one in wanted.inputs],
        "split": {"rule": held.RULE, "valid_fraction": asked.valid_fraction, "threshold": job.threshold},
        "splits": {
            "train": {"rows": count["train_rows"], "tokens": count["train_tokens"], "shards": train},
            "valid": {"rows": count["valid_rows"], "tokens": count["valid_tokens"], "shards": valid},
        },
        "spans": {"reasoning": count["reasoning"], "final": count["final"]},
        "rows": wanted.rows,
        "quarantined": count["bad"],
        "dropped": count["dropped"],
        "truncated": count["truncated"],
        "checked": count["checked"],
        "identity": wanted.identity,
        "quarantine": quarantine,
    }


def _train(job: Job, unit: Unit, record: Finished) -> Shard:
    files = {name: entry for name, entry in record["files"].items() if name.startswith("train/")}
    shard = job.shard(unit, "train").name
    return {"name": shard, "rows": record["train_rows"], "tokens": record["train_tokens"], "files": files}


def _valid(job: Job, wanted: BuildPlan, records: Sequence[Finished]) -> Iterator[Shard]:
    """Yield held-out parts of units, in order, in as few shards as have no more rows than a shard may have."""
    groups: list[list[int]] = []
    rows = 0
    for index, record in enumerate(records):
        if record["valid_rows"]:
            rows += record["valid_rows"]
            if not groups or rows > wanted.settings.rows_per_shard:
                groups.append([])
                rows = record["valid_rows"]
            groups[-1].append(index)
    for number, group in enumerate(groups):
        prefix = job.out / "valid" / f"shard_{number:05d}"
        for kind, dtype in KINDS.items():
            parts = [Path(f"{job.shard(wanted.units[index], 'valid')}_{kind}") for index in group]
            _merge(parts, Path(f"{prefix}_{kind}"), dtype)
        files = {
            f"valid/{prefix.name}_{kind}.{end}": entry_of(Path(f"{prefix}_{kind}.{end}"))
            for kind in KINDS
            for end in ("bin", "idx")
        }
        tokens = sum(records[index]["valid_tokens"] for index in group)
        yield {
            "name": prefix.name,
            "rows": sum(records[i]["valid_rows"] for i in group),
            "tokens": tokens,
            "files": files,
        }


def _merge(parts: Sequence[Path], to: Path, dtype: DTypeLike) -> None:
    with ExitStack() as stack:
        writer = stack.enter_context(IndexedWriter(to, dtype))
        for part in map(open_indexed, parts):
            starts = part.document_starts()
            for first in range(0, part.n_documents, PIECE):
                last = min(first + PIECE, part.n_documents)
                lengths = np.diff(starts[first : last + 1])
                writer.add_documents(part.read(int(starts[first]), int(starts[last])), lengths)
