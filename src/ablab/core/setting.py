"""Settings of levers: their types, defaults and meanings, read off a constructor; values taken as those types want them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ablab.core.fault import Fault, did_you_mean
from ablab.core.toml import spell

_LINE = re.compile(r"(\w+)(?: \(([^()]+)\))?: (.+)")
_DEFAULT = "; default: "


@dataclass(frozen=True)
class Meaning:
    """What one setting means, in which unit, and what its default comes to where it is computed."""

    text: str = ""
    unit: str = ""
    computed: str = ""


UNSAID = Meaning()


@functools.cache
def meanings(cls: type) -> dict[str, Meaning]:
    """Read the meaning of every setting that the class's docstring has a line for; prose that looks like one is in it, too.

    A line `name (unit): meaning; default: words` speaks of the setting `name`, and goes on in lines that are indented further.
    The unit may be missing; the words say what a default of None comes to.
    """
    meanings: dict[str, tuple[str, str]] = {}
    last = ""
    for line in (inspect.getdoc(cls) or "").splitlines():
        if match := _LINE.fullmatch(line):
            last = match[1]
            meanings[last] = (match[2] or "", match[3])
        elif last and line.startswith("  "):
            unit, text = meanings[last]
            meanings[last] = (unit, f"{text} {line.strip()}")
        else:
            last = ""
    out = {}
    for name, (unit, text) in meanings.items():
        text, _, computed = text.partition(_DEFAULT)
        out[name] = Meaning(text, unit, computed)
    return out


@dataclass(frozen=True)
class Setting:
    """One setting of a lever: its annotated type and default (`required` where there is none), and what it means."""

    name: str
    type: object
    default: object
    required: bool
    meaning: Meaning = UNSAID

    @property
    def parts(self) -> dict[str, Setting]:
        """The settings of a sub-choice, with the defaults that this lever gives them; empty for any other setting."""
        if not dataclasses.is_dataclass(self.type):
            return {}
        hints, said = typing.get_type_hints(self.type), meanings(typing.cast(type, self.type))
        return {
            field.name: Setting(
                field.name,
                hints[field.name],
                field.default if self.required else getattr(self.default, field.name),
                False,
                said.get(field.name, UNSAID),
            )
            for field in dataclasses.fields(self.type)
        }

    def shown(self) -> str:
        """Spell the default as a study file writes it, or in words where it is computed or a table of its own."""
        if self.required:
            return "required"
        if self.parts:
            return "see below"
        return self.meaning.computed or spell(self.default)

    def kind(self) -> str:
        """Spell the type in words, with its unit."""
        return describe(self.type) + (f" ({self.meaning.unit})" if self.meaning.unit else "")


@functools.cache
def settings_of(cls: type) -> dict[str, Setting]:
    """Read the settings of a class: its constructor's keyword-only arguments."""
    hints, said = typing.get_type_hints(cls.__init__), meanings(cls)  # type: ignore[misc]
    return {
        p.name: Setting(p.name, hints.get(p.name, Any), p.default, p.default is p.empty, said.get(p.name, UNSAID))
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


def taken(setting: Setting, value: object, place: str) -> tuple[object, list[Fault]]:
    """Take `value` as the setting wants it, and what is wrong with it; a sub-choice as a table of all its settings."""
    if not (parts := setting.parts):
        done, fault = coerce(value, setting.type, place)
        return done, [fault] if fault else []
    given = opened(setting, value)
    faults = [
        Fault(place, f"{setting.name} has no setting '{odd}'", did_you_mean(odd, list(parts)))
        for odd in given
        if odd not in parts
    ]
    out = {}
    for part in parts.values():
        out[part.name], fault = coerce(given.get(part.name, part.default), part.type, f"{place}.{part.name}")
        faults += [fault] if fault else []
    return out, faults


def opened(setting: Setting, value: object) -> dict[str, object]:
    """Spell a sub-choice as a table, which may be a default; a plain value is its first setting."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, Mapping) else {next(iter(setting.parts)): value}


def coerce(value: object, wanted: object, place: str) -> tuple[object, Fault | None]:
    """Convert `value` to the annotated type `wanted`, or return the fault. Bool is no number; nan and inf are refused."""
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


def describe(wanted: object) -> str:
    """Spell a type in words: `an integer`, `a number`, `true or false`, `a list of numbers`."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in options if option is not type(None))
    if origin is Literal:
        return " or ".join(f"'{option}'" if isinstance(option, str) else str(option) for option in options)
    if origin in (list, tuple):
        return f"a list (each {describe(options[0])})" if options else "a list"
    if dataclasses.is_dataclass(wanted):
        first = typing.get_type_hints(wanted)[dataclasses.fields(wanted)[0].name]
        return f"a table, or {describe(first)}"
    words: dict[object, str] = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a string",
        dict: "a table",
        list: "a list",
        type(None): "nothing",
    }
    return words.get(wanted, str(wanted))


def _article(value: object) -> str:
    return describe(type(value))
