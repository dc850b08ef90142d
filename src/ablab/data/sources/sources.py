"""Where text comes from: this interpreter's library, text, JSON lines and Parquet files, and mock documents.

Every source gives its documents in a fixed order as (place, text); text None is a file that the source's rule skips.
"""

from __future__ import annotations

import abc
import codecs
import hashlib
import itertools
import os
import platform
import sys
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ablab.core.fault import CheckFailed, Fault, did_you_mean
from ablab.core.files import canonical
from ablab.core.inputs import Inputs
from ablab.core.kinds import answer, instead, no_text
from ablab.core.loose_json import blank, lines, loads, repeated
from ablab.core.opened import opened, read_whole
from ablab.data.formats import arrow
from ablab.data.formats.packed import SUFFIXES, unpacked
from ablab.data.sources import mock
from ablab.records.corpus import Input

Entry = tuple[str, str | None]
TEXT_FIELD = "data.text_field"  # what names the field of the text in a study
SEPARATOR = "<|endoftext|>"  # what GPT-2's tokenizer wrote between documents, and most files of joined text since
ZEROS = 32  # bytes at the end of a text that no writer leaves there
_NOT_LIBRARY = ("site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True)
class HoldOut:
    """How a source of very unequal documents is split: up to `longest` bytes, `readier` times as readily as its fraction says.

    Of Python 3.11's library a hundredth is 18 files, of which one is 57% of the text: they count as 2.8 documents. Files of at
    most 8 kB are 9% of the text, so a tenth of them is again a hundredth of it: 95 files, of which 11 nearly copy others;
    the rest, none above 3.3%, count as 50.
    """

    longest: int
    readier: int


SHORT_FILES = HoldOut(longest=8192, readier=10)


class Source(abc.ABC):
    """One input of a corpus. At rest documents are held out of it as readily as of any other."""

    name: str
    held: HoldOut | None = None

    @abc.abstractmethod
    def describe(self, inputs: Inputs) -> Input:
        """Describe the source as the manifest does; `sha256` covers the whole content."""

    @abc.abstractmethod
    def documents(self) -> Iterator[Entry]:
        """Yield (place, text) of every document, in a fixed order."""


@dataclass(frozen=True)
class InFile(Source):
    """A source that is one file."""

    path: Path
    name: str = ""  # the path, where none is given

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.path))

    def describe(self, inputs: Inputs) -> Input:
        return {"source": self.name, "sha256": inputs.sha256(self.path)}


@dataclass(frozen=True)
class RowFile(InFile):
    """A file of rows with named fields: one document per row, in the string field `text_field`."""

    text_field: str = "text"

    def documents(self) -> Iterator[Entry]:
        for place, value in self.values(self.text_field, TEXT_FIELD):
            yield place, _text(value, place, self.text_field)

    @abc.abstractmethod
    def values(self, field: str, setting: str) -> Iterator[tuple[str, object]]:
        """Yield (place, value of `field`) of every row; `setting` is what names the field in the study."""


@dataclass(frozen=True)
class PythonLibrary(Source):
    """The running interpreter's standard library, one document per source file, and the texts of pydoc's topics.

    Files that are no UTF-8 (the library's own tests of odd encodings) are skipped and counted; nothing else may be.
    `limit` keeps the first files only. Only short files are held out, and these so much the readier: see `HoldOut`.
    """

    limit: int | None = None
    name: str = "python"
    held: HoldOut = SHORT_FILES

    def describe(self, inputs: Inputs) -> Input:
        root = _library()
        listed = [[name, inputs.sha256(root / name)] for name in self._files()]
        topics = [[name, hashlib.sha256(text.encode()).hexdigest()] for name, text in _topics()]
        return {
            "source": self.name,
            "sha256": hashlib.sha256(canonical([listed, topics]).encode()).hexdigest(),
            "files": len(listed),
            "topics": len(topics),
            "python": platform.python_version(),
        }

    def documents(self) -> Iterator[Entry]:
        root = _library()
        for name in self._files():
            try:
                text: str | None = read_whole(root / name).decode()
            except UnicodeDecodeError:
                text = None
            yield f"python:{name}", text
        for name, text in _topics():
            yield f"python:topic {name}", text

    def _files(self) -> list[str]:
        # pydoc_data/topics.py holds the topics' texts once more, escaped: a near duplicate that could cross the split
        root, paths = _library(), []
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in _NOT_LIBRARY]
            inside = Path(folder).relative_to(root)
            paths += [(inside / name).as_posix() for name in files if name.endswith(".py")]
        kept = [name for name in sorted(paths) if name != "pydoc_data/topics.py" and (root / name).is_file()]
        return kept[: self.limit]


@dataclass(frozen=True)
class TextFile(InFile):
    """A .txt file: one document, or those between `separator`s, without the line breaks at their ends.

    A byte-order mark at its beginning is left out. CheckFailed at the first byte that is no UTF-8, and where the file ends
    in zeros, or is something else than text.
    """

    separator: str = ""

    def documents(self) -> Iterator[Entry]:
        raw = _read(self.path)
        _no_other(self.path, ("html",))  # pages may be what is learned
        if (said := answer(self.path)) is not None:
            raise CheckFailed(Fault(self.name, said.what, said.cure))
        if (zeros := len(raw) - len(raw.rstrip(b"\0"))) >= ZEROS:
            fault = f"ends in {zeros:,} zero bytes: filled up, not written"
            raise CheckFailed(Fault(self.name, fault, "copy the file again, or cut them off"))
        text = _decode(raw, self.path, 0).removeprefix("\ufeff")
        if not self.separator or self.separator not in text:
            yield self.name, text
            return
        for number, piece in enumerate(text.split(self.separator), 1):
            yield f"{self.name}: document {number}", piece.strip("\r\n")


@dataclass(frozen=True)
class JsonLines(RowFile):
    """A .jsonl file, which may be compressed: one document per line; empty lines are passed over, and a byte-order mark."""

    def values(self, field: str, setting: str) -> Iterator[tuple[str, object]]:
        _no_other(self.path, SUFFIXES.values() if self.path.suffix in SUFFIXES else ())
        if (said := answer(self.path)) is not None:
            raise CheckFailed(Fault(self.name, said.what, said.cure))
        offset = 0
        with _opened(self.path) as file:
            for number, raw in enumerate(lines(file, self.path), 1):
                place = f"{self.path}: line {number}"
                if (hole := raw.find(bytes(ZEROS))) >= 0:  # JSON has no zero byte
                    zeros = len(raw) - hole - len(raw[hole:].lstrip(b"\0"))
                    fault = (
                        f"has {zeros:,} zero bytes from byte {offset + hole:,} of the file on: filled up, not written"
                    )
                    raise CheckFailed(Fault(place, fault, "copy the file again, or cut them off"))
                marked = 0 if offset else len(raw) - len(raw := raw.removeprefix(codecs.BOM_UTF8))
                line = _decode(raw, self.path, offset + marked)
                offset += marked + len(raw)
                if not blank(raw):
                    yield place, _field(line, place, field, setting)


def _field(line: str, place: str, field: str, setting: str) -> object:
    """Read the value of `field` in a line of JSON."""
    try:
        record = loads(line)
    except ValueError as error:
        raise CheckFailed(Fault(place, f"is no JSON ({error})", "repair or remove the line")) from None
    if not isinstance(record, dict):
        raise CheckFailed(Fault(place, "is no JSON object", f'write {{"{field}": "..."}}'))
    if field not in record:
        cure = f"set {setting}; {did_you_mean(field, list(record))}"
        raise CheckFailed(Fault(place, f"has no field '{field}'", cure))
    if repeated(record, field):
        fault = f"has the field '{field}' more than once"
        raise CheckFailed(Fault(place, fault, "keep one; which one is meant cannot be known"))
    return record[field]


@dataclass(frozen=True)
class Parquet(RowFile):
    """A .parquet file: read in pieces of a row group."""

    def values(self, field: str, setting: str) -> Iterator[tuple[str, object]]:
        import pyarrow
        import pyarrow.parquet

        row = 0
        try:
            opened(self.path).close()  # the library waits at a pipe
            with pyarrow.parquet.ParquetFile(self.path, buffer_size=1 << 20) as file:
                _column(file.schema_arrow.names, field, self.name, setting)
                for group in range(file.num_row_groups):  # one iterator over all of them keeps what it has read
                    batches = file.iter_batches(256, row_groups=[group], columns=[field], use_threads=False)
                    for value in itertools.chain.from_iterable(batch.column(0) for batch in batches):
                        yield f"{self.path}: row {row}", value.as_py()
                        row += 1
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.path, self.name, row, error, "fetch or write the file again") from error


@dataclass(frozen=True)
class Arrow(RowFile):
    """An Arrow file, of the `datasets` library or of others.

    `rows`: only rows from the first up to the second, counted from 0.
    """

    rows: tuple[int, int] | None = None

    def describe(self, inputs: Inputs) -> Input:
        whole = super().describe(inputs)
        if self.rows is None:
            return whole
        part = hashlib.sha256(canonical([whole["sha256"], self.rows]).encode()).hexdigest()
        return {**whole, "sha256": part, "rows": list(self.rows)}

    def values(self, field: str, setting: str) -> Iterator[tuple[str, object]]:
        import pyarrow

        start, stop = self.rows or (0, sys.maxsize)
        row = 0
        try:
            with arrow.opened(self.path) as table:
                _column(table.names, field, self.name, setting)
                for batch in table.batches:
                    low, high = max(start - row, 0), min(stop - row, len(batch))
                    for at, value in enumerate(batch.column(field)[low:high] if low < high else ()):
                        yield f"{self.name}: row {row + low + at}", value.as_py()
                    row += len(batch)
                    if row >= stop:
                        return
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.path, self.name, row, error, "fetch or write the file again") from error


@dataclass(frozen=True)
class Mock(Source):
    """Deterministic synthetic documents (see ablab.data.sources.mock)."""

    name: str = "mock"

    def describe(self, inputs: Inputs) -> Input:
        digest = hashlib.sha256()
        for text in mock.documents():
            digest.update(text.encode() + b"\0")
        return {"source": self.name, "sha256": digest.hexdigest()}

    def documents(self) -> Iterator[Entry]:
        for index, text in enumerate(mock.documents()):
            yield f"mock:{index}", text


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib")).resolve()


def _topics() -> list[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics  # a few distributions leave it out
    except ImportError:
        return []
    return sorted(topics.items())


def _column(names: Sequence[str], field: str, name: str, setting: str) -> None:
    """Refuse a table that has not one column `field`."""
    if field not in names:
        cure = f"set {setting}; {did_you_mean(field, names)}"
        raise CheckFailed(Fault(name, f"has no column '{field}'", cure))
    if names.count(field) > 1:
        fault = f"has {names.count(field)} columns '{field}'"
        raise CheckFailed(Fault(name, fault, "write it with one; which one is meant cannot be known"))


def _unreadable(path: Path, name: str, row: int, error: Exception, cure: str) -> CheckFailed:
    """Say what a table is that is no table, or where its reading ended."""
    if (other := instead(path, allowed=(path.suffix[1:],))) is not None:
        return CheckFailed(Fault(name, other.what, other.cure))
    return CheckFailed(Fault(name, f"cannot be read at row {row} ({' '.join(str(error).split())})", cure))


def _no_other(path: Path, allowed: Collection[str] = ()) -> None:
    """Refuse a file of text that is something else."""
    if (other := no_text(path, allowed)) is not None:
        raise CheckFailed(Fault(str(path), other.what, other.cure))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be read line by line. CheckFailed where it is none, or a line of it never ends."""
    try:
        with unpacked(path) as file:
            yield file
    except OSError as error:
        raise CheckFailed(Fault(str(path), f"cannot be read ({error.strerror})", "check the file")) from error


def _read(path: Path) -> bytes:
    try:
        return read_whole(path)
    except OSError as error:
        raise CheckFailed(Fault(str(path), f"cannot be read ({error.strerror})", "check the file")) from error


def _decode(raw: bytes, path: Path, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        fault = f"is no UTF-8 at byte {offset + error.start} ({error.reason})"
        raise CheckFailed(Fault(str(path), fault, "convert the file to UTF-8")) from None


def _text(value: object, place: str, field: str) -> str:
    if not isinstance(value, str):
        fault = f"'{field}' is {'missing' if value is None else type(value).__name__}, not a string"
        raise CheckFailed(Fault(place, fault, "repair or remove the document"))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        fault = f"'{field}' holds a lone surrogate at character {error.start}"
        raise CheckFailed(Fault(place, fault, "repair or remove the document")) from None
    return value
