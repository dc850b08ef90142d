"""The command `ablab mirror`: what a dashboard has not got of a study's metrics, sent from the runs' own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from ablab.cli.options import Json, Out, Scale, StudyFile, known_mirrors
from ablab.core.files import print_json
from ablab.training.mirrors import MODULES

if TYPE_CHECKING:
    from ablab.runs.plan import Plan, Run


class Sent(TypedDict):
    """Rows that were sent, or why none was."""

    rows: int
    note: str


class SentRow(Sent):
    """Those of a run, and to which dashboard."""

    arm: str
    seed: int
    mirror: str


def mirror(
    study: StudyFile,
    mirror: Annotated[list[str], typer.Option(help=f"{' or '.join(MODULES)} (repeatable).", callback=known_mirrors)],
    scale: Scale = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Send a dashboard what it has not got of the metrics: it was slow, away or not asked while the runs were made."""
    from ablab.launch.study import Lab, aside
    from ablab.training import mirrors

    for name in mirror:
        mirrors.check(name)
    lab = Lab(study, scale, out, device=None)
    lab.study.trained_here("a mirror")
    plan = lab.plan(computes=False, recall=aside)
    rows = list[SentRow]()
    runs = {run.train_key: run for run in reversed(plan.runs.values()) if not run.settings["train"]["weights"]}
    for name in mirror:
        for run in reversed(runs.values()):
            if (plan.store.train(run.train_key) / mirrors.METRICS).is_file():
                row: SentRow = {"arm": run.arm, "seed": run.seed, "mirror": name, **_sent(plan, run, name)}
                rows.append(row)
                if not as_json:
                    said = row["note"] or f"{row['rows']:,} rows sent to {name}"
                    print(f"{run.arm}, seed {run.seed}: {said}", flush=True)
    if as_json:
        print_json({"sent": rows})
    elif not rows:
        print("no run of this study has metrics yet")


def _sent(plan: Plan, run: Run, name: str) -> Sent:
    """Send one run's rows; how many. CheckFailed where the dashboard does not take them: what it took is remembered."""
    from ablab.core.fault import CheckFailed, Fault, InUse
    from ablab.runtime.lock import locked
    from ablab.training.metrics import Mirrored
    from ablab.training.mirrors import Copy

    folder = plan.store.train(run.train_key)
    try:
        with locked(folder):
            copy = Copy(name, Mirrored((name,), run.called, plan.store.root / "tensorboard"), folder, run.settings)
            if not copy.behind():
                return {"rows": 0, "note": f"{name} has everything"}
            try:
                write, end = copy.start()
                try:
                    sent = copy.send(write)
                finally:
                    copy.keep()
                end()
            except Exception as error:
                place = f"mirror {name}: {run.arm}, seed {run.seed}"
                raise CheckFailed(
                    Fault(place, f"stopped ({error})", "run the same command to go on from there")
                ) from error
            return {"rows": sent, "note": ""}
    except InUse as held:
        return {"rows": 0, "note": f"is being trained by {held.holder}, and mirrored where that was asked"}
