"""What `ablab check` says before money is spent: what differs, what it costs, what the study can show."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from ablab.check import miniature, quote
from ablab.check import parameters as rules
from ablab.check.reach import Reach, reach
from ablab.judging import cost, price
from ablab.records.cost import Size
from ablab.records.run import Executed
from ablab.records.settings import SeedsSettings
from ablab.report.shareable import shareable
from ablab.runs.plan import Plan
from ablab.study import layers
from ablab.study.record import BASELINE

if TYPE_CHECKING:
    from rich.console import Console

    from ablab.check.timing import Speed


class Turned(TypedDict):
    """A setting that an arm changes, before and after."""

    path: str
    before: object
    after: object


class Fared(TypedDict):
    """A miniature: its losses by step, what was not finite, and the settings that its size does not tell apart."""

    losses: list[float]
    diverged: str
    untested: list[str]


class Costs(Size, quote.RunTime):
    """What an arm is and costs; None where nobody knows: what was not timed, steps under a budget of time."""

    name: str
    shares_weights: bool
    tokens: int | None
    steps: int | None
    epochs: float | None
    tokens_per_second: float | None
    peak_bytes: int | None


class ArmFacts(Costs):
    """An arm: what it costs, what it changes of `on`, its layers, the rules of its parameters, its miniature."""

    changes: list[Turned]
    on: str | None
    layers: str
    rules: list[rules.Parameters]
    miniature: Fared


class Facts(TypedDict):
    """Everything that `check` found."""

    study: str
    scale: str | None
    question: str
    arms: list[ArmFacts]
    seeds: SeedsSettings
    reach: Reach
    price: dict[str, quote.Bound]
    notes: list[str]
    where: Executed


def facts(plan: Plan, say: Callable[[str], None] = print) -> Facts:
    """Collect the facts of `check`, as they may be passed on. Raises CheckFailed for inert arms and illegal stages."""
    from ablab.check import timing
    from ablab.judging.judge import notes

    trained = miniature.check(plan, say)
    readable(plan)
    rows, speeds = list[ArmFacts](), timing.study(plan)
    plan = plan.look()
    for name, arm in plan.study.with_baseline.items():
        small, model = trained[name], arm.settings["model"]
        rows.append(
            {
                **_costs(plan, name, speeds),
                "changes": [{"path": c.path, "before": c.before, "after": c.after} for c in arm.changes],
                "on": arm.on if name != BASELINE else None,
                "layers": layers.spell(model["layers"], model["loops"]),
                "rules": rules.of(plan, name),
                "miniature": {"losses": small.losses, "diverged": small.fault, "untested": list(small.untested)},
            }
        )
    facts: Facts = {
        "study": plan.study.name,
        "scale": plan.study.scale,
        "question": plan.study.question,
        "arms": rows,
        "seeds": plan.study.decision["seeds"],
        "reach": reach(plan),
        "price": quote.bounds(plan),
        "notes": [*_at_this_scale(plan.study.source, plan.study.scale), *notes(plan)],
        "where": plan.where.as_json(),
    }
    return shareable(facts, folder=plan.study.path.parent, root=plan.store.root)


def readable(plan: Plan) -> None:
    """Read every file of weights trained elsewhere, as a run would.

    Raises CheckFailed for one that does not fit, and for two seeds of an arm whose files have the same content.
    """
    from pathlib import Path

    from ablab.training.adopt import taken

    wanted = {run.train_key: run for run in plan.runs.values() if run.settings["train"]["weights"]}
    for run in wanted.values():
        for file in run.settings["train"]["weights"] or ():
            taken(run.settings, plan.corpus(run), Path(file), precision=plan.where.precision)
    _own_content(plan)


def _own_content(plan: Plan) -> None:
    from pathlib import Path

    from ablab.core.fault import CheckFailed, Fault
    from ablab.core.inputs import Inputs

    known = Inputs(plan.store.data / "inputs.json")  # hashed already when the runs were planned
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    for (arm, seed), run in plan.runs.items():
        for file in run.settings["train"]["weights"] or ():
            first, other = seen.setdefault((arm, known.sha256(Path(file))), (seed, file))
            if first != seed:
                fault = f"holds the very weights of {other}: seeds {first} and {seed} of {arm} would be one run twice"
                raise CheckFailed(Fault(file, fault, "give each seed its own"))


def _costs(plan: Plan, name: str, speeds: dict[str, Speed]) -> Costs:
    """Say what an arm is and costs. `speeds`: what was timed here, by recipe of training: arms may share it."""
    run = plan.runs[name, plan.seeds[0]]
    budget, corpus = run.settings["budget"], plan.corpus(run)
    # trained elsewhere: nothing is spent here
    tokens = 0 if run.settings["train"]["weights"] else budget["tokens"]
    timed = speeds.get(price.recipes(plan, name)[0])
    return {
        "name": name,
        "shares_weights": plan.study.shares_weights(name),
        **cost.sizes(plan, name),
        "tokens": tokens,
        "steps": None if tokens is None else math.ceil(tokens / budget["batch_tokens"]),
        "epochs": None if tokens is None else tokens / max(1, corpus.n_train),
        **quote.of_run(plan, name),
        "tokens_per_second": timed["tokens_per_second"] if timed else None,
        "peak_bytes": timed["peak_bytes"] if timed else None,
    }


def show(facts: Facts, console: Console) -> None:
    """Print the facts as a table and a few sentences."""
    from rich.text import Text

    from ablab.core import grid

    grid.say(Text(f"\n{facts['question']}", "bold"), console, width=console.width)
    on_gpu = any(row["peak_bytes"] for row in facts["arms"])
    mixed = any(row["active_parameters"] != row["parameters"] for row in facts["arms"])
    titles: tuple[str, ...] = ("body", "embedding", "MFLOP/token", "cache MB", "steps", "epochs", "s/run")
    titles += ("active",) if mixed else ()
    titles += ("tokens/s", "GiB") if on_gpu else ()
    columns = [grid.Column("arm"), grid.Column("changes", least=24), *(grid.Column(one, right=True) for one in titles)]
    rows, changed = [], _changes(facts["arms"])
    for row in facts["arms"]:
        changes = changed[row["name"]]
        against = f" (on {row['on']})" if row["on"] not in (None, BASELINE) else ""
        seconds = row["seconds_per_run"]
        gpu = ("-", "-")
        if row["peak_bytes"]:
            gpu = (f"{row['tokens_per_second']:,.0f}", f"{row['peak_bytes'] / 2**30:.1f}")
        shared = " shared" if row["shares_weights"] else ""
        rows.append(
            (
                row["name"] + against,
                changes,
                f"{row['body_parameters']:,}",
                f"{row['embedding_parameters']:,}",
                f"{row['flops_per_token'] / 1e6:.2f}",
                f"{row['cache_bytes_at_seq_len'] / 1e6:.2f}",
                "by time" if row["steps"] is None else f"{row['steps']:,}",
                "by time" if row["epochs"] is None else f"{row['epochs']:.2f}",
                "unknown" if seconds is None else f"{seconds:.0f}{_beside(seconds, row['spread_per_run'])}{shared}",
                *((f"{row['active_parameters']:,}",) if mixed else ()),
                *(gpu if on_gpu else ()),
            )
        )
    grid.show(columns, rows, console, width=console.width)
    for line in _layers(facts["arms"]):
        grid.say(line, console, width=console.width, hang=2)
    rules.show(facts["arms"], console)
    for line in reach_text(facts["reach"], facts["price"]).splitlines():
        grid.say(line, console, width=console.width, hang=2)
    for note in facts["notes"]:
        grid.say(note if note.startswith("warning") else f"note: {note}", console, width=console.width, hang=2)


def reach_text(reach: Reach, price: dict[str, quote.Bound]) -> str:
    """Say what the study can show, and what that costs, in three lines."""
    lines = [f"looks at {', '.join(map(str, reach['looks']))} seeds"]
    alike: dict[tuple[str, float | None], list[str]] = {}
    for name, one in reach["arms"].items():
        alike.setdefault((one["source"], one["sd"]), []).append(name)
    for names in alike.values():
        one = reach["arms"][names[0]]
        unit = " s" if one["in_units_of_s"] else ""
        mde, tie = ("not available" if x is None else f"{x:.4g}{unit}" for x in (one["mde"], one["tie"]))
        whose = f"{', '.join(names)}: " if len(alike) > 1 else ""
        lines.append(f"{whose}smallest effect shown with power 0.8: {mde}; smallest tie: {tie} ({one['source']})")
        lines += [f"warning: {whose}{one['warning']}"] if one["warning"] else []
    if (smallest := reach["interaction"]) is not None:
        unit = " s" if reach["in_units_of_s"] else ""
        lines.append(
            f"smallest interaction of two shown with power 0.8: {smallest:.4g}{unit}, if cells are as noisy as arms"
        )
    costs = " to ".join(dict.fromkeys(_price_text(price[bound]) for bound in ("start", "at_most")))
    return "\n".join([*lines, f"price: {costs}"])


def _beside(seconds: float, spread: list[float | None]) -> str:
    """Write `, 385 to 771` beside a time in whole seconds; nothing where that says no more."""
    low, high = (f"{seconds if end is None else end:.0f}" for end in spread)
    return "" if low == high else f", {low} to {high}"


def _price_text(price: quote.Bound) -> str:
    """Write `6 runs, 602,112 tokens, about 3.4 min (3.1 min to 4.9 min) one after another (1.7 min as 2 side by side)`: of what
    is not there yet, with the fastest and the slowest that was timed."""
    from ablab.core.plain import plural
    from ablab.report.words import seconds as written

    said = [plural(price["runs"], "run"), *([f"{price['tokens']:,.0f} tokens"] if price["tokens"] else [])]
    if not price["runs"]:
        said = [plural(price["evaluations"], "evaluation")]
    if price["seconds"] is None:
        return ", ".join([*said, "time unknown"])
    beside = f" ({written(price['wall_seconds'])} as {price['jobs']} side by side)" if price["jobs"] > 1 else ""
    low, high = written(price["fastest"]), written(price["slowest"])
    spread = "" if low == high else f" ({low} to {high})"
    return ", ".join([*said, f"about {written(price['seconds'])}{spread} one after another{beside}"])


def _layers(rows: list[ArmFacts]) -> list[str]:
    """Show the layers as they were understood, once for all arms that have them."""
    alike: dict[str, list[str]] = {}
    for row in rows:
        alike.setdefault(row["layers"], []).append(row["name"])
    return [f"layers {text}" + (f" ({', '.join(names)})" if len(alike) > 1 else "") for text, names in alike.items()]


def _at_this_scale(source: str, scale: str | None) -> list[str]:
    """Say of arms and factorials that the file has at `scale` only, each in a sentence: it is new, or misspelt."""
    if scale is None:
        return []
    raw, said = tomllib.loads(source), []
    for what in ("arm", "factorial"):
        known = list(raw.get(what, {}))
        for name in raw["scale"][scale].get(what, {}):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean '{near[0]}'?" if near else ""
                said.append(f"{what} '{name}' is new at scale {scale}: the file has no [{what}.{name}]{meant}")
    return said


def _changes(rows: list[ArmFacts]) -> dict[str, str]:
    """Write every arm's changes in a line; with all settings of a lever where two arms would read alike by its name alone."""
    short = {row["name"]: "; ".join(map(change, row["changes"])) for row in rows}
    texts = list(short.values())
    return {
        row["name"]: "; ".join(change(one, whole=texts.count(short[row["name"]]) > 1) for one in row["changes"])
        for row in rows
    }


def change(one: Turned, *, whole: bool = False) -> str:
    """Write a change in a line: levers by name; with their settings where `whole`, or where the names are the same before and
    after."""
    from ablab.study.arms import brief

    before, after = _short(one["before"]), _short(one["after"])
    if whole or before == after:
        before, after = brief(_given(one["before"])), brief(_given(one["after"]))
    return f"{one['path']}: {before} -> {after}"


def _given(value: object) -> object:
    """Return a choice without the settings that nobody gave: their defaults are the lever's to say."""
    if isinstance(value, list):
        return [_given(one) for one in value]
    return {k: _given(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _short(value: object) -> str:
    """Name a choice by its name alone."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    return str(value)
