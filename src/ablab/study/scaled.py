"""What a scale adds to a study and a reader may not expect: arms that the file has at this scale only."""

from __future__ import annotations

import difflib
import tomllib


def notes(source: str, scale: str | None) -> list[str]:
    """A word for every arm and factorial of `scale` that the file itself does not have: it is new, or its name is misspelt."""
    if scale is None:
        return []
    raw = tomllib.loads(source)
    found = []
    for what in ("arm", "factorial"):
        known = list(raw.get(what, {}))
        for name in raw["scale"][scale].get(what, {}):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean '{near[0]}'?" if near else ""
                found.append(f"{what} '{name}' is new at scale {scale}: the file has no [{what}.{name}]{meant}")
    return found
