"""Settings as TOML: tables for sections and layer kinds, inline tables for levers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeGuard


def written(tree: Mapping[str, object], path: tuple[str, ...] = ()) -> str:
    """Write `tree` as TOML. A table without a name (no lever) becomes a section; a layer kind may be an empty one."""
    plain = {key: value for key, value in tree.items() if not _section(value)}
    lines = [f"[{'.'.join(path)}]"] if path and (plain or not tree) else []
    lines += [f"{key} = {spell(value)}" for key, value in plain.items()]
    parts = ["\n".join(lines)] if lines else []
    parts += [written(value, (*path, key)) for key, value in tree.items() if _section(value)]
    return "\n\n".join(part for part in parts if part)


def dotted(tree: Mapping[str, object], path: tuple[str, ...] = ()) -> list[str]:
    """Write `tree` as lines of dotted keys, as an arm writes its changes."""
    out = []
    for key, value in tree.items():
        here = (*path, key)
        out += dotted(value, here) if _section(value) else [f"{'.'.join(here)} = {spell(value)}"]
    return out


def spell(value: object) -> str:
    """Spell one value: numbers as Python writes them, long integers with underscores, levers inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {spell(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spell, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _section(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict) and "name" not in value
