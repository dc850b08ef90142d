"""[decision] and [limits]: the rule, written before any result."""

from __future__ import annotations

from ablab.core.fault import Fault, did_you_mean
from ablab.records.settings import DecisionSettings, Limits, SeedsSettings, StageSettings
from ablab.study.arms import Draft, changed
from ablab.study.record import BASELINE
from ablab.study.settings import decides, look
from ablab.study.take import section, show, table

RUNGS = ("needle", "trajectory", "lowest", "prefer X")


def decision(
    raw: object, base: Draft, arms: dict[str, Draft], absent: set[str], faults: list[Fault]
) -> DecisionSettings:
    """Read the canonical rule. `absent` are arms that this scale leaves out. `tie` names arms, whatever the file writes."""
    out = section("decision", raw, "decision", faults, DecisionSettings)
    out["seeds"] = _seeds(raw.get("seeds") if isinstance(raw, dict) else None, out["seeds"], faults)
    if "runner" not in base.settings:  # whose one stage is no choice
        _stage(out["stage"], base, faults)
    tie = []
    for i, rung in enumerate(out["tie"] or ()):
        place = f"decision.tie[{i}]"
        if rung.startswith("prefer ") and rung[7:].strip():
            tie.append(f"prefer {_preferred(rung[7:].strip(), base, arms, absent, place, faults)}")
            continue
        if rung not in RUNGS[:3]:
            faults.append(Fault(place, f"{show(rung)} breaks no tie", did_you_mean(rung, RUNGS)))
        elif rung == "needle" and not any(_is_needle(stage) for stage in base.settings["stage"].values()):
            faults.append(
                Fault(place, "no stage evaluates a needle", 'add needle = { evaluate = "needle" } to [stage]')
            )
        tie.append(rung)
    doubled = [rung for i, rung in enumerate(tie) if rung in tie[:i]]
    if doubled:
        faults.append(Fault("decision.tie", f"{show(doubled[0])} stands there twice", "remove one"))
    out["tie"] = tie
    return out


def limits(raw: object, faults: list[Fault]) -> Limits:
    """Read the limits that are given."""
    given = section("limits", raw, "limits", faults, dict[str, float | None])
    return {key: value for key, value in given.items() if value is not None}


def _seeds(raw: object, given: object, faults: list[Fault]) -> SeedsSettings:
    place = "decision.seeds"
    if isinstance(given, int):
        given = {"start": given, "at_most": given}
        count = len(faults)
        out = section("seeds", given, place, faults, SeedsSettings)
        if len(faults) > count:  # one fault, in the words of what was written
            del faults[count:]
            faults.append(Fault(place, f"{raw} is out of bounds", "give an integer at least 1 and at most 1_000"))
        return out
    out = section("seeds", given, place, faults, SeedsSettings)
    start, most, probe, keep = out["start"], out["at_most"], out["probe"], out["keep"]
    if start and most and start > most:
        faults.append(Fault(place, f"start {start} is more than at_most {most}", "needed: 1 <= start <= at_most"))
    if isinstance(keep, int) and keep < 1:
        faults.append(Fault(f"{place}.keep", f"{keep} keeps no arm", "give at least 1"))
    if keep == "2 sigma" and probe == 0:
        faults.append(Fault(f"{place}.keep", '"2 sigma" needs a probe', "add probe = 1"))
    if probe and keep is None and "keep" not in table(given, place, []):
        faults.append(Fault(f"{place}.probe", "a probe chooses nothing without keep", 'add keep = 1 (or "2 sigma")'))
    return out


def _stage(name: str | None, base: Draft, faults: list[Fault]) -> None:
    stages = base.settings["stage"]
    if name is None or (name not in stages and name in table(base.tree.get("stage"), "stage", [])):
        return
    if name not in stages:
        faults.append(Fault("decision.stage", f"no stage is called {show(name)}", did_you_mean(name, list(stages))))
    elif not decides(stages[name]["evaluate"]):
        what = stages[name]["evaluate"]["name"]
        able = [other for other, stage in stages.items() if decides(stage["evaluate"])]
        text = f"stage '{name}' ({what}) does not score the text and cannot decide"
        faults.append(Fault("decision.stage", text, f"choose {' or '.join(able) or 'a stage that evaluates disjoint'}"))


def _is_needle(stage: StageSettings) -> bool:
    return stage["evaluate"] is None or not decides(stage["evaluate"])


def _preferred(
    wish: str, base: Draft, arms: dict[str, Draft], absent: set[str], place: str, faults: list[Fault]
) -> str:
    """Return the arm that `prefer X` means: a name, else the baseline's own value of a changed setting, else an arm's value."""
    if wish in arms or wish == BASELINE:
        return wish
    if wish in absent:
        faults.append(Fault(place, f"arm {show(wish)} is left out by only", "give this scale its own decision.tie"))
        return wish
    drafts = {name: arm for name, arm in arms.items() if not arm.faults}
    if any(_is(look(base.settings, path), wish) for arm in drafts.values() if arm.on == BASELINE for path in arm.paths):
        return BASELINE
    fitting = []
    for name, arm in drafts.items():
        reference = arms.get(arm.on, base)
        if any(_is(change.after, wish) for path in arm.paths for change in changed(path, reference, arm)):
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        faults.append(Fault(place, f"{show(wish)} fits several arms ({', '.join(fitting)})", "name one of them"))
    elif len(drafts) == len(arms):  # a faulty arm may be the one that was meant
        faults.append(
            Fault(place, f"{show(wish)} is no arm and no changed setting", did_you_mean(wish, [*arms, BASELINE]))
        )
    return wish


def _is(value: object, wish: str) -> bool:
    """Tell whether a setting's value is the word: a lever's name, a number or a string as written."""
    if isinstance(value, dict) and "name" in value:
        return bool(value["name"] == wish)
    if isinstance(value, bool):
        return str(value).lower() == wish
    if isinstance(value, int | float):
        try:
            return float(wish) == float(value)
        except ValueError:
            return False
    return bool(value == wish)
