"""The command: every verb from its own file, and how a command ends.

Flags say where (device, output, jobs); the study file says what.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ablab import __version__
from ablab.cli import bridges, bundle, judge, ladder, levers, ls, mirror, noise, sample, study, trial, unbundle, workers
from ablab.cli.data import data
from ablab.core.fault import Interrupted

app = typer.Typer(
    help="Declare one lever at a time. Get a verdict you can defend.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = (  # in the order of use: a study, its verdict, what is done with both; then other people's runs, and the shelf
    study.check, study.run, workers.work, workers.status, study.report, ls.ls, ladder.ladder, sample.sample,
    mirror.mirror, bundle.bundle, bundle.audit, unbundle.unbundle, trial.trial, noise.power, noise.noise, levers.levers,
    bridges.explain, bridges.export,
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        print(f"ablab {__version__}")
        raise typer.Exit


@app.callback()
def _ablab(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Declare one lever at a time. Get a verdict you can defend."""


for verb in VERBS:
    app.command()(verb)
app.command(cls=judge.Greedy)(judge.judge)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; exit codes: 0 done, 2 usage, 3 invalid study, 4 check failed, 75 interrupted, 141 unread."""
    from ablab.core import places, streams
    from ablab.core.fault import Refused
    from ablab.core.safe_path import leave_folder
    from ablab.runtime.signals import interruptible

    leave_folder()
    streams.install()
    interruptible()
    try:
        with places.full_disk_said():
            app(prog_name="ablab")
    except Refused as refused:
        streams.tell(*(f"error: {fault}" for fault in refused.faults))
        sys.exit(refused.exit_code)
    except Interrupted as interrupted:
        streams.tell(_said(interrupted))
        sys.exit(Interrupted.exit_code)
    except streams.Unheard:
        sys.exit(streams.Unheard.exit_code)


def _said(interrupted: Interrupted) -> str:
    """Return the last words of a command that was ended before its time."""
    if interrupted.lost:
        return f"stopped at once, and lost: {interrupted.lost}. The same command makes that again"
    why = f" ({interrupted})" if str(interrupted) else ""
    return f"interrupted{why}; run the same command to go on"


if __name__ == "__main__":
    main()
