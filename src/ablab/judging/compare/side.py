"""One side of a comparison: which of the runs that were read count, with which score, and as which seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ablab.judging.compare.exports import Export, export, implied_bytes
from ablab.judging.logs.stages import labels
from ablab.records.comparison import Seen, Sided
from ablab.records.log import Level, LoggedRun
from ablab.verdict.spending import t_isf

# From the end of the procedure. `adaptive` is none that is taken unasked: its state has seen the text that it is scored on.
ORDER = ("ttt", "sliding", "quant", "pre_quant", "val")
METRICS = {"bpb": "bits_per_byte", "nats": "nats_per_token"}
SURE = (
    6  # digits behind the point from which equal scores are one run: 4e-4 of pairs with an sd of .0007 are so by chance
)
HUGE = 1e100  # no score; and beyond it a square is infinite


@dataclass(frozen=True)
class Scored:
    """A run that counts, with the label and the level of its score, and its value in the metric."""

    run: LoggedRun
    label: str
    level: Level
    value: float

    @property
    def seed(self) -> int | None:
        """The log's own; where it tells none, that of the file's name."""
        return self.run.seed if self.run.seed is not None else self.run.seed_in_name


@dataclass(frozen=True)
class Group:
    """A side: all runs, those that count, and of these what is one for all.

    lost: runs whose last score at the stage, or before it, is nan or infinite: they diverged, and have none.
    attempts: earlier runs of the same files; asked: the stage is one that somebody named.
    """

    runs: list[LoggedRun]
    scored: list[Scored]
    stage: str | None
    metric: str
    export: Export | None
    attempts: list[LoggedRun] = field(default_factory=list)
    asked: bool = False
    lost: list[LoggedRun] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [one.value for one in self.scored]

    @property
    def keys(self) -> list[int]:
        """A number for each run that counts, equal where they are one run: of one seed, or with one score to many digits.

        It is the least seed of these runs; without any a number below zero.
        """
        above = [*range(len(self.scored))]  # a run that is the same, earlier in the list; itself where there is none

        def root(i: int) -> int:
            return i if above[i] == i else root(above[i])

        first: dict[object, int] = {}
        for i, one in enumerate(self.scored):
            seed = [] if one.seed is None else [one.seed]
            score = [(one.value, one.level.digits)] if one.level.digits >= SURE else []
            for mark in (*seed, *score):
                a, b = root(i), root(first.setdefault(mark, i))
                above[max(a, b)] = min(a, b)
        least: dict[int, int] = {}
        for i, one in enumerate(self.scored):
            if one.seed is not None:
                least[root(i)] = min(one.seed, least.get(root(i), one.seed))
        return [least.get(root(i), -1 - root(i)) for i in range(len(self.scored))]

    @property
    def by_key(self) -> dict[int, float]:
        """Mean score of each independent run."""
        by_seed: dict[int, list[float]] = {}
        for key, value in zip(self.keys, self.values, strict=True):
            by_seed.setdefault(key, []).append(value)
        return {key: statistics.fmean(values) for key, values in by_seed.items()}

    @property
    def divergences(self) -> tuple[int, int]:
        """Return (independent runs that diverged, these and those that have a score)."""
        own = [run.seed if run.seed is not None else run.seed_in_name for run in self.lost]
        many = len({id(run) if seed is None else f"seed {seed}" for seed, run in zip(own, self.lost, strict=True)})
        return many, many + len(self.by_key)

    @property
    def nowhere(self) -> list[str]:
        """List the stages that there are, where the one asked for is none of any run; else nothing."""
        stages = list(dict.fromkeys(one for run in self.runs for one in (*labels(run), *run.stages)))
        return stages if self.asked and self.stage not in stages and not self.lost else []

    @property
    def seeds(self) -> set[int]:
        return {one.seed for one in self.scored if one.seed is not None}

    @property
    def implied_bytes(self) -> float | None:
        """Of the validation set: the median over runs."""
        sizes = [size for one in self.scored if (size := implied_bytes(one.run, self.export)) is not None]
        return statistics.median(sizes) if sizes else None

    def shown(self, name: str) -> Sided:
        """Show the side as the answer has it, under a name."""
        means = list(self.by_key.values())
        half = _half(means)
        taken = {id(one.run): one for one in self.scored}
        return {
            "name": name,
            "n": len(means),
            "mean": statistics.fmean(means) if means else None,
            "sd": statistics.stdev(means) if len(means) > 1 else None,
            "low": None if half is None else statistics.fmean(means) - half,
            "high": None if half is None else statistics.fmean(means) + half,
            "stage": self.stage,
            "export": self.export.name if self.export else None,
            "tokens_per_byte": self.export.ratio if self.export else None,
            "implied_bytes": self.implied_bytes,
            "runs": [_seen(run, taken.get(id(run)), self) for run in self.runs],
        }


def _half(means: Sequence[float]) -> float | None:
    """Return half the width of the mean's own 95% interval; None without two runs."""
    n = len(means)
    return t_isf(0.025, n - 1) * statistics.stdev(means) / math.sqrt(n) if n > 1 else None


def _seen(run: LoggedRun, one: Scored | None, group: Group) -> Seen:
    label = one.label if one else labels(run).get(group.stage or "")
    level = one.level if one else run.stages[label] if label else None
    return {
        "source": str(run.source),
        "line": level.line if level else run.line,
        "label": label,
        "value": number(level, group.metric) if level else None,
        "seed": run.seed if run.seed is not None else run.seed_in_name,
        "steps": run.steps,
        "counted": one is not None,
    }


def number(level: Level, metric: str) -> float | None:
    """Return a level in a metric: bpb, nats, or (any other word) the number whose unit the file does not say."""
    value = level.bpb if metric == "bpb" else level.nats if metric == "nats" else level.value
    return value if value is not None and abs(value) < HUGE else None  # nan is not below


def metric_of(sides: Iterable[Sequence[LoggedRun]]) -> str:
    """Return bpb where every side has it, else nats, else the unnamed number; of sides that share none, bpb."""
    printed = [{m for run in runs for level in run.stages.values() for m in ("bpb", "nats", "value")
                if number(level, m) is not None} for runs in sides if runs]  # fmt: skip
    printed = [one for one in printed if one]  # a side that diverged whole prints none
    return next((m for m in ("bpb", "nats", "value") if printed and all(m in side for side in printed)), "bpb")


def group(runs: Sequence[LoggedRun], stage: str | None, metric: str) -> Group:
    """Group the runs of a side that count: of a file's attempts at a run the last complete one, at the stage asked for.

    Without a stage it is the one nearest the end of the procedure that most runs have, whatever the other side has.
    """
    chosen = stage or _stage(runs, metric)
    kept, attempts = _attempts(runs, chosen, metric)
    scored = [one for run in kept if (one := _scored(run, chosen, metric)) is not None]
    return Group(list(runs), scored, chosen, metric, export(one.level for one in scored), attempts, stage is not None,
                 [run for run in kept if run.lost and _scored(run, chosen, metric) is None])  # fmt: skip


def _stage(runs: Sequence[LoggedRun], metric: str) -> str | None:
    """Name the stage that most runs have, attempts at one counted once; of equally many the last. None without a score."""
    have: dict[str, set[object]] = {}
    for i, run in enumerate(runs):
        for name, label in labels(run).items():
            if number(run.stages[label], metric) is not None:
                have.setdefault(name, set()).add(_place(run, i))
    asked = have if len(have) == 1 else {name: places for name, places in have.items() if name != "adaptive"}
    if not asked:
        return None
    rank = {name: place for place, name in enumerate(ORDER)}
    most = max(map(len, asked.values()))
    return min((n for n, places in asked.items() if len(places) == most), key=lambda n: rank.get(n, len(rank)))


def _scored(run: LoggedRun, stage: str | None, metric: str) -> Scored | None:
    """Score the run at a stage: by the stage's word or a label as printed; None where it has no score there."""
    label = stage if stage in run.stages else labels(run).get(stage or "")
    if label is None:
        return None
    level = run.stages[label]
    value = number(level, metric)
    return None if value is None else Scored(run, label, level, value)


def _attempts(runs: Sequence[LoggedRun], stage: str | None, metric: str) -> tuple[list[LoggedRun], list[LoggedRun]]:
    """Split (runs that may count, earlier attempts). Runs of one log at one seed are attempts; a table's (of = 1) are runs."""
    last: dict[object, int] = {}
    places = [_place(run, i) for i, run in enumerate(runs)]
    for i in sorted(range(len(runs)), key=lambda i: runs[i].number):
        before = last.get(places[i])
        if before is None or _whole(runs[i], stage, metric) >= _whole(runs[before], stage, metric):
            last[places[i]] = i
    kept = set(last.values())
    return [run for i, run in enumerate(runs) if i in kept], [run for i, run in enumerate(runs) if i not in kept]


def _place(run: LoggedRun, i: int) -> object:
    return (run.source, run.arm, run.seed) if run.of > 1 else i


def _whole(run: LoggedRun, stage: str | None, metric: str) -> tuple[bool, bool]:
    """Return (whether it has an end, a score or a divergence; whether the file says that it ended)."""
    return bool(run.lost) or _scored(run, stage, metric) is not None, run.complete or bool(run.lost)
