"""JSON of others, whole or in lines: keys that stand twice in one object are known, a byte-order mark is no part of a line."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ablab.core.strict_json import parsed

MOST_LINE = 1 << 28  # bytes; a document of so many is a book of 40,000 pages
BOM = b"\xef\xbb\xbf"  # what Windows programs put before UTF-8; joined files have it in their midst


class Repeated(dict[str, object]):
    """An object in which keys stand more than once: `twice` names them, the values are the last ones."""

    twice: tuple[str, ...] = ()


def loads(text: str, floats: Callable[[str], float] | None = None) -> object:
    """Parse `text`, objects with repeated keys as Repeated. ValueError where it is no JSON, or deeper than DEEPEST.

    floats: what makes a number with a point or an exponent of its digits.
    """
    return parsed(text.removeprefix("\ufeff"), object_pairs_hook=_object, parse_float=floats)


def blank(raw: bytes) -> bool:
    """Tell whether a line holds nothing."""
    return not raw.removeprefix(BOM).strip()


def repeated(value: object, name: str) -> bool:
    """Tell whether `value` is an object in which the key `name` stands more than once."""
    return isinstance(value, Repeated) and name in value.twice


def repeated_inside(value: object) -> str:
    """Find the first key that stands twice in an object anywhere inside `value`; "" where there is none."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Repeated):
            return one.twice[0]
        left += reversed(list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else [])
    return ""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    last = dict(pairs)
    if len(last) == len(pairs):
        return last
    seen, again = set[str](), dict[str, None]()
    for name, _ in pairs:
        if name in seen:
            again[name] = None
        seen.add(name)
    told = Repeated(last)
    told.twice = tuple(again)
    return told


def lines(file: BinaryIO, path: Path | str) -> Iterator[bytes]:
    """Yield lines of an open file. OSError at one that is longer than MOST_LINE: what has no line ends is no file of lines."""
    while line := file.readline(MOST_LINE + 1):
        if len(line) > MOST_LINE:
            raise OSError(errno.EFBIG, f"has a line of more than {MOST_LINE:,} bytes", str(path))
        yield line
