"""Where two nests of plain values differ, numbers beyond the last digits that processors disagree about."""

from __future__ import annotations

import math

CLOSE = 1e-9  # relative: numpy's and scipy's last digits differ between processors


def equal(one: object, other: object) -> bool:
    """Tell whether two values are written alike: of 1, 1.0 and true no two are, which Python calls equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and (repr(one) == repr(other) if isinstance(one, float) else one == other)


def different(before: object, after: object, place: str = "") -> list[str]:
    """List where two nests differ, numbers beyond CLOSE."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [one for key in keys for one in different(before.get(key), after.get(key), f"{place}.{key}".lstrip("."))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [one for i, pair in enumerate(zip(before, after)) for one in different(*pair, f"{place}[{i}]")]
    boolean = isinstance(before, bool) or isinstance(after, bool)
    if close(before, after) or (before == after and not boolean):
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
