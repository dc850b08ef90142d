"""The commands `ablab bundle` and `ablab audit`: a study's evidence as one file, and that file checked."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from ablab.cli.options import Device, Json, Out, Scale, StudyFile, say
from ablab.core.files import print_json


def bundle(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="NAME.zip")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="With the trained weights of every run.")] = False,
    as_json: Json = False,
) -> None:
    """Pack one file with all that the verdict rests on: study, records, scores, pages, hashes of data and source."""
    from ablab.core import places
    from ablab.judging import versions
    from ablab.launch.bundle import write as bundles
    from ablab.launch.study import Lab, aside, conclude

    plan = Lab(study, scale, out, device).plan(computes=False, recall=aside).look()
    versions.guard(plan)
    answer = conclude(plan).answer
    # a link that a person names is followed; one that lies under the name of the study is not
    file = places.real(to) if to is not None else places.real(Path.cwd()) / f"{plan.study.called}.zip"
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
    as_json: Json = False,
) -> None:
    """Check every digest of a bundle, judge it again from its scores, and with --data train one of its runs again."""
    from ablab.core import folders
    from ablab.core.fault import CheckFailed, Fault
    from ablab.launch.bundle import audit as auditor
    from ablab.launch.study import silent

    hung = functools.partial(say, hang=9)
    if data is None and (salt or tolerance is not None):
        given = "--salt" if salt else "--tolerance"
        raise typer.BadParameter("is of the run that is trained again; name its data with --data", param_hint=given)
    if data is not None and not data.is_dir():
        raise typer.BadParameter(f"{data} is no folder", param_hint="--data")
    with folders.scratch("ablab-audit-") as folder:
        said = silent if as_json else hung
        result = auditor.audit(bundle, folder, data=data, salt=salt, tolerance=tolerance, say=said)
    if as_json:
        print_json(result.as_json())
    else:
        print(f"bundle {result.key}")
        for mark, texts in (("holds  ", result.held), ("broken ", result.broken), ("note   ", result.noted)):
            for text in texts:
                hung(f"{mark}  {text}")
    if result.broken:
        cure = "ask whoever made it, and believe nothing that rests on it"
        raise CheckFailed(Fault(str(bundle), f"{len(result.broken)} checks do not hold", cure))
