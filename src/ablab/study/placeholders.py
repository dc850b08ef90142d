"""{seed} and {out} in the texts of [runner]: what they stand for, and the faults of a brace that stands for nothing.

A brace that the program is to see is written twice, as in Python's own formats: `{{` and `}}`.
"""

from __future__ import annotations

import re

from ablab.core.fault import Fault, did_you_mean

SEED, OUT = "{seed}", "{out}"
KNOWN = ("seed", "out")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_LITERAL = {"{{": "{", "}}": "}"}


def fill(text: str, seed: object, out: str) -> str:
    """Return the text as the program is given it."""
    told = {SEED: str(seed), OUT: out, **_LITERAL}
    return _BRACES.sub(lambda found: told.get(found[0], found[0]), text)


def says(text: str, what: str) -> bool:
    """Tell whether a placeholder stands in a text; `{{seed}}` is none."""
    return any(found[0] == what for found in _BRACES.finditer(text))


def faults(place: str, text: str) -> list[Fault]:
    """Return a fault for every brace that is part of no placeholder and is not written twice."""
    found = list[Fault]()
    for one in _BRACES.finditer(text):
        name, said = one[1], one[0]
        if said in _LITERAL or name in KNOWN:
            continue
        if name is None:
            fault = f"has a {said} with no other half, at character {one.start() + 1}"
            found.append(Fault(place, fault, f"close it, or write {said}{said} for a brace that the program is to see"))
            continue
        fault, twice = f"{said} stands for nothing", f"write {{{said}}} for braces that the program is to see"
        found.append(Fault(place, fault, f"{did_you_mean(name.strip().lower(), KNOWN)}; {twice}"))
    return found
