"""The factorials of a study as the verdict reads them, and what the record of decisions leaves of their interactions.

An interaction takes a place in the family of its cells if it was asked for when the last of these was declared. One that is
asked for later, of cells that have results, is a family of its own: words that stand would else move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablab.core.files import key_of
from ablab.judging.recipe import recipe
from ablab.records.decision import Asked, Interaction
from ablab.records.settings import Crossing
from ablab.runs.plan import Plan
from ablab.verdict import Factor, Factorial


def factorials(plan: Plan, families: Mapping[str, int] | None = None) -> list[Factorial]:
    """List every factorial of the study, the baseline's level first. families: of interactions, by `FACTORIAL: PAIR`."""
    return [_factorial(name, one, families or {}) for name, one in plan.study.factorials.items()]


def _factorial(name: str, crossing: Crossing, families: Mapping[str, int]) -> Factorial:
    order = [[one["base"], *(i for i in range(len(one["levels"])) if i != one["base"])] for one in crossing["factors"]]
    factors = tuple(
        Factor(one["label"], tuple(one["names"][i] for i in levels))
        for one, levels in zip(crossing["factors"], order, strict=True)
    )
    cells = {
        tuple(levels.index(i) for i, levels in zip(at, order, strict=True)): arm
        for arm, at in crossing["cells"].items()
    }
    prefix = f"{name}: "
    own = {key.removeprefix(prefix): family for key, family in families.items() if key.startswith(prefix)}
    return Factorial(name, factors, cells, own)


def asked(plan: Plan) -> list[Interaction]:
    """List every interaction of two that the study asks for, by what its cells are and not by their names."""
    stage = plan.study.decision["stage"]
    named = {arm for factorial in factorials(plan) for arm in factorial.cells.values()}
    recipes = {arm: recipe(plan, arm, stage) for arm in named}
    interactions = list[Interaction]()
    for factorial in factorials(plan):
        for one in factorial.contrasts(2):
            terms = sorted((recipes[arm], weight) for arm, weight in one.line.terms)
            interactions.append({"name": one.line.name, "key": key_of([stage, terms])})
    return interactions


def families(plan: Plan, decisions: Sequence[Asked], at: int, arms: Mapping[str, int]) -> dict[str, int]:
    """Map `FACTORIAL: PAIR` to its family; arms: those of the study's arms, at: the place of its own decision in the record."""
    keys = {one["name"]: one["key"] for one in asked(plan)}
    out = {}
    for factorial in factorials(plan):
        for one in factorial.contrasts(2):
            own = [arms[arm] for arm in one.line.arms if arm in arms]
            latest = max(own)
            ahead = min(own) >= 0 and any(
                row["key"] == keys[one.line.name] for row in decisions[latest].get("crossed", ())
            )
            out[one.line.name] = latest if ahead else -1 - at
    return out
