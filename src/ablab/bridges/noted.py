"""Settings that note what was read of them, so that an exporter can start from all and be asked what it left out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import cast

from ablab.core.fault import Fault
from ablab.core.lever import Choice
from ablab.records.settings import Settings
from ablab.study.take import show


class Noted(dict[str, object]):
    """A table of settings that notes which of its keys were read by name.

    Comparing, copying and listing read nothing, and a table inside is read setting by setting. Equal tables under one key are
    one object: what is said once for all layers is read for each.
    """

    def __init__(self, settings: Mapping[str, object], known: dict[tuple[str, str], Noted] | None = None) -> None:
        known = {} if known is None else known
        super().__init__({key: _inside(key, value, known) for key, value in settings.items()})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> object:
        self.read.add(key)
        return super().get(key, default)


def noted(settings: Settings) -> tuple[Settings, Noted]:
    """Return the settings, and the same table as what it notes."""
    table = Noted(settings)
    return cast(Settings, table), table


def table(choice: Choice, key: str) -> Choice:
    """Return a sub-choice of a lever, of which nothing inside is read yet."""
    value = choice[key]
    assert isinstance(value, dict)
    return value


def _inside(key: str, value: object, known: dict[tuple[str, str], Noted]) -> object:
    if isinstance(value, list):
        return [_inside(key, one, known) for one in value]
    if not isinstance(value, dict) or not value:
        return value
    same = (key, json.dumps(value, sort_keys=True, default=repr))
    return known.setdefault(same, Noted(value, known))


def unread(settings: Noted, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield (place, value) of what was not read; a table of which nothing was read is one."""
    for key, value in settings.items():
        here = f"{place}.{key}" if place else key
        tables = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Noted)]
        if not tables or not any(map(_touched, tables)):
            if tables or key not in settings.read:
                yield here, value
            continue
        for table in tables:
            yield from unread(table, here)


def left(settings: Settings, table: Noted, unsaid: Collection[str], fault: str, cure: str) -> list[Fault]:
    """Return a fault for everything of an arm that was not read and is none of `unsaid`; `{}` in `fault` is its value."""
    tables = {letter: kind["table"] for letter, kind in settings["model"]["kinds"].items()}
    faults = list[Fault]()
    for place, value in unread(table):
        if place in unsaid or place.split(".")[0] in unsaid:
            continue
        parts = place.split(".")
        if parts[:2] == ["model", "kinds"]:
            place = ".".join(["model", tables[parts[2]], *parts[3:]])
        faults.append(Fault(place, fault.format(show(value)), cure))
    return faults


def _touched(table: Noted) -> bool:
    """Tell whether anything that is no table was read of it or of what is inside."""
    inside = [one for value in table.values() for one in (value if isinstance(value, list) else [value])]
    leaves = {key for key, value in table.items() if not isinstance(value, Noted)}
    return bool(table.read & leaves) or any(_touched(one) for one in inside if isinstance(one, Noted))
