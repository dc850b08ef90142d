"""Which decisions on record ask the same, and what one changed of another."""

from __future__ import annotations

from collections.abc import Iterable

from ablab.records.decision import Asked, Contrast, rule_of

Row = Asked


def same(row: Row, entry: Contrast) -> Contrast | None:
    """Return the entry of a decision that is of this very contrast."""
    return next((one for one in row.get("contrasts", ()) if one["key"] == entry["key"]), None)


def links(one: Contrast, other: Contrast) -> bool:
    """Tell whether two entries are of one contrast, also turned, or at stages of which one decides and one is reported."""
    straight = one["key"] == other["key"] or one["key"] in other["also"] or other["key"] in one["also"]
    return straight or turns(one, other)


def turns(one: Contrast, other: Contrast) -> bool:
    """Tell whether the arm of one is the other's reference, and the other way round. Old rows do not say so themselves."""
    return one["key"] in other.get("turned", ()) or other["key"] in one.get("turned", ())


def linked(row: Row, entry: Contrast) -> bool:
    """Tell whether a decision has an entry of this contrast, at any stage, or turned."""
    return any(links(one, entry) for one in row.get("contrasts", ()))


def removed(before: Row, row: Row) -> list[str]:
    """List arms and interactions of an earlier decision that this one leaves out; each had its share of the family."""
    arms = [f"arm.{entry['arm']}" for entry in before.get("contrasts", ()) if not linked(row, entry)]
    asked = {one["key"] for one in row.get("crossed", ())}
    return arms + [f"factorial.{one['name']}" for one in before.get("crossed", ()) if one["key"] not in asked]


def changes(before: Row, row: Row) -> str:
    """Say which fields of an earlier decision this one changed, in the study file's words."""
    said = list(_diff(rule_of(before), rule_of(row), "decision"))
    for inside, written in (("decision.limits", "limits"), ("decision.groups", "data.groups")):
        said = [text.replace(inside, written, 1) for text in said]
    said += [f"{name} removed" for name in removed(before, row)]
    said += [f"{name} added" for name in removed(row, before)]
    was = before.get("contrasts", ())
    said += [
        f"arm.{entry['arm']} and its reference exchanged"
        for entry in row.get("contrasts", ())
        if same(before, entry) is None and any(turns(one, entry) for one in was)
    ]
    return ", ".join(said) or "in another study"


def _diff(before: object, after: object, place: str) -> Iterable[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _diff(before.get(key), after.get(key), f"{place}.{key}")
    elif before != after:
        yield f"{place} {_shown(before)} -> {_shown(after)}"


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
