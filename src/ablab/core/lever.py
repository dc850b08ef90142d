"""A lever and its slot's table: lever name -> constructor; the constructor is the config.

A slot's table names classes: `rope="Rope"` is class `Rope` in the sibling file `rope.py`, imported on first use.
A lever's settings are its keyword-only constructor arguments: names, types and defaults come from the signature. What they
mean stands in its docstring (`ablab.core.setting`). A choice is a lever as a run asks for it: its name, and every setting with
its value; `ablab.core.slot` reads choices out of a study file.
An explicit table, not a decorator: grep finds it, the order is visible, and an odd dependency of one lever hurts only its
users.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypedDict, TypeVar, cast

from ablab.core.forms import fits, misfit
from ablab.core.setting import Setting, settings_of

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


class Alternatives(Generic[L_co]):
    """Named alternatives for one place, as a run builds them from its canonical choices.

    `base` ("position.Position") is the class of the package that every lever inherits: the slot at rest.
    """

    def __init__(self, name: str, package: str, /, *, base: str, table: Mapping[str, str]) -> None:
        self.name, self.package, self.table, self._base = name, package, dict(table), base
        self._outside: dict[str, tuple[type[L_co], Origin]] = {}

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
        if said := lacking(loaded, cast(type, self.base)):
            raise TypeError(f"{self.name} '{name}': {said}")
        return cast(type[L_co], loaded)

    def origin(self, name: str) -> Origin | None:
        """Return where lever `name` comes from, if from outside the package."""
        return self._outside[name][1] if name in self._outside else None

    def settings(self, name: str) -> dict[str, Setting]:
        """Read the settings of lever `name`, from its constructor's keyword-only arguments."""
        return settings_of(cast(type, self.load(name)))

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


@functools.cache
def lacking(lever: type, base: type[Lever]) -> str:
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
