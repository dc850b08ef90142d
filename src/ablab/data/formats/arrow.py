"""Arrow files of both kinds: the stream that the `datasets` library keeps, and the file that polars and feather write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ablab.core.opened import opened as regular

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_FILE = b"ARROW1"  # what begins the file format; a stream begins with a length


class ArrowFile(NamedTuple):
    """`names` of the columns in order, and the record batches."""

    names: list[str]
    batches: Iterator[RecordBatch]


@contextmanager
def opened(path: Path) -> Iterator[ArrowFile]:
    """Open the file at `path`, memory-mapped. OSError and pyarrow.ArrowException where it is damaged."""
    import pyarrow
    import pyarrow.ipc

    with regular(path) as file:
        whole = file.read(len(_FILE)) == _FILE
    with pyarrow.memory_map(str(path)) as source:
        if whole:
            table = pyarrow.ipc.open_file(source)
            yield ArrowFile(table.schema.names, map(_sound, map(table.get_batch, range(table.num_record_batches))))
        else:
            with pyarrow.ipc.open_stream(source) as stream:
                yield ArrowFile(stream.schema.names, map(_sound, stream))


def _sound(batch: RecordBatch) -> RecordBatch:
    """Check that a record batch's offsets and indices lie within its buffers; pyarrow.ArrowInvalid else.

    The library itself does not look, and reads wherever in memory they point. Text is not decoded here: a value that is no
    UTF-8 is its own row's fault, where rows are looked at one by one.
    """
    import pyarrow

    raw = {
        pyarrow.string(): pyarrow.binary(),
        pyarrow.large_string(): pyarrow.large_binary(),
        pyarrow.string_view(): pyarrow.binary_view(),
    }
    batch.validate()
    for column in batch.columns:
        kind = raw.get(column.type)
        (column if kind is None else column.view(kind)).validate(full=True)
    return batch


def rows_of(path: Path) -> int:
    """Count the rows. Errors as `opened`."""
    with opened(path) as table:
        return sum(map(len, table.batches))
