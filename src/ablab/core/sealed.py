"""Records that carry a digest of themselves: what was changed after it was written is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of, read_json
from ablab.core.forms import fits, misfit

R = TypeVar("R", bound=Mapping[str, object])


def sealed(record: R) -> R:
    """Return `record` with the `digest` of all else in it."""
    return cast(R, {**record, "digest": _digest(record)})


def _digest(record: Mapping[str, object]) -> str:
    return key_of({name: value for name, value in record.items() if name != "digest"})


def changed(record: Mapping[str, object], path: Path, cure: str) -> Fault | None:
    """Return the fault of a record whose digest is missing or not that of its content; else None."""
    try:
        if record.get("digest") == _digest(record):
            return None
    except ValueError:
        pass  # NaN, which nothing here writes
    return Fault(str(path), "was changed after it was written (its digest differs)", cure)


def read_sealed(path: Path, *keys: str, cure: str, form: type[R], present: Callable[[object], None] | None = None) -> R:
    """Read a record that was written sealed, has `keys` and is of `form`. CheckFailed where it is not as it was written.

    present: gives an older record today's names, once its digest has held.
    """
    record = read_json(path, *keys, "digest", form=dict[str, object])
    if fault := changed(record, path, cure):
        raise CheckFailed(fault)
    if present is not None:
        present(record)
    if not fits(record, form):
        raise CheckFailed(Fault(str(path), misfit(record, form), cure))
    return record
