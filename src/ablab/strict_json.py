"""JSON of data files: a key that stands twice in one object is known, and a byte-order mark is no part of a line."""

from __future__ import annotations

import json
from typing import Any

BOM = b"\xef\xbb\xbf"  # what Windows programs put before UTF-8; joined files have it in their midst


class Repeated(dict[str, Any]):
    """An object in which keys stand more than once: `twice` names them, the values are the last ones."""

    twice: tuple[str, ...] = ()


def loads(text: str) -> Any:
    """What `text` holds, objects with repeated keys as Repeated. ValueError and RecursionError where it is no JSON."""
    return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)


def blank(raw: bytes) -> bool:
    """Whether a line holds nothing."""
    return not raw.removeprefix(BOM).strip()


def repeated(value: Any, name: str) -> bool:
    """Whether `value` is an object in which the key `name` stands more than once."""
    return isinstance(value, Repeated) and name in value.twice


def repeated_inside(value: Any) -> str:
    """The first key that stands twice in an object anywhere inside `value`; "" where there is none."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Repeated):
            return one.twice[0]
        left += reversed(list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else [])
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    again = Repeated(found)
    again.twice = tuple(name for name in found if names.count(name) > 1)
    return again
