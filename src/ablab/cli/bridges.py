"""The commands `ablab explain` and `ablab export`: another program's words, read and written."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ablab.cli.options import Json, Scale, StudyFile
from ablab.core import places
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.runs.plan import Plan

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
    as_json: Json = False,
) -> None:
    """Explain what Megatron flags really do, layer by layer, and the study that says the same."""
    from ablab.bridges.megatron import shown
    from ablab.bridges.megatron.explain import explain as explained
    from ablab.bridges.megatron.parse import words
    from ablab.core.files import write_atomic

    if write is not None and write.exists():
        raise typer.BadParameter(f"{write} exists; name another file", param_hint="--write")
    argv = [*(words(_text(file)) if file else []), *(flags or [])]
    if not argv:
        raise typer.BadParameter("no flags; write them behind --, or give --file", param_hint="FLAGS")
    explanation = explained(argv)
    arm = _arm(argv, arm_of, scale, name) if arm_of else None
    if write is not None:
        from ablab.bridges.megatron.arm import study_tables

        write_atomic(places.real(write), (arm if arm is not None else HEAD + study_tables(explanation)) + "\n")
    if as_json:
        print_json({**shown.as_json(explanation), "arm": arm})
        return
    shown.show(explanation, print, tables=arm is None, width=_width())
    if arm is not None:
        print(f"\n{arm}")


def export(
    study: StudyFile,
    to: Annotated[Literal["megatron", "golf"], typer.Option(help="Whose: megatron (the vpMoE fork) or golf.")],
    arm: Annotated[
        str | None, typer.Argument(metavar="[ARM]", help="An arm, or baseline; --arm says the same.")
    ] = None,
    arm_named: Annotated[str | None, typer.Option("--arm", metavar="ARM", help="An arm, or baseline.")] = None,
    scale: Scale = None,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="golf: the folder to write.")] = None,
    runs: Annotated[Path | None, typer.Option(help="golf: where the study's runs lie.", show_default="runs")] = None,
    device: Annotated[
        str | None, typer.Option(help="golf: where they were made, cpu or cuda.", show_default="cpu")
    ] = None,
    author: Annotated[str | None, typer.Option(help="golf: who submits it.")] = None,
    github_id: Annotated[str | None, typer.Option(help="golf: their GitHub name.")] = None,
    title: Annotated[str | None, typer.Option(help="golf: the submission's name.")] = None,
) -> None:
    """Export an arm in another program's words: Megatron's command line, or a non-record submission to parameter-golf."""
    if arm and arm_named and arm != arm_named:
        raise typer.BadParameter(f"'{arm}' and --arm '{arm_named}' are two arms; name one", param_hint="ARM")
    chosen = arm or arm_named
    if chosen is None:
        raise typer.BadParameter("no arm; name one, or baseline", param_hint="ARM")
    if to == "megatron":
        golf_only: dict[str, object] = {"--out": out, "--runs": runs, "--device": device}
        golf_only |= {"--author": author, "--github-id": github_id, "--title": title}
        if given := [flag for flag, value in golf_only.items() if value is not None]:
            raise typer.BadParameter(f"{', '.join(given)} belongs to --to golf; leave it out", param_hint=given[0])
        return _to_megatron(study, chosen, scale, as_json)
    if out is None or not author or not github_id:
        wanted = {"--out": out, "--author": author, "--github-id": github_id}
        missing = [flag for flag, value in wanted.items() if not value]
        raise typer.BadParameter(f"a submission needs {', '.join(missing)}", param_hint=missing[0])
    from ablab.bridges.golf import export as golf

    plan = _plan(study, scale, runs or Path("runs"), device or "cpu")
    files = golf.export(plan, chosen, places.real(out), author=author, github_id=github_id, name=title)
    if as_json:
        print_json({"folder": str(out), "files": [str(path) for path in files]})
        return
    for path in files:
        print(path)


def _to_megatron(study: Path, arm: str, scale: str | None, as_json: bool) -> None:
    from ablab import study as studies
    from ablab.bridges.megatron import export as megatron
    from ablab.bridges.megatron import shown
    from ablab.core.fault import did_you_mean

    read = studies.load(study, scale)
    read.trained_here("a command line for Megatron")
    known = [studies.BASELINE, *read.arms]
    if arm not in known:
        raise typer.BadParameter(f"no arm is called '{arm}'; {did_you_mean(arm, known)}", param_hint="ARM")
    exported = megatron.export(read.arm(arm).settings, arm, read.decision["seeds"]["first"])
    if as_json:
        print_json({"flags": list(exported.argv), "notes": [asdict(one) for one in exported.notes]})
        return
    print(exported.shell())
    shown.notes(exported.notes, lambda text: print(text, file=sys.stderr), _width())


def _plan(study: Path, scale: str | None, runs: Path, device: str) -> Plan:
    from ablab.launch.study import Lab

    lab = Lab(study, scale, runs, device)
    lab.study.trained_here("a submission")
    return lab.plan(computes=False)


def _arm(argv: list[str], path: Path, scale: str | None, name: str) -> str:
    from ablab import study as studies
    from ablab.bridges.megatron.arm import arm

    of = studies.load(path, scale)
    of.trained_here("an arm in Megatron's flags")
    return arm(argv, of, name)


def _width() -> int:
    """Return the columns to write in."""
    from ablab.core import grid

    return int(grid.console().width)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read ({type(error).__name__})", param_hint="--file") from error
