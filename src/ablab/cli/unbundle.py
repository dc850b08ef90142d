"""The command `ablab unbundle`: a stack's parts as arms of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablab.cli.options import Json, StudyFile


def unbundle(
    study: StudyFile,
    arm: Annotated[str, typer.Argument(metavar="ARM", help="An arm that changes several settings at once.")],
    to: Annotated[Path | None, typer.Option(help="Write a whole study about it, beside the study file.")] = None,
    as_json: Json = False,
) -> None:
    """Print the arms that tell which part of a stack matters: each part alone, and all but one."""
    from ablab.core.fault import Fault, Refused
    from ablab.core.files import print_json, write_atomic
    from ablab.study import unbundle as stacks
    from ablab.study.load import load

    parts = stacks.unbundle(study, arm)
    if to is not None:
        if to.exists():
            raise Refused(Fault(str(to), "is there already", "name another file"))
        if to.absolute().parent.resolve() != study.absolute().parent.resolve():
            fault = "lies elsewhere than the study, whose own paths would lead elsewhere from there"
            raise Refused(Fault(str(to), fault, f"write it beside {study.name}"))
        write_atomic(to, stacks.study_of(study, parts), elsewhere="another --to")
        try:
            load(to)
        except Exception:
            to.unlink()
            raise
    if as_json:
        print_json({"arm": arm, "on": parts.on, "arms": parts.arms, "file": None if to is None else str(to)})
    elif to is None:
        print(parts.toml, end="")
    else:
        print(f"{to}: {arm} and {len(parts.arms)} arms of its parts; next: ablab check {to}")
