"""A slot of the laboratory: lever name -> constructor; the constructor is the config.

A slot's table names classes: `rope="Rope"` is class `Rope` in the sibling file `rope.py`, imported on first use.
A lever's settings are its keyword-only constructor arguments: names, types and defaults come from the signature, so a
study file is checked against the class itself. An explicit table, not a decorator: grep finds it, the order is visible,
and an odd dependency of one lever hurts only its users.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from ablab.core.fault import Fault, did_you_mean

Choice = dict[str, Any]  # canonical lever: {"name": ..., every setting with its value}


class Lever:
    """What every lever says of itself. Each slot has a class of its own below this one, in which it is at rest."""

    source: ClassVar[str] = ""  # where it comes from: a paper, a repository
    revision: ClassVar[int] = 1  # raised whenever its numbers change on purpose


class Sized(Lever):
    """A lever whose settings may be sizes of the model or shares of the run."""

    @staticmethod
    def miniature(choice: Mapping[str, Any], full: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that differ in a miniature: `full` and `small` are [model] at its own size and at the miniature's."""
        return {}


@dataclass(frozen=True)
class Setting:
    """One setting of a lever: its annotated type and default (`required` where there is none)."""

    name: str
    type: Any
    default: Any
    required: bool


L_co = TypeVar("L_co", bound=Lever, covariant=True)


class Slot(Generic[L_co]):
    """Named alternatives for one place. `aliases` maps a word users try to the lever that they mean.

    `base` ("position.Position") is the class of the slot's package that every lever inherits: the slot at rest.
    """

    def __init__(
        self,
        name: str,
        package: str,
        /,
        *,
        base: str | None = None,
        lists: bool = False,
        aliases: Mapping[str, str] | None = None,
        **table: str,
    ) -> None:
        self.name, self.package, self.table, self._base = name, package, dict(table), base
        self.lists = lists  # a list of levers composes (positions)
        self.aliases = dict(aliases or {})

    def __repr__(self) -> str:
        return f"Slot({self.name}: {', '.join(self.table)})"

    @property
    def names(self) -> list[str]:
        """Every lever, in the table's order."""
        return list(self.table)

    @property
    def base(self) -> type[L_co]:
        """The class that every lever of this slot inherits."""
        if self._base is None:
            return cast(type[L_co], object)
        return cast(type[L_co], _load(self.package, *self._base.split(".")))

    def load(self, name: str) -> type[L_co]:
        """The class of lever `name`. KeyError where the table has no such lever, TypeError where it is none."""
        found = _load(self.package, name, self.table[name])
        if not issubclass(found, self.base):
            base = f"{self.base.__module__}.{self.base.__name__}"
            cure = f"write class {found.__name__}({self.base.__name__})"
            raise TypeError(f"{self.name} '{name}': {found.__name__} does not inherit {base}; {cure}")
        return found

    def settings(self, name: str) -> dict[str, Setting]:
        """The settings of lever `name`, from its constructor's keyword-only arguments."""
        return _settings(cast(type, self.load(name)))

    def summary(self, name: str) -> str:
        """First line of the lever's docstring."""
        return (inspect.getdoc(self.load(name)) or "").split("\n")[0]

    def source(self, name: str) -> str:
        """Where the lever comes from: class attribute `source`; nothing where it says nothing."""
        return str(getattr(self.load(name), "source", ""))

    def coerce(self, value: Any, place: str) -> tuple[Any, list[Fault]]:
        """Canonical choice (a list of them where the slot composes) and every fault found in `value`.

        A string is short for {name = string}. Defaults are filled in, numbers take their annotated type.
        """
        if isinstance(value, list) and self.lists:
            if not value:
                return None, [Fault(place, "an empty list", f"name at least one {self.name}")]
            done = [self.coerce(part, f"{place}[{i}]") for i, part in enumerate(value)]
            return [choice for choice, _ in done], [fault for _, faults in done for fault in faults]
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
        if name not in self.table:
            cure = f"did you mean '{self.aliases[name]}'?" if name in self.aliases else did_you_mean(name, self.names)
            return None, [Fault(place, f"no {self.name} is called '{name}'", cure)]
        known, faults, choice = self.settings(name), [], {"name": name}
        for given in value:
            if given != "name" and given not in known:
                faults.append(Fault(place, f"{name} has no setting '{given}'", did_you_mean(given, list(known))))
        for setting in known.values():
            if setting.name in value:
                choice[setting.name], fault = coerce(value[setting.name], setting.type, f"{place}.{setting.name}")
                faults += [fault] if fault else []
            elif setting.required:
                faults.append(Fault(place, f"{name} needs the setting '{setting.name}'", f"add {setting.name} = ..."))
            else:
                choice[setting.name], _ = coerce(setting.default, setting.type, place)
        return choice, faults

    def build(self, choice: Choice, *parts: Any) -> L_co:
        """The lever itself: its class called with `parts` (usually a Shape) and the choice's settings."""
        settings = {k: _thaw(v) for k, v in choice.items() if k != "name"}
        return self.load(choice["name"])(*parts, **settings)

    def revision(self, choice: Choice) -> int:
        """Integer `revision` of the lever's class (default 1): raised whenever its numbers change on purpose."""
        return int(getattr(self.load(choice["name"]), "revision", 1))


def coerce(value: Any, wanted: Any, place: str) -> tuple[Any, Fault | None]:
    """`value` in the annotated type `wanted`, or the fault. Bool is no number; nan and inf are refused."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        results = [coerce(value, option, place) for option in options]
        good = [result for result in results if result[1] is None]
        return (
            good[0]
            if good
            else (None, Fault(place, f"{value!r} is not {describe(wanted)}", f"give {describe(wanted)}"))
        )
    if origin is Literal:
        for option in options:
            if type(option) is type(value) and option == value:
                return value, None
        known = [str(option) for option in options]
        return None, Fault(place, f"{value!r} is not one of its words", did_you_mean(str(value), known))
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return None, Fault(place, f"{value!r} is not a list", f"give {describe(wanted)}")
        done = [coerce(part, options[0] if options else Any, f"{place}[{i}]") for i, part in enumerate(value)]
        bad = [fault for _, fault in done if fault]
        return ([part for part, _ in done], None) if not bad else (None, bad[0])
    if wanted is Any:
        return value, None
    if wanted in (None, type(None)):
        return (None, None) if value is None else (None, Fault(place, f"{value!r} is not none"))
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value), None
        return None, Fault(place, f"{value!r} is not finite", "give a finite number")
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value), None
    if isinstance(wanted, type) and type(value) is wanted:
        return value, None
    return None, Fault(place, f"{value!r} is {_article(value)}", f"give {describe(wanted)}")


def describe(wanted: Any) -> str:
    """A type in words: `an integer`, `a number`, `true or false`, `a list of numbers`."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in options if option is not type(None))
    if origin is Literal:
        return " or ".join(f"'{option}'" if isinstance(option, str) else str(option) for option in options)
    if origin in (list, tuple):
        return f"a list (each {describe(options[0])})" if options else "a list"
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a string",
        dict: "a table",
        list: "a list",
        type(None): "nothing",
    }
    return words.get(wanted, str(wanted))


def _article(value: Any) -> str:
    return describe(type(value))


def _thaw(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def _load(package: str, name: str, class_name: str) -> type:
    return cast(type, getattr(importlib.import_module(f"{package}.{name}"), class_name))


@functools.cache
def _settings(cls: type) -> dict[str, Setting]:
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    return {
        p.name: Setting(p.name, hints.get(p.name, Any), p.default, p.default is p.empty)
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
