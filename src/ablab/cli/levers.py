"""The list of levers, read off the slots' tables and the constructors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ablab.cli.options import Json, console
from ablab.core.fault import Fault, InvalidStudy, Refused, did_you_mean
from ablab.core.files import print_json
from ablab.core.setting import Setting, describe
from ablab.core.slot import Lever, Slot


class UnknownSlot(Refused):
    """No slot or no lever has this name: a usage error."""

    exit_code = 2


def slots() -> dict[str, Slot[Lever]]:
    """Every slot by its name in a study file."""
    from ablab.study.keys import SLOTS

    return dict(SLOTS)


def table(only: str | None = None, lever: str | None = None) -> dict[str, Any]:
    """{slot: {lever: {summary, source, from, settings: {name: {type, unit, default, shown, meaning}}}}}, of a slot or lever.

    Settings of a sub-choice follow it as `table.setting`; `shown` is the default in words. UnknownSlot where `only` names no
    slot, or `lever` no lever of it.
    """
    from ablab.study import outside

    known = slots()
    _, faults = outside.named([], Path())
    if faults:
        raise UnknownSlot(faults)
    if only is not None and only not in known:
        raise UnknownSlot(Fault("ablab levers", f"no slot is called '{only}'", did_you_mean(only, list(known))))
    if only is not None and lever is not None and lever not in known[only].names:
        cure = did_you_mean(lever, known[only].names)
        raise UnknownSlot(Fault(f"ablab levers {only}", f"no {only} is called '{lever}'", cure))
    return {
        slot.name: {
            name: {
                "summary": slot.summary(name),
                "source": slot.source(name),
                "from": origin.called if (origin := slot.origin(name)) else "",
                "settings": {path: _facts(one) for path, one in slot.listed(name).items()},
            }
            for name in slot.names
            if lever in (None, name)
        }
        for slot in known.values()
        if only in (None, slot.name)
    }


def _facts(one: Setting) -> dict[str, Any]:
    default = "(required)" if one.required else None if one.parts else one.default
    said = one.meaning
    return {
        "type": describe(one.type), "unit": said.unit, "default": default, "shown": one.shown(), "meaning": said.text
    }  # fmt: skip


def show(rows: dict[str, Any], console: Any, *, whole: bool = False) -> None:
    """Print the table: a heading per slot, a line per lever, its settings below, `whole` with what each means."""
    from rich.text import Text

    from ablab.core import grid

    def say(indent: int, *parts: tuple[str, str]) -> None:
        grid.say(Text.assemble(*parts), console, width=console.width, indent=indent, hang=4)

    for slot, found in rows.items():
        say(0, (slot, "bold"))
        for lever, facts in found.items():
            say(2, (lever, "cyan"), (f"  {facts['summary']}", ""))
            if facts["from"]:
                say(6, (f"from outside: {facts['from']}", "yellow"))
            if facts["source"]:
                say(6, (facts["source"], "dim"))
            for name, one in facts["settings"].items():
                kind = one["type"] + (f", in {one['unit']}" if one["unit"] else "")
                say(6, (f"{name} = {one['shown']}  ", ""), (kind, "dim"))
                if whole:
                    say(10, (one["meaning"], ""))


def tested(files: list[Path], console: Any) -> int:
    """Run the checks of `ablab.check.conformance` on the levers of these files, and say each; 4 where one does not hold."""
    from rich.text import Text

    from ablab.check import conformance
    from ablab.core import grid
    from ablab.study import outside

    def say(mark: str, style: str, text: str) -> None:
        grid.say(Text.assemble((mark, style), text), console, width=console.width, hang=8)

    taken, faults = outside.named([str(file) for file in files], Path())
    if faults:
        raise InvalidStudy(faults)
    where = {str(file.absolute()) for file in files} & taken.keys()
    names = [
        (slot.name, name)
        for slot in slots().values()
        for name in slot.names
        if (origin := slot.origin(name)) and origin.called in where
    ]
    failed = 0
    for found in conformance.of_levers(names):
        failed += bool(found.fault)
        said = f"{found.slot} {found.lever}: {found.check}"
        say(
            "no      " if found.fault else "holds   ",
            "red" if found.fault else "green",
            f"{said}{found.fault and ': '}{found.fault}",
        )
    say(
        "",
        "",
        "at the default settings and small sizes; attention's oracles, decoding over a cache and GPUs are not part of this",
    )
    return 4 if failed else 0


def levers(
    slot: Annotated[str | None, typer.Argument(metavar="[SLOT]", help="One slot, e.g. position.")] = None,
    lever: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One lever of it: what each setting means.")
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(
            "--test", metavar="FILE", help="Run what holds for every lever of its slot on those of this file."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Every lever by slot, with its settings and defaults; of one lever what each setting means."""
    if test:
        raise typer.Exit(tested(test, console()))
    rows = table(slot, lever)
    if as_json:
        print_json(rows)
    else:
        show(rows, console(), whole=lever is not None)
