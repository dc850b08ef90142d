"""Rows of decisions.jsonl: what was asked before its results, of which contrasts, and when an arm first had results."""

from __future__ import annotations

import re
from typing import NotRequired, TypedDict

RULE = ("metric", "stage", "matters", "confidence", "seeds", "tie")
_KEY = re.compile(r"[0-9A-Za-z_]{1,64}")  # of a step: it becomes the name of a folder


class Noise(TypedDict):
    """The spread that a bank of earlier studies holds, and its degrees of freedom."""

    sd: float
    df: float


class Contrast(TypedDict):
    """An arm against its reference: its key at the deciding stage, at the others (`also`), the other way round (`turned`); of
    each pair [the draws, the arm's score, its reference's] and the two trainings; how many had results when it was declared."""

    arm: str
    key: str
    ended: int
    also: list[str]
    turned: NotRequired[list[str]]
    pairs: list[list[str]]
    trained: NotRequired[list[list[str]]]
    on: NotRequired[str]


class Interaction(TypedDict):
    """A pair of a factorial's levels whose interaction a decision asks for, and the key of that question."""

    name: str
    key: str


class Rule(TypedDict):
    """The part of a decision that its readers rely on."""

    seeds: NotRequired[dict[str, object] | None]


class First(TypedDict):
    """A line that says when an arm of a decision first had results, and what was left of its word then."""

    when: str
    first: str
    decision_key: str
    kind: str
    after: int
    because: str
    of: str
    study: NotRequired[str]


class Asked(TypedDict):
    """A line that says what a decision asked, and which results existed."""

    decision_key: str
    study: str
    runs: list[str]
    ended: int
    decision: Rule
    contrasts: NotRequired[list[Contrast]]
    crossed: NotRequired[list[Interaction]]
    on_baseline: NotRequired[int]
    baseline: NotRequired[str | None]
    bank: NotRequired[Noise | None]
    limits: NotRequired[dict[str, object] | None]
    expect: NotRequired[dict[str, object]]
    when: NotRequired[object]
    scale: NotRequired[object]
    groups: NotRequired[object]
    arms: NotRequired[object]
    chain: NotRequired[object]
    firsts: NotRequired[dict[str, First]]


def keyed(row: Asked) -> bool:
    """Tell whether a decision's contrasts name steps by keys, two of a pair beside its label and as many trainings as pairs."""
    for entry in row.get("contrasts", ()):
        pairs, trained = entry["pairs"], entry.get("trained") or [[]] * len(entry["pairs"])
        if len(trained) != len(pairs) or not all(len(pair) == 3 for pair in pairs):
            return False
        if not all(map(_KEY.fullmatch, (key for keys in (*(pair[1:] for pair in pairs), *trained) for key in keys))):
            return False
    return True


def rule_of(row: Asked) -> dict[str, object]:
    """Return what of a decision words and winner depend on, arms aside: groups of documents only where documents decide."""
    rule = {**{key: row["decision"].get(key) for key in RULE}, "limits": row.get("limits") or {}}
    over_documents = (row["decision"].get("seeds") or {}).get("at_most") == 1
    return {**rule, "groups": row["groups"]} if over_documents and row.get("groups") else rule


def contrast_of(row: Asked, name: str) -> Contrast | None:
    """Return the entry of an arm in a decision."""
    return next((entry for entry in row.get("contrasts", ()) if entry["arm"] == name), None)
