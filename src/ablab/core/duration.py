"""Spans of time as people write them."""

from __future__ import annotations

import re

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile("".join(rf"(?:(?P<{unit}>\d{{1,9}}(?:\.\d{{1,9}})?){unit})?" for unit in _UNITS))


FORM = "write 600 (seconds), 90s, 30m, 1h30m or 2d"


def seconds(text: str) -> float | None:
    """Read `90s`, `30m`, `8h`, `2d`, `1h30m` and a plain number in seconds; None for all else and for no time."""
    text = text.strip()
    match = _SPAN.fullmatch(f"{text}s" if text.replace(".", "", 1).isdecimal() else text)
    given = {unit: number for unit, number in match.groupdict().items() if number} if match else {}
    return sum(float(number) * _UNITS[unit] for unit, number in given.items()) or None
