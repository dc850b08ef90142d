"""The commands `ablab bundle` and `ablab audit`: a study's evidence as one file, and that file checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ablab.core.files import print_json


def bundle(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")],
    scale: Annotated[str | None, typer.Option(help="A named scale of the study, [scale.NAME].")] = None,
    out: Annotated[Path, typer.Option(help="Where corpora, runs and reports lie.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="Where the runs were made: cpu or cuda.")] = "cpu",
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="NAME.zip")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="With the trained weights of every run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """One file with all that the verdict rests on: study, records, scores, pages, hashes of data and source."""
    import sys

    from ablab import report
    from ablab import study as studies
    from ablab.bundle import write as bundles
    from ablab.core import places
    from ablab.judging import judge, shelf
    from ablab.runs import plan as planning
    from ablab.runs.store import Store

    read, store = studies.load(study, scale), Store(Path(os.path.realpath(out)))
    plan = planning.make(
        read, store, device=device, computes=False, say=lambda _: None, recall=lambda text: print(text, file=sys.stderr)
    )
    shelf.guard(plan)
    answer = judge.conclude(plan)
    report.write(answer, plan.directory)
    # a link that a person names is followed; one that lies under the name of the study is not
    file = places.real(to) if to is not None else places.real(Path.cwd()) / f"{read.called}.zip"
    index = bundles.write(plan, answer, file, weights=weights)
    said = {
        "bundle": index["digest"],
        "file": str(file),
        "bytes": file.stat().st_size,
        "members": len(index["members"]),
        "runs": len(index["runs"]),
    }
    if as_json:
        print_json(said)
        return
    print(f"{file}: {said['runs']} runs, {said['members']} files, {said['bytes']:,} bytes")
    print(f"bundle {said['bundle']}")


def audit(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `ablab bundle` wrote.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the study's data lie: one run is trained again.")
    ] = None,
    salt: Annotated[str, typer.Option(help="A word of yours: with the bundle's digest it chooses that run.")] = "",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of that run's metric on another kind of machine.", show_default="half of the study's matters"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check every digest of a bundle, judge it again from its scores, and with --data train one of its runs again."""
    from ablab.bundle import audit as auditor
    from ablab.core import making
    from ablab.core.fault import Fault, GateFailed

    if data is None and (salt or tolerance is not None):
        given = "--salt" if salt else "--tolerance"
        raise typer.BadParameter("is of the run that is trained again; name its data with --data", param_hint=given)
    if data is not None and not data.is_dir():
        raise typer.BadParameter(f"{data} is no folder", param_hint="--data")
    with making.scratch("ablab-audit-") as folder:
        say = (lambda _: None) if as_json else _say
        found = auditor.audit(bundle, folder, data=data, salt=salt, tolerance=tolerance, say=say)
    if as_json:
        print_json(found.as_json())
    else:
        print(f"bundle {found.key}")
        for mark, texts in (("holds  ", found.held), ("broken ", found.broken), ("note   ", found.noted)):
            for text in texts:
                _say(f"{mark}  {text}")
    if found.broken:
        cure = "ask whoever made it, and believe nothing that rests on it"
        raise GateFailed(Fault(str(bundle), f"{len(found.broken)} checks do not hold", cure))


def _say(text: str) -> None:
    from ablab.core import grid

    console = grid.console()
    grid.say(text, console, width=console.width, hang=9)
