"""Timings of real-size work on this machine, before anything has run: some steps, one validation, samples of each stage.

What is timed is small and what is said is large, so fixed costs are kept apart: a sample grows until it takes ENOUGH
seconds, and the rest of the text is reckoned at the slope between the last two sizes.

Other work on the machine comes and goes, and one look at the clock per arm would tell of that work: three arms of equal
arithmetic came out at 385, 409 and 771 s a run. So arms take turns, and what is said is the median of the turns, with the
fastest and the slowest beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypedDict, TypeVar

import torch

from ablab.artifact import blob as packing
from ablab.core.fault import CheckFailed
from ablab.core.files import key_of, write_json
from ablab.core.lever import Choice, value_or_none
from ablab.data import Corpus, ValidRows
from ablab.data.corpus.corpus import Valid
from ablab.judging import price
from ablab.model.decoder import Decoder, build
from ablab.model.size import parameters
from ablab.records.settings import Settings
from ablab.runs.plan import Plan, Run
from ablab.runtime import capacity, machine
from ablab.scoring import evaluators
from ablab.scoring import stage as staging
from ablab.scoring.evaluators.evaluator import Evaluator, sample
from ablab.training.learner import VALID_TOKENS, Diverged, Learner

TIMED_PARAMETERS = 30_000_000  # on a CPU larger models are not timed: a check stays quick
TURNS = 5  # of every arm: two of them on a busy machine leave the median where it was
STEPS = {"cpu": 1, "cuda": 4}  # of a turn at the least
ENOUGH = 1.0  # seconds after which a sample grows no more
LONG = 10.0  # seconds that the steps of one arm may take; longer steps are reckoned from fewer rows
PASSES, PATIENCE = 3, 15.0  # over the stages of all arms, while that takes no more seconds: a check stays quick
SMALL = 2048  # tokens of the first sample
T = TypeVar("T")


class Speed(TypedDict):
    """Of one arm's training, medians over the turns: steps (how many were timed), validate_seconds (of one), seconds_per_run
    (steps and validations), spread (of that: as if every step took what the fastest and what the slowest turn did) and
    peak_bytes (of a GPU's memory; None on the CPU)."""

    steps: int
    step_seconds: float
    tokens_per_second: float
    validate_seconds: float
    seconds_per_run: float
    spread: list[float]
    peak_bytes: int | None


@dataclasses.dataclass
class Memo:
    """What arms share of their stages, by what is asked: seconds, and of packing the bytes."""

    packed: dict[str, tuple[float, packing.Blob]] = dataclasses.field(default_factory=dict)
    checked: dict[str, tuple[float, object]] = dataclasses.field(default_factory=dict)
    evaluated: dict[str, float] = dataclasses.field(default_factory=dict)


def study(plan: Plan) -> dict[str, Speed]:
    """Time every step of which no finished run tells, write that down for prices, and return speeds by recipe of training.

    Nothing for models that are too large to time on a CPU. On a GPU training is always timed: what a step holds there is
    known only by making one.
    """
    trains, stages = dict[str, str](), dict[str, list[str]]()  # recipe -> arm, arm -> its stages
    on_gpu = torch.device(plan.where.device).type != "cpu"
    for arm in plan.study.with_baseline:
        run = plan.runs[arm, plan.seeds[0]]
        if not on_gpu and parameters(plan.decoder(arm))["total"] > TIMED_PARAMETERS:
            continue
        trained, recipes = price.recipes(plan, arm)
        missing = _unknown(plan, arm, [trained, *recipes.values()])
        if not run.settings["train"]["weights"] and (on_gpu or trained in missing):
            trains.setdefault(trained, arm)
        timed = {price.recipes(plan, other)[1][stage] for other, seconds in stages.items() for stage in seconds}
        stages[arm] = [stage for stage, recipe in recipes.items() if recipe in missing and recipe not in timed]
    samples, speeds = dict[str, list[float]](), dict[str, Speed]()
    with _as_in_a_run(plan):
        for group in _together(plan, list(trains.values())):
            for arm, speed in trainings(plan, group).items():
                recipe = price.recipes(plan, arm)[0]
                speeds[recipe] = speed
                samples[recipe] = [speed["seconds_per_run"], *speed["spread"]]
        began = time.perf_counter()
        for count in range(1, PASSES + 1):
            memo = Memo()
            for arm, wanted in stages.items():
                recipes = price.recipes(plan, arm)[1]
                for stage, took in staged(plan, plan.runs[arm, plan.seeds[0]], wanted, memo).items():
                    samples.setdefault(recipes[stage], []).append(took)
            if (time.perf_counter() - began) * (count + 1) / count > PATIENCE:
                break
    keep(plan, samples)
    return speeds


def keep(plan: Plan, samples: Mapping[str, Sequence[float]]) -> None:
    """Write down what was timed, for prices that are said before anything has run: the median and both ends."""
    written = dict[str, dict[str, float]]()
    for end, of in price.ENDS.items():
        written[end] = {**price.timings(plan, end), **{key: of(taken) for key, taken in samples.items()}}
    write_json(price.timed_in(plan), written)


def _unknown(plan: Plan, arm: str, recipe_of: Iterable[str]) -> list[str]:
    """List which of these recipes no finished run of the arm tells the time of."""
    known = price.measured(plan, arm)
    return [recipe for recipe in recipe_of if recipe not in known]


def _together(plan: Plan, names: list[str]) -> list[list[str]]:
    """Group arms that are held in memory at once; on a GPU each alone, because what it holds there is measured."""
    groups, held = list[list[str]](), 0
    for name in names:
        held += (size := parameters(plan.decoder(name))["total"])
        if not groups or held > TIMED_PARAMETERS or torch.device(plan.where.device).type != "cpu":
            groups.append([])
            held = size
        groups[-1].append(name)
    return groups


@contextlib.contextmanager
def _as_in_a_run(plan: Plan) -> Iterator[None]:
    """Use as many threads as each of the processes has that runs are made in."""
    from ablab.runs.jobs import default_jobs

    before = torch.get_num_threads()
    torch.set_num_threads(capacity.threads(default_jobs(plan)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training(plan: Plan, arm: str) -> Speed:
    """Do as `trainings`, for one arm."""
    return trainings(plan, [arm])[arm]


def trainings(plan: Plan, names: list[str]) -> dict[str, Speed]:
    """Time real-size training of arms on the plan's device, turn by turn: a step, a validation, and a whole run."""
    if torch.device(plan.where.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    timed = {arm: _Timed(plan, arm) for arm in names}
    for turn in range(TURNS):
        for one in timed.values():
            one.turn(validates=turn % 2 == 0)
    return {arm: one.found() for arm, one in timed.items()}


class _Timed:
    """One arm's training while it is timed: its phases' steps and its validations, a sample a turn."""

    def __init__(self, plan: Plan, arm: str) -> None:
        self.settings, self.kind = plan.runs[arm, plan.seeds[0]].settings, torch.device(plan.where.device).type
        run = plan.runs[arm, plan.seeds[0]]
        self.learner = Learner(self.settings, plan.corpus(run), seed=0, **plan.where.as_json())
        self.phases = [
            (share, _Steps(self.learner, self.settings, at, STEPS[self.kind])) for share, at in _phases(self.settings)
        ]
        self.held_out: list[float] = []

    def turn(self, *, validates: bool) -> None:
        """Take one sample of each phase, and one of a validation."""
        for _, steps in self.phases:
            steps.turn()
        if validates:
            self.held_out.append(_validation(self.learner))

    def found(self) -> Speed:
        budget, every = self.settings["budget"], self.settings["train"]["validate_every"]

        def step_by(of: Callable[[list[float]], float]) -> float:
            return sum(share * of(steps.samples) for share, steps in self.phases)

        def whole(step: float, held_out: float) -> float:
            validations = 1 + math.ceil(steps * budget["batch_tokens"] / every)  # one before any step
            return steps * step + validations * held_out

        step, held_out = step_by(statistics.median), statistics.median(self.held_out)
        steps = self.learner.steps if self.learner.steps is not None else (budget["seconds"] or 0.0) / step
        return {
            "steps": sum(steps.count for _, steps in self.phases),
            "step_seconds": step,
            "tokens_per_second": budget["batch_tokens"] / step,
            "validate_seconds": held_out,
            "seconds_per_run": whole(step, held_out),
            "spread": [whole(step_by(of), of(self.held_out)) for of in (min, max)],
            "peak_bytes": torch.cuda.max_memory_allocated() if self.kind == "cuda" else None,
        }


def _phases(settings: Settings) -> list[tuple[float, float]]:
    """Return (share of training, its middle) of stretches in which a step costs the same: loops and rounding begin late."""
    rounding = value_or_none(settings["train"]["qat"], "start", float)
    begins = {settings["model"].get("loop_from") or 0.0, rounding or 0.0, 0.0}
    edges = [*sorted(begins), 1.0]
    return [(end - begin, (begin + end) / 2) for begin, end in zip(edges, edges[1:])]


class _Steps:
    """Steps at one point of the budget; of long ones fewer rows are timed."""

    def __init__(self, learner: Learner, settings: Settings, spent: float, least: int) -> None:
        self.learner, self.spent, self.least = learner, spent, least
        self.unit = value_or_none(settings["train"]["loss"], "group_rows", int) or 1
        self.parts = settings["budget"]["batch_tokens"] // settings["model"]["seq_len"] // self.unit
        self.number, self.count, self.samples = 0, 0, list[float]()
        self._one(self.unit)  # the first one allocates, and on a GPU compiles
        short = self._one(self.unit)
        self.few = self.parts > 4 and short * self.parts * TURNS > LONG
        if self.few:
            self.parts_timed = max(2, min(self.parts, int(LONG / TURNS / short)))
        self._one((self.parts_timed if self.few else self.parts) * self.unit)  # and so does the first of its size

    def turn(self) -> None:
        """Take one sample: the mean of steps one after another, for a share of ENOUGH seconds."""
        if self.few:
            short, long = self._one(self.unit), self._one(self.parts_timed * self.unit)
            slope = max(0.0, long - short) / (self.parts_timed - 1)
            self.samples.append(long + slope * (self.parts - self.parts_timed))
            self.count += 1
            return
        took: list[float] = []
        while len(took) < self.least or (sum(took) < ENOUGH / TURNS and len(took) < 10 * self.least):
            took.append(self._one(self.parts * self.unit))
        self.samples.append(statistics.fmean(took))
        self.count += len(took)

    def _one(self, rows: int) -> float:
        self.number += 1
        began = time.perf_counter()
        batch = self.learner.stream.batch(self.number)
        with contextlib.suppress(Diverged):  # at the peak of the schedule, untrained: its time is told all the same
            self.learner.step(type(batch)(*(part[:rows] for part in batch)), self.number, self.spent)
        if self.learner.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def _validation(learner: Learner) -> float:
    """Estimate the seconds of one validation on the way, from its first rows."""
    whole = learner.valid
    n_rows = min(len(whole), max(1, 2 * VALID_TOKENS // whole.tokens_RT.shape[1]))
    learner.valid = ValidRows(**{name: part[:n_rows] for name, part in vars(whole).items()})
    began = time.perf_counter()
    learner.validate()
    took = time.perf_counter() - began
    learner.valid = whole
    out: float = took * len(whole) / n_rows
    return out


def staged(plan: Plan, run: Run, wanted: list[str], memo: Memo) -> dict[str, float]:
    """Time each of these stages: packing, the checks and the whole evaluation, with weights as they are drawn; in seconds.

    A stage that refuses its text or settings is left out: the run says why. memo: what arms share is timed once.
    """
    if not wanted:
        return {}
    settings, corpus, where = run.settings, plan.corpus(run), plan.where
    drawn = build(
        settings["model"], vocab_size=corpus.vocab_size, seed=0, executor=where.executor, device=where.device,
        dtype=machine.dtype_of(where.precision),
    ).state_dict()  # fmt: skip

    def decoder(like: Settings, tensors: Mapping[str, torch.Tensor]) -> Decoder:
        return staging.decoder_of(like, tensors, corpus=corpus, seed=0, where=where)

    def pack(root: str) -> packing.Blob:
        return packing.packed(
            settings, root, lambda: drawn,
            blobs={}, corpus=corpus, seed=0, precision=where.precision, model=functools.partial(decoder, settings),
        )  # fmt: skip

    seconds: dict[str, float] = {}
    for name in wanted:
        root, chosen = packing.root(settings, name), settings["stage"][name]
        asked = settings["stage"][root]
        named = {"model": settings["model"], "corpus": corpus.key, "vocab": corpus.vocab_size}
        try:
            rounding = {"compress": asked["compress"], "codec": asked["codec"], "code": asked["code"]}
            packed, blob = _once(memo.packed, {**named, **rounding}, functools.partial(pack, root))
            began = time.perf_counter()
            model = decoder(staging.windowed(settings, name), packing.unpacked(blob))
            unpacked = time.perf_counter() - began
            same = {**named, "evaluate": chosen["evaluate"], "windows": chosen["windows"]}
            checked, _ = _once(
                memo.checked, {**same, "checks": True}, functools.partial(_checks, plan, run, name, model)
            )
            key = key_of(same)
            if key not in memo.evaluated:
                memo.evaluated[key] = _evaluation(chosen["evaluate"], model, corpus, settings, where.precision)
            seconds[name] = (packed if root == name else 0.0) + unpacked + checked + memo.evaluated[key]
        except (CheckFailed, ValueError):
            continue
    return seconds


def _once(memo: dict[str, tuple[float, T]], asked: Mapping[str, object], make: Callable[[], T]) -> tuple[float, T]:
    """Return (seconds, result) of making what is asked for, the first time that it is."""
    key = key_of(asked)
    if key not in memo:
        began = time.perf_counter()
        made = make()
        memo[key] = time.perf_counter() - began, made
    return memo[key]


def _checks(plan: Plan, run: Run, name: str, model: Decoder) -> object:
    evaluator = evaluators.slot.build(run.settings["stage"][name]["evaluate"])
    return staging.legal(evaluator, name, model, plan.corpus(run), run.settings, seed=0, where=plan.where)


def _evaluation(choice: Choice, model: Decoder, corpus: Corpus, settings: Settings, precision: str) -> float:
    """Estimate the seconds of a whole evaluation, from samples of its text (of a probe: of its items) that grow."""

    def timed(evaluator: Evaluator, on: Corpus) -> float:
        began = time.perf_counter()
        evaluator(model, on, settings, seed=0, precision=precision)
        return time.perf_counter() - began

    evaluator = evaluators.slot.build(dict(choice))
    if not evaluator.decides:
        most = value_or_none(choice, "items", int) or 1
        least = min(4, most)
        return _grown(lambda items: timed(_with(choice, "items", items), corpus), least, most)
    whole = sample(corpus, value_or_none(choice, "documents", int))
    plain = _with(choice, "documents", None)
    return _grown(lambda tokens: timed(plain, _first(whole, tokens)), SMALL, len(whole.valid.tokens))


def _with(choice: Choice, key: str, value: object) -> Evaluator:
    return evaluators.slot.build({**choice, **({key: value} if key in choice else {})})


def _grown(took: Callable[[int], float], least: int, most: int) -> float:
    """Estimate what `most` takes, from sizes that grow from `least` until one takes ENOUGH seconds. ValueError: none can."""
    points, size, warm = list[tuple[int, float]](), min(least, most), False
    while True:
        try:
            if not warm and size < most and took(size) >= ENOUGH:  # the first one allocates and reads files
                points.append((size, took(size)))
                warm, size = True, min(most, 2 * size)
                continue
            warm = True
            points.append((size, took(size)))
        except ValueError:  # too little text for one chunk, say
            if size == most:
                raise
            size = min(most, 4 * size)
            continue
        if size == most:
            return points[-1][1]
        if len(points) > 1 and points[-1][1] >= ENOUGH:
            break
        size = min(most, (4 if points[-1][1] < ENOUGH / 4 else 2) * size)
    (n_before, before), (n_last, last) = points[-2:]
    slope = (last - before) / (n_last - n_before)
    return last + (slope if slope > 0 else last / n_last) * (most - n_last)


def _first(corpus: Corpus, tokens: int) -> Corpus:
    """Return the corpus with the first `tokens` tokens of its held-out text, the last document cut."""
    valid = corpus.valid
    if tokens >= len(valid.tokens):
        return corpus
    starts, cut = valid.starts[:-1][valid.starts[:-1] < tokens], slice(tokens)
    part = Valid(valid.tokens[cut], valid.n_bytes[cut], starts, valid.digests[: len(starts)], valid.marks[cut])
    return dataclasses.replace(corpus, valid=part)
