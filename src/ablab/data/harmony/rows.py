"""The inputs of a Harmony build: what a source names, which fields of it are read, and its rows as conversations.

Two forms. `synth`: query, synthetic_reasoning, synthetic_answer and synth_id (one user message, one analysis, one final).
`messages`: messages_json, a list of messages or {"messages": [...]}, with the id from synth_id, else from id, else the
hash of the content. A file that has messages_json is read as `messages`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault, InvalidStudy
from ablab.core.files import canonical
from ablab.core.inputs import Inputs
from ablab.core.kinds import answer, instead, no_text
from ablab.core.loose_json import lines, loads, repeated_inside
from ablab.core.opened import no_file, opened
from ablab.core.patterns import matched
from ablab.data.formats import arrow
from ablab.data.harmony import mock, readers
from ablab.data.harmony.readers import Bad, Cells, Mark, Reader
from ablab.records.harmony import RowsFile

if TYPE_CHECKING:
    from ablab.data.harmony.conversation import Message

SYNTH = ("synth_id", "query", "synthetic_reasoning", "synthetic_answer")
MESSAGES = "messages_json"
_KNOWN = 'known: .parquet, .jsonl and .arrow files, "mock", "hf:NAME"'


class BadRow(ValueError):
    """A row that is no conversation; the text says why."""

    def __init__(self, reason: str, row_id: str | None = None) -> None:
        super().__init__(reason)
        self.row_id = row_id


@dataclass(frozen=True)
class RowSource:
    """One file of rows, or the mock. `fields` are what is read, the id first ("" before messages: hashed content)."""

    name: str  # without a folder: it is written into files that are the same everywhere
    path: Path
    kind: str  # parquet, jsonl, arrow, mock
    fields: tuple[str, ...]
    rows: int
    sha256: str
    marks: tuple[Mark, ...] = ()
    first: int = 0  # the row of the file that is row 0 here

    @property
    def identity(self) -> RowsFile:
        """What two builds must share to give the same files."""
        identity: RowsFile = {"name": self.name, "sha256": self.sha256, "rows": self.rows, "fields": list(self.fields)}
        if self.first:
            identity["first"] = self.first
        return identity

    def place(self, number: int) -> str:
        """Say where a person can look a row up; `number` as its reader gives it."""
        return f"{self.name}: {'line' if self.kind == 'jsonl' else 'row'} {number}"

    def reader(self) -> Reader:
        """Open a reader of its fields (without one that is "")."""
        fields = [field for field in self.fields if field]
        match self.kind:
            case "parquet":
                return readers.parquet(self.path, self.name, fields)
            case "arrow":
                return readers.arrow(self.path, self.name, fields)
            case "jsonl":
                return readers.JsonRows(self.path, fields, self.marks)
        return readers.MockRows()

    def row_id(self, cells: Cells) -> str | None:
        """Return the id of a row whose conversation is not looked at; None where it has none of its own."""
        try:
            return _id(cells[0], self.fields[0]) if self.fields[0] else None
        except BadRow:
            return None

    def conversation(self, cells: Cells) -> tuple[str, tuple[Message, ...]]:
        """Read (id, messages) of one row. BadRow, with the id where it is known."""
        if self.fields[0]:
            row_id, cells = _id(cells[0], self.fields[0]), cells[1:]
        elif isinstance(cells[0], Bad):
            raise BadRow(cells[0].reason)
        else:
            row_id = content_id(cells[0])
        try:
            return row_id, self._messages(cells)
        except ValueError as error:
            raise BadRow(str(error), row_id) from None

    def _messages(self, cells: Cells) -> tuple[Message, ...]:
        from ablab.data.harmony.conversation import from_messages, from_synth

        texts: list[str] = []
        for field, cell in zip(self.fields[-len(cells) :], cells):
            if cell is None:
                raise ValueError(f"'{field}' has no value")
            if isinstance(cell, Bad):
                raise ValueError(cell.reason)
            if field == MESSAGES:
                return from_messages(_listed(cell))
            if not isinstance(cell, str):
                raise ValueError(f"'{field}' is {type(cell).__name__}, not a string")
            texts.append(cell)
        return from_synth(*texts)


def content_id(value: object) -> str:
    """Make the id of a row that has none: 32 hex digits of the sha256 of its messages_json."""
    text = value if isinstance(value, str) else canonical(value)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def find(sources: Sequence[str], inputs: Inputs) -> list[RowSource]:
    """Find the inputs that `sources` name, in the order given; a glob's files sorted.

    InvalidStudy for a name that matches nothing or has no reader; CheckFailed for a file without the fields, or damaged.
    """
    rows: list[RowSource] = []
    faults: list[Fault] = []
    if not sources:
        faults.append(Fault("SOURCE", "names nothing", _KNOWN))
    for source in sources:
        if source == "mock" or source.startswith("mock:"):
            rows.append(_mock(source))
        elif source.startswith("hf:"):
            from ablab.data.sources.hub import arrow_files

            for one in arrow_files(source):
                whole = _table(one.path, "arrow", inputs, one.name)
                rows.append(whole if one.whole else replace(whole, first=one.start, rows=one.stop - one.start))
        else:
            paths = matched(source)
            if not paths:
                faults.append(Fault("SOURCE", f"'{source}' matches no file", f"check the path; {_KNOWN}"))
            for path in paths:
                fault = _unreadable(path)
                if fault:
                    faults.append(fault)
                elif not faults:
                    rows.append(_file(path, inputs))
    if faults:
        raise InvalidStudy(faults)
    return rows


def _unreadable(path: Path) -> Fault | None:
    if path.is_dir():
        return Fault("SOURCE", f"'{path}' is a folder", f"name its files, such as '{path}/*.parquet', or 'hf:{path}'")
    if said := no_file(path):
        return Fault("SOURCE", f"'{path}' {said}", "give a file")
    if path.suffix not in (".parquet", ".jsonl", ".arrow"):
        if (other := instead(path)) is not None:
            return Fault("SOURCE", f"'{path}' {other.what}", other.cure)
        return Fault("SOURCE", f"'{path}' has the suffix '{path.suffix}', which has no reader", _KNOWN)
    return None


def _file(path: Path, inputs: Inputs) -> RowSource:
    return _jsonl(path, inputs) if path.suffix == ".jsonl" else _table(path, path.suffix[1:], inputs, path.name)


def _mock(source: str) -> RowSource:
    count = source.removeprefix("mock:") if source != "mock" else str(mock.ROWS)
    if not count.isdigit() or not int(count):
        raise InvalidStudy(Fault("SOURCE", f"'{source}' names no count", f'write "mock" or "mock:{mock.ROWS}"'))
    digest = hashlib.sha256()
    for row in mock.rows(0, int(count)):
        digest.update(canonical(row).encode() + b"\n")
    return RowSource("mock", Path(), "mock", mock.FIELDS, int(count), digest.hexdigest())


def _table(path: Path, kind: str, inputs: Inputs, name: str) -> RowSource:
    import pyarrow
    import pyarrow.parquet

    try:
        opened(path).close()  # the library waits at a pipe
        if kind == "parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                names, rows = file.schema_arrow.names, file.metadata.num_rows
        else:
            with arrow.opened(path) as table:
                names, rows = table.names, sum(map(len, table.batches))
    except (pyarrow.ArrowException, OSError) as error:
        if (other := instead(path, allowed=(kind,))) is not None:
            raise CheckFailed(Fault(str(path), other.what, other.cure)) from None
        raise readers.unreadable(str(path), error) from error
    return RowSource(name, path.resolve(), kind, _fields(names, str(path), "column"), rows, inputs.sha256(path))


def _jsonl(path: Path, inputs: Inputs) -> RowSource:
    if (other := no_text(path) or answer(path)) is not None:
        raise CheckFailed(Fault(str(path), other.what, other.cure))
    digest = inputs.sha256(path)
    rows, marks = readers.scan_lines(path)
    fields = _fields(_first_names(path), str(path), "field") if rows else SYNTH
    return RowSource(path.name, path.resolve(), "jsonl", fields, rows, digest, marks)


def _first_names(path: Path) -> list[str]:
    """Name the fields of the first line that is an object, which decides: what another one lacks is that row's fault."""
    with opened(path) as file:
        for raw in lines(file, path):
            try:
                record = loads(raw.decode())
            except ValueError:
                continue  # set aside like any other line that is no JSON
            if isinstance(record, dict):
                return list(record)
    raise CheckFailed(Fault(str(path), "has no line that is a JSON object", "give one object on each line"))


def _fields(names: Sequence[str], place: str, word: str) -> tuple[str, ...]:
    if twice := sorted({name for name in (*SYNTH, MESSAGES, "id") if names.count(name) > 1}):
        raise CheckFailed(Fault(place, f"has more than one {word} '{twice[0]}'", "write it with one"))
    if MESSAGES in names:
        return next((name for name in ("synth_id", "id") if name in names), ""), MESSAGES
    missing = [f"'{name}'" for name in SYNTH if name not in names]
    if missing:
        fault = f"has no {word} {', '.join(missing)}; it has {', '.join(names) or 'none'}"
        cure = f"give {', '.join(SYNTH)}, or {MESSAGES} (with synth_id or id)"
        raise CheckFailed(Fault(place, fault, cure))
    return SYNTH


def _id(cell: object, field: str) -> str:
    if isinstance(cell, Bad):
        raise BadRow(cell.reason)
    if isinstance(cell, bool) or not isinstance(cell, str | int) or cell == "":
        what = "has no value" if cell is None or cell == "" else f"is {type(cell).__name__}, not a string"
        raise BadRow(f"'{field}' {what}")
    row_id = str(cell)
    try:
        row_id.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"'{field}' holds a lone surrogate at character {error.start}") from None
    return row_id


def _listed(value: object) -> object:
    """Read a cell of messages_json: JSON text, or what was read already."""
    if isinstance(value, str):
        try:
            value = loads(value)
        except ValueError as error:
            raise ValueError(f"'{MESSAGES}' is no JSON ({error})") from None
    if twice := repeated_inside(value):
        raise ValueError(f"'{MESSAGES}' has an object with the key '{twice}' more than once")
    return value
