"""Of which type a record must be that a file holds; what does not fit is named by its place.

A form is a type as annotations write it: `float` takes whole numbers too, no number takes a bool; `X | Y`, `list[X]`,
`dict[str, X]`, and a TypedDict for an object that has these keys (those that are NotRequired if it pleases) and any others;
`object` takes everything. So what a reader checks and what a type checker sees are one description.
"""

from __future__ import annotations

import functools
import types
import typing
from typing import TypeGuard, TypeVar

T = TypeVar("T")
SHOWN = 40  # characters of a value that an error shows
NAMES = {types.NoneType: "null", int: "a whole number", float: "a number", str: "a text", bool: "true or false",
         list: "a list", dict: "an object"}  # fmt: skip


def fits(value: object, form: type[T]) -> TypeGuard[T]:
    """Tell whether all of `value` fits."""
    return not misfit(value, form)


def misfit(value: object, form: object, place: str = "") -> str:
    """Say what of `value` does not fit, for a sentence that begins with the file: `holds ...`; "" where all of it fits."""
    if form is object:
        return ""
    if isinstance(form, types.UnionType):
        options = typing.get_args(form)
        return _said(value, options, place) if all(misfit(value, one) for one in options) else ""
    kind = _kind(form)
    if kind is list and isinstance(value, list):
        [inside] = typing.get_args(form)
        return next((said for i, one in enumerate(value) if (said := misfit(one, inside, f"{place}[{i}]"))), "")
    if kind is dict and isinstance(value, dict):
        if isinstance(form, type) and typing.is_typeddict(form):
            return _fields_misfit(value, form, place)
        _, inside = typing.get_args(form)
        return next((said for name in value if (said := misfit(value[name], inside, _below(place, name)))), "")
    if kind in (list, dict):
        return _said(value, (form,), place)
    numbers: tuple[type, ...] = (int, float) if kind is float else (kind,)
    fits = isinstance(value, numbers) and (kind is bool or not isinstance(value, bool))
    return "" if fits else _said(value, (form,), place)


def _fields_misfit(value: dict[str, object], form: type, place: str) -> str:
    for name, (inside, needed) in _fields(form).items():
        if name in value:
            said = misfit(value[name], inside, _below(place, name))
        else:
            said = f"does not hold {_below(place, name)}" if needed else ""
        if said:
            return said
    return ""


@functools.cache
def _fields(form: type) -> dict[str, tuple[object, bool]]:
    """Return for every key of a TypedDict its type, and whether it must be there."""
    needed: frozenset[str] = vars(form)["__required_keys__"]
    hints = typing.get_type_hints(form, include_extras=True).items()
    optional = {name for name, hint in hints if typing.get_origin(hint) is typing.NotRequired}
    return {
        name: (typing.get_args(hint)[0] if name in optional else hint, name in needed - optional)
        for name, hint in hints
    }


def _kind(form: object) -> type:
    """Return the plain type that values of a form are of."""
    plain = dict if typing.is_typeddict(form) else typing.get_origin(form) or form
    assert isinstance(plain, type), form
    return plain


def _below(place: str, name: str) -> str:
    shown = name if name.isidentifier() else ascii(name[:SHOWN])
    return f"{place}.{shown}" if place else shown


def _said(value: object, wanted: tuple[object, ...], place: str) -> str:
    shown = (
        type(value).__name__
        if isinstance(value, dict | list)
        else ascii(value[:SHOWN] if isinstance(value, str) else value)
    )
    names = " or ".join(NAMES[_kind(form)] for form in wanted)
    return f"holds {shown} for {place or 'its content'}, where {names} belongs"
