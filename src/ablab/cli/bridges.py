"""The commands `ablab explain` and `ablab export`: another program's words, read and written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ablab.cli.options import Json, Scale, StudyFile
from ablab.core import places
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.launch.study import Lab
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


# Whose words an arm is exported in, and the options that each has.
TARGETS: dict[str, tuple[str, ...]] = {
    "megatron": (),
    "golf": ("--out", "--runs", "--device", "--author", "--github-id", "--title"),
    "hf": ("--out", "--runs", "--device", "--seed"),
    "megatron-run": ("--out", "--runs", "--device", "--seed"),
}
Target = Literal["megatron", "golf", "hf", "megatron-run"]


def export(
    study: StudyFile,
    to: Annotated[
        Target, typer.Option(help="Whose: megatron (the vpMoE fork), golf, hf (transformers), megatron-run.")
    ],
    arm: Annotated[
        str | None, typer.Argument(metavar="[ARM]", help="An arm, or baseline; --arm says the same.")
    ] = None,
    arm_named: Annotated[str | None, typer.Option("--arm", metavar="ARM", help="An arm, or baseline.")] = None,
    scale: Scale = None,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where the study's runs lie.", show_default="runs")] = None,
    device: Annotated[str | None, typer.Option(help="Where they were made, cpu or cuda.", show_default="cpu")] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed; by default the first.")] = None,
    author: Annotated[str | None, typer.Option(help="golf: who submits it.")] = None,
    github_id: Annotated[str | None, typer.Option(help="golf: their GitHub name.")] = None,
    title: Annotated[str | None, typer.Option(help="golf: the submission's name.")] = None,
) -> None:
    """Export an arm: Megatron's command line, a submission to parameter-golf, or a trained run as transformers loads it."""
    if arm and arm_named and arm != arm_named:
        raise typer.BadParameter(f"'{arm}' and --arm '{arm_named}' are two arms; name one", param_hint="ARM")
    chosen = arm or arm_named
    if chosen is None:
        raise typer.BadParameter("no arm; name one, or baseline", param_hint="ARM")
    given: dict[str, object] = {"--out": out, "--runs": runs, "--device": device, "--seed": seed}
    given |= {"--author": author, "--github-id": github_id, "--title": title}
    _options(to, given)
    store, where = runs or Path("runs"), device or "cpu"
    if to == "megatron":
        return _to_megatron(study, chosen, scale, as_json)
    if out is None:
        raise typer.BadParameter("a folder to write is needed; name it", param_hint="--out")
    if to == "hf":
        return _to_hf(_lab(study, scale, store, where), chosen, seed, out, as_json)
    if to == "megatron-run":
        return _to_run(_lab(study, scale, store, where), chosen, seed, out, as_json)
    from ablab.bridges.golf import export as golf

    plan = _plan(_lab(study, scale, store, where), "a submission")
    files = golf.export(plan, chosen, places.real(out), author=author or "", github_id=github_id or "", name=title)
    return _files(out, files, as_json)


def _options(to: str, given: dict[str, object]) -> None:
    """Refuse options that belong to other targets, and the lack of one that a submission needs."""
    if strange := [flag for flag, value in given.items() if value is not None and flag not in TARGETS[to]]:
        owners = " and ".join(f"--to {one}" for one in TARGETS if set(strange) <= set(TARGETS[one]))
        text = f"{', '.join(strange)} belongs to {owners or 'other targets'}; leave it out"
        raise typer.BadParameter(text, param_hint=strange[0])
    wanted = ("--out", "--author", "--github-id") if to == "golf" else ()
    if missing := [flag for flag in wanted if not given[flag]]:
        raise typer.BadParameter(f"a submission needs {', '.join(missing)}", param_hint=missing[0])


def _files(out: Path, files: Sequence[Path], as_json: bool, **more: object) -> None:
    if as_json:
        return print_json({"folder": str(out), "files": [str(path) for path in files], **more})
    for path in files:
        print(path)
    return None


def _to_hf(lab: Lab, arm: str, seed: int | None, out: Path, as_json: bool) -> None:
    from ablab.bridges.hf import export as hf

    plan = _plan(lab, "a folder for transformers")
    made = hf.export(plan, plan.trained(arm, seed, lab.again), places.real(out))
    _files(out, made.files, as_json, architecture=made.architecture, notes=list(made.notes))
    for text in () if as_json else made.notes:
        print(f"note: {text}", file=sys.stderr)


def _to_run(lab: Lab, arm: str, seed: int | None, out: Path, as_json: bool) -> None:
    from ablab.bridges.megatron.plugin import folder
    from ablab.core.fault import did_you_mean

    known = list(lab.study.with_baseline)
    if arm not in known:
        raise typer.BadParameter(f"no arm is called '{arm}'; {did_you_mean(arm, known)}", param_hint="ARM")
    plan = _plan(lab, "training an arm in Megatron-Core")
    _files(out, folder.write(plan, arm, places.real(out), seed=seed), as_json)


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


def _lab(study: Path, scale: str | None, runs: Path, device: str) -> Lab:
    from ablab.launch.study import Lab

    return Lab(study, scale, runs, device)


def _plan(lab: Lab, what: str) -> Plan:
    lab.study.trained_here(what)
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
