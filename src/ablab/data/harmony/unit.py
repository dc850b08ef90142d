"""One unit of a Harmony build: a slice of rows to the shard files of it, and the record that says they are whole.

The rows to train on become OUT/train/shard_NNNNN; those held out wait in OUT/.parts until all units are there. The record
is written last. Nothing here depends on which process does it, or when.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, get_args

import numpy as np

from ablab.core.fault import CheckFailed, Fault, Refused, to_install
from ablab.core.files import read_json, sha256_file, write_atomic, write_json
from ablab.core.sealed import changed, sealed
from ablab.data import vocabulary
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.harmony.conversation import BadConversation
from ablab.data.harmony.held import hash_of
from ablab.data.harmony.render import Renderer
from ablab.data.harmony.rows import BadRow, RowSource
from ablab.data.tokenizers.o200k_harmony import O200kHarmony
from ablab.records.corpus import File
from ablab.records.harmony import Counted, Finished

if TYPE_CHECKING:
    from ablab.data.harmony.conversation import Message
    from ablab.data.harmony.official import OfficialRenderer
    from ablab.data.harmony.readers import Cells, Reader
    from ablab.data.harmony.render import Rendered

PARTS = ".parts"
KINDS = {"tokens": np.int32, "lossmask": np.uint8, "span": np.uint8}
BLOCK = 1 << 18  # tokens written at a time
SAID_EVERY = 0.2  # seconds
Tell = Callable[[int, int], object]


class Place(Protocol):
    """Where another process can see which row is being looked at; -1 for none."""

    value: int


COUNTS: tuple[Counted, ...] = get_args(Counted)


class Unit(NamedTuple):
    """Rows `start` to `stop` of one input."""

    number: int
    input: int
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """What every worker of a build knows."""

    out: Path
    inputs: tuple[RowSource, ...]
    threshold: int
    max_tokens: int | None
    check_every: int
    vocab: str = ""

    def shard(self, unit: Unit, split: str) -> Path:
        """Return where a unit's files of a split lie, without `_tokens.bin` and the like."""
        if split == "train":
            return self.out / "train" / f"shard_{unit.number:05d}"
        return self.out / PARTS / f"valid_{unit.number:05d}"

    def record(self, unit: Unit) -> Path:
        return self.out / PARTS / f"unit_{unit.number:05d}.json"

    def quarantine(self, unit: Unit) -> Path:
        """Return the file of the rows of a unit that failed."""
        return self.out / PARTS / f"bad_{unit.number:05d}.jsonl"


def finished(job: Job, unit: Unit) -> tuple[Finished | None, str]:
    """Read a unit's record where all its files are what it says; else None, and what is damaged ("" if it was never made)."""
    path = job.record(unit)
    if not path.exists():
        return None, ""
    try:
        record = read_json(path, form=Finished)
    except CheckFailed as error:
        return None, str(error.faults[0])
    if changed(record, path, ""):
        return None, f"{path.name} was changed after it was written"
    for name, entry in record["files"].items():
        file = job.out / name
        if not file.is_file():
            return None, f"{name} is missing"
        if (size := file.stat().st_size) != entry["size"]:
            return None, f"{name} has {size:,} bytes, not {entry['size']:,}"
        if sha256_file(file) != entry["sha256"]:
            return None, f"{name} has another sha256 than when it was written"
    return record, ""


class Builder:
    """Makes units. Holds what is costly to make: the tokenizer, open files, openai-harmony where a row is checked."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.renderer = Renderer(O200kHarmony(vocab=str(vocabulary_at(job.vocab))))
        self._readers: dict[int, Reader] = {}
        self._official: OfficialRenderer | None = None

    def make(
        self,
        unit: Unit,
        tell: Tell = lambda rows, tokens: None,
        *,
        fatal: Collection[int] = (),
        at: Place | None = None,
    ) -> Finished:
        """Write a unit's files and its record. `tell` hears of rows read and tokens made since it was last told.

        `fatal` rows are set aside unseen: each has ended a worker. `at` is told each row before it is looked at.
        CheckFailed where a file cannot be read or written, or a checked row has other ids than openai-harmony's.
        """
        counts, bad = _Counts(), list[str]()
        self.job.record(unit).unlink(missing_ok=True)
        splits = {name: _Shard(self.job.shard(unit, name)) for name in ("train", "valid")}
        try:
            self._fill(unit, splits, counts, bad, _Said(tell), fatal, at)
        except BaseException as error:
            for writer in (one for split in splits.values() for one in split.writers):
                writer.__exit__(type(error), error, error.__traceback__)  # leaves nothing
            raise
        writers = [one for split in splits.values() for one in split.writers]
        with ThreadPoolExecutor(max(1, len(writers))) as pool:  # side by side: what takes time is the disk
            list(pool.map(lambda writer: writer.__exit__(None, None, None), writers))
        return self._finish(unit, counts, splits, bad)

    def _fill(
        self,
        unit: Unit,
        splits: dict[str, _Shard],
        counts: _Counts,
        bad: list[str],
        said: _Said,
        fatal: Collection[int],
        at: Place | None,
    ) -> None:
        source = self.job.inputs[unit.input]
        if unit.input not in self._readers:
            self._readers[unit.input] = source.reader()
        rows = self._readers[unit.input].rows(source.first + unit.start, source.first + unit.stop)
        for number, cells in rows:
            said.row()
            if at is not None:
                at.value = number
            if number in fatal:
                bad.append(_quarantined(source.row_id(cells), source.place(number), "ended the worker process, twice"))
                continue
            try:
                rendered = self._row(source, number, cells, counts)
            except BadRow as error:
                bad.append(_quarantined(error.row_id, source.place(number), str(error)))
                continue
            kept = self._cut(rendered.rendered, counts)
            if kept is not None:
                splits["valid" if rendered.value < self.job.threshold else "train"].add(kept)
                said.tokens += len(kept.tokens)
        for split in splits.values():
            split.flush()
        if at is not None:
            at.value = -1
        said.all()

    def _row(self, source: RowSource, number: int, cells: Cells, counts: _Counts) -> _Row:
        """Render one row and check it. BadRow with a reason, whatever it was that the row brought about."""
        row_id: str | None = None
        try:
            row_id, messages = source.conversation(cells)
            rendered = self.renderer.render(messages)
            value = hash_of(row_id)
            if self.job.check_every and value % self.job.check_every == 0:
                self._check(messages, rendered, f"{source.place(number)} (id {row_id})")
                counts.checked += 1
            return _Row(rendered, value)
        except (BadRow, Refused, KeyboardInterrupt, SystemExit):
            raise
        except BadConversation as error:
            raise BadRow(str(error), row_id) from None
        except MemoryError as error:
            cure = "give the machine more, or fewer --workers; or take the row out"
            raise CheckFailed(Fault(source.place(number), "needs more memory than there is", cure)) from error
        except BaseException as error:  # a panic of compiled code is no Exception
            said = " ".join(str(error).split())[:300]
            raise BadRow(f"cannot be rendered ({type(error).__name__}: {said})", row_id) from None

    def _cut(self, rendered: Rendered, counts: _Counts) -> Rendered | None:
        if self.job.max_tokens is None or len(rendered.tokens) <= self.job.max_tokens:
            return rendered
        from ablab.data.harmony.truncate import truncate

        kept = truncate(rendered, self.job.max_tokens, self.renderer.tokenizer)
        if kept is None:
            counts.dropped += 1
            counts.shortest = min(counts.shortest or len(rendered.tokens), len(rendered.tokens))
        counts.truncated += kept is not None
        return kept

    def _check(self, messages: tuple[Message, ...], rendered: Rendered, place: str) -> None:
        from ablab.data.harmony.official import OfficialRenderer

        if self._official is None:
            try:
                self._official = OfficialRenderer(Path(self.job.vocab) if self.job.vocab else None)
            except ModuleNotFoundError as error:
                fault = f"cannot be checked: the package '{error.name}' is not installed"
                cure = f"{to_install('openai-harmony')}, or build with --check-every 0"
                raise CheckFailed(Fault(place, fault, cure)) from None
        ours = rendered.tokens.tolist()
        try:
            theirs = self._official.ids(messages)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # of what it raises only HarmonyError is documented, and a panic is no Exception
            raise BadConversation(f"is refused by openai-harmony ({' '.join(str(error).split())[:300]})") from None
        if ours != theirs:
            where = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            fault = f"openai-harmony gives other ids: {theirs[where : where + 3]} at token {where}, here "
            cure = "report it; --check-every 0 builds without the check"
            raise CheckFailed(Fault(place, f"{fault}{ours[where : where + 3]}", cure))

    def _finish(self, unit: Unit, counts: _Counts, splits: dict[str, _Shard], bad: list[str]) -> Finished:
        job, files = self.job, [file for split in splits.values() for file in split.files()]
        if bad:
            write_atomic(job.quarantine(unit), "".join(bad))
            files.append(job.quarantine(unit))
        train, valid = splits["train"], splits["valid"]
        fields: Finished = {
            "unit": unit.number,
            "train_rows": train.rows,
            "valid_rows": valid.rows,
            "train_tokens": train.tokens,
            "valid_tokens": valid.tokens,
            "reasoning": train.reasoning + valid.reasoning,
            "final": train.final + valid.final,
            "bad": len(bad),
            "dropped": counts.dropped,
            "shortest_dropped": counts.shortest,
            "truncated": counts.truncated,
            "checked": counts.checked,
            "files": {file.relative_to(job.out).as_posix(): entry_of(file) for file in files},
        }
        record = sealed(fields)
        write_json(job.record(unit), record)
        return record


def vocabulary_at(vocab: str) -> Path:
    """Find the vocabulary file ("": the installed one), its hash checked. CheckFailed where it is missing or wrong."""
    path = Path(vocab) if vocab else vocabulary.default_path()
    try:
        vocabulary.read(path)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise CheckFailed(Fault("o200k_harmony", fault, cure)) from None
    return path


def entry_of(file: Path) -> File:
    """Describe a file as a record and the manifest do."""
    return {"size": file.stat().st_size, "sha256": sha256_file(file)}


class _Row(NamedTuple):
    """A row as a document, and the 64 bits of its id."""

    rendered: Rendered
    value: int


@dataclass
class _Counts:
    dropped: int = 0
    shortest: int = 0  # tokens of the shortest that was dropped
    truncated: int = 0
    checked: int = 0


@dataclass
class _Said:
    """Tells of progress, not too often."""

    tell: Tell
    rows: int = 0
    tokens: int = 0
    last: float = field(default_factory=time.monotonic)

    def row(self) -> None:
        self.rows += 1
        if self.rows & 15 == 0 and time.monotonic() - self.last > SAID_EVERY:
            self.all()

    def all(self) -> None:
        self.tell(self.rows, self.tokens)
        self.rows, self.tokens, self.last = 0, 0, time.monotonic()


class _Shard:
    """The three files of one shard, written a block at a time; begun at the first row."""

    def __init__(self, prefix: Path) -> None:
        self.prefix, self.rows, self.tokens, self.reasoning, self.final = prefix, 0, 0, 0, 0
        self.writers: list[IndexedWriter] = []
        self._block: list[Rendered] = []
        self._waiting = 0

    def add(self, rendered: Rendered) -> None:
        self._block.append(rendered)
        self._waiting += len(rendered.tokens)
        if self._waiting >= BLOCK:
            self.flush()

    def files(self) -> list[Path]:
        """List what was written."""
        if not self.rows:
            return []
        return [Path(f"{self.prefix}_{kind}.{end}") for kind in KINDS for end in ("bin", "idx")]

    def flush(self) -> None:
        """Write what was added."""
        if not self._block:
            return
        if not self.writers:
            for kind, dtype in KINDS.items():
                writer = IndexedWriter(f"{self.prefix}_{kind}", dtype)
                writer.__enter__()
                self.writers.append(writer)
        lengths = np.fromiter((len(one.tokens) for one in self._block), np.int64, len(self._block))
        tokens, mask, span = (np.concatenate([one[i] for one in self._block]) for i in range(3))
        for writer, values in zip(self.writers, (tokens, mask, span)):
            writer.add_documents(values, lengths)
        self.rows += len(self._block)
        self.tokens += len(tokens)
        self.reasoning += int(np.count_nonzero(span == 1))
        self.final += int(np.count_nonzero(span == 2))
        self._block, self._waiting = [], 0


def _quarantined(row_id: str | None, place: str, reason: str) -> str:
    return json.dumps({"id": row_id, "place": place, "reason": reason}) + "\n"
