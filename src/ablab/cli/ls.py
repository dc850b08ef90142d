"""The command `ablab ls`: every study of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablab.cli.options import Json, console
from ablab.core.files import print_json


def ls(
    store: Annotated[Path, typer.Argument(metavar="[STORE]", help="What was `--out` of the runs.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the studies of a store: scale, words, winner, when it was judged, runs, and what goes on. Reads only."""
    from ablab.core import grid
    from ablab.judging import listed

    found = listed.rows(store)
    if as_json:
        print_json({"store": str(store), "studies": found})
        return
    if not found:
        print(f"no study was begun in {store}")
        return
    screen = console()
    columns = [grid.Column("study"), grid.Column("scale"), grid.Column("words", least=24), grid.Column("winner")]
    columns += [grid.Column("judged"), grid.Column("runs", right=True), grid.Column("state")]
    cells = []
    for row in found:
        done, runs = row["done"], row["listed"]
        counted = "-" if done is None else f"{done}" if done == runs else f"{done} of {runs}"
        words = ", ".join(f"{arm} {word}" for arm, word in row["words"].items()) or "-"
        cells.append(
            [
                row["study"],
                row["scale"] or "-",
                words,
                row["winner"] or "-",
                row["judged"] or "-",
                counted,
                row["state"],
            ]
        )
    grid.show(columns, cells, screen, width=screen.width)
