"""The commands `ablab work` and `ablab status`: one study made by many, and what each is doing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.cli.options import Device, Json, Out, Scale, StudyFile, console
from ablab.cli.runs import RunOptions, spread
from ablab.cli.study import answered
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.launch.status import StudyStatus


@spread
def work(study: StudyFile, scale: Scale = None, *, how: RunOptions) -> None:
    """Do wanted runs that nobody else makes, one by one, until none is wanted; start it on all machines that share --out."""
    answered(replace(how.lab(study, scale), joins=True), how)


def status(
    study: StudyFile, scale: Scale = None, out: Out = Path("runs"), device: Device = "cpu", as_json: Json = False
) -> None:
    """Show what a study's runs are at: done, being made by whom and at which step, wanted, or given up."""
    from ablab.launch.status import status as of
    from ablab.launch.study import Lab, aside

    found = of(Lab(study, scale, out, device).plan(computes=False, recall=aside))
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: StudyStatus) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ablab.core.plain import plain

    table = Table(box=None, pad_edge=False)
    for name in ("arm", "seed", "state", "step", "by"):
        table.add_column(name, justify="right" if name in ("seed", "step") else "left")
    for row in found["runs"]:
        state = f"{row['state']}: {row['stage']}" if row["stage"] else row["state"]
        said = row["holder"] or row["fault"]
        cells = (row["arm"], str(row["seed"]), state, str(row["step"] or ""), said)
        table.add_row(*(escape(plain(one)) for one in cells))
    if found["runs"]:
        console().print(table)
    counts = ", ".join(f"{n} {state}" for state, n in found["counts"].items()) or "no run is asked for"
    here = len(found["at"])
    print(plain(f"{counts}; {here or 'no'} command{'' if here == 1 else 's'} at it"))
