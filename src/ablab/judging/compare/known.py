"""What a number of a claim may be: every mean, run, step, spread, difference and test that the runs of two sides give."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ablab.judging.compare.side import METRICS, Group, group
from ablab.judging.logs.stages import labels
from ablab.records.comparison import Comparison
from ablab.records.log import Level, LoggedRun
from ablab.verdict import unpaired
from ablab.verdict.spending import t_cdf

NEAR = 0.05  # share of a mean within which a stated number may be a reference's score
MOST = 40  # stated references that a one-sample test is held against


@dataclass(frozen=True)
class Candidate:
    """Something that was read or computed; signed: a claim may turn it; loose: of rounded numbers, so right to a digit.

    kind: level, difference, sd, step (between two stages) or test. honest: no test that counts one run as several.
    """

    what: str
    value: float
    unit: str
    where: str | None = None
    signed: bool = False
    loose: bool = False
    kind: str = "level"
    honest: bool = True


def candidates(answer: Comparison, x: Sequence[LoggedRun], y: Sequence[LoggedRun]) -> Iterator[Candidate]:
    """Yield what a number of a claim may be, the likeliest first."""
    stages = (answer["x"]["stage"], answer["y"]["stage"] if answer["y"] else None)
    sides = [(name, runs, stage) for name, runs, stage in (("x", x, stages[0]), ("y", y, stages[1])) if runs]
    for name, runs, stage in sides:
        yield from (one for metric in METRICS for one in means(name, group(runs, stage, metric)))
    for name, runs, stage in sides:
        others = [one for one in dict.fromkeys(s for run in runs for s in labels(run)) if one != stage]
        yield from (one for s in others for metric in METRICS for one in means(name, group(runs, s, metric)))
    for metric in METRICS:
        ours, theirs = group(x, stages[0], metric), group(y, stages[1], metric)
        if ours.scored and theirs.scored:
            delta = statistics.fmean(ours.by_key.values()) - statistics.fmean(theirs.by_key.values())
            yield Candidate(f"the difference of the means, in {_words(metric)}", delta, metric, signed=True, loose=True,
                            kind="difference")  # fmt: skip
    for name, runs, _ in sides:
        for run in runs:
            for label, level in run.stages.items():
                yield from levels(name, run, label, level)
    for name, runs, stage in sides:
        every = dict.fromkeys((stage, *(s for run in runs for s in labels(run))))
        yield from (one for s in every for metric in METRICS for one in _lowest(name, group(runs, s, metric)))
    for name, runs, _ in sides:
        for metric in METRICS:
            yield from _gaps(name, runs, metric)
    yield from _tests(answer)
    if x and y:
        yield from _as_independent(group(x, stages[0], "bpb"), group(y, stages[1], "bpb"))


def _as_independent(x: Group, y: Group) -> Iterator[Candidate]:
    """Compute what Welch's test gives where runs that are one count as several."""
    if len(x.values) == len(x.by_key) and len(y.values) == len(y.by_key):
        return
    welch = unpaired(x.values, y.values, matters=1.0)
    if welch.p is not None and welch.se and welch.delta is not None:
        what = "of the Welch test with every run as if it were independent"
        yield Candidate(f"t {what}", welch.delta / welch.se, "t", signed=True, kind="test")
        yield Candidate(f"p {what}", welch.p, "p", kind="test", honest=False)


def means(name: str, side: Group) -> Iterator[Candidate]:
    """Yield the mean of all runs of a side, of those that are independent and of all that count."""
    values, unit = sorted(side.by_key.values()), side.metric
    what = f"{side.stage}, in {_words(unit)}"
    if len(side.values) > len(values):
        many = f"the mean of all {len(side.values)} runs of {name}, {len(values)} of them independent, {what}"
        yield Candidate(many, statistics.fmean(side.values), unit, loose=True)
    if len(values) < 2:
        return
    yield Candidate(f"the mean of all {len(values)} runs of {name}, {what}", statistics.fmean(values), unit, loose=True)


def _lowest(name: str, side: Group) -> Iterator[Candidate]:
    """Yield means of the best runs alone, and the spreads."""
    values, unit = sorted(side.by_key.values()), side.metric
    what = f"{side.stage}, in {_words(unit)}"
    for k in range(2, len(values)):
        lowest = f"the mean of the {k} lowest of {len(values)} runs of {name}, {what}"
        yield Candidate(lowest, statistics.fmean(values[:k]), unit, loose=True)
    if len(values) > 1:
        yield Candidate(f"the sd of the runs of {name}, {what}", statistics.stdev(values), unit, kind="sd")
        biased = f"the sd of the runs of {name} with n in place of n - 1, {what}"
        yield Candidate(biased, statistics.pstdev(values), unit, kind="sd")


def _gaps(name: str, runs: Sequence[LoggedRun], metric: str) -> Iterator[Candidate]:
    """Yield what a stage changes: in the means, then in each run."""
    sides = {one: group(runs, one, metric) for one in dict.fromkeys(s for run in runs for s in labels(run))}
    for a, b in itertools.combinations([side for side in sides.values() if side.scored], 2):
        first, second = (statistics.fmean(side.by_key.values()) for side in (a, b))
        what = f"from {a.stage} to {b.stage}, in {_words(metric)}"
        yield Candidate(
            f"the step of the mean of {name} {what}", second - first, metric, signed=True, loose=True, kind="step"
        )
        before = {id(one.run): one for one in a.scored}
        for one in b.scored:
            if earlier := before.get(id(one.run)):
                where = f"{'/'.join(one.run.source.parts[-2:])}:{one.level.line}"
                step = one.value - earlier.value
                yield Candidate(
                    f"the step of one run of {name} {what}", step, metric, where, signed=True, loose=True, kind="step"
                )


def levels(name: str, run: LoggedRun, label: str, level: Level) -> Iterator[Candidate]:
    """Yield one score of one run, with the line that it stands in."""
    seed = run.seed if run.seed is not None else run.seed_in_name
    who = f"one run of {name}" + ("" if seed is None else f" (seed {seed})")
    for metric, value in (("bpb", level.bpb), ("nats", level.nats)):
        if value is not None:
            yield Candidate(
                f"{who}, {label}, in {_words(metric)}", value, metric, f"{'/'.join(run.source.parts[-2:])}:{level.line}"
            )


def _tests(answer: Comparison) -> Iterator[Candidate]:
    welch = answer["unpaired"]
    if welch and welch["p"] is not None and welch["delta"] is not None and welch["se"]:
        yield Candidate("p of the two-sided Welch test", welch["p"], "p", kind="test")
        yield Candidate(
            "p of the Welch test on the one side of x",
            welch["p"] / 2 if welch["delta"] < 0 else 1 - welch["p"] / 2,
            "p",
            kind="test",
        )
        yield Candidate("t of the Welch test", welch["delta"] / welch["se"], "t", signed=True, kind="test")
    for rule in answer["rules"]:
        if rule["p"] is not None:
            yield Candidate(f"p of {rule['rule']}", rule["p"], "p", kind="test")


def _words(metric: str) -> str:
    return METRICS[metric].replace("_", " ")


def one_sample(answer: Comparison, x: Sequence[LoggedRun], stated: Sequence[tuple[str, float]]) -> Iterator[Candidate]:
    """Yield t and p of tests of x against a score that the claim itself states, which they take as exact."""
    for metric in METRICS:
        values = list(group(x, answer["x"]["stage"], metric).by_key.values())
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        if not spread > 0:
            continue
        mean, n = statistics.fmean(values), len(values)
        near = [(one, score) for one, score in dict(stated).items() if abs(score / mean - 1) < NEAR]
        for written, score in near[:MOST]:
            t = (mean - score) / (spread / math.sqrt(n))
            what = f"of a one-sample test of x against {written}, which takes that as exact"
            yield Candidate(f"t {what}", t, "t", signed=True, kind="test")
            yield Candidate(f"p {what}", t_cdf(t, n - 1), "p", kind="test")
            yield Candidate(f"p {what}, two-sided", 2 * t_cdf(-abs(t), n - 1), "p", kind="test")
