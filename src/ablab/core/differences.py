"""Where two nests of plain values differ, numbers beyond the last digits that processors disagree about."""

from __future__ import annotations

import math

CLOSE = 1e-9  # relative: numpy's and scipy's last digits differ between processors


def different(before: object, after: object, place: str = "") -> list[str]:
    """List where two nests differ, numbers beyond CLOSE."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [one for key in keys for one in different(before.get(key), after.get(key), f"{place}.{key}".lstrip("."))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [one for i, pair in enumerate(zip(before, after)) for one in different(*pair, f"{place}[{i}]")]
    if before == after or close(before, after):
        return []
    return [f"{place} is {shown(after)} and was {shown(before)}"]


def close(one: object, other: object) -> bool:
    """Tell whether two numbers are equal to CLOSE, or both None."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one is None and other is None


def shown(value: object) -> str:
    """Spell a value in at most 60 characters."""
    text = f"{value:.9g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
