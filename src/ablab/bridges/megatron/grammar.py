"""Megatron's own ways to write a value, read and never executed: window pairs and lists over layers."""

from __future__ import annotations

import re

MOST = 1000  # layers; longer lists are typing errors or attacks
_ALLOWED = frozenset(",0123456789[]()+*")
_NUMBER = re.compile(r"[0-9]+")
_SIGNED = re.compile(r"-?[0-9]+")


def window(text: str) -> tuple[int, int]:
    """Read `(127,0)` or `127,0` -> (127, 0): keys to the left and right of the current one. ValueError otherwise."""
    parts = text.strip("()").split(",")
    if len(parts) == 2 and all(_SIGNED.fullmatch(part.strip()) for part in parts):
        left, right = (int(part) for part in parts)
        return left, right
    raise ValueError(f"{text!r} is no window; write (127,0): 127 keys before the current token and none after it")


def layers(text: str) -> int | list[int]:
    """Read `4`, or a list over all layers: `[1,1,1,0]*20`, `([0]*3+[1]*1)*20`. ValueError with the fault and the cure.

    Megatron's grammar: digits, commas, brackets, parentheses, + and *; no spaces. Integers, sums and products too, as a
    factor: `[1]*(2+3)`.
    """
    if "[" not in text:
        if _SIGNED.fullmatch(text.strip()):
            return int(text)
        raise ValueError(f"{text!r} is neither a number nor a list; write 4 or [1,1,1,0]*20")
    if " " in text:
        near = text.replace(" ", "")
        raise ValueError(f"a space in the list {text!r}: Megatron refuses it; write {near} without spaces")
    if odd := next((c for c in text if c not in _ALLOWED), None):
        raise ValueError(f"{odd!r} in the list {text!r}; only digits and , [ ] ( ) + * are allowed")
    value, at = _sum(text, 0, 0)
    if at < len(text):
        raise _broken(text, at)
    if isinstance(value, int):
        raise ValueError(f"{text!r} is a number, not a list; write the number itself")
    if any(item not in (0, 1) for item in value):
        raise ValueError(f"{text!r} holds other numbers than 0 and 1; write one 0 or 1 for every layer")
    return value


def spell(values: list[int]) -> str:
    """Spell a list over layers as short as its period or its runs make it, without spaces: `([0]*3+[1])*2`, `([0]+[1]*79)`."""
    n = len(values)
    period = next(p for p in range(1, n + 1) if n % p == 0 and values == values[:p] * (n // p))
    if period < n and period > 1:
        return f"({_runs(values[:period])})*{n // period}"
    return f"({_runs(values)})"


def _runs(values: list[int]) -> str:
    out: list[tuple[int, int]] = []
    for value in values:
        if out and out[-1][0] == value:
            out[-1] = (value, out[-1][1] + 1)
        else:
            out.append((value, 1))
    return "+".join(f"[{value}]" + (f"*{times}" if times > 1 else "") for value, times in out)


def _sum(text: str, at: int, depth: int) -> tuple[int | list[int], int]:
    value, at = _product(text, at, depth)
    while at < len(text) and text[at] == "+":
        more, at = _product(text, at + 1, depth)
        if isinstance(value, int) and isinstance(more, int):
            value = _few(value + more)
        elif isinstance(value, list) and isinstance(more, list):
            value = _short(value, more)
        else:
            raise ValueError(f"a number and a list are added in {text!r}; put brackets around the number")
    return value, at


def _product(text: str, at: int, depth: int) -> tuple[int | list[int], int]:
    value, at = _atom(text, at, depth)
    while at < len(text) and text[at] == "*":
        times, at = _atom(text, at + 1, depth)
        if isinstance(value, list) and isinstance(times, list):
            raise ValueError(f"two lists are multiplied in {text!r}; multiply a list by a number")
        if isinstance(value, int) and isinstance(times, int):
            value = _few(value * times)
            continue
        items, count = (value, times) if isinstance(value, list) else (times, value)
        assert isinstance(items, list) and isinstance(count, int)
        if len(items) * count > MOST:
            raise ValueError(f"more than {MOST} layers; repeat less")
        value = items * count
    return value, at


def _atom(text: str, at: int, depth: int) -> tuple[int | list[int], int]:
    if depth > 32:
        raise ValueError("nested deeper than 32; write it flatter")
    if at < len(text) and text[at] == "(":
        value, at = _sum(text, at + 1, depth + 1)
        if at == len(text) or text[at] != ")":
            raise _broken(text, at)
        return value, at + 1
    if at < len(text) and text[at] == "[":
        return _list(text, at + 1, depth)
    number = _NUMBER.match(text, at)
    if not number:
        raise _broken(text, at)
    if (len(number[0]) > 1 and number[0][0] == "0") or len(number[0]) > 6:
        raise ValueError(
            f"{number[0]} in {text!r} is no number of layers; write it without leading zeros, below 1000000"
        )
    return int(number[0]), number.end()


def _list(text: str, at: int, depth: int) -> tuple[list[int], int]:
    out: list[int] = []
    while at < len(text) and text[at] != "]":
        item, at = _sum(text, at, depth + 1)
        if not isinstance(item, int):
            raise ValueError(f"a list within a list in {text!r}; write one flat list")
        out = _short(out, [item])
        if at < len(text) and text[at] == ",":
            at += 1
        elif at < len(text) and text[at] != "]":
            raise _broken(text, at)
    if at == len(text):
        raise _broken(text, at)
    return out, at + 1


def _few(value: int) -> int:
    if value > 10**6:
        raise ValueError("a number beyond a million; no network has so many layers")
    return value


def _short(one: list[int], two: list[int]) -> list[int]:
    if len(one) + len(two) > MOST:
        raise ValueError(f"more than {MOST} layers; repeat less")
    return one + two


def _broken(text: str, at: int) -> ValueError:
    place = f"{text[at]!r} at character {at + 1}" if at < len(text) else "the end"
    return ValueError(f"{text!r} breaks off at {place}; write a list as [1,1,1,0]*20 or ([0]+[1]*79)")
