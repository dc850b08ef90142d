"""Decisions on record: what was asked before this study, of which contrasts, and what that leaves of its words.

A contrast is an arm and its reference by their settings, at a stage. Names (of layer kinds too), seeds, salts, margins, the
machine and a number's digits after the sixth are no part of it (`ablab.judging.recipe`): whoever moves the first seed,
renames the study or a kind, edits `matters` or exchanges the two asks it again. A decision is recorded when it is first met,
with the results that existed then; what follows per arm is recorded as soon as its own pairs have results
(`ablab.judging.firsts`), and stands whatever other studies do later:

declared     no result of it existed;
added        none existed, but results of other arms on this baseline did: the arm is a later family with its own alpha;
exploratory  results of this very contrast existed, under another rule or at other seeds, when it was declared or before its
             own first result: of several decisions that are declared ahead, the first that gets results is the declared one.

An arm whose contrast was decided by the same rule before keeps what it was then: adding an arm changes no earlier word.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from ablab.core.files import key_of
from ablab.core.plain import plural
from ablab.judging import crossings, firsts, links
from ablab.judging.bank import pooled as pooled_noise
from ablab.judging.recipe import recipe
from ablab.records.answer import OnBaseline, Pooled
from ablab.records.decision import Asked, Contrast, Rule, contrast_of, rule_of
from ablab.runs.plan import Plan
from ablab.runs.store import append_line, read_decisions
from ablab.study.record import BASELINE

Row = Asked


@dataclass(frozen=True)
class Status:
    """What the record leaves of an arm: its kind, the results that existed, why, and the family.

    A family is the place of the decision that its arms came with; exploratory arms of a decision are one by themselves.
    """

    kind: str
    after: int = 0
    because: str = ""
    family: int = 0


def contrast(plan: Plan, name: str, stage: str, *, turned: bool = False) -> str:
    """Make the key of an arm against its reference at a stage; turned: of the reference against the arm."""
    pair = [recipe(plan, name, stage), recipe(plan, plan.study.arm(name).on, stage)]
    return key_of(pair[::-1] if turned else pair)


def rows(plan: Plan) -> list[Row]:
    """List every decision on record in this store, oldest first; the study's own is last where it is not yet recorded.

    `firsts` of a row: arm -> what was left of it when its pairs first had results.
    """
    decisions = _recorded(plan)
    if not any(row["decision_key"] == plan.study.decision_key for row in decisions):
        decisions = [*decisions, {**declared(plan, decisions), "firsts": {}}]
    at = own(plan, decisions)
    for j, name in firsts.fresh(plan, decisions, at):
        kept = status(plan, decisions, j, name)
        of = decisions[kept.family]["decision_key"] if kept.family >= 0 else decisions[j]["decision_key"]
        decisions[j]["firsts"][name] = firsts.event(decisions[j], name, kept.kind, kept.after, kept.because, of)
    return decisions


def recorded(plan: Plan) -> Row | None:
    """Return the study's own decision as it is on record; None before it is."""
    return next((row for row in _recorded(plan) if row["decision_key"] == plan.study.decision_key), None)


def _recorded(plan: Plan) -> list[Row]:
    """Read the store's file and every study's copy in its folder, so that losing one of them hides nothing."""
    decisions = read_decisions(plan.store.root / "decisions.jsonl")
    known = {row["decision_key"] for row in decisions}
    copies = sorted((plan.store.root / "studies").glob("*/decisions.jsonl"))
    for copy in copies:
        for row in read_decisions(copy):
            if row["decision_key"] not in known:
                known.add(row["decision_key"])
                decisions.append(row)
    events = firsts.read([plan.store.root / "decisions.jsonl", *copies])
    decisions = [{**row, "firsts": events.get(row["decision_key"], {})} for row in decisions]
    return sorted(decisions, key=lambda row: str(row.get("when", "")))


def own(plan: Plan, decisions: Sequence[Row]) -> int:
    """Return the place of the study's own decision."""
    mine = plan.study.decision_key
    return next(i for i, row in enumerate(decisions) if row["decision_key"] == mine)


def record(plan: Plan) -> list[Row]:
    """Put the study's decision on record, once, and what is left of every arm that has results; every decision on record."""
    mine, shelf = plan.study.decision_key, plan.store.root / "decisions.jsonl"
    copy = plan.directory / "decisions.jsonl"
    decisions = rows(plan)
    row = decisions[own(plan, decisions)]
    for path in (shelf, copy):
        if not any(one["decision_key"] == mine for one in read_decisions(path)):
            append_line(path, {key: value for key, value in row.items() if key != "firsts"})
        firsts.write(path, decisions if path == shelf else [row])
    return decisions


def begin(plan: Plan) -> None:
    """Put the decision on record before its runs, and that they begin now."""
    record(plan)
    firsts.begin(plan, plan.study.decision_key)


def declared(plan: Plan, before: Sequence[Row]) -> Row:
    """Make the row of a decision that is met now: what it asks, and which results exist."""
    study, stage = plan.study, plan.study.decision["stage"]
    entries = [_entry(plan, name) for name in study.arms]
    base = recipe(plan, BASELINE, stage)
    noise = pooled_noise(plan)
    return {
        "when": datetime.datetime.now().isoformat(timespec="microseconds"),
        "study": study.name,
        "scale": study.scale,
        "decision": cast(Rule, study.decision),
        "limits": {**study.limits},
        "groups": study.baseline.settings["data"]["groups"],
        "arms": list(study.arms),
        "decision_key": plan.study.decision_key,
        "runs": sorted({run.train_key for run in plan.runs.values()}),
        "ended": sum(entry["ended"] for entry in entries),
        "baseline": base,
        "on_baseline": _results_on(plan, base, before),
        "contrasts": entries,
        "crossed": crossings.asked(plan) if plan.study.factorials else [],
        "expect": {name: arm.expect for name, arm in study.arms.items() if arm.expect},
        "bank": None if noise is None else {"sd": noise.sd, "df": noise.df},
    }


def _entry(plan: Plan, name: str) -> Contrast:
    """Enter an arm in the record: its contrast, at the other stages too, its pairs, and at how many both had results."""
    study, stage = plan.study, plan.study.decision["stage"]
    on, seeds = study.arm(name).on, plan.seeds
    base = {key for seed in seeds for key in plan.runs[BASELINE, seed].score_keys.values()}
    ended = 0
    for seed in seeds:
        run = plan.runs[name, seed]
        fresh = [key for key in run.score_keys.values() if key not in base]
        trained = plan.store.trained(run.train_key) if run.train_key != plan.runs[on, seed].train_key else None
        lost = trained is not None and trained["status"] == "diverged"
        ended += (lost or any(map(plan.store.scored, fresh))) and _known(plan, on, seed)
    others = [other for other in plan.stages if other != stage and _apart(plan, name, other)]
    adopted = bool(plan.study.arm(name).settings["train"]["weights"])  # whose training tells nothing
    return {
        "arm": name,
        "on": on,
        "key": contrast(plan, name, stage),
        "also": [contrast(plan, name, other) for other in others],
        "turned": [contrast(plan, name, other, turned=True) for other in (stage, *others)],
        "ended": int(ended),
        "pairs": [_pair(plan, name, seed) for seed in seeds],
        "trained": [] if adopted else [[plan.runs[arm, seed].train_key for arm in (name, on)] for seed in seeds],
    }


def _known(plan: Plan, name: str, seed: int) -> bool:
    """Tell whether anything of a run is known: how its training ended is enough."""
    run = plan.runs[name, seed]
    return plan.store.trained(run.train_key) is not None or any(map(plan.store.scored, run.score_keys.values()))


def _apart(plan: Plan, name: str, stage: str) -> bool:
    """Tell whether an arm is another run than its reference at a stage: a lever of a later stage is not."""
    keys = [plan.runs[arm, plan.seeds[0]].score_keys[stage] for arm in (name, plan.study.arm(name).on)]
    return keys[0] != keys[1]


def _pair(plan: Plan, name: str, seed: int) -> list[str]:
    """Return [the draws, the arm's score, its reference's]: the first tells pairs of one contrast apart."""
    on, stage = plan.study.arm(name).on, plan.study.decision["stage"]
    salts = [plan.study.arm(arm).settings["train"]["salt"] for arm in (name, on)]
    return [f"{seed}/{salts[0]}/{salts[1]}", *(plan.runs[arm, seed].score_keys[stage] for arm in (name, on))]


def _results_on(plan: Plan, base: str, before: Sequence[Row]) -> int:
    """Count results at the deciding stage of this baseline and of whatever was compared with it."""
    keys = {run.score_keys[plan.study.decision["stage"]] for run in plan.runs.values()}
    keys |= {
        key
        for row in before
        if row.get("baseline") == base
        for e in row.get("contrasts", ())
        for p in e["pairs"]
        for key in p[1:]
    }
    return sum(plan.store.scored(key) is not None for key in keys)


def statuses(plan: Plan, decisions: Sequence[Row]) -> dict[str, Status]:
    """Return the status of every arm of the study by the record."""
    at = own(plan, decisions)
    return {name: status(plan, decisions, at, name) for name in plan.study.arms}


def status(plan: Plan, decisions: Sequence[Row], at: int, name: str) -> Status:
    """Return the status of arm `name` of the decision at `at`: as kept, and before it has results, as it would be now."""
    row, entry = decisions[at], contrast_of(decisions[at], name)
    if (kept := row["firsts"].get(name)) is not None:
        places = [j for j, other in enumerate(decisions) if other["decision_key"] == kept["of"]]
        family = -1 - at if kept["kind"] == "exploratory" else (*places, at)[0]
        return Status(kept["kind"], int(kept["after"]), kept["because"], family)
    if entry is None:  # recorded before contrasts were
        kind = "exploratory" if row["ended"] else "declared"
        return Status(kind, int(row["ended"]), "results of these runs existed" if row["ended"] else "", -1 - at)
    if entry["ended"] == 0:
        return _ahead(plan, decisions, at, entry)
    earlier = [j for j in range(at) if links.linked(decisions[j], entry)]
    for j in earlier:
        if rule_of(decisions[j]) == rule_of(row) and (twin := links.same(decisions[j], entry)) is not None:
            was = status(plan, decisions, j, twin["arm"])
            lost = links.removed(decisions[j], row)
            if was.kind != "exploratory" and not lost:
                late = decisions[j].get("expect", {}).get(twin["arm"]) != row.get("expect", {}).get(name)
                said = f"what was expected of it was written after {plural(entry['ended'], 'pair')} had ended"
                return replace(was, because=said) if late else was
    why = f"changed: {links.changes(decisions[earlier[-1]], row)}" if earlier else "no decision about it was on record"
    return Status("exploratory", entry["ended"], f"{plural(entry['ended'], 'pair')} had ended; {why}", -1 - at)


def _ahead(plan: Plan, decisions: Sequence[Row], at: int, entry: Contrast) -> Status:
    """Return the status of a contrast without results when declared: the first decision with results of it took its alpha."""
    row = decisions[at]
    before = [
        j
        for j, other in enumerate(decisions)
        if j != at
        and any(one["arm"] in other["firsts"] and links.links(one, entry) for one in other.get("contrasts", ()))
    ]
    for j in reversed(before):
        if n := _pairs_done(plan, decisions[j], entry):
            said = f"study {decisions[j]['study']} decided the same contrast before, on {plural(n, 'other pair')}"
            return Status("exploratory", n, f"{said}; changed: {links.changes(decisions[j], row)}", -1 - at)
    for j in before:
        if (
            rule_of(decisions[j]) == rule_of(row)
            and (twin := links.same(decisions[j], entry))
            and not links.removed(decisions[j], row)
        ):
            was = status(plan, decisions, j, twin["arm"])
            if was.kind != "exploratory":
                return was
    if before:
        n = firsts.count(plan, entry)
        why = f"{plural(n, 'pair')} had ended first in study {decisions[before[-1]]['study']}"
        return Status("exploratory", n, f"{why}; changed: {links.changes(decisions[before[-1]], row)}", -1 - at)
    after = int(row.get("on_baseline", 0))
    return Status("added" if after else "declared", after, family=at)


def _pairs_done(plan: Plan, other: Row, entry: Contrast) -> int:
    """Count results of another decision of this contrast at pairs that are not this study's own."""
    mine, trained = {key for pair in entry["pairs"] for key in pair[1:]}, list(map(sorted, entry.get("trained", ())))
    return sum(
        firsts.count(plan, one, lambda keys, weights: not (mine.issuperset(keys) or sorted(weights) in trained))
        for one in other.get("contrasts", ())
        if links.links(one, entry)
    )


def listed(plan: Plan, decisions: Sequence[Row]) -> list[dict[str, object]]:
    """List the decisions that share runs, a contrast or the baseline with the study's; `changed` since the last one."""
    mine = decisions[own(plan, decisions)]
    shared = [row for row in decisions if row is mine or shares(row, mine)]
    inside = (
        "runs",
        "decision_key",
        "contrasts",
        "crossed",
        "baseline",
        "bank",
        "on_baseline",
        "expect",
        "limits",
        "firsts",
        "chain",
    )
    said = []
    for i, row in enumerate(shared):
        shown = {key: value for key, value in row.items() if key not in inside}
        said.append(shown | ({"changed": links.changes(shared[i - 1], row)} if i else {}))
    return said


def shares(row: Row, mine: Row) -> bool:
    linked = any(links.linked(row, entry) for entry in mine.get("contrasts", ()))
    on_base = mine.get("baseline") is not None and row.get("baseline") == mine.get("baseline")
    return linked or on_base or bool(set(row["runs"]) & set(mine["runs"]))


def pooled(plan: Plan, decisions: Sequence[Row], name: str, size: int) -> Pooled | None:
    """Pool the contrast over every seed ever run for it, where other decisions have seeds that this study has not.

    One t interval at alpha / (decisions x `size`), size being the arms of the arm's family; None where all is this study's.
    """
    from ablab.verdict.interval import read, summary

    metric, entry = plan.study.decision["metric"], contrast_of(decisions[own(plan, decisions)], name)
    if entry is None:
        return None
    values, counted = dict[str, tuple[float, float]](), dict[str, str]()
    for row in decisions:
        for one in row.get("contrasts", ()):
            turned = entry["key"] in one.get("turned", ())[:1] or one["key"] in entry.get("turned", ())[:1]
            if one["key"] != entry["key"] and not turned:
                continue
            pairs = [_turned(pair) if turned else pair for pair in one["pairs"]]
            scores = {pair[0]: [_metric(plan, key, metric) for key in pair[1:]] for pair in pairs}
            done = {label: (a, b) for label, (a, b) in scores.items() if a is not None and b is not None}
            values |= done
            if done:  # the same rule on the same seeds is one decision, whatever the study is called
                counted[key_of([rule_of(row), sorted(scores)])] = row["study"]
    if not values.keys() - {pair[0] for pair in entry["pairs"]}:
        return None
    sample = summary([a - b for a, b in values.values()], [b for _, b in values.values()])
    alpha, matters = 1 - plan.study.decision["confidence"], plan.study.decision["matters"]
    i = read(sample, matters=matters, alpha=alpha / len(counted), w=1.0, m=size)
    return {
        "delta": i.d,
        "low": i.low,
        "high": i.high,
        "seeds": i.n,
        "word": i.word,
        "decisions": len(counted),
        "studies": list(dict.fromkeys(counted.values())),
        "alpha": alpha,
        "arms": size,
    }


def _turned(pair: Sequence[str]) -> list[str]:
    """Return a pair as the study of the exchanged roles has it: the label's two salts, and the two scores."""
    seed, *salts = pair[0].split("/")
    half = len(salts) // 2
    return ["/".join([seed, *salts[half:], *salts[:half]]), pair[2], pair[1]]


def _metric(plan: Plan, key: str, metric: str) -> float | None:
    result = plan.store.scored(key)
    value = None if result is None or result.get("diverged") else result["metrics"].get(metric)
    return float(value) if value is not None else None


def on_baseline(plan: Plan, decisions: Sequence[Row]) -> OnBaseline:
    """Count the arms judged on this baseline, and the decisions among them that had a family of their own."""
    base = decisions[own(plan, decisions)].get("baseline")
    here = [(j, row) for j, row in enumerate(decisions) if row.get("baseline") == base and base is not None]
    arms = {entry["key"] for _, row in here for entry in row.get("contrasts", ()) if _started(plan, entry)}
    families = {
        status(plan, decisions, j, e["arm"]).family
        for j, row in here
        for e in row.get("contrasts", ())
        if _started(plan, e)
    }
    return {"arms": len(arms), "families": len(families)}


def _started(plan: Plan, entry: Contrast) -> bool:
    return any(all(plan.store.scored(key) is not None for key in pair[1:]) for pair in entry["pairs"])
