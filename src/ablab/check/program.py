"""What `ablab check` says of a study over a command before anything is run: its trees, patches, words, reach and price."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeGuard

from ablab.check import quote
from ablab.check.facts import Facts, Turned, change, reach_text
from ablab.check.reach import Reach, reach
from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.judging import judge
from ablab.judging import program as running
from ablab.records.settings import SeedsSettings
from ablab.report.shareable import shareable
from ablab.runs import tree
from ablab.runs.plan import Plan, Run
from ablab.runtime import capacity
from ablab.study import runner
from ablab.study.record import BASELINE

if TYPE_CHECKING:
    from rich.console import Console


class Command(TypedDict):
    """An arm: what it changes of `on`, what is run for it, and on what; seconds_per_run: None before one has ended."""

    name: str
    on: str | None
    changes: list[Turned]
    argv: list[str]
    env: dict[str, str]
    commit: str
    tree: str
    changed: bool
    reads: list[list[str]]
    seconds_per_run: float | None


class CommandFacts(TypedDict):
    """Everything that `check` found of a study over a command."""

    study: str
    scale: str | None
    question: str
    metric: str
    runner: Mapping[str, object]
    arms: list[Command]
    seeds: SeedsSettings
    reach: Reach
    price: dict[str, quote.Bound]
    notes: list[str]


def facts(plan: Plan) -> CommandFacts:
    """Find what `check` says. CheckFailed where a tree cannot be made, a patch does not apply, a program is missing."""
    ready(plan)
    asked = plan.study.runner
    assert asked is not None
    rows = list[Command]()
    for name, arm in plan.study.with_baseline.items():
        run = plan.runs[name, plan.seeds[0]]
        own, stands = run.settings["runner"], run.program
        assert stands is not None
        rows.append(
            {
                "name": name,
                "on": arm.on if name != BASELINE else None,
                "changes": [{"path": c.path, "before": c.before, "after": c.after} for c in arm.changes],
                "argv": runner.argv(own),
                "env": runner.variables(own),
                "commit": stands.commit,
                "tree": stands.tree,
                "changed": bool(stands.diff),
                "reads": [list(one) for one in stands.reads],
                "seconds_per_run": quote.of_run(plan, name)["train_seconds"],
            }
        )
    facts: CommandFacts = {
        "study": plan.study.name,
        "scale": plan.study.scale,
        "question": plan.study.question,
        "metric": plan.study.decision["metric"],
        "runner": running.baseline(asked),
        "arms": rows,
        "seeds": plan.study.decision["seeds"],
        "reach": reach(plan),
        "price": quote.bounds(plan),
        "notes": [*judge.notes(plan), *running.notes(plan, asked, None)],
    }
    return shareable(facts, folder=plan.study.path.parent, root=plan.store.root)


def of_program(facts: Facts | CommandFacts) -> TypeGuard[CommandFacts]:
    """Tell what was found of a study over a command from what is found of one that ablab trains."""
    return "runner" in facts


def ready(plan: Plan) -> None:
    """Make the tree of every arm once and look for its program; every fault of all of them at once. Nothing is run."""
    faults = list[Fault]()
    asked = plan.study.runner
    if asked is not None and asked["gpus"] > (here := len(capacity.gpus())):
        cure = "lower it, or run where there are as many"
        faults.append(Fault("runner.gpus", f"asks for {asked['gpus']}, and this machine has {here}", cure))
    seen, keys = set[object](), dict[str, str]()
    for name in plan.study.with_baseline:
        run = plan.runs[name, plan.seeds[0]]
        if (twin := keys.setdefault(run.train_key, name)) != name:
            fault = f"is run as {twin} is: the same words on the same tree with the same files"
            faults.append(Fault(name, fault, "change something that reaches the program, or remove the arm"))
        what = (run.program, runner.argv(run.settings["runner"])[0], run.settings["runner"]["env"].get("PATH"))
        if what in seen:
            continue
        seen.add(what)
        try:
            _ready(plan, run)
        except Refused as refused:
            faults += [Fault(f"{name}: {one.place}", one.fault, one.cure) for one in refused.faults]
    if faults:
        raise CheckFailed(faults)


def _ready(plan: Plan, run: Run) -> None:
    assert run.program is not None
    with tempfile.TemporaryDirectory(prefix="ablab.") as own:
        here = tree.make(run.program, Path(own) / "tree", plan.store)
        own_env = runner.variables(run.settings["runner"])
        executable(runner.argv(run.settings["runner"])[0], here, {**os.environ, **own_env})


def executable(name: str, here: Path, environment: Mapping[str, str]) -> None:
    """Refuse a name by which no program can be started from the folder `here`."""
    path = os.access(here / name, os.X_OK) if "/" in name else shutil.which(name, path=environment.get("PATH"))
    if not path:
        where = f"is no program in {here.name}/" if "/" in name else "is no program on PATH"
        raise CheckFailed(Fault("runner.command", f"{name!r} {where}", "install it, or give its whole path"))


def show(facts: CommandFacts, console: Console) -> None:
    """Print the facts as a few paragraphs."""
    from rich.text import Text

    from ablab.core import grid

    def say(text: str | Text) -> None:
        grid.say(text, console, width=console.width, hang=2)

    say(Text(f"\n{facts['question']}", "bold"))
    rows = [
        (
            row["name"] + (f" (on {row['on']})" if row["on"] not in (None, BASELINE) else ""),
            "; ".join(map(change, row["changes"])),
            row["commit"][:12] + (", changed since" if row["changed"] else ""),
            f"{len(row['reads']):,}",
            "unknown" if row["seconds_per_run"] is None else f"{row['seconds_per_run']:.0f}",
        )
        for row in facts["arms"]
    ]
    titles = [grid.Column("arm"), grid.Column("changes", least=24), grid.Column("commit")]
    grid.show(
        [*titles, *(grid.Column(one, right=True) for one in ("reads", "s/run"))], rows, console, width=console.width
    )
    base = facts["arms"][0]
    say(f"runs: {' '.join([*(f'{k}={shlex.quote(v)}' for k, v in base['env'].items()), shlex.join(base['argv'])])}")
    for line in reach_text(facts["reach"], facts["price"]).splitlines():
        say(line)
    for note in facts["notes"]:
        say(note if note.startswith("warning") else f"note: {note}")
