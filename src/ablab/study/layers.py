"""The layer string: `layers = unit+`, `unit = (letter | "(" layers ")") ["*" int] | "[" layers "]" "^" int`, spaces ignored.

`*` repeats: new layers of the same kind. `^` loops: the same layers, weights and all, met again.
"""

from __future__ import annotations

import re

MOST = 1000  # layers; longer strings are typing errors or attacks
DEEPEST = 32  # parentheses within parentheses

_LOOP = re.compile(r"\[([^\[\]]*)\]\s*\^\s*([0-9]+)")
_DIGITS = frozenset("0123456789")
_SPACES = frozenset(" \t\r\n")
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


Loop = tuple[int, int, int]  # first layer, the one behind the last, passes


def expand(text: str) -> tuple[str, list[Loop]]:
    """Expand `"(LLLG)*3"` -> `"LLLGLLLGLLLG"`, no loops; `"L[LG]^3"` -> `"LLG"`, layers 1 to 3 three times.

    Raises ValueError with the character's place (from 1), the fault and the cure.
    """
    layers, loops, at = "", list[Loop](), 0
    for loop in _LOOP.finditer(text):
        before = text[at : loop.start()]
        if before.count("(") != before.count(")"):
            raise ValueError(f"'[' at character {loop.start() + 1} stands in parentheses; write the loop outside them")
        layers += _expanded(text, at, loop.start()) if before.strip() else ""
        inner = _expanded(text, loop.start(1), loop.end(1))
        passes = int(loop[2]) if len(loop[2]) <= 4 else MOST + 1
        if passes < 2:
            raise ValueError(f"'^{loop[2]}' at character {loop.end(1) + 2} loops nothing; loop twice or more")
        loops.append((len(layers), len(layers) + len(inner), passes))
        layers, at = layers + inner, loop.end()
    if text[at:].strip() or not layers:
        layers += _expanded(text, at, len(text))
    if len(layers) + sum((end - first) * (passes - 1) for first, end, passes in loops) > MOST:
        raise ValueError(f"more than {MOST} layers; repeat less")
    return layers, loops


def spell(layers: str, loops: list[Loop] | list[list[int]]) -> str:
    """Spell these layers and loops as the shortest string without `*` that `expand` reads as them."""
    text, at = "", 0
    for first, end, passes in loops:
        text += f"{layers[at:first]}[{layers[first:end]}]^{passes}"
        at = end
    return text + layers[at:]


def _expanded(text: str, start: int, end: int) -> str:
    for at in range(start, end):
        if text[at] in "[]^":
            cure = 'write "[" layers "]^" and a number of 2 or more, outside parentheses, as in "LL[LG]^3L"'
            raise ValueError(f"{text[at]!r} at character {at + 1} is no whole loop; {cure}")
    layers, at = _units(text[:end], start, 0)
    if at < end:
        raise ValueError(f"')' at character {at + 1} closes nothing; remove it")
    return layers


def _units(text: str, at: int, depth: int) -> tuple[str, int]:
    """Expand units from `at` until a ')' or the end; returns where it stopped, too."""
    start, parts, total = at, [], 0
    while (at := _skip(text, at)) < len(text) and text[at] != ")":
        unit, at = _unit(text, at, depth)
        times, at = _times(text, at)
        total += len(unit) * times
        if total > MOST:
            raise ValueError(f"more than {MOST} layers; repeat less")
        parts.append(unit * times)
    if not parts:
        where = f"nothing between '(' and ')' at character {start + 1}" if depth else "no layer"
        raise ValueError(f'{where}; name layers by letter, as in "(LLLG)*3"')
    return "".join(parts), at


def _unit(text: str, at: int, depth: int) -> tuple[str, int]:
    if text[at] in _LETTERS:
        return text[at], at + 1
    if text[at] == "(":
        if depth == DEEPEST:
            raise ValueError(f"parentheses nested deeper than {DEEPEST} at character {at + 1}; write it flatter")
        inner, end = _units(text, at + 1, depth + 1)
        if end == len(text):
            raise ValueError(f"'(' at character {at + 1} is never closed; add ')'")
        return inner, end + 1
    if text[at].upper() in _LETTERS:
        raise ValueError(f"{text[at]!r} at character {at + 1} is a small letter; write '{text[at].upper()}'")
    cure = 'write letters, "(", ")" and "*" with a number, as in "(LLLG)*3"'
    raise ValueError(f"{text[at]!r} at character {at + 1} is no layer; {cure}")


def _times(text: str, at: int) -> tuple[int, int]:
    """Read the number after "*", or 1 where there is none."""
    star = _skip(text, at)
    if star == len(text) or text[star] != "*":
        return 1, at
    first = end = _skip(text, star + 1)
    while end < len(text) and text[end] in _DIGITS:
        end += 1
    digits = text[first:end].lstrip("0")
    if not text[first:end]:
        raise ValueError(f"'*' at character {star + 1} has no number after it; write how often, as in \"L*3\"")
    if not digits:
        raise ValueError(f"'*0' at character {star + 1} repeats nothing; repeat at least once, or remove the unit")
    return (int(digits) if len(digits) <= 6 else MOST + 1), end


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACES:
        at += 1
    return at
