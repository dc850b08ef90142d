"""The same question at several scales: what every rung's runs have come to, and how the effects move with compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablab.core.fault import CheckFailed, Fault
from ablab.judging import collect, cost, history, judge
from ablab.judging.rungs import Stood, asked, check, fixed, flops, stand, tokens, within
from ablab.records.ladder import Climbed, Compute, FormSaid, LadderAnswer, Measured, NextSeed, Point, Scaled, Slope
from ablab.report import words
from ablab.report.shareable import shareable
from ablab.runs.plan import Plan
from ablab.study.record import BASELINE
from ablab.verdict import Row, RunScore
from ablab.verdict import judge as judged
from ablab.verdict import ladder as maths
from ablab.verdict.interval import read, summary

REMINDER = "each rung must be tuned alike: seeds do not see a learning rate that fits one scale better than another"
FORMS = {"L": "line", "P": "power", "T": "top", "Q": "parabola"}
POINTS = 12  # of the hull, from the top rung to the end of what is shown
OTHERWISE = 0.01  # of the baseline's compute: an arm that needs more or less of it is said to
LOST = ("unstable", "invalid")
UNHEARD = ("train.validate_every", "train.validate_bytes")  # how often a run is looked at changes nothing in it


def conclude(rungs: Sequence[Plan], seeds: Sequence[int] | None = None, at: float | None = None) -> LadderAnswer:
    """Judge what there is of the rungs' runs at `at` FLOPs (the furthest that may carry a word).

    rungs: as their files declare them; seeds: of each, where they are others. CheckFailed for what is no ladder, and for a
    target out of its reach.
    """
    numbers = asked([plan.study for plan in rungs], seeds)
    planned = [fixed(plan, n) for plan, n in zip(rungs, numbers, strict=True)]
    check(planned, at)
    standings = stand(planned)
    top = standings[-1].plan.study
    names = [name for name in top.arms if all(name in rung.plan.study.arms for rung in standings)]
    if not names:
        raise CheckFailed(Fault("--scales", "no arm is on every rung", "give scales that share an arm"))
    family = max(1, len({_place(standings[-1].plan, name) for name in names} - {BASELINE}))
    alpha = 1 - top.decision["confidence"]
    measured = {name: [_measured(rung, name, alpha / family) for rung in standings] for name in names}
    target = _target(standings, measured, at)
    arms = [_climbed(standings, name, measured[name], target, alpha, family) for name in names]
    used = [rung.x for i, rung in enumerate(standings) if any(measured[name][i]["used"] for name in names)]
    whole = used[-1] - used[0] if len(used) >= maths.FEWEST else None
    answer: LadderAnswer = {
        "study": top.name,
        "question": top.question or top.name,
        "metric": top.decision["metric"],
        "stage": top.decision["stage"],
        "matters": top.decision["matters"],
        "confidence": top.decision["confidence"],
        "family": family,
        "allowance": maths.ALLOWANCE,
        "at": None if target is None else 10**target,
        "reach": None if target is None or whole is None else (target - used[-1]) / whole,
        "spoken": None if whole is None else 10 ** (used[-1] + maths.SPOKEN * whole),
        "shown": None if whole is None else 10 ** (used[-1] + maths.SHOWN * whole),
        "rungs": _scaled(standings),
        "arms": arms,
        "sentence": " ".join(arm["sentence"] for arm in arms),
        "reminder": REMINDER,
        "exploratory": _exploratory(rungs, names),
        "notes": [*_seeds_moved(rungs, planned), *_notes(standings, names)],
        "environment": judge.environment(standings[-1].plan),
    }
    return shareable(answer, folder=top.path.parent, root=standings[-1].plan.store.root)


def _exploratory(rungs: Sequence[Plan], names: Sequence[str]) -> list[str]:
    """Say of which arms, on which rungs, results were known before they were asked for (`ablab.judging.history`)."""
    texts = []
    for plan in rungs:
        left = history.statuses(plan, history.rows(plan))
        texts += [
            f"{plan.study.scale}, {name}: {left[name].because}" for name in names if left[name].kind == "exploratory"
        ]
    return texts


def _seeds_moved(rungs: Sequence[Plan], planned: Sequence[Plan]) -> list[str]:
    """Name rungs with another number of seeds than their study declares: the record does not know when that was chosen."""
    pairs = [(plan.study, len(own.seeds)) for plan, own in zip(rungs, planned, strict=True)]
    return [
        f"{study.scale} has {n} seeds here, and its study plans {study.decision['seeds']['at_most']}: nothing tells whether "
        "that was fixed before the results"
        for study, n in pairs
        if n != study.decision["seeds"]["at_most"]
    ]


def _place(plan: Plan, name: str) -> str:
    """Return whose place in the family an arm takes: its own, or that of the arm whose contrast it repeats."""
    return next((spec.same_as or name for spec in collect.asked(plan).arms if spec.name == name), name)


def _measured(rung: Stood, name: str, level: float) -> Measured:
    """Measure an arm on a rung, from the seeds that have ended in the order of the plan."""
    plan, on = rung.plan, rung.plan.study.arm(name).on
    ended = [seed for seed in plan.seeds if all(rung.scores[arm, seed].status != "absent" for arm in (name, on))]
    ended = plan.seeds[: next((i for i, seed in enumerate(plan.seeds) if seed not in ended), len(plan.seeds))]
    measured: Measured = {
        "scale": rung.scale, "seeds": [], "differences": [], "delta": None, "low": None, "high": None, "s": None,
        "mean": None, "flops": flops(plan, name), "used": False, "because": "no pair has ended",
    }  # fmt: skip
    if not ended:
        return measured
    row = _row(plan, rung.scores, name, len(ended))
    pairs = [seed for seed in ended if seed in row.pairs] if row.pairs else []
    values = [plan.metric(rung.scores[name, s]) - plan.metric(rung.scores[on, s]) for s in pairs]
    levels = [plan.metric(rung.scores[on, s]) for s in pairs]
    sample = summary(values, levels)
    interval = read(sample, matters=plan.study.decision["matters"], alpha=level, w=1.0, m=1)
    because = ""
    if row.word in LOST:
        because = f"{row.word}: {'; '.join(row.notes) or 'its runs may not be compared'}"
    elif interval.low is None:
        because = interval.note or ("one seed has no spread" if sample.n == 1 else "no pair is left")
    return {
        **measured, "seeds": pairs, "differences": values, "delta": sample.d, "low": interval.low, "high": interval.high,
        "s": sample.s, "mean": sum(levels) / len(levels) if levels else None, "used": not because, "because": because,
    }  # fmt: skip


def _row(plan: Plan, scores: Mapping[tuple[str, int], RunScore], name: str, seeds: int) -> Row:
    """Return the arm's row in the verdict on the first `seeds` seeds, at which it is looked at once."""
    decision = replace(collect.decision(plan.study), start=seeds, at_most=seeds, probe=0, keep=None, tie=())
    chosen = {*plan.seeds[:seeds]}
    arms = [replace(spec, family=0) for spec in collect.asked(plan).arms]
    runs = [score for (_, seed), score in scores.items() if seed in chosen]
    return judged(decision, arms, plan.seeds[:seeds], runs).rows[name]


def _rung(x: float, measured: Measured) -> maths.Rung:
    assert measured["delta"] is not None and measured["s"] is not None
    return maths.Rung(x, measured["delta"], measured["s"], len(measured["seeds"]))


def _used(rungs: Sequence[Stood], measured: Sequence[Measured]) -> list[maths.Rung]:
    return [_rung(rung.x, one) for rung, one in zip(rungs, measured, strict=True) if one["used"]]


def _target(rungs: Sequence[Stood], measured: Mapping[str, Sequence[Measured]], at: float | None) -> float | None:
    """Return log10 of the target's FLOPs: as asked, or the furthest that every arm's word reaches; None without a ladder.

    Of the arms that have the highest rung that any arm has: one that has lost it is not extrapolated past what it lost.
    """
    ladders = [used for one in measured.values() if len(used := _used(rungs, one)) >= maths.FEWEST]
    highest = max((used[-1].x for used in ladders), default=rungs[-1].x)
    ladders = [used for used in ladders if used[-1].x == highest]
    if at is None:
        return min((maths.furthest(used) for used in ladders), default=None)
    return within(at, highest, min((maths.furthest(used, maths.SHOWN) for used in ladders), default=math.inf))


def _climbed(
    rungs: Sequence[Stood], name: str, measured: list[Measured], at: float | None, alpha: float, family: int
) -> Climbed:
    """Judge one arm over all rungs."""
    study, used = rungs[-1].plan.study, _used(rungs, measured)
    missing = [
        f"{rung.scale} has {len(one['seeds'])} of {len(rung.plan.seeds)} seeds"
        for rung, one in zip(rungs, measured, strict=True)
        if _waits(rung, name)
    ]
    row: Climbed = {
        "name": name, "on": study.arm(name).on, "word": None, "low": None, "high": None, "forms": [], "hull": [],
        "trend": None, "saved": _saved(rungs, name, measured, alpha, family), "tells_most": None, "rungs": measured,
        "sentence": "", "notes": [f"{one['scale']} is not used: {one['because']}" for one in measured if one["because"]],
    }  # fmt: skip
    if missing:
        row["notes"].append(f"no word yet: {', '.join(missing)}")
    if at is None or len(used) < maths.FEWEST:
        fewer = f"{name}: no interval: it has one of its own on {len(used)} of {maths.FEWEST} rungs that are needed."
        return {**row, "sentence": fewer}
    own = [one["scale"] for one in measured if one["used"]][-1]
    beyond = f"{name}: no word, its top rung is {own}: {'; '.join(row['notes'])}."
    if not used[-1].x - 1e-9 <= at <= maths.furthest(used, maths.SHOWN) + 1e-9:
        return {**row, "sentence": beyond}
    fell = str(measured[-1]["because"]).startswith(LOST)
    reached = maths.extrapolate(used, at, matters=study.decision["matters"], alpha=alpha, arms=family)
    trend = maths.trend(used, alpha / family)
    gains = maths.next_seed(used, at, alpha=alpha, arms=family)
    best = max(range(len(gains)), key=gains.__getitem__)
    if maths.bends(used, alpha):
        row["notes"].append("its three rungs bend, and no form of three follows a bend: a fourth rung would tell")
    scales = [one["scale"] for one in measured if one["used"]]
    climbed: Climbed = {
        **row,
        "word": None if missing or fell else reached.word,
        "low": reached.low,
        "high": reached.high,
        "forms": [FormSaid(form=FORMS[f.name], value=f.value, low=f.low, high=f.high) for f in reached.forms],
        "hull": _hull(used, alpha, family, study.decision["matters"]),
        "trend": Slope(value=trend.value, low=trend.low, high=trend.high, p=min(1.0, trend.p * family)),
        "tells_most": NextSeed(scale=scales[best], share=gains[best]),
    }
    if fell:
        return {**climbed, "sentence": beyond}
    other = maths.turned(used, alpha / family)
    turned = [one["scale"] for one, own in zip([m for m in measured if m["used"]], used, strict=True) if own in other]
    if turned:
        way = "worse" if used[-1].d < 0 else "better"
        row["notes"].append(f"its sign turns within the ladder: shown {way} on {' and '.join(turned)}")
    return {**climbed, "sentence": _sentence(rungs, climbed, reached, turned, waits=bool(missing))}


def _waits(rung: Stood, name: str) -> bool:
    arms = (name, rung.plan.study.arm(name).on)
    return any(rung.scores[arm, seed].status == "absent" for arm in arms for seed in rung.plan.seeds)


def _hull(used: Sequence[maths.Rung], alpha: float, family: int, matters: float) -> list[Point]:
    """Return the interval at places from the top rung to the end of what is shown."""
    start, end = used[-1].x, maths.furthest(used, maths.SHOWN)
    places = [start + i * (end - start) / (POINTS - 1) for i in range(POINTS)]
    hull = [maths.extrapolate(used, x, matters=matters, alpha=alpha, arms=family) for x in places]
    return [Point(flops=10**one.x, low=one.low, high=one.high) for one in hull]


def _saved(
    rungs: Sequence[Stood], name: str, measured: Sequence[Measured], alpha: float, family: int
) -> Compute | None:
    """Return the equivalent compute at the top rung with an interval, by the reference's loss there and one rung below."""
    at = next((i for i in range(len(rungs) - 1, 0, -1) if measured[i]["used"]), 0)
    if not at:
        return None
    on, seeds = rungs[at].plan.study.arm(name).on, measured[at]["seeds"]
    levels = [rungs[at].plan.metric(rungs[at].scores[on, seed]) for seed in seeds]
    below = rungs[at - 1]
    done = [s for s in below.plan.seeds if (on, s) in below.scores and below.scores[on, s].status == "done"]
    lower = [below.plan.metric(below.scores[on, seed]) for seed in done]
    if len(lower) < 2:
        return None
    saved = maths.saved(rungs[at].x - below.x, (measured[at]["differences"], levels), lower, alpha, family)
    if saved is None:
        return None
    low, high = maths.Spared.share(saved.low), maths.Spared.share(saved.high)
    return Compute(share=1 - 10.0**-saved.decades, low=low, high=high)


def _sentence(
    rungs: Sequence[Stood], arm: Climbed, reached: maths.Reached, turned: Sequence[str], *, waits: bool
) -> str:
    """Write one sentence of an arm, the near bound first; turned: the lower rungs that show the other sign."""
    low, high, unit = reached.low, reached.high, _unit(rungs[-1].plan.study.decision["metric"])
    matters = rungs[-1].plan.study.decision["matters"]
    where = f"at {words.flops(10**reached.x)} FLOPs ({10 ** (reached.x - rungs[-1].x):.2g}x the top rung)"
    between = f"between {low:+.3g} and {high:+.3g} {unit}"
    side = "better" if high < 0 else "worse"
    near = min(abs(low), abs(high))
    if waits:
        return f"{arm['name']}: no word yet, so far {between} {where}."
    if reached.word is None:
        return f"{arm['name']}: {between} {where}; too far beyond the ladder for a word."
    small = f", though by less than the {matters:g} that matter" if -matters < low and high < matters else ""
    if reached.word == "holds":
        return f"{arm['name']} holds {where}: at least {near:.3g} {unit} {side}, {between}{small}."
    if reached.word == "fades":
        return f"{arm['name']} fades {where}: {between}, within the {matters:g} that matter."
    if reached.word == "reverses":
        was = f", and shown {'worse' if side == 'better' else 'better'} on {' and '.join(turned)}"
        return f"{arm['name']} reverses {where}: at least {near:.3g} {unit} {side}{was}, {between}{small}."
    return f"{arm['name']} is open {where}: {between}."


def _unit(metric: str) -> str:
    return words.UNITS.get(metric, metric)


def _scaled(rungs: Sequence[Stood]) -> list[Scaled]:
    scaled: list[Scaled] = []
    for i, rung in enumerate(rungs):
        scaled.append(
            {
                "scale": rung.scale,
                "flops": rung.flops,
                "tokens": tokens(rung.plan, BASELINE),
                "parameters": cost.sizes(rung.plan, BASELINE)["parameters"],
                "seeds": len(rung.plan.seeds),
                "differs": _differs(rungs[i - 1], rung) if i else {},
            }
        )
    return scaled


def _differs(below: Stood, above: Stood) -> dict[str, list[object]]:
    """List settings of the baseline that are others than on the rung below."""
    one, other = (dict(_flat(judge.baseline(r.plan.study.baseline.settings))) for r in (below, above))
    paths = [path for path in {**one, **other} if one.get(path) != other.get(path) and path not in UNHEARD]
    return {path: [one.get(path), other.get(path)] for path in paths}


def _flat(value: object, place: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{place}.{key}".lstrip("."))]
    return [(place, value)]


def _notes(rungs: Sequence[Stood], names: Sequence[str]) -> list[str]:
    """Say what a reader must know besides: arms not on every rung, other text, other compute, rungs close together."""
    lines = []
    top = rungs[-1].plan
    if left := [name for name in top.study.arms if name not in names]:
        lines.append(f"not on every rung, left out: {', '.join(left)}")
    for below, above in zip(rungs, rungs[1:]):
        if above.flops < 2 * below.flops:
            lines.append(f"{below.scale} and {above.scale} lie within a factor of two in compute")
    texts = {rung.plan.corpus(rung.plan.runs[BASELINE, rung.plan.seeds[0]]).key for rung in rungs}
    if len(texts) > 1:
        lines.append("rungs have other corpora: a change of the effect may be one of the text, and not of the scale")
    for name in names:
        more = [flops(r.plan, name) / flops(r.plan, r.plan.study.arm(name).on) for r in rungs]
        if max(abs(one - 1) for one in more) > OTHERWISE:
            said = ", ".join(f"{one:.3g}x on {rung.scale}" for one, rung in zip(more, rungs, strict=True))
            lines.append(f"{name} trains with other compute than its reference ({said}), at equal tokens")
    return lines
