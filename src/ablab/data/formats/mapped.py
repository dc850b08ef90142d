"""Numbers of a file where they lie: nothing is read before it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.opened import opened


def map_file(path: Path, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    """Map `count` values of a file into memory."""
    if count == 0:
        return np.empty(0, dtype)  # nothing can be mapped from an empty file
    try:
        with opened(path) as file:
            return np.memmap(file, dtype, "r", offset=offset, shape=(count,))
    except (OSError, ValueError) as error:  # ValueError: it became shorter since it was measured
        said = getattr(error, "strerror", None) or error
        raise CheckFailed(Fault(str(path), f"cannot be read ({said})", "check the file and its rights")) from error
