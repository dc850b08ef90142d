"""Arrow files of both kinds: the stream that the `datasets` library keeps, and the file that polars and feather write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ablab.opened import opened as regular

_FILE = b"ARROW1"  # what begins the file format; a stream begins with a length


class Opened(NamedTuple):
    """`names` of the columns in order, and the record batches."""

    names: list[str]
    batches: Iterator[Any]


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The file at `path`, memory-mapped. OSError and pyarrow.ArrowException where it is damaged."""
    import pyarrow
    import pyarrow.ipc

    with regular(path) as file:
        whole = file.read(len(_FILE)) == _FILE
    with pyarrow.memory_map(str(path)) as source:
        if whole:
            table = pyarrow.ipc.open_file(source)
            yield Opened(table.schema.names, map(table.get_batch, range(table.num_record_batches)))
        else:
            with pyarrow.ipc.open_stream(source) as stream:
                yield Opened(stream.schema.names, iter(stream))


def rows_of(path: Path) -> int:
    """How many rows there are. Errors as `opened`."""
    with opened(path) as table:
        return sum(map(len, table.batches))
