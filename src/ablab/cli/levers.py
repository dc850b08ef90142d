"""The list of levers, read off the slots' tables and the constructors."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablab.cli.options import Json, console, say
from ablab.core.fault import Fault, InvalidStudy, Refused, did_you_mean
from ablab.core.files import print_json
from ablab.core.lever import Lever
from ablab.core.plain import plain
from ablab.core.setting import Setting, describe
from ablab.core.slot import Slot

if TYPE_CHECKING:
    from rich.console import Console

    from ablab.check.conformance import Found


class UnknownSlot(Refused):
    """No slot or no lever has this name: a usage error."""

    exit_code = 2


def slots() -> dict[str, Slot[Lever]]:
    """Map the name of every slot in a study file to it."""
    from ablab.study.keys import SLOTS

    return dict(SLOTS)


def table(only: str | None = None, lever: str | None = None) -> dict[str, Any]:
    """Return {slot: {lever: {summary, source, from, settings: {name: {type, unit, default, shown, meaning}}}}}.

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

    def line(indent: int, *parts: tuple[str, str]) -> None:
        grid.say(Text.assemble(*parts), console, width=console.width, indent=indent, hang=4)

    for slot, levers_of in rows.items():
        line(0, (slot, "bold"))
        for lever, facts in levers_of.items():
            line(2, (lever, "cyan"), (f"  {facts['summary']}", ""))
            if facts["from"]:
                line(6, (f"from outside: {facts['from']}", "yellow"))
            if facts["source"]:
                line(6, (facts["source"], "dim"))
            for name, one in facts["settings"].items():
                kind = one["type"] + (f", in {one['unit']}" if one["unit"] else "")
                line(6, (f"{name} = {one['shown']}  ", ""), (kind, "dim"))
                if whole:
                    line(10, (one["meaning"], ""))


def allow(files: list[Path]) -> list[dict[str, str]]:
    """Let a study name these files from now on: {file, sha256, note}, note: what to remove to take that back."""
    from ablab.study import trusted

    for file in files:
        trusted.checked(file)  # all of them, or none
    noted = [(file, *trusted.allow(file)) for file in files]
    return [{"file": str(file.absolute()), "sha256": sha256, "note": str(note)} for file, sha256, note in noted]


def show_allowed(noted: list[dict[str, str]]) -> None:
    """Print each file that may run, and the command that takes it back in a line of its own, which is not broken."""
    for row in noted:
        say(f"{row['file']} may run where it lies (sha256 {row['sha256']}); any edit asks again. To take it back:")
        print(f"rm {shlex.quote(plain(row['note']))}")


def tested(where: set[str]) -> Iterator[Found]:
    """Run the checks of `ablab.check.conformance` on the levers of these files."""
    from ablab.check import conformance
    from ablab.study import outside

    _, faults = outside.named(sorted(where), Path())
    if faults:
        raise InvalidStudy(faults)
    return conformance.of_levers(
        [
            (slot.name, name)
            for slot in slots().values()
            for name in slot.names
            if (origin := slot.origin(name)) and origin.called in where
        ]
    )


def show_tested(checks: Iterator[Found], console: Console) -> bool:
    """Print each check as it is made; returns whether all hold."""
    from rich.text import Text

    from ablab.core import grid

    hold = True
    for one in checks:
        hold &= not one.fault
        mark = ("no      ", "red") if one.fault else ("holds   ", "green")
        said = f"{one.slot} {one.lever}: {one.check}{one.fault and ': '}{one.fault}"
        grid.say(Text.assemble(mark, said), console, width=console.width, hang=8)
    said = "at the default settings and small sizes; attention's oracles, decoding over a cache and GPUs are not part of this"
    grid.say(Text(said), console, width=console.width)
    return hold


def levers(
    slot: Annotated[str | None, typer.Argument(metavar="[SLOT]", help="One slot, e.g. position.")] = None,
    lever: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One lever of it: what each setting means.")
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option("--test", metavar="FILE", help="Trust this file; run on its levers what holds for all."),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", metavar="FILE", help="Let studies that name this file run these bytes."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every lever by slot, with its settings and defaults; of one lever what each setting means."""
    if bool(slot) + bool(test) + bool(trust) > 1:
        raise typer.BadParameter("SLOT, --test and --trust are three commands; give one of them")
    noted = allow([*(test or ()), *(trust or ())])  # whoever asks for a test of a file trusts it
    if noted and not as_json:
        show_allowed(noted)
    if test:
        outcomes = tested({row["file"] for row in noted})
        if as_json:
            checks = [dataclasses.asdict(one) for one in outcomes]
            print_json(checks)
            raise typer.Exit(4 if any(check["fault"] for check in checks) else 0)
        raise typer.Exit(0 if show_tested(outcomes, console()) else 4)
    if trust:
        if as_json:
            print_json(noted)
        return
    rows = table(slot, lever)
    if as_json:
        print_json(rows)
    else:
        show(rows, console(), whole=lever is not None)
