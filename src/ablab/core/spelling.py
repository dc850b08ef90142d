"""Old spellings of levers, answered with the new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ablab.core.fault import Fault
from ablab.core.toml import spell


@dataclass(frozen=True)
class Before:
    """How the lever `now` was spelled before.

    moved: old setting -> where it stands today (`aux_lr` -> `aux.lr`), "" where it is gone; chose: settings by whose values
    this lever was meant, where one name stood for several.
    """

    now: str
    moved: Mapping[str, str]
    chose: Mapping[str, object] = field(default_factory=dict)


def respelled(
    value: Mapping[str, object], before: Sequence[Before], short: Callable[[str, str], str]
) -> dict[str, object] | None:
    """Return the lever's table as it is written today, or None where nothing in it is of an old spelling.

    before: what the lever's name has stood for, the first that fits is meant; short(lever, sub-choice): the setting that a
    plain value of it stands for.
    """
    meant = next((one for one in before if all(value.get(key) == word for key, word in one.chose.items())), None)
    if meant is None or (meant.now == value["name"] and not meant.moved.keys() & value.keys()):
        return None
    new: dict[str, object] = {
        "name": meant.now,
        **{k: v for k, v in value.items() if k != "name" and k not in meant.moved},
    }
    for old, path in meant.moved.items():
        if old not in value or not path:
            continue
        table, _, key = path.rpartition(".")
        if table:
            there = new.get(table, {})
            new[table] = {**(there if isinstance(there, dict) else {short(meant.now, table): there}), key: value[old]}
        else:
            new[key] = value[old]
    return new


def answer(place: str, value: Mapping[str, object], new: Mapping[str, object]) -> Fault:
    """Make the fault of an old spelling; its cure is the whole lever as it is written today."""
    old = [f"'{key}'" for key in value if key != "name" and key not in new]
    if value["name"] != new["name"]:
        old = [f"'{value['name']}'"]
    said = f"{value['name']}: {' and '.join(old)}" if value["name"] == new["name"] else old[0]
    return Fault(place, f"{said} {'is' if len(old) == 1 else 'are'} spelled otherwise now", f"write {spell(new)}")
