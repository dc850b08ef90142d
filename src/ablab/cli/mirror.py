"""The command `ablab mirror`: what a dashboard has not got of a study's metrics, sent from the runs' own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablab.cli.sample import began_here
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.runs.plan import Plan, Run


def mirror(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")],
    mirror: Annotated[list[str], typer.Option(help="tensorboard or wandb (repeatable).")],
    scale: Annotated[str | None, typer.Option(help="A named scale of the study, [scale.NAME].")] = None,
    out: Annotated[Path, typer.Option(help="Where corpora, runs and reports lie.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Send a dashboard what it has not got of the metrics: it was slow, away or not asked while the runs were made."""
    from ablab.training import mirrors

    for name in mirror:
        if name not in mirrors.MODULES:
            raise typer.BadParameter(
                f"no mirror is called '{name}'; known: {', '.join(mirrors.MODULES)}", param_hint="--mirror"
            )
        mirrors.check(name)
    plan, rows = began_here(study, scale, out), list[dict[str, Any]]()
    runs = {run.train_key: run for run in reversed(plan.runs.values()) if not run.settings["train"]["weights"]}
    for name in mirror:
        for run in reversed(runs.values()):
            if (plan.store.train(run.train_key) / mirrors.METRICS).is_file():
                row = {"arm": run.arm, "seed": run.seed, "mirror": name, **_sent(plan, run, name)}
                rows.append(row)
                if not as_json:
                    said = row["note"] or f"{row['rows']:,} rows sent to {name}"
                    print(f"{run.arm}, seed {run.seed}: {said}", flush=True)
    if as_json:
        print_json({"sent": rows})
    elif not rows:
        print("no run of this study has metrics yet")


def _sent(plan: Plan, run: Run, name: str) -> dict[str, Any]:
    """Send one run's rows; how many. GateFailed where the dashboard does not take them: what it took is remembered."""
    from ablab.core.fault import Fault, GateFailed, InUse
    from ablab.runtime.lock import locked
    from ablab.training.mirrors import Copy, Mirrored

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
                raise GateFailed(
                    Fault(place, f"stopped ({error})", "run the same command to go on from there")
                ) from error
            return {"rows": sent, "note": ""}
    except InUse as held:
        return {"rows": 0, "note": f"is being trained by {held.holder}, and mirrored where that was asked"}
