"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, overload

from ablab.core import making, places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.forms import misfit
from ablab.core.opened import NoFile, no_file, opened, read_whole
from ablab.core.strict_json import MOST, record

T = TypeVar("T")


@contextlib.contextmanager
def atomic(
    path: Path, needed: int | None = None, *, more: bool = False, elsewhere: str = "another --out"
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the name, on failure it is removed.

    needed: the bytes that it is to take, more: at least those; a full disk is told with them. elsewhere: what to choose else.
    Raises CheckFailed where the disk is full or read-only, the path leads through a link, or what lies there is no file (a
    device would be replaced by one); the old file, if any, is untouched.
    """
    places.check(path)
    if said := no_file(path):
        raise CheckFailed(Fault(str(path), said, "name a file, or move it away"))
    places.folder(path.parent, elsewhere=elsewhere)
    try:
        handle, part = making.temporary(path)
    except OSError as error:
        raise places.unwritable(path, error, needed, more=more, elsewhere=elsewhere) from error
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise places.unwritable(path, error, needed, more=more, elsewhere=elsewhere) from error
    finally:
        part.unlink(missing_ok=True)
        os.close(handle)


def write_atomic(path: Path, data: bytes | str, *, elsewhere: str = "another --out") -> None:
    """Write `data` to `path` whole or not at all; elsewhere: what to choose where that cannot be."""
    blob = data.encode() if isinstance(data, str) else data
    with atomic(path, len(blob), elsewhere=elsewhere) as part:
        part.write_bytes(blob)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically; NaN and Infinity are refused."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, sort_keys=False) + "\n")


def print_json(value: object) -> None:
    """Print `value` as JSON and nothing else: what every command does under --json. ValueError for NaN and Infinity."""
    print(json.dumps(value, indent=1, allow_nan=False))


@overload
def read_json(path: Path, *keys: str) -> object: ...
@overload
def read_json(path: Path, *keys: str, form: type[T]) -> T: ...
def read_json(path: Path, *keys: str, form: type = object) -> object:
    """Read JSON; with `keys`, an object that has them all; of `form` (ablab.core.forms).

    A missing, truncated or corrupt file, one of another form, or what is no file raises CheckFailed with its path.
    """
    cure = "delete it to have it made again"
    try:
        value = record(read_whole(path, MOST))
    except NoFile as error:
        raise CheckFailed(Fault(str(path), str(error.strerror), cure)) from error
    except (OSError, ValueError) as error:
        raise CheckFailed(Fault(str(path), f"cannot be read ({error})", cure)) from error
    if keys and not (isinstance(value, dict) and value.keys() >= set(keys)):
        raise CheckFailed(Fault(str(path), f"does not hold {', '.join(keys)}", cure))
    if said := misfit(value, form):
        raise CheckFailed(Fault(str(path), said, cure))
    return value


def canonical(value: object) -> str:
    """Spell a JSON-able value in the one way that is hashed: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def key_of(value: object) -> str:
    """Hash `value`: the first 32 hex digits of the sha256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def sha256_file(path: Path) -> str:
    """Hash (sha256) a file's bytes, read in pieces. OSError as `opened` of ablab.core.opened."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
