"""JSON that anyone may have written: bounded in depth and size before it is parsed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

DEEPEST = 64  # arrays and objects within one another: what ablab writes has 10, and Python's parser ends at 1,000
MOST = 1 << 27  # bytes; a record of a million input files has as many
CONTAINERS = 1 << 22  # arrays and objects: an empty one takes 64 bytes of memory, and two of text
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)  # also one without an end
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def record(data: bytes) -> object:
    """Parse a file of ablab's own: UTF-8, finite numbers, whole characters. ValueError where it is anything else."""
    if len(data) > MOST:
        raise ValueError(f"has {len(data):,} bytes, more than the {MOST:,} that such a file may have")
    text = data.decode("utf-8")
    value = parsed(text, parse_constant=_not_finite, parse_float=_finite)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")  # file names that are no UTF-8
        except UnicodeEncodeError:
            raise ValueError("holds half a character (a lone surrogate)") from None
    return value


def parsed(
    text: str,
    *,
    object_pairs_hook: Callable[[list[tuple[str, object]]], object] | None = None,
    parse_constant: Callable[[str], object] | None = None,
    parse_float: Callable[[str], float] | None = None,
) -> object:
    """Parse JSON that is bounded in depth and in size. ValueError where it is not."""
    opened = text.count("[") + text.count("{")
    if opened > CONTAINERS:
        raise ValueError(f"holds {opened:,} brackets, more than {CONTAINERS:,}")
    if opened > DEEPEST and _deep(text):
        raise ValueError(f"is nested deeper than {DEEPEST}")
    try:
        return json.loads(
            text, object_pairs_hook=object_pairs_hook, parse_constant=parse_constant, parse_float=parse_float
        )
    except RecursionError:  # called from deep inside a program
        raise ValueError("is nested too deep") from None


def _deep(text: str) -> bool:
    """Tell whether brackets lie deeper in one another than DEEPEST. What is no JSON may be called either: refused anyway."""
    left = _NO_BRACKET.sub("", _STRING.sub("", text))
    for _ in range(DEEPEST):  # each turn takes the innermost pairs out
        if not left:
            return False
        left = left.replace("[]", "").replace("{}", "")
    return left.count("[") + left.count("{") > 0


def _finite(text: str) -> float:
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(f"holds a number beyond all floats ({text[:20]})")


def _not_finite(text: str) -> float:
    raise ValueError(f"holds {text}, which is no JSON")
