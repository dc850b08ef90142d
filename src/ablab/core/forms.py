"""Of which form a record must be that a file holds, told by an example of types; what does not fit is named by its place.

A form is a type (`float` takes whole numbers too, no number takes a bool), None, a tuple of forms of which one must fit,
`[form]` for a list of any length, `{str: form}` for an object of any keys, `{"key": form, "other?": form}` for an object that
has these keys, the second if it pleases, and others; `object` takes everything.
"""

from __future__ import annotations

from typing import Any

SHOWN = 40  # characters of a value that an error shows


def misfit(value: Any, form: Any, place: str = "") -> str:
    """What of `value` does not fit, for a sentence that begins with the file: `holds ...`; "" where all of it fits."""
    if isinstance(form, tuple):
        if all(misfit(value, one) for one in form):
            return _said(value, " or ".join(map(_name, form)), place)
        return ""
    if isinstance(form, list):
        if not isinstance(value, list):
            return _said(value, "a list", place)
        return next((said for i, one in enumerate(value) if (said := misfit(one, form[0], f"{place}[{i}]"))), "")
    if isinstance(form, dict):
        return _object(value, form, place)
    if form is None or form is object:
        fits = form is object or value is None
    else:
        numbers: Any = (int, float) if form is float else form
        fits = isinstance(value, numbers) and (form is bool or not isinstance(value, bool))
    return "" if fits else _said(value, _name(form), place)


def _object(value: Any, form: dict[Any, Any], place: str) -> str:
    if not isinstance(value, dict):
        return _said(value, "an object", place)
    for key, inside in form.items():
        if key is str:
            said = next((said for name in value if (said := misfit(value[name], inside, _below(place, name)))), "")
        elif key.removesuffix("?") in value:
            name = key.removesuffix("?")
            said = misfit(value[name], inside, _below(place, name))
        else:
            said = "" if key.endswith("?") else f"does not hold {_below(place, key)}"
        if said:
            return said
    return ""


def _below(place: str, name: str) -> str:
    shown = name if name.isidentifier() else ascii(name[:SHOWN])
    return f"{place}.{shown}" if place else shown


def _name(form: Any) -> str:
    if isinstance(form, list):
        return "a list"
    if isinstance(form, dict):
        return "an object"
    return {None: "null", int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(
        form, "any"
    )


def _said(value: Any, wanted: str, place: str) -> str:
    shown = (
        type(value).__name__
        if isinstance(value, dict | list)
        else ascii(value[:SHOWN] if isinstance(value, str) else value)
    )
    return f"holds {shown} for {place or 'its content'}, where {wanted} belongs"
