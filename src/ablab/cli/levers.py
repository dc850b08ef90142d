"""The list of levers, read off the slots' tables and the constructors."""

from __future__ import annotations

from typing import Any

from ablab.core.fault import Fault, Refused, did_you_mean
from ablab.core.slot import Slot, describe


class UnknownSlot(Refused):
    """No slot has this name: a usage error."""

    exit_code = 2


def slots() -> dict[str, Slot]:
    """Every slot by its name in a study file."""
    from ablab.study.keys import SLOTS

    return dict(SLOTS)


def table(only: str | None = None) -> dict[str, Any]:
    """{slot: {lever: {summary, source, settings: {name: {type, default}}}}}; UnknownSlot where `only` names no slot."""
    known = slots()
    if only is not None and only not in known:
        raise UnknownSlot(Fault("ablab levers", f"no slot is called '{only}'", did_you_mean(only, list(known))))
    return {
        slot.name: {
            lever: {
                "summary": slot.summary(lever),
                "source": slot.source(lever),
                "settings": {
                    s.name: {"type": describe(s.type), "default": "(required)" if s.required else s.default}
                    for s in slot.settings(lever).values()
                },
            }
            for lever in slot.names
        }
        for slot in known.values()
        if only in (None, slot.name)
    }


def show(rows: dict[str, Any], console: Any) -> None:
    """Print the table: a heading per slot, a line per lever, its settings below."""
    from rich.text import Text

    from ablab.core import grid

    def say(indent: int, *parts: tuple[str, str]) -> None:
        grid.say(Text.assemble(*parts), console, width=console.width, indent=indent, hang=4)

    for slot, found in rows.items():
        say(0, (slot, "bold"))
        for lever, facts in found.items():
            say(2, (lever, "cyan"), (f"  {facts['summary']}", ""))
            if facts["source"]:
                say(6, (facts["source"], "dim"))
            for name, setting in facts["settings"].items():
                say(6, (f"{name} = {_spell(setting['default'])}  ", ""), (setting["type"], "dim"))


def _spell(value: Any) -> str:
    if value is None:
        return "none"
    if value == "":
        return '""'
    return (
        str(list(value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )
