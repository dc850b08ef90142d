"""Where a worker may be interrupted: at a step's end, or at once where nothing of the work would be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_at_once = 0


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let the handler of a worker raise where the signal arrives, within the block: nothing of the work would be kept."""
    global _at_once
    _at_once += 1
    try:
        yield
    finally:
        _at_once -= 1


def may_raise() -> bool:
    """Tell whether this is within `at_once`."""
    return _at_once > 0
