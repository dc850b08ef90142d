"""What the verdict is read from: the decision, the arms, and the scores of every run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Status = Literal["done", "diverged", "failed", "absent"]
STATUSES = ("done", "diverged", "failed", "absent")
METRICS = ("nats_per_token", "bits_per_byte", "nats_per_reasoning_token", "nats_per_final_token")


@dataclass(frozen=True, eq=False)
class DocumentScores:
    """One run at one stage, document by document: nats (sum over the document), tokens and bytes, each of shape (M,).

    Under a metric of one span they speak of that span's targets alone. groups, of shape (M,), says which documents belong
    together (of one package, shard or site) where that is known, and `by` what groups them; without it they are taken as
    independent.

    Raises ValueError if these are not vectors of one length. NaN nats are allowed: such a run counts as diverged.
    """

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64] | None = None
    by: str = ""

    def __post_init__(self) -> None:
        if self.groups is not None:
            object.__setattr__(self, "groups", np.asarray(self.groups, dtype=np.int64))
        for name, dtype in (("nats", np.float64), ("tokens", np.int64), ("bytes", np.int64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        shapes = {self.nats.shape, self.tokens.shape, self.bytes.shape}
        if self.groups is not None:
            shapes.add(self.groups.shape)
        if len(shapes) != 1 or self.nats.ndim != 1:
            raise ValueError(
                f"documents: nats, tokens, bytes and groups must be vectors of one length, got shapes {shapes}"
            )

    def metric(self, metric: str) -> float:
        """Compute the ratio of sums, never a mean of ratios; nan where the denominator is not positive."""
        below = float(self.bytes.sum()) * math.log(2) if metric == "bits_per_byte" else float(self.tokens.sum())
        with np.errstate(all="ignore"):
            return float(self.nats.sum()) / below if below > 0 else math.nan

    def weights(self, metric: str) -> npt.NDArray[np.float64]:
        """Return what each document weighs in the metric's denominator, shape (M,)."""
        if metric == "bits_per_byte":
            return self.bytes.astype(np.float64) * math.log(2)
        return self.tokens.astype(np.float64)


@dataclass(frozen=True)
class Work:
    """One step of a run: a training, or a stage (`tokens` None). Equal keys are one step, whichever arms ask for it.

    tokens: trained on, nan where the budget is not in tokens. seconds: what it takes, None where nobody measured it.
    """

    key: str
    tokens: float | None
    seconds: float | None
    done: bool = False


@dataclass(frozen=True, eq=False)
class RunScore:
    """One run: an arm at one seed.

    stages: one entry per stage, documents or one number (already in the decision's metric) for logs without documents.
    trajectory: [(tokens seen, metric), ...]; probe: (score, accuracy); hash: of the consumed tokens; violations: of rules;
    faults: per stage, why its scores are not finite. work: its steps, for prices; none: one training that took `seconds`.
    copied: why it is a run that was counted already, where whoever read it knows.
    """

    arm: str
    seed: int
    status: Status
    hash: str | None = None
    violations: tuple[str, ...] = ()
    stages: Mapping[str, DocumentScores | float] = field(default_factory=dict)
    trajectory: Sequence[tuple[float, float]] | None = None
    probe: tuple[float, float] | None = None
    seconds: float | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    work: tuple[Work, ...] = ()
    copied: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(
                f"run {self.arm}, seed {self.seed}: status {self.status!r} is none of {', '.join(STATUSES)}"
            )


@dataclass(frozen=True)
class ArmSpec:
    """One declared arm. `on` is its reference; `barred` says why it may not win (beyond a limit), empty if it may.

    shares_weights: it differs from its reference only after training. data_is_lever: token hashes may differ.
    setting_value: the value of the changed setting, for `prefer X`. chain: as the decision's, where the arm's is another.
    family: arms of one number share one error probability; arms that were added later have a number of their own.
    same_as: the arm (or baseline) whose contrast this one repeats at the deciding stage: the two take one place in the family.
    """

    name: str
    on: str = "baseline"
    shares_weights: bool = False
    data_is_lever: bool = False
    setting_value: str | None = None
    barred: str = ""
    chain: Mapping[str, str] | None = None
    family: int = 0
    same_as: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The rule, written before any result. `matters` and all margins carry the metric's unit.

    budget_tokens = 0: the budget is not in tokens, so prices have no tokens and trajectories no half. chain: stage -> the
    stage that it stands on; a stage that is not in it stands on the first. plain: runs have no documents but a number each,
    of a metric with any name; one that begins with `-` is the negative of a score of which more is better.

    Raises ValueError naming the setting, the fault and the cure.
    """

    metric: str = "nats_per_token"
    stage: str
    stages: tuple[str, ...] = ()
    matters: float
    confidence: float = 0.95
    start: int = 3
    at_most: int = 8
    probe: int = 0
    keep: int | Literal["2 sigma"] | None = None
    tie: tuple[str, ...] = ()
    budget_tokens: float = 0.0
    baseline: str = "baseline"
    chain: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages) or (self.stage,))
        object.__setattr__(self, "tie", tuple(self.tie))
        if not self.plain and self.metric not in METRICS:
            raise ValueError(f"decision.metric: {self.metric!r} is unknown; use {' or '.join(METRICS)}")
        if self.stage not in self.stages:
            raise ValueError(f"decision.stage: {self.stage!r} is not a stage; known: {', '.join(self.stages)}")
        if lost := [f"{a} -> {b}" for a, b in self.chain.items() if not {a, b} <= {*self.stages}]:
            raise ValueError(f"decision.chain: {', '.join(lost)} names no stage; known: {', '.join(self.stages)}")
        if not (math.isfinite(self.matters) and self.matters > 0):
            raise ValueError(
                f"decision.matters: {self.matters} is not above 0; name the smallest difference that counts"
            )
        if not 0 < self.confidence < 1:
            raise ValueError(f"decision.confidence: {self.confidence} is not between 0 and 1; 0.95 is usual")
        if not 1 <= self.start <= self.at_most:
            raise ValueError(
                f"decision.seeds: start = {self.start}, at_most = {self.at_most}; needed: 1 <= start <= at_most"
            )
        if not (math.isfinite(self.budget_tokens) and self.budget_tokens >= 0):
            raise ValueError(f"budget.tokens: {self.budget_tokens} is below 0; use 0 where the budget is in seconds")
        self._check_selection()

    def _check_selection(self) -> None:
        if self.probe < 0:
            raise ValueError(f"decision.seeds.probe: {self.probe} is below 0")
        if self.keep == "2 sigma":
            if self.probe == 0:
                raise ValueError('decision.seeds.keep: "2 sigma" needs a probe; add probe = 1')
        elif self.keep is not None and (isinstance(self.keep, (bool, str)) or self.keep < 1):
            raise ValueError(f'decision.seeds.keep: {self.keep!r} is neither a number of arms >= 1 nor "2 sigma"')
        for rung in self.tie:
            if rung not in ("needle", "trajectory", "lowest") and not (rung.startswith("prefer ") and rung[7:].strip()):
                raise ValueError(f"decision.tie: {rung!r} is unknown; known: needle, trajectory, prefer X, lowest")

    @property
    def alpha(self) -> float:
        """1 - confidence."""
        return 1 - self.confidence


@dataclass(frozen=True)
class Bank:
    """sd of earlier arm-minus-baseline differences with the same fingerprint, and its df. For planning only."""

    sd: float
    df: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sd) and self.sd > 0 and self.df > 0):
            raise ValueError(f"bank: sd = {self.sd}, df = {self.df}; both must be above 0")

    @classmethod
    def pooled(cls, spreads: Iterable[tuple[float, float]]) -> Bank:
        """Pool (sd, df) of earlier differences: sqrt(sum df s^2 / sum df)."""
        rows = list(spreads)
        df = sum(d for _, d in rows)
        if df <= 0:
            raise ValueError("bank: no degrees of freedom; it needs at least one earlier arm with two pairs")
        return cls(math.sqrt(sum(d * s * s for s, d in rows) / df), df)


class Evidence:
    """The runs laid out by arm and place in the seed order, with effective statuses.

    A done run counts as diverged if its metric is not finite, and as failed if it lacks the deciding stage.
    Raises ValueError for contradictory declarations: unknown reference, cycle, doubled names, too few seeds.
    """

    def __init__(
        self, decision: Decision, arms: Sequence[ArmSpec], seeds: Sequence[int], runs: Iterable[RunScore]
    ) -> None:
        self.decision = decision
        self.baseline = decision.baseline
        named = {a.name: a for a in arms}
        if len(named) != len(arms):
            raise ValueError("arms: two arms have one name; names must differ")
        self.baseline_spec = named.pop(self.baseline, ArmSpec(self.baseline))
        self.arms: tuple[ArmSpec, ...] = tuple(named.values())
        self.specs = {self.baseline: self.baseline_spec, **named}
        wanted = decision.probe + decision.at_most
        if len(seeds) < wanted or len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds: {wanted} different seeds are needed (probe + at_most), got {list(seeds)}")
        self.seeds = tuple(seeds[:wanted])
        self.notes: list[str] = []
        self._place_runs(runs)
        for arm in self.arms:
            self._check_reference(arm)

    def _place_runs(self, runs: Iterable[RunScore]) -> None:
        place = {s: i for i, s in enumerate(self.seeds)}
        self.runs: dict[str, list[RunScore | None]] = {a: [None] * len(self.seeds) for a in self.specs}
        strangers = set()
        for run in runs:
            if run.arm not in self.runs or run.seed not in place:
                strangers.add(run.arm if run.arm not in self.runs else f"{run.arm} (seed {run.seed})")
            elif self.runs[run.arm][place[run.seed]] is not None:
                raise ValueError(f"run {run.arm}, seed {run.seed}: two scores for one run; keep one")
            else:
                self.runs[run.arm][place[run.seed]] = run
        if strangers:
            self.notes.append(f"not declared here, ignored: {', '.join(sorted(strangers))}")
        self._values: dict[tuple[str, str], list[float]] = {}
        self.status = {arm: self._statuses(arm) for arm in self.runs}

    def _statuses(self, arm: str) -> list[str]:
        out: list[str] = []
        values = self.values(arm, self.decision.stage)
        for run, value in zip(self.runs[arm], values, strict=True):
            status = "absent" if run is None else run.status
            if run is not None and status == "done" and not math.isfinite(value):
                status = "diverged" if self.decision.stage in run.stages else "failed"
            out.append(status)
        return out

    def _check_reference(self, arm: ArmSpec) -> None:
        seen = [arm.name]
        while (name := self.reference(seen[-1])) != self.baseline:
            if name not in self.specs:
                raise ValueError(f"arm.{seen[-1]}.on: {name!r} is no arm; known: {', '.join(self.specs)}")
            if name in seen:
                raise ValueError(f"arm.{arm.name}.on: references go round in a circle: {' -> '.join([*seen, name])}")
            seen.append(name)

    def reference(self, arm: str) -> str:
        """Name the arm that `arm` is compared with ("baseline" is the baseline whatever its name)."""
        on = self.specs[arm].on
        return self.baseline if on == "baseline" else on

    def chain(self, arm: str) -> list[str]:
        """List the arm, its reference, and so on; the baseline, where every chain ends, is not in it."""
        links = []
        while arm != self.baseline:
            links.append(arm)
            arm = self.reference(arm)
        return links

    def to_baseline(self, own: Mapping[str, float | None], arm: str) -> float | None:
        """Return the arm's difference to the baseline: the sum of `own` differences to references along its chain.

        Differences to different references do not compare; these sums do. None where one is missing or not finite.
        """
        links = [own.get(x) for x in self.chain(arm)]
        known = [d for d in links if d is not None and math.isfinite(d)]
        return math.fsum(known) if len(known) == len(links) else None

    def values(self, arm: str, stage: str) -> list[float]:
        """Return the metric of an arm at a stage, one per seed place; nan where there is none."""
        key = (arm, stage)
        if key not in self._values:
            self._values[key] = [self._value(run, stage) for run in self.runs[arm]]
        return self._values[key]

    def _value(self, run: RunScore | None, stage: str) -> float:
        score = None if run is None else run.stages.get(stage)
        if score is None:
            return math.nan
        return score.metric(self.decision.metric) if isinstance(score, DocumentScores) else float(score)

    def documents(self, arm: str, place: int, stage: str) -> DocumentScores | None:
        """Return the documents of one run at one stage, None if it has a plain number or nothing."""
        run = self.runs[arm][place]
        score = None if run is None else run.stages.get(stage)
        return score if isinstance(score, DocumentScores) else None

    def ended(self, arms: Iterable[str], places: Iterable[int]) -> bool:
        """Tell whether every one of the arms has ended (done, diverged or failed) at every one of the places."""
        spots = list(places)
        return all(self.status[a][i] != "absent" for a in arms for i in spots)

    def common(self, arms: Sequence[str], places: Iterable[int]) -> list[int]:
        """List the places at which all the arms are done: the pairs."""
        return [i for i in places if all(self.status[a][i] == "done" for a in arms)]
