"""What verdict.json says, as its readers may rely on it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

# Numbers and words of the verdict that its readers compare with. `verdict` imports nothing of ours, so they stand twice;
# tests/test_house.py holds the two equal.
POWER = 0.80
FEWEST_DOCUMENTS = 20  # effective ones
NEVER = "further seeds call it better only if its reference diverges, too"


class Kept(TypedDict):
    """What is read of a verdict that may be of any version: of the studies whose page lies in a folder."""

    arms: list[dict[str, object]]
    decided_by: object
    environment: NotRequired[dict[str, object] | None]
    data: NotRequired[list[object] | None]
    version: NotRequired[object]
    study: NotRequired[object]
    question: NotRequired[object]


class Path(TypedDict):
    """A setting that an arm changes."""

    path: NotRequired[object]


class Banked(TypedDict):
    """A row of a verdict that the bank of noise reads."""

    name: str
    on: str | None
    word: NotRequired[str | None]
    seeds: NotRequired[int]
    s: NotRequired[float | None]
    changes: NotRequired[list[Path]]
    contrast: NotRequired[object]
    shares_weights: NotRequired[object]
