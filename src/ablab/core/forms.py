"""Of which type a record must be that a file holds; what does not fit is named by its place.

A form is a type as annotations write it: `float` takes whole numbers too, no number takes a bool; `X | Y`, `list[X]`,
`dict[str, X]`, and a TypedDict for an object that has these keys (those that are NotRequired if it pleases) and any others;
`object` takes everything. So what a reader checks and what a type checker sees are one description.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import TypeGuard, TypeVar

T = TypeVar("T")
SHOWN = 40  # characters of a value that an error shows
NAMES = {types.NoneType: "null", int: "a whole number", float: "a number", str: "a text", bool: "true or false",
         list: "a list", dict: "an object"}  # fmt: skip
# What of a value does not fit: the parts of its place, the innermost first; what is said before the place, and behind it.
Misfit = tuple[list[str], str, str]
Check = Callable[[object], Misfit | None]
_CHECKS: dict[object, Check] = {}


def fits(value: object, form: type[T]) -> TypeGuard[T]:
    """Tell whether all of `value` fits."""
    return _check(form)(value) is None


def misfit(value: object, form: object, place: str = "") -> str:
    """Say what of `value` does not fit, for a sentence that begins with the file: `holds ...`; "" where all of it fits.

    place: where in the file `value` stands.
    """
    fault = _check(form)(value)
    if fault is None:
        return ""
    parts, before, after = fault
    return before + ("".join([place, *reversed(parts)]).removeprefix(".") or "its content") + after


def _check(form: object) -> Check:
    """Return what holds a value against a form, made once: judging holds thousands of records against few forms."""
    if form not in _CHECKS:
        _CHECKS[form] = _made(form)
    return _CHECKS[form]


def _made(form: object) -> Check:
    if form is object:
        return lambda value: None
    if isinstance(form, types.UnionType):
        return _any(typing.get_args(form))
    if isinstance(form, type) and typing.is_typeddict(form):
        return _fields(form)
    if (kind := typing.get_origin(form)) in (list, dict):
        return _items(form) if kind is list else _values(form)
    assert isinstance(form, type), form
    return _plain(form)


def _any(options: tuple[object, ...]) -> Check:
    checks = [_check(one) for one in options]

    def check(value: object) -> Misfit | None:
        for one in checks:
            if one(value) is None:
                return None
        return _said(value, options)

    return check


def _plain(form: type) -> Check:
    numbers = (int, float) if form is float else form

    def check(value: object) -> Misfit | None:
        fits = isinstance(value, numbers) and (form is bool or not isinstance(value, bool))
        return None if fits else _said(value, (form,))

    return check


# What a list or an object holds is mostly thousands of numbers or hashes: their types as a set say it in a tenth of the time.
_EXACT: dict[object, set[type]] = {float: {float, int}, int: {int}, str: {str}, bool: {bool}}


def _items(form: object) -> Check:
    [item] = typing.get_args(form)
    inside, exact = _check(item), _EXACT.get(item, set())

    def check(value: object) -> Misfit | None:
        if not isinstance(value, list):
            return _said(value, (form,))
        if exact and exact.issuperset(map(type, value)):
            return None
        for i, one in enumerate(value):
            if (fault := inside(one)) is not None:
                fault[0].append(f"[{i}]")
                return fault
        return None

    return check


def _values(form: object) -> Check:
    item = typing.get_args(form)[1]
    inside, exact = _check(item), _EXACT.get(item, set())

    def check(value: object) -> Misfit | None:
        if not isinstance(value, dict):
            return _said(value, (form,))
        if exact and exact.issuperset(map(type, value.values())):
            return None
        for name, one in value.items():
            if (fault := inside(one)) is not None:
                fault[0].append(_key(name))
                return fault
        return None

    return check


def _fields(form: type) -> Check:
    needed: frozenset[str] = vars(form)["__required_keys__"]
    hints = typing.get_type_hints(form, include_extras=True).items()
    optional = {name for name, hint in hints if typing.get_origin(hint) is typing.NotRequired}
    fields = [
        (name, _check(typing.get_args(hint)[0] if name in optional else hint), name in needed - optional)
        for name, hint in hints
    ]

    def check(value: object) -> Misfit | None:
        if not isinstance(value, dict):
            return _said(value, (form,))
        for name, inside, must in fields:
            if name in value:
                fault = inside(value[name])
            else:
                fault = ([], "does not hold ", "") if must else None
            if fault is not None:
                fault[0].append(_key(name))
                return fault
        return None

    return check


def _key(name: str) -> str:
    return f".{name if name.isidentifier() else ascii(name[:SHOWN])}"


def _said(value: object, wanted: tuple[object, ...]) -> Misfit:
    shown = (
        type(value).__name__
        if isinstance(value, dict | list)
        else ascii(value[:SHOWN] if isinstance(value, str) else value)
    )
    kinds = (dict if typing.is_typeddict(form) else typing.get_origin(form) or form for form in wanted)
    names = " or ".join(NAMES[kind] for kind in kinds if isinstance(kind, type))
    return [], f"holds {shown} for ", f", where {names} belongs"
