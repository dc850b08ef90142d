"""The answers of `ablab judge`, in their order: comparable, independent, the word, a rule, by seed, what would settle it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, cast

from ablab.core.fault import Fault, Refused
from ablab.judging.compare import between, faults, settle
from ablab.judging.compare.levers import levers
from ablab.judging.compare.side import METRICS, Group, group, metric_of
from ablab.records.comparison import Comparison, Flag, Levers, Paired, Ruled, Settle, Welch
from ablab.records.log import LoggedRun
from ablab.verdict import Unpaired, by_seed, record, unpaired

MATTERS = {"bpb": 0.001, "nats": 0.0025}  # of the same size in models whose tokens have 3.6 bytes
SHARE = 0.001  # of the reference's mean: what matters in a metric whose unit nobody says
GOLF = ("golf-strict", "golf-frontier")
TARGETED = ("speedrun", "track3")


class UnknownPreset(Refused):
    """No rule has this name, or its target is no number: a usage error."""

    exit_code = 2


def compare(
    x: Sequence[LoggedRun],
    y: Sequence[LoggedRun] | None,
    *,
    stage: str | None = None,
    metric: str | None = None,
    presets: Sequence[str] = (),
    matters: float | None = None,
    m: int = 1,
    stages: Sequence[str | None] = (None, None),
) -> Comparison:
    """Judge the runs x against the runs y, or x alone (y None): faults, a rule with a target, no word.

    stage: a word of `ablab.judging.logs.stages`, or a label as printed. metric: bpb, nats, or value for a number without
    a unit; lower is better. presets: golf-strict, golf-frontier, speedrun[:TARGET], track3[:TARGET]. m: comparisons that
    share the error. stages: of x and of y alone, before `stage`. Raises UnknownPreset.
    """
    asked = [_preset(one) for one in presets]
    unit = metric or metric_of([x] if y is None else [x, y])
    ours, theirs = group(x, stages[0] or stage, unit), None if y is None else group(y, stages[1] or stage, unit)
    flags = [*faults.of_side(ours, "x"), *(faults.of_side(theirs, "y") if theirs else ())]
    differing: Levers | None = None
    if theirs is not None:
        differing = levers(_counted(ours), _counted(theirs))
        flags = [*between.of_both(ours, theirs, differing), *flags]
    size = matters if matters is not None else _matters(unit, theirs or ours)
    welch = _welch(ours, theirs, size, m) if theirs is not None else None
    delta = welch["delta"] if welch else None
    settled = settle.settle(ours, theirs, delta) if theirs is not None else None
    word = _word(ours, theirs, flags, differing, welch)
    return {
        "word": word,
        "sentence": _sentence(word, ours, theirs, welch, flags, differing, settled),
        "metric": METRICS.get(unit, unit),
        "matters": size,
        "x": ours.shown("x"),
        "y": theirs.shown("y") if theirs else None,
        "flags": flags,
        "levers": differing,
        "unpaired": welch,
        "rules": [_survived(_ruled(rule, target, x, ours, theirs, stages[0] or stage), ours) for rule, target in asked],
        "by_seed": _by_seed(ours, theirs) if theirs else None,
        "bank": settle.beside(ours, theirs, delta) if theirs else None,
        "settle": settled,
        "claims": [],
    }


def _counted(group: Group) -> list[LoggedRun]:
    """List the runs whose settings a side has: those that count, of a side without scores all."""
    return [one.run for one in group.scored] or group.runs


def _preset(text: str) -> tuple[str, float | None]:
    """Read `speedrun:2.92` as its rule and its target."""
    rule, colon, target = text.partition(":")
    if rule not in (*GOLF, *TARGETED):
        known = ", ".join((*GOLF, *(f"{one}:TARGET" for one in TARGETED)))
        raise UnknownPreset(Fault("--preset", f"no rule is called '{rule}'", f"known: {known}"))
    if not colon:
        return rule, None
    if rule in GOLF:
        raise UnknownPreset(Fault(f"--preset {text}", f"{rule} compares two sides and has no target", f"write {rule}"))
    try:
        value = float(target)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UnknownPreset(Fault(f"--preset {text}", f"'{target}' is no loss in nats", f"write {rule}:3.28"))
    return rule, value


def _matters(metric: str, reference: Group) -> float:
    """Return the margin where none is given: a fixed one of a unit, else a thousandth of the reference's mean."""
    if metric in MATTERS:
        return MATTERS[metric]
    mean = statistics.fmean(reference.by_key.values()) if reference.scored else 0.0
    return abs(mean) * SHARE if mean else SHARE


def _welch(x: Group, y: Group, matters: float, m: int) -> Welch:
    result: Unpaired = unpaired(x.values, y.values, matters=matters, m=m, seeds_x=x.keys, seeds_y=y.keys)
    return cast(Welch, result.as_json())  # the same fields: a test holds them together


def _by_seed(x: Group, y: Group) -> Paired:
    """Pair runs of one seed number; runs without any have none."""
    ours, theirs = ({key: value for key, value in g.by_key.items() if key in g.seeds} for g in (x, y))
    plain = asdict(by_seed(ours, theirs))
    return cast(Paired, plain | {"seeds": [*plain["seeds"]], "differences": [*plain["differences"]]})


def _word(x: Group, y: Group | None, flags: list[Flag], between: Levers | None, welch: Welch | None) -> str:
    if not x.runs or (y is not None and not y.runs):
        return "no logs"
    if any(flag["grade"] == "stops" for flag in flags):
        return "invalid"
    if any(flag["kind"] == "same_settings" for flag in flags):
        return "same settings"
    if welch is None or y is None:
        return "nothing to compare with"
    if _unstable(x, y):
        return "unstable"
    if welch["word"] == "better" and _once(x, y):
        return "inconclusive"
    return welch["word"]


def _unstable(x: Group, y: Group) -> bool:
    """Tell whether x diverges, and more often than y: at two runs or more, as in a verdict (`ablab.verdict.fitness`)."""
    (mine, ours), (other, theirs) = x.divergences, y.divergences
    return mine >= 2 and mine * theirs > other * ours


def _once(x: Group, y: Group) -> bool:
    """Tell whether x alone diverged, in one run: the runs that are left are those it survived."""
    return x.divergences[0] == 1 and not y.divergences[0]


def _ruled(
    rule: str, target: float | None, runs: Sequence[LoggedRun], x: Group, y: Group | None, stage: str | None
) -> Ruled:
    """Apply a public rule; where it cannot be asked, a record of nothing with the reason as its note."""
    empty: Ruled = {"rule": rule, "record": False, "nx": len(x.by_key), "ny": None, "margin": None, "a": None, "t": None,
                    "df": None, "p": None, "value": None, "target": target, "notes": []}  # fmt: skip
    name = cast(Literal["golf-strict", "golf-frontier", "speedrun", "track3"], rule)
    if rule in TARGETED:
        nats = x if x.metric == "nats" else group(runs, stage, "nats")
        if not nats.scored:
            return empty | {"notes": ["the rule holds nats per token, and no run has them"]}
        return cast(Ruled, record(name, nats.values, seeds_x=nats.keys, target=target).as_json())
    if y is None or not y.scored or not x.scored:
        return empty | {"notes": ["the rule compares two sides: give the reference's runs with --against"]}
    unit = {"bpb": "bits_per_byte", "nats": "nats_per_token"}.get(x.metric)
    if unit is None or (unit == "bits_per_byte" and rule == "golf-strict" and y.export is None):
        return empty | {"notes": ["the rule's margin is in nats per token, and the reference prints no such score"]}
    per_nat = None if y.export is None else y.export.ratio
    metric = cast(Literal["nats_per_token", "bits_per_byte"], unit)
    result = record(name, x.values, y.values, metric=metric, seeds_x=x.keys, seeds_y=y.keys, bits_per_nat=per_nat)
    return cast(Ruled, result.as_json())


def _survived(ruled: Ruled, x: Group) -> Ruled:
    """Refuse a record of runs of which some diverged: the rule holds the mean of all that were made."""
    if not x.lost:
        return ruled
    many, total = x.divergences
    return {**ruled, "record": False, "notes": [*ruled["notes"], f"{many} of {total} runs diverged: no record"]}


def _sentence(
    word: str,
    x: Group,
    y: Group | None,
    welch: Welch | None,
    flags: list[Flag],
    between: Levers | None,
    settled: Settle | None,
) -> str:
    """Write one sentence for whoever reads only that."""
    if word == "no logs":
        return "nothing to judge: no runs were read" + (" of one side" if x.runs or (y and y.runs) else "")
    if word == "invalid":
        return "not comparable: " + "; ".join(flag["said"] for flag in flags if flag["grade"] == "stops")
    if y is None or welch is None:
        values = x.by_key.values()
        runs = "1 independent run" if len(values) == 1 else f"{len(values)} independent runs"
        return runs + (f", mean {statistics.fmean(values):.5f}" if values else ", no score")
    unit = {"bpb": " bits per byte", "nats": " nats per token"}.get(x.metric, "")
    seen = "no score on both sides" if welch["delta"] is None else f"{welch['delta']:+.5f}{unit}"
    if word == "same settings":
        where = f"{between['said']}" if between else ""
        known = between is not None and between["code"] == "equal"
        what = "and no claim about a lever" if known else "or of a lever in the code, which no setting names"
        return f"same settings: {where}; {seen} is the difference of runs of one thing, {what}"
    interval = "" if welch["low"] is None else f", 95% {welch['low']:+.5f} to {welch['high']:+.5f}, p {welch['p']:.2g}"
    apart = f", {between['count']} settings apart" if between and (between["count"] or 0) > 1 else ""
    counts = f"{welch['nx']} against {welch['ny']} runs{apart}"
    near = _near(word, welch, unit)
    if x.lost or y.lost:
        (mine, ours), (other, theirs) = x.divergences, y.divergences
        counts += f"; {mine} of {ours} and {other} of {theirs} runs diverged and are in no mean"
    if word == "inconclusive" and welch["word"] == "better":
        counts += ", which takes the word better away"
    more = f"; {settled['said']}" if word == "inconclusive" and settled and settled["n"] is not None else ""
    return f"{word}{near}: {seen}{interval} ({counts}){more}"


def _near(word: str, welch: Welch, unit: str) -> str:
    """Return the bound next to zero: the least that is shown."""
    low, high = welch["low"], welch["high"]
    if low is None or high is None or word not in ("better", "worse"):
        return ""
    return f", by at least {min(abs(low), abs(high)):.5f}{unit}"
