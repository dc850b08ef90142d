"""Slices of the rows of a Parquet, Arrow or JSON lines file, or of the mock, with memory that does not grow.

A reader yields (row number, cells) for the fields it was given, in their order; a cell that cannot be read is Bad. Asked
for slices in rising order it goes on where it stopped: a worker reads its file once, whatever slices it is handed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from ablab.core.fault import CheckFailed, Fault
from ablab.core.loose_json import blank, lines, loads, repeated
from ablab.core.opened import opened as regular
from ablab.data.formats.arrow import opened
from ablab.data.harmony import mock

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

    Batches = Iterator[tuple[int, RecordBatch]]  # each with the number of its first row

Cells = tuple[object, ...]
BATCH = 256
MARK_EVERY = 1024  # rows between two places of a JSON lines file that a reader can jump to


class Bad(NamedTuple):
    """Stands for a cell that cannot be read."""

    reason: str


class Reader(Protocol):
    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Cells]]: ...


class Mark(NamedTuple):
    """Where a row of a JSON lines file begins."""

    row: int
    line: int
    offset: int


class _Tables:
    """Slices out of a run of record batches that can be begun anew at certain rows."""

    def __init__(
        self, name: str, fields: Sequence[str], begins: Sequence[int], open_at: Callable[[int], Batches]
    ) -> None:
        self._name, self._fields, self._begins, self._open_at = name, fields, list(begins), open_at
        self._source: Batches = iter(())
        self._held: tuple[int, RecordBatch] | None = None
        self._at = -1  # the row at which the next batch begins; -1: nothing is open

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Cells]]:
        import pyarrow

        try:
            for first, batch in self._batches(start, stop):
                columns = [cells(batch.column(field), field) for field in self._fields]
                yield from enumerate(zip(*columns), first)
        except (pyarrow.ArrowException, OSError) as error:
            fault = f"cannot be read behind row {max(self._at, start)} ({' '.join(str(error).split())})"
            raise CheckFailed(Fault(self._name, fault, "fetch or write the file again")) from error

    def _batches(self, start: int, stop: int) -> Batches:
        group = bisect_right(self._begins, start) - 1
        if self._at < 0 or (self._held or (self._at,))[0] > start or self._begins[group] > self._at:
            self._source, self._held = self._open_at(group), None
        while start < stop:
            if self._held is None:
                self._held = next(self._source, None)
                if self._held is None:
                    raise OSError(f"it ends before row {start}")
            first, batch = self._held
            end = self._at = first + len(batch)
            if end > start:
                taken = min(stop, end) - start
                yield start, batch.slice(start - first, taken)
                start += taken
            if end <= start:
                self._held = None


def parquet(path: Path, name: str, fields: Sequence[str]) -> Reader:
    """Make a reader of the rows of a Parquet file, a row group's batches at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        regular(path).close()  # the library waits at a pipe
        file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20)
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(name, error) from error
    begins = [0]
    for group in range(file.num_row_groups):
        begins.append(begins[-1] + file.metadata.row_group(group).num_rows)

    def open_at(group: int) -> Batches:
        for one in range(group, file.num_row_groups):
            first = begins[one]
            # group by group: one iterator over all of them keeps what it has read
            for batch in file.iter_batches(BATCH, row_groups=[one], columns=list(fields), use_threads=False):
                yield first, batch
                first += len(batch)

    return _Tables(name, fields, begins[:-1] or [0], open_at)


def arrow(path: Path, name: str, fields: Sequence[str]) -> Reader:
    """Make a reader of the rows of an Arrow file, of either format; memory-mapped."""

    def open_at(_: int) -> Batches:
        first = 0
        with opened(path) as table:
            for whole in table.batches:
                for inside in range(0, len(whole), BATCH):
                    batch = whole.slice(inside, BATCH)
                    yield first, batch
                    first += len(batch)

    return _Tables(name, fields, [0], open_at)


class JsonRows:
    """Rows of a JSON lines file; empty lines are none. `marks` are places to jump to (see scan_lines)."""

    def __init__(self, path: Path, fields: Sequence[str], marks: Sequence[Mark]) -> None:
        self._path, self._fields, self._marks = path, fields, marks
        self._open: Iterator[tuple[int, Cells]] = iter(())
        self._at = -1

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Cells]]:
        mark = self._marks[bisect_right(self._marks, start, key=lambda one: one.row) - 1]
        if not 0 <= self._at <= start or mark.row > self._at:
            self._open, self._at = self._from(mark), mark.row
        for _ in islice(self._open, start - self._at):
            pass
        self._at = start
        for row in islice(self._open, stop - start):
            self._at += 1
            yield row

    def _from(self, mark: Mark) -> Iterator[tuple[int, Cells]]:
        with _opened(self._path) as file:
            file.seek(mark.offset)
            for line, raw in enumerate(lines(file, self._path), mark.line):
                if not blank(raw):
                    yield line, self._cells(raw)

    def _cells(self, raw: bytes) -> Cells:
        try:
            record = loads(raw.decode())
        except UnicodeDecodeError as error:
            return self._bad(f"is no UTF-8 at byte {error.start} of the line")
        except ValueError as error:
            return self._bad(f"is no JSON ({error})")
        if not isinstance(record, dict):
            return self._bad("is no JSON object")
        return tuple(
            Bad(f"has the field '{field}' more than once")
            if repeated(record, field)
            else record.get(field, Bad(f"has no field '{field}'"))
            for field in self._fields
        )

    def _bad(self, reason: str) -> Cells:
        return (Bad(reason),) * len(self._fields)


class MockRows:
    """Rows of the mock."""

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Cells]]:
        yield from enumerate(mock.rows(start, stop), start)


def scan_lines(path: Path) -> tuple[int, tuple[Mark, ...]]:
    """Count the rows of a JSON lines file, and place a mark at every MARK_EVERY-th."""
    rows, offset, marks = 0, 0, []
    with _opened(path) as file:
        for line, raw in enumerate(lines(file, path), 1):
            if not blank(raw):
                if rows % MARK_EVERY == 0:
                    marks.append(Mark(rows, line, offset))
                rows += 1
            offset += len(raw)
    return rows, tuple(marks)


def cells(column: Array, field: str) -> list[object]:
    """Return a column's values; one that is no UTF-8 is Bad, and the others are kept."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_cell(column, at, field) for at in range(len(column))]


def _cell(column: Array, at: int, field: str) -> object:
    try:
        return column[at].as_py()
    except UnicodeDecodeError as error:
        return Bad(f"'{field}' is no UTF-8 at byte {error.start}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be read line by line. CheckFailed where it is none, or a line of it never ends."""
    try:
        with regular(path) as file:
            yield file
    except OSError as error:
        raise unreadable(str(path), error) from error


def unreadable(name: str, error: Exception) -> CheckFailed:
    fault = f"cannot be read ({' '.join(str(error).split())})"
    return CheckFailed(Fault(name, fault, "check the file, or fetch it again"))
