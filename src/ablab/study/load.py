"""A study file to a Study, or every fault in it at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault, InvalidStudy, did_you_mean
from ablab.records.settings import LeversSettings
from ablab.study import outside, runner
from ablab.study.assemble import assemble
from ablab.study.preset import expanded
from ablab.study.read import read, unfit
from ablab.study.record import Study
from ablab.study.take import name_fault, section, show, table


def load(path: Path, scale: str | None = None, *, folder: Path | None = None) -> Study:
    """Read the study in the file at `path`, at `scale` if one is named. folder: what its paths are relative to, if not its own.

    Every scale of the file is checked, whichever is asked for. Raises InvalidStudy with all faults at once, each with
    the file's name, the place, what is wrong and the cure; CheckFailed where it names a file of levers that the user did not
    allow to run (`ablab.study.trusted`).
    """
    path = Path(path)
    source, raw = read(path)
    path = path if folder is None else folder / path.name
    impossible = unfit(raw)
    if any("nested deeper" in fault.fault for fault in impossible):
        raise _invalid(path, impossible)
    raw = expanded(raw, impossible)
    if "runner" in raw and "levers" in raw:
        impossible.append(runner.idle("levers"))
        del raw["levers"]
    taken = _outside(raw.pop("levers", None), path, impossible)
    scales = list(table(raw.get("scale"), "scale", impossible))
    for name in scales:
        fault = name_fault(name, "a scale", "scale")
        impossible += [fault] if fault else []
    if scale is not None and scale not in scales:
        impossible.append(Fault(f"scale {show(scale)}", "the file has no such scale", did_you_mean(scale, scales)))
        scale = None
    with outside.alone(taken):
        plain, unscaled = assemble(raw, None, path, source)
        study, faults = (plain, list(unscaled)) if scale is None else (None, [])
        known = {str(fault) for fault in unscaled}
        for name in scales:
            at_scale, wrong = assemble(raw, name, path, source)
            if name == scale:
                study = at_scale
                faults += [fault for fault in wrong if str(fault) in known]
            faults += [Fault(f"scale.{name}: {f.place}", f.fault, f.cure) for f in wrong if str(f) not in known]
    said = {fault.place for fault in impossible}
    faults = impossible + [fault for fault in faults if fault.place not in said]
    if faults or study is None:
        raise _invalid(path, faults)
    return replace(study, levers=outside.used(taken, [arm.settings for arm in study.with_baseline.values()]))


def _outside(raw: object, path: Path, faults: list[Fault]) -> dict[str, str]:
    """Take in levers from outside before anything may name them: {where: sha256}. CheckFailed for what may not run."""
    files = section("levers", raw, "levers", faults, LeversSettings)["from"] or []
    if not files and not outside.installed():
        return {}
    try:
        taken, wrong = outside.named(files, path.parent)
    except CheckFailed as error:
        raise CheckFailed(Fault(f"{path.name}: {one.place}", one.fault, one.cure) for one in error.faults) from None
    faults += wrong
    return taken


def _invalid(path: Path, faults: list[Fault]) -> InvalidStudy:
    unique = {str(fault): fault for fault in faults}.values()
    return InvalidStudy(Fault(f"{path.name}: {fault.place}", fault.fault, fault.cure) for fault in unique)
