"""The commands `ablab explain` and `ablab export`: another program's words, read and written."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

HEAD = (
    "# Written by `ablab explain` from Megatron flags. A study also needs [study], [decision], an arm, and data.source where "
    "the flags name none.\n"
)


def explain(
    flags: Annotated[list[str] | None, typer.Argument(metavar="-- FLAGS", help="Megatron flags, behind --.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read them from a file: flags or a shell line.")] = None,
    arm_of: Annotated[Path | None, typer.Option(metavar="STUDY", help="Write the difference to its baseline.")] = None,
    name: Annotated[str, typer.Option(help="The arm's name, with --arm-of.")] = "megatron",
    scale: Annotated[str | None, typer.Option(help="A scale of that study.")] = None,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the study's tables, or the arm.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """What Megatron flags really do, layer by layer, and the study that says the same."""
    from ablab.bridges import shown
    from ablab.bridges.explain import explain as explained
    from ablab.bridges.parse import words
    from ablab.files import write_atomic

    if write is not None and write.exists():
        raise typer.BadParameter(f"{write} exists; name another file", param_hint="--write")
    argv = [*(words(_text(file)) if file else []), *(flags or [])]
    if not argv:
        raise typer.BadParameter("no flags; write them behind --, or give --file", param_hint="FLAGS")
    found = explained(argv)
    arm = _arm(argv, arm_of, scale, name) if arm_of else None
    if write is not None:
        from ablab.bridges.arm import study_tables

        write_atomic(write, (arm if arm is not None else HEAD + study_tables(found)) + "\n")
    if as_json:
        print(json.dumps({**shown.as_json(found), "arm": arm}, indent=1, allow_nan=False))
        return
    shown.show(found, print, tables=arm is None)
    if arm is not None:
        print(f"\n{arm}")


def export(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")],
    arm: Annotated[str, typer.Argument(metavar="ARM", help="An arm, or baseline.")],
    to: Annotated[Literal["megatron"], typer.Option(help="Whose words: megatron (the vpMoE fork).")],
    scale: Annotated[str | None, typer.Option(help="A named scale of the study, [scale.NAME].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a shell line.")] = False,
) -> None:
    """An arm as another program's command line; refuses what that program cannot do."""
    from ablab import study as studies
    from ablab.bridges import megatron, shown
    from ablab.fault import did_you_mean

    read = studies.load(study, scale)
    known = [studies.BASELINE, *read.arms]
    if arm not in known:
        raise typer.BadParameter(f"no arm is called '{arm}'; {did_you_mean(arm, known)}", param_hint="ARM")
    found = megatron.export(read.arm(arm).settings, arm, read.decision["seeds"]["first"])
    if as_json:
        print(json.dumps({"flags": list(found.argv), "notes": [asdict(one) for one in found.notes]}, indent=1))
        return
    print(found.shell())
    shown.notes(found.notes, lambda text: print(text, file=sys.stderr))


def _arm(argv: list[str], path: Path, scale: str | None, name: str) -> str:
    from ablab import study as studies
    from ablab.bridges.arm import arm

    return arm(argv, studies.load(path, scale), name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read ({type(error).__name__})", param_hint="--file") from error
