"""build(): rows of conversations to Megatron's token files with loss masks and spans, and a manifest.

The same inputs and settings give the same bytes, for any number of workers, also where the build was killed and run again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import write_atomic
from ablab.core.inputs import Inputs, stamp_of
from ablab.core.opened import opened
from ablab.data.harmony import crew
from ablab.data.harmony.finish import finish
from ablab.data.harmony.plan import OURS, BuildPlan, BuildSettings, plan, settle, strangers, sweep
from ablab.data.harmony.unit import PARTS, Job, vocabulary_at
from ablab.records.harmony import Built
from ablab.runtime.lock import locked

SHOWN = 5  # failed rows that an error names


class BuildProgress(NamedTuple):
    """How far a build is. `rows` and `tokens` of this run; `kept` rows were there before it."""

    rows: int
    tokens: int
    kept: int
    total: int
    units: int
    of_units: int
    seconds: float


def build(
    source: Sequence[str],
    out: Path,
    asked: BuildSettings,
    *,
    workers: int = 1,
    max_bad: int = 0,
    vocab: str = "",
    say: Callable[[str], object] = print,
    progress: Callable[[BuildProgress], object] = lambda progress: None,
) -> Built:
    """Build `out` from `source` (see rows.find), or finish it where it was begun; returns its manifest.

    max_bad: how many rows may fail; they stand in quarantine.jsonl. vocab: the vocabulary file, where it is not the installed
    one.

    Errors: InvalidStudy for names; CheckFailed for contents, other settings than it was begun with, too many
    failed rows, and where another process builds there. Whatever stops it, finished units are kept.
    """
    vocabulary_at(vocab)  # fails before anything is made
    out = places.real(out)
    _no_strangers(out)
    fresh = not out.exists()
    with locked(out / PARTS):
        try:
            wanted = plan(asked, source, Inputs(out / PARTS / "inputs.json"))
            stamps = _stamps(wanted)
            done = settle(out, wanted)
        except BaseException:
            _leave(out, fresh)
            raise
        if done is not None:
            _as_many_bad(out, done, max_bad)
            say(f"{out} is built already, from the same inputs with the same settings")
            return done
        job = wanted.job(out, vocab)
        try:
            _make(wanted, job, workers, max_bad, say, progress)
        finally:
            sweep(out)
        _unchanged(wanted, stamps)
        manifest = finish(wanted, job)
        shutil.rmtree(out / PARTS)
    for note in _notes(manifest):
        say(note)
    return manifest


def _make(
    wanted: BuildPlan,
    job: Job,
    workers: int,
    max_bad: int,
    say: Callable[[str], object],
    progress: Callable[[BuildProgress], object],
) -> None:
    begun, rows, tokens, kept, units, bad = time.monotonic(), 0, 0, 0, 0, 0

    def hear(kind: str, value: Any) -> None:
        nonlocal rows, tokens, kept, units, bad
        if kind == "damaged":
            say(value)
            return
        if kind == "progress":
            rows, tokens = rows + value[0], tokens + value[1]
        else:
            unit = wanted.units[value["unit"]]
            units, bad = units + 1, bad + value["bad"]
            kept += unit.stop - unit.start if kind == "kept" else 0
        progress(BuildProgress(rows, tokens, kept, wanted.rows, units, len(wanted.units), time.monotonic() - begun))
        if bad > max_bad:
            raise _too_many(job, wanted, bad, max_bad)

    crew.make(job, wanted.units, workers, hear)


def _too_many(job: Job, wanted: BuildPlan, bad: int, max_bad: int) -> CheckFailed:
    listed = job.out / "quarantine.jsonl"
    write_atomic(listed, b"".join(quarantined(job, wanted)))
    with listed.open() as lines:
        first = [json.loads(line) for line in islice(lines, SHOWN)]
    faults = [Fault(f"{row['place']} (id {_id(row['id'])})", row["reason"]) for row in first]
    allowed = "none" if max_bad == 0 else f"{max_bad:,}"
    fault = f"{bad:,} {'row' if bad == 1 else 'rows'} failed so far, {allowed} may"
    cure = f"allow more with --max-bad (what is finished is kept), or repair them (all so far: {listed}) and choose another"
    cure += " --out, or delete this one"
    return CheckFailed([*faults, Fault("max_bad", fault, cure)])


def _as_many_bad(out: Path, manifest: Built, max_bad: int) -> None:
    """Refuse a finished build with more failed rows than may be now."""
    bad = manifest["quarantined"]
    if bad > max_bad:
        allowed = "none" if max_bad == 0 else f"{max_bad:,}"
        fault = f"{bad:,} {'row' if bad == 1 else 'rows'} failed when {out} was built, {allowed} may now"
        cure = f"allow them with --max-bad {bad}, or repair them (all of them: {out / 'quarantine.jsonl'}) and choose another"
        raise CheckFailed(Fault("max_bad", fault, f"{cure} --out, or delete this one"))


def quarantined(job: Job, wanted: BuildPlan) -> Iterator[bytes]:
    """Yield the lines about failed rows of all finished units, in order."""
    for unit in wanted.units:
        path = job.quarantine(unit)
        if path.exists():
            with opened(path) as file:
                yield from file


def _id(value: str | None) -> str:
    return "unknown" if value is None else ascii(value)[1:-1][:80]


def _no_strangers(out: Path) -> None:
    """Refuse a place with other things in it before even a lock is laid there."""
    if out.exists() and not out.is_dir():
        raise CheckFailed(Fault(str(out), "is no folder", "choose another --out"))
    odd = strangers(out, OURS) if out.exists() else []
    if odd:
        fault = f"holds other things ({', '.join(odd[:5])})"
        raise CheckFailed(Fault(str(out), fault, "choose another --out, or empty it"))


def _leave(out: Path, fresh: bool) -> None:
    """Take away what only the lock has made: nothing was begun."""
    if not (out / PARTS / "plan.json").exists():
        shutil.rmtree(out / PARTS, ignore_errors=True)
        if fresh and not any(out.iterdir()):
            out.rmdir()


def _stamps(wanted: BuildPlan) -> list[list[int]]:
    return [stamp_of(one.path) for one in wanted.inputs if one.kind != "mock"]


def _unchanged(wanted: BuildPlan, stamps: list[list[int]]) -> None:
    if _stamps(wanted) != stamps:
        raise CheckFailed(
            Fault("SOURCE", "changed while it was read", "delete --out and run again when nothing writes")
        )


def _notes(manifest: Built) -> Iterator[str]:
    fraction = manifest["split"]["valid_fraction"]
    for name, other, asked in (("valid", "train", 0), ("train", "valid", 1)):  # none at all may be what was asked for
        if not manifest["splits"][name]["rows"] and fraction != asked:
            rows = manifest["splits"][other]["rows"]
            yield f"note: {name} is empty: none of {rows:,} rows falls there at valid_fraction {fraction:g}"
    if manifest["identity"]["settings"]["check_every"] and not manifest["checked"]:
        yield "note: no row was compared with openai-harmony; --check-every 1 compares all"
