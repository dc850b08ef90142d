"""A slot of the laboratory as a study's reader uses it: a choice out of a file, with every fault and its cure.

A study file is checked against the lever's class itself (`ablab.core.lever`). Settings that belong together are a sub-choice:
one argument whose annotation is a frozen dataclass, a table in a study file. What a table leaves out is as in the argument's
default; a value that is no table is the dataclass's first setting.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from ablab.core.fault import Fault, did_you_mean
from ablab.core.lever import Alternatives, Choice, L_co, Lever, Origin, lacking
from ablab.core.setting import Setting, opened, taken
from ablab.core.spelling import Before, answer, respelled


class Slot(Alternatives[L_co]):
    """Named alternatives for one place.

    `aliases` maps a word users try to the lever that they mean; `before` a lever's name to what it was spelled like earlier.
    """

    def __init__(
        self,
        name: str,
        package: str,
        /,
        *,
        base: str,
        lists: bool = False,
        aliases: Mapping[str, str] | None = None,
        before: Mapping[str, Sequence[Before]] | None = None,
        **table: str,
    ) -> None:
        super().__init__(name, package, base=base, table=table)
        self.lists = lists  # a list of levers composes (positions)
        self.aliases = dict(aliases or {})
        self.before = dict(before or {})

    def __repr__(self) -> str:
        return f"Slot({self.name}: {', '.join(self.table)})"

    def add(self, name: str, lever: type[Lever], origin: Origin) -> None:
        """Take in a lever from outside; one of the same origin takes the place of its earlier form.

        ValueError where another lever has the name, and for a class that is no lever, or half of one.
        """
        if said := lacking(cast(type, lever), cast(type, self.base)):
            raise ValueError(f"{said}, or begin its name with _ where it is no lever")
        held = self.origin(name)
        if name in self.table and (held is None or held.called != origin.called):
            whose = f"in {held.called}" if held else "in ablab"
            raise ValueError(f"'{name}' is a lever of {self.name} already, {whose}; give the class another `name`")
        self.table[name] = lever.__name__
        self._outside[name] = (cast(type[L_co], lever), origin)

    @contextlib.contextmanager
    def without(self, hidden: Collection[str]) -> Iterator[None]:
        """Do without these levers from outside until the block ends."""
        held = {name: (self.table.pop(name), self._outside.pop(name)) for name in hidden}
        try:
            yield
        finally:
            for name, (called, lever) in held.items():
                self.table[name], self._outside[name] = called, lever

    def forget(self, called: str) -> None:
        """Take out what came from there."""
        for name in [name for name, (_, origin) in self._outside.items() if origin.called == called]:
            del self.table[name], self._outside[name]

    def listed(self, name: str) -> dict[str, Setting]:
        """Return the settings of lever `name` for readers: behind a sub-choice each of its own as `table.setting`."""
        out = {}
        for setting in self.settings(name).values():
            out[setting.name] = setting
            out |= {f"{setting.name}.{part.name}": part for part in setting.parts.values()}
        return out

    def summary(self, name: str) -> str:
        """Return the first line of the lever's docstring."""
        return (inspect.getdoc(self.load(name)) or "").split("\n")[0]

    def source(self, name: str) -> str:
        """Return where the lever comes from: class attribute `source`; nothing where it says nothing."""
        return self.load(name).source

    def coerce(self, value: object, place: str) -> tuple[Choice | list[Choice] | None, list[Fault]]:
        """Return the canonical choice (a list of them where the slot composes) and every fault in `value`."""
        if not (isinstance(value, list) and self.lists):
            return self.one(value, place)
        if not value:
            return None, [Fault(place, "an empty list", f"name at least one {self.name}")]
        done = [self.one(part, f"{place}[{i}]") for i, part in enumerate(value)]
        return [choice for choice, _ in done if choice], [fault for _, faults in done for fault in faults]

    def one(self, value: object, place: str) -> tuple[Choice | None, list[Fault]]:
        """Return the canonical choice of one lever and every fault in `value`.

        A string is short for {name = string}. Defaults are filled in, numbers take their annotated type.
        """
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None, [
                Fault(
                    place,
                    f"{value!r} names no {self.name}",
                    f'write "{self.names[0]}" or {{ name = "{self.names[0]}" }}',
                )
            ]
        name = value["name"]
        if new := respelled(value, self.before.get(name, ()), self._short):
            return None, [answer(place, value, new)]
        if name not in self.table:
            cure = f"did you mean '{self.aliases[name]}'?" if name in self.aliases else did_you_mean(name, self.names)
            return None, [Fault(place, f"no {self.name} is called '{name}'", cure)]
        known, faults = self.settings(name), list[Fault]()
        choice: Choice = {"name": name}
        for given in value:
            if given != "name" and given not in known:
                faults.append(Fault(place, f"{name} has no setting '{given}'", did_you_mean(given, list(known))))
        for setting in known.values():
            if setting.name in value:
                choice[setting.name], wrong = taken(setting, value[setting.name], f"{place}.{setting.name}")
                faults += wrong
            elif setting.required:
                faults.append(Fault(place, f"{name} needs the setting '{setting.name}'", f"add {setting.name} = ..."))
            else:
                choice[setting.name], _ = taken(setting, setting.default, place)
        return choice, faults

    def laid(self, old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
        """Lay the settings of `new` over those of `old`, both of one lever as a study writes it; sub-choices merge alike."""
        out = {**old, **new}
        for key in old.keys() & new.keys():
            tables = [value for value in (old[key], new[key]) if isinstance(value, Mapping)]
            if len(tables) == 1 and (
                levers := [name for name in self._meant(old) if _parts(self.settings(name).get(key))]
            ):
                setting = self.settings(levers[0])[key]
                tables = [opened(setting, old[key]), opened(setting, new[key])]
            out[key] = {**tables[0], **tables[1]} if len(tables) == 2 else out[key]
        return out

    def _meant(self, value: Mapping[str, object]) -> list[str]:
        """Name the lever that a table names; any of them where it names none, as a diff of a lever does."""
        return [name for name in self.names if value.get("name") in (None, name)]

    def _short(self, lever: str, key: str) -> str:
        """Name the setting of the sub-choice `key` that a plain value stands for."""
        return next(iter(self.settings(lever)[key].parts))


def _parts(setting: Setting | None) -> dict[str, Setting]:
    return setting.parts if setting else {}
