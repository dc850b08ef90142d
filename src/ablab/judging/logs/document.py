"""Files that are one JSON document: its numbers with the digits that they were printed with, its keys with their lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ablab.core.loose_json import loads
from ablab.judging.logs.building import NUMBER, SMALL, is_setting, lost, named_level, number
from ablab.judging.logs.text import Text
from ablab.records.log import Level

_QUOTED = re.compile(NUMBER)
MOST = 4096  # settings of a run: the largest public ones have some 400


class Printed(float):
    """A number, and how it was printed."""

    text: str


def document(text: Text) -> object:
    """Parse the file, its numbers as Printed; None, with a fault, where it is no JSON."""
    try:
        return loads(text.whole, _printed)
    except ValueError as error:
        text.odd(1, f"is no JSON ({error})")
        return None


def parsed(text: str) -> object:
    """Parse the JSON of a text, its numbers as Printed. Raises ValueError where it is none."""
    return loads(text, _printed)


def unquoted(value: object) -> object:
    """Return a number in quotes as Printed; anything else as it is."""
    return _printed(value.strip()) if isinstance(value, str) and _QUOTED.fullmatch(value.strip()) else value


def fields(value: object) -> dict[str, object]:
    """Return an object of the document; {} for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """Return an array of the document; [] for anything else."""
    return value if isinstance(value, list) else []


def printed(value: object) -> str | None:
    """Return a number as it was printed, nan and infinity in quotes, too; None for what is none."""
    if isinstance(value, str) and number(value) is None and lost(value):
        return value.strip()
    if isinstance(value, Printed):
        return value.text
    return None if isinstance(value, bool) or not isinstance(value, int | float) else str(value)


def whole(value: object) -> int | None:
    """Read a count from 0, also one that was printed with a point; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**SMALL:
        return None
    return int(value) if value == int(value) else None


def seconds(value: object) -> float | None:
    """Read a span of time; None for anything else."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**SMALL
    return float(value) if fits and isinstance(value, int | float) else None


def level(
    text: Text, name: str, value: object, line: int | None = None, gone: dict[str, int] | None = None
) -> Level | None:
    """Read the score under a key; the line is that of the key's first place, unless it is given; gone: as of named_level."""
    return named_level(text, line_of(text, name) if line is None else line, name, printed(value), gone)


def line_of(text: Text, name: str, start: int = 0) -> int:
    """Return the line in which a key first occurs, from a character on; 1 where it does not."""
    return text.line_at(max(0, place_of(text, name, start)))


def place_of(text: Text, name: str, start: int = 0) -> int:
    """Return where a key next occurs, from a character on; -1 where it does not."""
    return text.whole.find(json.dumps(name), start)


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """Flatten settings to `outer.inner`; seeds, ranks and paths are left out, lists as they are."""
    return dict(pair for pair, _ in zip(_flat(value, prefix), range(MOST)))


def _flat(value: object, prefix: str) -> Iterator[tuple[str, str]]:
    for name, inner in fields(value).items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.")
            continue
        told = inner if isinstance(inner, str) else printed(inner) or json.dumps(inner)
        if is_setting(name, told):
            yield prefix + name, told


def _printed(text: str) -> Printed:
    told = Printed(text)
    told.text = text
    return told
