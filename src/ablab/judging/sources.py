"""Which results of a study were made by other code than there is now, or by more than one: the page says so."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ablab.core.fault import CheckFailed
from ablab.core.files import read_json
from ablab.records.run import Checkpoint, MadeBy, Trained
from ablab.runs.plan import Plan, Run
from ablab.runtime import changed, machine, source

SHOWN = 6  # differences that a note or an error lists; the rest is counted


@dataclass(frozen=True)
class Making:
    """A result of the plan, or what there is of one: whose it is, what it keeps of its making, what there is here."""

    run: Run
    what: str  # "training", "checkpoint" or the stage's name
    folder: Path
    record: MadeBy
    here: MadeBy

    @property
    def differences(self) -> list[str]:
        compare = changed.since if self.what == "checkpoint" else source.changes
        return compare(self.record, self.here, self.folder)


def notes(plan: Plan) -> list[str]:
    """Say what a reader must know of the code behind the results."""
    texts, every = [], list(made_of(plan))
    groups: dict[tuple[str, ...], list[Making]] = defaultdict(list)
    versions: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    made = dict[int, tuple[dict[str, str], set[str]]]()  # each source of results once, and the arms that it made
    for kept in every:
        if kept.what == "checkpoint":
            continue
        if differences := kept.differences:
            groups[tuple(differences)].append(kept)
        told, here = kept.record.get("source") or {}, kept.here["source"]
        # one object for nearly all results of an arm: most were made by today's code
        files = here if told == here else told
        made.setdefault(id(files), (files, set()))[1].add(kept.run.arm)
    for files, arms in made.values():
        for name, one in files.items():
            versions[name][one] |= arms
    for listed, group in groups.items():
        texts.append(f"warning: {counted(group)} made by other code than judges now: {shortened(listed)}")
    mixed = {name: by for name, by in versions.items() if len(by) > 1}
    if mixed:
        sides = dict.fromkeys(" | ".join(", ".join(sorted(arms)) for arms in by.values()) for by in mixed.values())
        texts.append(
            f"warning: results were made by different versions of {shortened(tuple(mixed))}: {'; '.join(sides)}"
        )
    for run, record in {kept.folder: (kept.run, kept.record) for kept in every if kept.what == "training"}.values():
        for row in cast(Trained, record).get("resumed") or ():
            what = (
                f"{run.arm}, seed {run.seed}, went on at step {row['step']} though {shortened(tuple(row['changed']))}"
            )
            texts.append(f"warning: {what}: not bit for bit what an undisturbed run gives")
    if unknown := [kept for kept in every if kept.what != "checkpoint" and "source" not in kept.record]:
        texts.append(f"{counted(unknown)} made before the hash of the source was kept with them: {changed.UNTOLD}")
    return texts


def made_of(plan: Plan) -> Iterator[Making]:
    """Yield everything of the plan that exists, each folder once."""
    seen: set[str] = set()
    of_training = functools.cache(lambda arm: source.of_training(plan.study.arm(arm).settings))  # seeds change no code
    of_stage = functools.cache(lambda arm, stage: source.of_stage(plan.study.arm(arm).settings, stage))
    for run in plan.runs.values():
        if run.train_key not in seen:
            seen.add(run.train_key)
            folder = plan.store.train(run.train_key)
            here: MadeBy = {"source": of_training(run.arm)}
            if (done := plan.store.trained(run.train_key)) is not None:
                yield Making(run, "training", folder, done, here)
            else:
                for header in _headers(folder):  # the machine is asked for only here: results may be of one that is not
                    here["machine"] = machine.kind(plan.where.device)
                    yield Making(run, "checkpoint", folder, header, here)
        for stage, one in run.score_keys.items():
            if one not in seen and (result := plan.store.scored(one)) is not None:
                here = {"source": of_stage(run.arm, stage)}
                yield Making(run, stage, plan.store.score(one), result, here)
            seen.add(one)


def _headers(folder: Path) -> Iterator[Checkpoint]:
    """Yield the header of the newest checkpoint that can be read; which one is whole, training checks."""
    for path in sorted(folder.glob("checkpoint-*.json"), reverse=True):
        try:
            yield read_json(path, "step", "identity", form=Checkpoint)
            return
        except CheckFailed:
            continue


def counted(group: list[Making]) -> str:
    """Write `2 results (wide, deep) were`."""
    arms = ", ".join(dict.fromkeys(kept.run.arm for kept in group))
    n = len(group)
    return f"{n} result{'s' if n > 1 else ''} ({arms}) {'were' if n > 1 else 'was'}"


def shortened(differences: tuple[str, ...]) -> str:
    """List differences, the first few by name and the rest counted."""
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return ", ".join(differences[:SHOWN]) + more
