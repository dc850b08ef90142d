"""The verdict: every arm paired with its reference, seed by seed; one t interval; the word is read off it.

Needs numpy and scipy only, and those not before a name is used: importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablab.verdict.contrasts import Factorial, two_by_two
    from ablab.verdict.crossed import factorial
    from ablab.verdict.documents import bits_per_nat
    from ablab.verdict.evidence import ArmSpec, Bank, Decision, DocumentScores, RunScore
    from ablab.verdict.judgement import judge, wanted
    from ablab.verdict.logs import Record, Unpaired, record, unpaired
    from ablab.verdict.planning import (
        Outlook,
        at_most_for,
        chance,
        mde_one_seed,
        plan,
        power,
        seeds_needed,
    )
    from ablab.verdict.rows import (
        Band,
        Cell,
        Crossed,
        Effect,
        Factor,
        Gap,
        Inversion,
        Price,
        Row,
        StageBand,
        Step,
        Verdict,
    )
    from ablab.verdict.spending import looks, weights
    from ablab.verdict.two_groups import BySeed, GuardedInterval, by_seed, guarded, runs_a_side
    from ablab.verdict.visible import mde, smallest_tie

_PLACES = {
    "contrasts": "Factorial two_by_two",
    "crossed": "factorial",
    "documents": "bits_per_nat",
    "evidence": "ArmSpec Bank Decision DocumentScores RunScore",
    "judgement": "judge wanted",
    "logs": "Record Unpaired record unpaired",
    "planning": "Outlook at_most_for chance mde_one_seed plan power seeds_needed",
    "rows": "Band Cell Crossed Effect Factor Gap Inversion Price Row StageBand Step Verdict",
    "spending": "looks weights",
    "two_groups": "BySeed GuardedInterval by_seed guarded runs_a_side",
    "visible": "mde smallest_tie",
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "ArmSpec",
    "Band",
    "Bank",
    "BySeed",
    "Cell",
    "Crossed",
    "Decision",
    "DocumentScores",
    "Effect",
    "Factor",
    "Factorial",
    "Gap",
    "GuardedInterval",
    "Inversion",
    "Outlook",
    "Price",
    "Record",
    "Row",
    "RunScore",
    "StageBand",
    "Step",
    "Unpaired",
    "Verdict",
    "at_most_for",
    "bits_per_nat",
    "by_seed",
    "chance",
    "factorial",
    "guarded",
    "judge",
    "looks",
    "mde",
    "mde_one_seed",
    "plan",
    "power",
    "record",
    "runs_a_side",
    "seeds_needed",
    "smallest_tie",
    "two_by_two",
    "unpaired",
    "wanted",
    "weights",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
