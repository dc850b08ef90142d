"""Text of strangers as a terminal may see it: what would command it (escapes, marks of direction) is spelled out."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    r"""Spell every control, format, surrogate and private character of `text` as Python does (\x1b, \u202e, \udc80).

    Line breaks, tabs and blanks of any width stay. A colour, a cursor that moves up, a title or a line that reads backwards
    could make a terminal show another verdict than the one that was printed.
    """
    if text.isprintable():
        return text
    return "".join(one if _shown(one) else one.encode("unicode_escape").decode() for one in text)


def _shown(one: str) -> bool:
    return one.isprintable() or one in "\n\t" or unicodedata.category(one) == "Zs"


def plural(n: int, word: str) -> str:
    """Write `1 pair`, `2 pairs`."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
