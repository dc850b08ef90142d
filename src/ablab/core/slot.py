"""A slot of the laboratory: lever name -> constructor; the constructor is the config.

A slot's table names classes: `rope="Rope"` is class `Rope` in the sibling file `rope.py`, imported on first use.
A lever's settings are its keyword-only constructor arguments: names, types and defaults come from the signature, so a
study file is checked against the class itself. What they mean stands in its docstring (`ablab.core.setting`). Settings
that belong together are a sub-choice: one argument whose annotation is a frozen dataclass, a table in a study file. What a
table leaves out is as in the argument's default; a value that is no table is the dataclass's first setting.
An explicit table, not a decorator: grep finds it, the order is visible, and an odd dependency of one lever hurts only its
users.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypedDict, TypeVar, cast

from ablab.core.fault import Fault, did_you_mean
from ablab.core.forms import fits, misfit
from ablab.core.setting import Setting, opened, settings_of, taken
from ablab.core.spelling import Before, answer, respelled

Choice = dict[str, object]  # canonical lever: {"name": ..., every setting with its value}
T = TypeVar("T")


class Sizes(TypedDict):
    """What of [model] a lever's settings may go by; `layers` has a letter per layer."""

    layers: str
    d_model: int
    head_dim: int


def value_of(choice: Mapping[str, object], key: str, form: type[T]) -> T:
    """Read a setting of a canonical choice (or its "name"). TypeError where it is not of the form (`ablab.core.forms`)."""
    value = choice[key]
    if fits(value, form):
        return value
    raise TypeError(f"a choice {misfit(value, form, key)}")


def value_or_none(choice: Mapping[str, object], key: str, form: type[T]) -> T | None:
    """Do the same where a lever may lack the setting, or have it without a value."""
    return None if choice.get(key) is None else value_of(choice, key, form)


class Lever:
    """What every lever says of itself. Each slot has a class of its own below this one, in which it is at rest."""

    source: ClassVar[str] = ""  # where it comes from: a paper, a repository
    revision: ClassVar[int] = 1  # raised whenever its numbers change on purpose

    @classmethod
    def owed(cls) -> list[str]:
        """List what the base of its slot leaves to each lever (`abc.abstractmethod`) and this class does not have.

        ABCMeta would refuse when a lever is built; a study's file is refused when it is read.
        """
        members = {name: inspect.getattr_static(cls, name) for name in dir(cls)}
        return [name for name, value in members.items() if getattr(value, "__isabstractmethod__", False) is True]


class Sized(Lever):
    """A lever whose settings may be sizes of the model or shares of the run."""

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return settings that differ in a miniature: `full` and `small` are [model] at its own size and at the miniature's."""
        return {}


@dataclass(frozen=True)
class Origin:
    """Where a lever from outside the package comes from: the file of a study, or of an entry point's module."""

    called: str  # the path, or `entry point NAME`
    path: Path
    sha256: str


L_co = TypeVar("L_co", bound=Lever, covariant=True)


class Slot(Generic[L_co]):
    """Named alternatives for one place.

    `aliases` maps a word users try to the lever that they mean; `before` a lever's name to what it was spelled like earlier.
    `base` ("position.Position") is the class of the slot's package that every lever inherits: the slot at rest.
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
        self.name, self.package, self.table, self._base = name, package, dict(table), base
        self.lists = lists  # a list of levers composes (positions)
        self.aliases = dict(aliases or {})
        self.before = dict(before or {})
        self._outside: dict[str, tuple[type[L_co], Origin]] = {}

    def __repr__(self) -> str:
        return f"Slot({self.name}: {', '.join(self.table)})"

    @property
    def names(self) -> list[str]:
        """Every lever, in the table's order."""
        return list(self.table)

    @property
    def base(self) -> type[L_co]:
        """The class that every lever of this slot inherits."""
        return cast(type[L_co], _load(self.package, *self._base.split(".")))

    def load(self, name: str) -> type[L_co]:
        """Load the class of lever `name`. KeyError for one that the table lacks, TypeError where it is none, or half of one."""
        if name in self._outside:
            return self._outside[name][0]
        loaded = _load(self.package, name, self.table[name])
        if said := _lacking(loaded, cast(type, self.base)):
            raise TypeError(f"{self.name} '{name}': {said}")
        return cast(type[L_co], loaded)

    def add(self, name: str, lever: type[Lever], origin: Origin) -> None:
        """Take in a lever from outside; one of the same origin takes the place of its earlier form.

        ValueError where another lever has the name, and for a class that is no lever, or half of one.
        """
        if said := _lacking(cast(type, lever), cast(type, self.base)):
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

    def origin(self, name: str) -> Origin | None:
        """Return where lever `name` comes from, if from outside the package."""
        return self._outside[name][1] if name in self._outside else None

    def settings(self, name: str) -> dict[str, Setting]:
        """Read the settings of lever `name`, from its constructor's keyword-only arguments."""
        return settings_of(cast(type, self.load(name)))

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

    def build(self, choice: Choice, *parts: object) -> L_co:
        """Build the lever itself: its class called with `parts` (usually a Shape) and the choice's settings."""
        name = value_of(choice, "name", str)
        known = self.settings(name)
        settings = {k: _thawed(v, known[k].type if k in known else None) for k, v in choice.items() if k != "name"}
        return self.load(name)(*parts, **settings)

    def revision(self, choice: Choice) -> int | str:
        """Return the integer `revision` of the lever's class (default 1): raised whenever its numbers change on purpose.

        Of a lever from outside the sha256 of its file, too: nobody raises that by hand.
        """
        name = value_of(choice, "name", str)
        own, origin = self.load(name).revision, self.origin(name)
        return f"{own} of {origin.sha256}" if origin else own


def _parts(setting: Setting | None) -> dict[str, Setting]:
    return setting.parts if setting else {}


@functools.cache
def _lacking(lever: type, base: type[Lever]) -> str:
    """Say what keeps a class from being a lever of the slot of `base` ("fault; cure"); "" for nothing."""
    at = f"{base.__module__}.{base.__name__}"
    if not issubclass(lever, base):
        return f"{lever.__name__} does not inherit {at}; write class {lever.__name__}({base.__name__})"
    if not (owed := lever.owed()):
        return ""
    them = "it" if len(owed) == 1 else "them"
    fault = f"{lever.__name__} does not have {', '.join(f'`{name}`' for name in owed)}, which {at} leaves to each lever"
    return f"{fault}; write {them} in class {lever.__name__}, as {base.__name__} describes {them}"


@functools.cache
def _load(package: str, name: str, class_name: str) -> type:
    return cast(type, getattr(importlib.import_module(f"{package}.{name}"), class_name))


def _thawed(value: object, wanted: object) -> object:
    """Turn a setting of a canonical choice into what its constructor takes: lists to tuples, a sub-choice to its dataclass."""
    if dataclasses.is_dataclass(wanted) and isinstance(value, Mapping):
        hints = typing.get_type_hints(wanted)
        return cast(type, wanted)(**{k: _thawed(part, hints.get(k)) for k, part in value.items()})
    return tuple(value) if isinstance(value, list) else value
