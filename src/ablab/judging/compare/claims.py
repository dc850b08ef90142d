"""A claim held to what was read: each number of it is the mean, a run, the lowest runs' mean, a difference, a p, or nothing.

The final score of a log is not guessed (public pages name one of several lines): the stated number finds its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ablab.core.fault import CheckFailed, Fault
from ablab.core.strict_json import loads
from ablab.judging.compare import arithmetic, exports
from ablab.judging.compare.known import Candidate, candidates, levels, means, one_sample
from ablab.judging.compare.side import METRICS, group, metric_of
from ablab.judging.logs.stages import labels
from ablab.records.comparison import Comparison, Flag, Stated
from ablab.records.log import Level, LoggedRun

SURELY = 5  # digits from which a number is the mean of the other side and no chance
FEWEST = 3  # digits behind the point from which a number says which line it is
FEW = 3  # significant digits
NEAR = 0.02
LONGEST = 100_000  # characters of a claim
_NUMBER = re.compile(
    r"(?P<before>(?<![\w.])[A-Za-z_\u03c3]{1,20}(?:\s?[=<:~\u2248]{1,2}\s?|\s))?"
    r"(?<![\w.])(?P<number>[-+\u2212]?(?:(?:\d{1,9})?\.\d{1,12}(?:e[-+]?\d{1,3})?|\d{1,9}e[-+]?\d{1,3}))(?![\w]*\.\d)"
    r"(?P<after>\s?(?:bpb|bits?[ /]per[ /]byte|nats?)\b)?",
    re.IGNORECASE,
)
_P = re.compile(r"p(?:_?value)?", re.IGNORECASE)
_T = re.compile(r"[tz](?:_?stat(?:istic)?)?", re.IGNORECASE)


_SD = re.compile(r"(?:^|_)(?:std|sd|stdev|sigma)$|^\u03c3$")


@dataclass(frozen=True)
class Number:
    """A stated number: as written, its place in the claim, digits behind the point, unit or p, t, sd; below: `p < 0.01`."""

    written: str
    place: str
    value: float
    digits: int
    unit: str | None
    below: bool = False

    @property
    def significant(self) -> int:
        """Digits from the first that is not 0."""
        return len(re.sub(r"\D", "", self.written.lower().partition("e")[0]).lstrip("0"))


def hold(answer: Comparison, x: Sequence[LoggedRun], y: Sequence[LoggedRun], *claims: str) -> Comparison:
    """Check the answer's claims; flags say what does not hold. claims: texts, or texts of a submission.json.

    Raises CheckFailed where what begins as an object is no JSON, or the text is too long to be a claim.
    """
    stated = [one for claim in claims for one in _stated(claim)]
    known = [*candidates(answer, x, y)]
    known += one_sample(answer, x, [(one.written, one.value) for one in stated if one.unit not in ("p", "t", "sd")])
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
    flags = {
        (flag["kind"], flag["said"]): flag
        for flag in (*_flags(matched, known), *(one for claim in claims for one in _ratios(_tree(claim), "")), *slips)
    }
    return answer | {"claims": [*shown.values()], "flags": [*answer["flags"], *flags.values()]}


def _stated(claim: str) -> list[Number]:
    if len(claim) > LONGEST:
        raise CheckFailed(Fault("--claim", f"{len(claim):,} characters are no claim", f"give at most {LONGEST:,}"))
    tree = _tree(claim)
    return [*(_of_text(claim, "") if tree is None else _of_tree(tree, ""))]


def stages_stated(
    x: Sequence[LoggedRun], y: Sequence[LoggedRun], metric: str | None, *claims: str
) -> tuple[list[str | None], list[Flag]]:
    """Return the stage of each side at which the claim's numbers are, None where it is the one taken anyway.

    The headline of a submission.json decides before its other numbers. Of y only a mean to five digits says anything; else
    it is judged where x is, if it has a score there.
    """
    every = [one for claim in claims for one in _stated(claim)]
    head = [one for one in every if one.place in ("val_bpb", "val_loss")]
    stages: list[str | None] = []
    flags: list[Flag] = []
    for name, runs in (("x", x), ("y", y)):
        hits = next((hits for numbers in (head, every) if (hits := _hits(name, runs, numbers, metric))), {})
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
    name: str, runs: Sequence[LoggedRun], numbers: Sequence[Number], metric: str | None
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
            hits = [(n, match) for n in numbers if n.digits >= least and (match := _match(n, known)) is not None]
            if hits:
                by_stage.setdefault(stage, []).extend(hits)
    return by_stage


def _tree(claim: str) -> object:
    """Read the claim's JSON; None where it is text."""
    if not claim.lstrip().startswith("{"):
        return None
    try:
        return loads(claim)
    except ValueError as error:
        cure = "give a JSON object, or text that does not begin with {"
        raise CheckFailed(Fault("--claim", f"is no JSON ({error})", cure)) from None


def _of_text(text: str, place: str, unit: str | None = None) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        if text[: match.start("number")].rstrip(" =").endswith((">", "\u2265")):
            continue  # a bound that a rule sets is no result
        before = re.sub(r"[\s=<:~\u2248]", "", match["before"] or "")
        said = _unit((match["after"] or "").strip()) or _unit(before) or unit
        number = _number(match["number"].replace("\u2212", "-"), place, said, "<" in (match["before"] or ""))
        if number.digits >= FEWEST or said is not None:
            yield number


def _of_tree(value: object, place: str) -> Iterator[Number]:
    """Yield numbers and texts of a JSON value; whole numbers are counts, and not compared with anything."""
    name = place.rpartition(".")[2].partition("[")[0]
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _of_tree(inside, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            yield from _of_tree(inside, f"{place}[{i}]")
    elif isinstance(value, str):
        yield from _of_text(value, place, _unit(name))
    elif isinstance(value, float):
        number = _number(repr(value), place, _unit(place))
        if number.digits >= FEWEST or number.unit is not None:
            yield number


def _number(written: str, place: str, unit: str | None, below: bool = False) -> Number:
    mantissa, _, power = written.lower().partition("e")
    digits = len(mantissa.partition(".")[2]) - int(power or 0)
    return Number(written, place, float(written), digits, unit, below)


def _unit(word: str) -> str | None:
    """Return bpb, nats, p or t, by the words inside a name."""
    low = word.lower()
    if _SD.search(low):
        return "sd"
    if "bpb" in low or ("bit" in low and "byte" in low):
        return "bpb"
    if "nat" in re.split(r"[^a-z]+", low) or "nats" in low or "loss" in low:
        return "nats"
    last = re.split(r"[.\s]", low)[-1]
    return "p" if _P.fullmatch(last) else "t" if _T.fullmatch(last) else "sd" if _SD.search(last) else None


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
