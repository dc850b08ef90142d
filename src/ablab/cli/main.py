"""The command: check, run, report, levers; sample, explain and export join from their own files.

Flags say where (device, output, jobs); the study file says what.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablab.cli import bridges as commands
from ablab.cli import bundle as bundle_commands
from ablab.cli.data import data
from ablab.cli.mirror import mirror as send_to_mirror
from ablab.cli.sample import sample
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.core.fault import Interrupted
    from ablab.runs.plan import Plan

app = typer.Typer(
    help="Declare one lever at a time. Get a verdict you can defend.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")]
Scale = Annotated[str | None, typer.Option(help="A named scale of the study, [scale.NAME].")]
Out = Annotated[Path, typer.Option(help="Where corpora, runs and reports lie.")]
Device = Annotated[str, typer.Option(help="Where to train: cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="bf16 or fp32; by default bf16 where the hardware multiplies it.")]
Changed = Annotated[
    bool,
    typer.Option(
        "--allow-changed-code",
        help="Take results of other code as they are, go on with what other code, torch or machine began; the page says so.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
app.command()(sample)
app.command("mirror")(send_to_mirror)
app.command()(commands.explain)
app.command()(commands.export)
app.command()(bundle_commands.bundle)
app.command()(bundle_commands.audit)
app.add_typer(data, name="data")


@app.command()
def check(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """What each arm changes and costs, what the study can show, and a miniature of every arm through every stage."""
    from ablab.check import facts as checking

    say = _say(quiet=as_json)
    plan = _plan(study, scale, out, device, precision=precision, say=say)
    facts = checking.facts(plan, say=say)
    if as_json:
        print_json(facts)
    else:
        checking.show(facts, _console())


@app.command()
def run(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    precision: Precision = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side; they divide the threads.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this long, resumable: 90s, 30m, 8h.")] = None,
    mirror: Annotated[list[str] | None, typer.Option(help="Mirror metrics: tensorboard, wandb (repeatable).")] = None,
    allow_changed_code: Changed = False,
    try_again: Annotated[bool, typer.Option("--try-again", help="Also runs that were out of memory.")] = False,
    as_json: Json = False,
) -> None:
    """Do what is missing (tokens, training, stages), then judge and write the report. Resumes by itself."""
    from ablab import report
    from ablab.check import miniature
    from ablab.core.streams import unfinished
    from ablab.judging import history, judge, shelf, sources
    from ablab.launch import board, local
    from ablab.runs.jobs import default_jobs
    from ablab.runtime.lock import locked

    deadline = time.monotonic() + seconds(until) if until else None
    _check_mirrors(mirror or [])
    say = _say(quiet=as_json)
    with unfinished():
        plan = _plan(study, scale, out, device, precision=precision, say=say)
    shelf.one_of_its_name(plan.directory)
    with locked(plan.directory) as held, unfinished():
        _say_what_lies_there(plan, say)
        if not allow_changed_code:
            sources.guard(plan)
        history.begin(plan)  # the decision is on record before any result
        _warn(plan, say)
        beyond = list[str]()
        if not _checked(plan):
            miniature.check(plan, say, beyond)
            if not beyond:
                _mark_checked(plan)
        board.begin(plan, say, try_again=try_again, beyond=beyond)
        with _progress(plan, quiet=as_json) as progress:
            local.execute(
                plan,
                jobs=jobs or default_jobs(plan),
                mirrors=tuple(mirror or ()),
                allow_changed=allow_changed_code,
                until=deadline,
                progress=progress,
                after_each=lambda: _report_quietly(plan),
                here=held.check,
            )
        held.check()
        answer = judge.conclude(plan)
        report.write(answer, plan.directory)
    _answer(plan.directory, answer, as_json)
    _fail_if_given_up(plan)


@app.command()
def report(
    study: StudyFile,
    scale: Scale = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    page: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the page there and nothing to --out.")] = None,
    as_json: Json = False,
) -> None:
    """Judge what exists now and write the report; works at any moment, also while `run` is going on."""
    from ablab import report as reporting
    from ablab.core.fault import Fault, Halted
    from ablab.judging import judge, shelf

    plan = _plan(study, scale, out, device, computes=False, say=_quiet, recall=_aside)
    if page is not None:
        page = shelf.free(plan, page)
    else:
        shelf.guard(plan)
    try:
        answer = judge.conclude(plan, page)
        reporting.write(answer, page or plan.directory)
    except Halted as error:
        if page is not None:
            raise
        cure = "or have the page written elsewhere and nothing here: --page DIR"
        raise Halted(Fault(one.place, one.fault, f"{one.cure}, {cure}") for one in error.faults) from error
    _answer(page or plan.directory, answer, as_json)


@app.command()
def levers(
    slot: Annotated[str | None, typer.Argument(metavar="[SLOT]", help="One slot, e.g. position.")] = None,
    lever: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One lever of it: what each setting means.")
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(
            "--test", metavar="FILE", help="Run what holds for every lever of its slot on those of this file."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Every lever by slot, with its settings and defaults; of one lever what each setting means."""
    from ablab.cli import levers as listing

    if test:
        raise typer.Exit(listing.tested(test, _console()))
    table = listing.table(slot, lever)
    if as_json:
        print_json(table)
    else:
        listing.show(table, _console(), whole=lever is not None)


def main() -> None:
    """Entry point; exit codes: 0 done, 2 usage, 3 invalid study, 4 gate failed, 75 interrupted, 141 unread."""
    from ablab.core import places, streams
    from ablab.core.fault import Interrupted, Refused
    from ablab.core.safe_path import leave_folder
    from ablab.runtime.signals import interruptible

    leave_folder()
    streams.install()
    interruptible()
    try:
        app()
    except Refused as refused:
        streams.tell(*(f"error: {fault}" for fault in refused.faults))
        sys.exit(refused.exit_code)
    except Interrupted as interrupted:
        streams.tell(_said(interrupted))
        sys.exit(Interrupted.exit_code)
    except streams.Unheard:
        sys.exit(streams.Unheard.exit_code)
    except OSError as error:  # scratch of this program's or of a library's, which nobody above could name better
        if error.errno not in places.FULL:
            raise
        streams.tell(f"error: {places.unwritable(Path(error.filename or tempfile.gettempdir()), error)}")
        sys.exit(Refused.exit_code)


def _said(interrupted: Interrupted) -> str:
    """The last words of a command that was ended before its time."""
    if interrupted.lost:
        return f"stopped at once, and lost: {interrupted.lost}. The same command makes that again"
    why = f" ({interrupted})" if str(interrupted) else ""
    return f"interrupted{why}; run the same command to go on"


def seconds(text: str) -> float:
    """`90s`, `30m`, `8h`, `2d` in seconds; typer.BadParameter otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match:
        raise typer.BadParameter(f"'{text}' is no duration; write 90s, 30m or 8h", param_hint="--until")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _check_mirrors(names: list[str]) -> None:
    from ablab.training import mirrors

    for name in names:
        if name not in mirrors.MODULES:
            raise typer.BadParameter(
                f"no mirror is called '{name}'; known: {', '.join(mirrors.MODULES)}", param_hint="--mirror"
            )


def _check_device(device: str) -> None:
    """typer.BadParameter where runs are made on no such device, GateFailed where this machine has none."""
    if device == "cpu":
        return
    if device.split(":")[0] != "cuda":
        raise typer.BadParameter(f"'{device}' is no device; known: cpu, cuda", param_hint="--device")
    from ablab.runtime import machine

    machine.require(device)


def _check_precision(asked: str) -> None:
    from ablab.runtime import machine

    try:
        machine.precision("cpu", asked)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--precision") from None


def _fail_if_given_up(plan: Plan) -> None:
    from ablab.core.fault import Fault, GateFailed
    from ablab.runs import given_up

    if rows := given_up.failures(plan):
        whole = f"the whole fault stands in {plan.directory / 'ledger.jsonl'}"
        again = {given_up.OUT_OF_MEMORY: "run again with --try-again to try it again"}
        raise GateFailed(
            Fault(
                f"{row['arm']}, seed {row['seed']}",
                f"given up: {row['fault'].strip().splitlines()[-1]}",
                f"{whole}; {again.get(row.get('kind', ''), 'run again to try again')}",
            )
            for row in rows
        )


def _aside(text: str) -> None:
    """What must be said beside an answer."""
    print(text, file=sys.stderr)


def _plan(path: Path, scale: str | None, out: Path, device: str, *, precision: str | None = None, **how: Any) -> Plan:
    from ablab import study as studies
    from ablab.judging.collect import measurable
    from ablab.runs import plan as planning
    from ablab.runs.store import Store

    _check_device(device)
    if precision is not None:
        _check_precision(precision)
    plan = planning.make(studies.load(path, scale), Store(out), device=device, precision=precision, **how)
    measurable(plan)
    return plan


def _quiet(_: str) -> None:
    pass


def _say(*, quiet: bool) -> Callable[[str], None]:
    """What speaks while a command works: paragraphs as wide as the terminal, or nothing."""
    if quiet:
        return _quiet
    from ablab.core import grid

    console = _console()
    return lambda text: grid.say(text, console, width=console.width, hang=2)


def _console() -> Any:
    from ablab.core import grid

    return grid.console()


def _say_what_lies_there(plan: Plan, say: Callable[[str], None]) -> None:
    """Another version's page under this name goes to `earlier/` when this one has something to show: said beforehand."""
    from ablab.judging import shelf

    other = shelf.lying(plan.directory)
    if other is not None and other.get("version") != shelf.version(plan):
        at = plan.directory / "earlier"
        say(f"note: {plan.directory} holds the page of another version of this study: {shelf.since(plan, other)}")
        say(f"note: with the first result of this one, that page moves to {at}")


def _checked(plan: Plan) -> bool:
    from ablab.core.fault import GateFailed
    from ablab.core.files import read_json
    from ablab.judging import sources

    try:
        return bool(
            read_json(plan.directory / "checked.json") == {"study": plan.study.key, "source": sources.key(plan)}
        )
    except GateFailed:
        return False  # a note of this program's to itself: without it the check is made again


def _mark_checked(plan: Plan) -> None:
    from ablab.core.files import write_json
    from ablab.judging import sources

    write_json(plan.directory / "checked.json", {"study": plan.study.key, "source": sources.key(plan)})


def _warn(plan: Plan, say: Callable[[str], None]) -> None:
    from ablab.judging import judge

    for note in judge.notes(plan):
        say(note if note.startswith("warning") else f"note: {note}")


def _report_quietly(plan: Plan) -> None:
    from ablab import report as reporting
    from ablab.judging import judge

    reporting.write(judge.conclude(plan), plan.directory)


def _answer(folder: Path, answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    from ablab.report.terminal import terminal

    terminal(answer, _console())
    print(f"\nreport: {folder / 'report.html'}")


@contextmanager
def _progress(plan: Plan, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A live line per busy run on a terminal; plain lines otherwise; nothing for --json."""
    from ablab.cli import progress

    with progress.show(plan, quiet=quiet) as take:
        yield take


if __name__ == "__main__":
    main()
