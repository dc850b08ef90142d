"""A claim held to what was read: each number of it is the mean, a run, the lowest runs' mean, a difference, a p, or nothing.

The final score of a log is not guessed (public pages name one of several lines): the stated number finds its line.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ablab.judging.compare import arithmetic, exports
from ablab.judging.compare.known import Candidate, candidates, levels, means, one_sample
from ablab.judging.compare.side import METRICS, group, metric_of
from ablab.judging.compare.stated import FEWEST, Number, lists, numbers, tree
from ablab.judging.logs.stages import labels
from ablab.judging.logs.table import SUMMARY
from ablab.records.comparison import Comparison, Flag, Stated
from ablab.records.log import Level, LoggedRun
from ablab.verdict.logs import GOLF_MARGIN

SURELY = 5  # digits from which a number is the mean of the other side and no chance
FEW = 3  # significant digits
NEAR = 0.02
SHOWN = 4  # runs that are named
_RULE = re.compile(r"margin|floor|threshold|signific|\brule|require|record bar|\bbar\b", re.IGNORECASE)


@dataclass(frozen=True)
class Disclosed:
    """A list of a claim in which runs of x stand beside others (`missing`); lowest: those that are here are the lowest."""

    place: str
    values: tuple[float, ...]
    unit: str
    missing: tuple[tuple[str, Number], ...]
    lowest: bool

    @property
    def said(self) -> str:
        """The sentence of its flag."""
        shown = [f"{name}: {one.written}" for name, one in self.missing[:SHOWN]]
        more = f", and {len(self.missing) - SHOWN} more" if len(self.missing) > SHOWN else ""
        here = len(self.values) - len(self.missing)
        chosen = f", which are the {here} lowest" if self.lowest else ""
        told = f"{self.place or 'a list'} tells of {len(self.values)} runs, and {here} of them are here{chosen}"
        return f"{told}; not here: {', '.join(shown)}{more}"


def hold(answer: Comparison, x: Sequence[LoggedRun], y: Sequence[LoggedRun], *claims: str) -> Comparison:
    """Check the answer's claims; flags say what does not hold. claims: texts, or texts of a submission.json.

    Raises CheckFailed where what begins as an object is no JSON, or the text is too long to be a claim.
    """
    stated = [one for claim in claims for one in numbers(claim)]
    known = [*candidates(answer, x, y)]
    known += one_sample(answer, x, [(one.written, one.value) for one in stated if one.unit not in ("p", "t", "sd")])
    told = [*_told(claims, x, known)]
    known += [*_beside(told), *_margins(claims, x, answer["x"]["stage"])]
    matched = [(one, _match(one, known)) for one in stated]
    shown: dict[tuple[str, str | None], Stated] = {}
    for one, match in matched:
        where = f"{one.place}: {one.written}" if one.place else one.written
        shown[where, match.what if match else None] = {
            "stated": where,
            "match": match.what if match else None,
            "value": match.value if match else None,
            "where": match.where if match else None,
        }
    sizes = tuple(run.bytes for run in (*x, *y) if run.bytes is not None)
    sd = answer["x"]["sd"] if answer["metric"] == METRICS["bpb"] else None
    slips = arithmetic.faults(claims, arithmetic.Known(sd, sizes, answer["x"]["n"]))
    more = _not_here(told) + [one for claim in claims for one in _ratios(tree(claim), "")]
    flags = {(flag["kind"], flag["said"]): flag for flag in (*more, *_flags(matched, known), *slips)}
    return answer | {"claims": [*shown.values()], "flags": [*answer["flags"], *flags.values()]}


def stages_stated(
    x: Sequence[LoggedRun], y: Sequence[LoggedRun], metric: str | None, *claims: str
) -> tuple[list[str | None], list[Flag]]:
    """Return the stage of each side at which the claim's numbers are, None where it is the one taken anyway.

    The headline of a submission.json decides before its other numbers. Of y only a mean to five digits says anything; else
    it is judged where x is, if it has a score there.
    """
    every = [one for claim in claims for one in numbers(claim)]
    head = [one for one in every if one.place in ("val_bpb", "val_loss")]
    stages: list[str | None] = []
    flags: list[Flag] = []
    for name, runs in (("x", x), ("y", y)):
        hits = next((hits for some in (head, every) if (hits := _hits(name, runs, some, metric))), {})
        usual = group(runs, None, metric or metric_of([side for side in (x, y) if side])).stage
        stage = None if usual in hits or not hits else max(hits, key=lambda one: len(hits[one]))
        stages.append(stage)
        if stage is not None:
            number, match = hits[stage][0]
            said = f"{name} is judged at {stage}: {number.written} is {match.what}"
            flags.append({"kind": "stage_claimed", "side": "x" if name == "x" else "y", "grade": "notes", "said": said})
    if stages[1] is None and any(stages[0] in labels(run) for run in y):
        stages[1] = stages[0]
    return stages, flags


def _hits(
    name: str, runs: Sequence[LoggedRun], asked: Sequence[Number], metric: str | None
) -> dict[str, list[tuple[Number, Candidate]]]:
    """Map each stage to the numbers that are the mean there, or of x one run's score there."""
    by_stage: dict[str, list[tuple[Number, Candidate]]] = {}
    for stage in dict.fromkeys(stage for run in runs for stage in labels(run)):
        for unit in METRICS if metric is None else (metric,):
            side = group(runs, stage, unit)
            known = [one for one in means(name, side) if one.what.startswith("the mean of all")]
            if name == "x":
                known += [
                    one
                    for run in side.scored
                    for one in levels(name, run.run, run.label, run.level)
                    if one.unit == unit
                ]
            least = FEWEST if name == "x" else SURELY
            hits = [(n, match) for n in asked if n.digits >= least and (match := _match(n, known)) is not None]
            if hits:
                by_stage.setdefault(stage, []).extend(hits)
    return by_stage


def _told(claims: Sequence[str], x: Sequence[LoggedRun], known: Sequence[Candidate]) -> Iterator[Disclosed]:
    """Yield lists in which two runs of x or more stand, and beside them no more scores like theirs that nothing here gives."""
    ours = [one for run in x for label, level in run.stages.items() for one in levels("x", run, label, level)]
    for one in (one for claim in claims for one in lists(claim)):
        here: dict[str | None, Candidate] = {}
        left: list[tuple[str, Number]] = []
        for name, number in one.numbers:
            if SUMMARY.fullmatch(name) or number.digits < FEWEST or number.unit in ("p", "t", "sd"):
                continue
            if (match := _match(number, ours)) is not None:
                here[match.where] = match
            elif _match(number, known) is None:
                left.append((name, number))
        if len(here) < 2:
            continue
        own = [match.value for match in here.values()]
        missing = tuple((name, n) for name, n in left if abs(n.value / statistics.fmean(own) - 1) < NEAR)
        if missing and len(missing) <= len(here):
            values = (*own, *(n.value for _, n in missing))
            unit = next(iter(here.values())).unit
            yield Disclosed(one.place, values, unit, missing, max(own) < min(n.value for _, n in missing))


def _not_here(told: Sequence[Disclosed]) -> list[Flag]:
    """Flag each; the same runs in another unit, or listed once more, are told of once."""
    first = {frozenset(name for name, _ in one.missing): one for one in reversed(told)}
    flags: list[Flag] = [
        {"kind": "claim_of_runs_not_here", "side": "x", "grade": "warns", "said": one.said} for one in first.values()
    ]
    return flags[::-1]


def _beside(told: Sequence[Disclosed]) -> Iterator[Candidate]:
    """Yield what runs that are not here give: themselves, and the mean, sd and range with those that are."""
    for one in told:
        where = f"the {len(one.values)} runs that the claim tells of, {len(one.missing)} of which are not here"
        yield Candidate(f"the mean of {where}", statistics.fmean(one.values), one.unit, loose=True)
        yield Candidate(f"the sd of {where}", statistics.stdev(one.values), one.unit, kind="sd", loose=True)
        spread = max(one.values) - min(one.values)
        yield Candidate(f"the range of {where}", spread, one.unit, kind="step", loose=True)
    yield from (
        Candidate(f"a run that the claim tells of and that is not here ({name})", number.value, number.unit or one.unit)
        for one in told
        for name, number in one.missing
    )


def _margins(claims: Sequence[str], x: Sequence[LoggedRun], stage: str | None) -> Iterator[Candidate]:
    """Yield golf-strict's margin where a claim names it as a rule's: it is no result, and in no log."""
    lines = [line for claim in claims for line in claim.splitlines() if _RULE.search(line)]
    if not any(f"{GOLF_MARGIN:g}" in line for line in lines):
        return
    yield Candidate("the margin of the rule golf-strict", GOLF_MARGIN, "nats", kind="difference")
    levels_of = [one.level for one in group(x, stage, "bpb").scored]
    ratios = [one.bpb / one.nats for one in levels_of if one.bpb and one.nats]
    if ratios:
        value = GOLF_MARGIN * statistics.fmean(ratios)
        yield Candidate("the margin of the rule golf-strict, in bits per byte", value, "bpb", kind="step", loose=True)


def _match(number: Number, known: Sequence[Candidate]) -> Candidate | None:
    """Find the first candidate that rounds to the number and is of the kind that it says it is."""
    return next((one for one in known if _fits(number, one) and _rounds(number, one)), None)


def _fits(number: Number, one: Candidate) -> bool:
    """Tell whether the number may be meant so: by its unit, and with digits enough that it is so by no chance.

    A thousand candidates lie so near each other that two digits without a unit match any: these are taken for a
    difference of the means alone, three for anything that is in units of the score.
    """
    if number.unit == "sd":
        return one.kind == "sd" and (number.significant > 1 or one.what.startswith("the sd of the runs of x,"))
    if number.unit is not None:
        return number.unit == one.unit and (number.significant >= FEW or one.kind != "step")
    if number.significant >= FEW:
        return one.kind != "test" or number.significant > FEW
    return one.kind == "difference" and number.significant > 1


def _rounds(number: Number, one: Candidate) -> bool:
    if number.below:
        return one.unit == "p" and one.value < number.value and one.honest
    half = (1.0 if one.loose else 0.5) * 10.0 ** -max(-300, min(300, number.digits)) * (1 + 1e-6)
    off = abs(abs(number.value) - abs(one.value)) if one.signed else abs(number.value - one.value)
    return off <= half


def _flags(matched: Sequence[tuple[Number, Candidate | None]], known: Sequence[Candidate]) -> Iterator[Flag]:
    deltas = [one for one in known if one.what.startswith("the difference of the means")]
    whole = any(match is not None and match.what.startswith("the mean of all") for _, match in matched)
    for number, match in matched:
        written = f"{number.place} {number.written}" if number.place else number.written
        if match is not None:
            some = match.what.startswith("the mean of the") or (match.where and _several(match, known))
            if some and not whole and number.unit == match.unit:
                said = f"{written} is {match.what}, and the mean of all runs stands nowhere in the claim"
                yield {"kind": "claim_of_some_runs", "side": "", "grade": "warns", "said": said}
            continue
        other = {"nats": "bpb", "bpb": "nats"}.get(number.unit or "")
        turned = next((one for one in deltas if one.unit == other and _rounds(number, one)), None)
        if turned is not None:
            said = f"{written} is called {number.unit} and is {turned.what}"
            yield {"kind": f"{other}_called_{number.unit}", "side": "", "grade": "warns", "said": said}
        elif number.unit in (*METRICS, "p") or _like_a_mean(number, known):
            said = f"{written} is nothing that these runs give"
            yield {"kind": "claim_in_no_log", "side": "", "grade": "warns", "said": said}


def _like_a_mean(number: Number, known: Sequence[Candidate]) -> bool:
    """Tell whether a number without a unit can only be meant as a score: within 2% of a side's mean."""
    means = [one.value for one in known if one.what.startswith("the mean of all")]
    return number.unit is None and any(abs(number.value / mean - 1) < NEAR for mean in means)


def _several(match: Candidate, known: Sequence[Candidate]) -> bool:
    """Tell whether the one run that matches is of a side with several."""
    side = match.what.removeprefix("one run of ")[:1]
    return any(one.what.startswith("the mean of all") and f" runs of {side}," in one.what for one in known)


def _ratios(value: object, place: str) -> Iterator[Flag]:
    """Yield objects whose val_loss and val_bpb cannot be of one text that is known."""
    if isinstance(value, dict):
        nats, bpb = value.get("val_loss"), value.get("val_bpb")
        if isinstance(nats, float) and isinstance(bpb, float) and nats > 0 and bpb > 0:
            digits = min(len(repr(one).partition(".")[2]) for one in (nats, bpb))
            tokens = exports.export([Level(nats, bpb, digits, 1)])
            if tokens is not None and tokens.name is None:
                said = (
                    f"{place or 'the claim'}: val_bpb / val_loss = {bpb / nats:.6f} tokens per byte, of no known export"
                )
                yield {"kind": "claim_of_no_export", "side": "", "grade": "warns", "said": said}
        for key, inside in value.items():
            yield from _ratios(inside, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            yield from _ratios(inside, f"{place}[{i}]")
