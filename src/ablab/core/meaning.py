"""What settings mean, read off the docstring of the class that has them.

A line `name (unit): meaning; default: words` there speaks of the setting `name`, and goes on in lines that are indented
further. The unit may be missing; the words say what a default of None becomes.
"""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass

_LINE = re.compile(r"(\w+)(?: \(([^()]+)\))?: (.+)")
_DEFAULT = "; default: "


@dataclass(frozen=True)
class Meaning:
    """What one setting means, in which unit, and what its default is where it is computed."""

    text: str = ""
    unit: str = ""
    computed: str = ""


UNSAID = Meaning()


@functools.cache
def meanings(cls: type) -> dict[str, Meaning]:
    """Read the meaning of every setting that the class's docstring has a line for; prose that looks like one is in it, too."""
    meanings: dict[str, tuple[str, str]] = {}
    last = ""
    for line in (inspect.getdoc(cls) or "").splitlines():
        if match := _LINE.fullmatch(line):
            last = match[1]
            meanings[last] = (match[2] or "", match[3])
        elif last and line.startswith("  "):
            unit, text = meanings[last]
            meanings[last] = (unit, f"{text} {line.strip()}")
        else:
            last = ""
    out = {}
    for name, (unit, text) in meanings.items():
        text, _, computed = text.partition(_DEFAULT)
        out[name] = Meaning(text, unit, computed)
    return out
