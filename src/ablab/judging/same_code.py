"""Whether a study may go on: its results were made by the code that there is now."""

from __future__ import annotations

from collections import defaultdict

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of
from ablab.judging.sources import SHOWN, Making, counted, made_of, shortened
from ablab.runs.plan import Plan
from ablab.runtime import changed, source


def key(plan: Plan) -> str:
    """Make the key of every file that can change a result of the plan."""
    every: dict[str, str] = {}
    for arm in plan.study.with_baseline.values():
        every |= source.of_training(arm.settings)
        for stage in plan.stages:
            every |= source.of_stage(arm.settings, stage)
    return key_of(every)


def guard(plan: Plan) -> None:
    """Refuse to go on where a result or a checkpoint of the plan was made by other code (a checkpoint: torch, machine)."""
    groups: dict[tuple[str, ...], list[Making]] = defaultdict(list)
    for kept in made_of(plan):
        if differences := kept.differences:
            groups[tuple(differences)].append(kept)
    faults = []
    for listed, group in groups.items():
        fault = f"{counted(group)} made otherwise: {shortened(listed)}"
        cure = (
            f"put that back as it was; or take them as they are with {changed.FLAG}, and the page says so; or have them made "
            f"again in another --out, or here by deleting {_folders(group)}"
        )
        faults.append(Fault(f"study {plan.study.name}", fault, cure))
    if faults:
        raise CheckFailed(faults)


def _folders(group: list[Making]) -> str:
    folders = [str(kept.folder) for kept in group]
    return ", ".join(folders[:SHOWN]) + (f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else "")
