"""Settings as TOML: tables for sections and layer kinds, inline tables for levers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import TypeGuard

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def written(tree: Mapping[str, object], path: tuple[str, ...] = ()) -> str:
    """Write `tree` as TOML. A table without a name (no lever) becomes a section; a layer kind may be an empty one."""
    plain = {key: value for key, value in tree.items() if not _section(value)}
    lines = [f"[{joined(path)}]"] if path and (plain or not tree) else []
    lines += [f"{joined([key])} = {spell(value)}" for key, value in plain.items()]
    parts = ["\n".join(lines)] if lines else []
    parts += [written(value, (*path, key)) for key, value in tree.items() if _section(value)]
    return "\n\n".join(part for part in parts if part)


def dotted(tree: Mapping[str, object], path: tuple[str, ...] = ()) -> list[str]:
    """Write `tree` as lines of dotted keys, as an arm writes its changes."""
    out = []
    for key, value in tree.items():
        here = (*path, key)
        out += dotted(value, here) if _section(value) else [f"{joined(here)} = {spell(value)}"]
    return out


def spell(value: object) -> str:
    """Spell one value: numbers as Python writes them, long integers with underscores, levers inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{joined([key])} = {spell(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spell, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return _string(value) if isinstance(value, str) else repr(value)


def joined(keys: Iterable[str]) -> str:
    """Write a path of keys with dots between them; a key that is no bare one (`optim.lr`) is quoted."""
    return ".".join(key if _BARE.match(key) else _string(key) for key in keys)


def parted(path: str) -> tuple[str, ...]:
    """Read the keys of such a path."""
    keys, inside = list[str](), tomllib.loads(f"{path} = 0")
    while inside:
        [(key, below)] = inside.items()
        keys.append(key)
        inside = below if isinstance(below, dict) else {}
    return tuple(keys)


def _string(text: str) -> str:
    """Spell text in quotes and in ASCII. What JSON would split into two escapes is one here."""
    return '"' + "".join(one if " " <= one <= "~" and one not in _ESCAPED else _escape(one) for one in text) + '"'


def _escape(one: str) -> str:
    return _ESCAPED.get(one) or (f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}")


def _section(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict) and "name" not in value
