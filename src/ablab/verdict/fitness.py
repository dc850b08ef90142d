"""What is checked before any statistics: is an arm fit to be compared with its reference at all?

A single divergence says little: at a rate of 2% in every arm some arm of seven diverges where the baseline does not in 70% of
studies of eight seeds. So `unstable` needs two seeds, and more than those at which only the reference diverged (7% of such
studies, simulated). One seed is not forgotten either: it takes the word `better` away, because the pairs that are left are
those the arm survived; but not where the reference diverged alone, too, which is chance taken from both alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ablab.verdict.copies import copies
from ablab.verdict.evidence import ArmSpec, Evidence, RunScore
from ablab.verdict.rates import often, rate
from ablab.verdict.rows import Rate


@dataclass(frozen=True)
class Fitness:
    """word is None (fit), "invalid" or "unstable", of contrasts "needs"; curable: seeds not run yet may still turn it."""

    word: str | None = None
    note: str = ""
    curable: bool = False


FIT = Fitness()


@dataclass(frozen=True)
class Divergences:
    """Of an arm and its reference, over the `seeds` at which both are done or diverged: where both and where one diverged."""

    seeds: int
    both: int
    arm: int  # b: only the arm
    reference: int  # c: only its reference

    @property
    def unstable(self) -> bool:
        """The arm diverges, and more often than its reference."""
        return self.arm >= 2 and self.arm > self.reference

    @property
    def once(self) -> bool:
        """The arm alone diverged, at one seed."""
        return self.arm == 1 and not self.reference

    @property
    def shaky_reference(self) -> bool:
        """The reference diverges, and more often than the arm."""
        return self.reference >= 2 and self.reference > self.arm

    def rates(self, alpha: float) -> tuple[Rate, Rate]:
        """Return (of the arm, of its reference); 1 - alpha is the confidence of their intervals."""
        arm, reference = self.both + self.arm, self.both + self.reference
        return rate(arm, self.seeds, alpha), rate(reference, self.seeds, alpha)


def divergences(evidence: Evidence, arm: str, reference: str, places: Iterable[int]) -> Divergences:
    """Count over the places where both are done or diverged: a run that failed or is absent says nothing."""
    pairs = [(evidence.status[arm][i], evidence.status[reference][i]) for i in places]
    run = [(a, r) for a, r in pairs if {a, r} <= {"done", "diverged"}]
    count = {pair: run.count(pair) for pair in set(run)}
    return Divergences(
        len(run),
        count.get(("diverged", "diverged"), 0),
        count.get(("diverged", "done"), 0),
        count.get(("done", "diverged"), 0),
    )


def fitness(evidence: Evidence, arm: ArmSpec, reference: str, places: Sequence[int]) -> Fitness:
    """Return the first fault in a fixed precedence: every invalid before unstable."""
    name = arm.name
    for checked in (name, reference):
        violations = sorted({g for run in _runs(evidence, checked, places) for g in run.violations})
        if violations:
            return Fitness("invalid", f"rule violated by {checked}: {', '.join(violations)}")
    fault = "" if arm.data_is_lever else _hashes(evidence, name, reference, places)
    fault = fault or _documents(evidence, name, reference, places)
    runs = [*_runs(evidence, name, places), *_runs(evidence, reference, places)]
    fault = fault or next((run.copied for run in runs if run.copied), "")
    fault = fault or copies(evidence, name, reference, places)
    if fault:
        return Fitness("invalid", fault)
    ended = [s for i in places if (s := evidence.status[reference][i]) != "absent"]
    if ended and "done" not in ended:
        return Fitness("invalid", f"{reference} has ended runs but none done", curable=True)
    own = [s for i in places if (s := evidence.status[name][i]) != "absent"]
    if own and all(s == "failed" for s in own):
        return Fitness("invalid", f"all runs of {name} failed", curable=True)
    counts = divergences(evidence, name, reference, places)
    if counts.unstable:
        mine, theirs = counts.rates(evidence.decision.alpha)
        return Fitness("unstable", f"{name} diverged at {often(mine)}, {reference} at {often(theirs)}")
    return FIT


def of_cells(evidence: Evidence, arms: Iterable[str], reference: str, places: Sequence[int]) -> Fitness:
    """Return of a contrast fit if every cell is and may be compared, else "needs" with the cells that it needs and why."""
    faults, curable = dict[str, list[str]](), True
    for arm in arms:
        spec = evidence.specs[arm]
        cell = fitness(evidence, spec, reference, places)
        if cell.word is None and not spec.barred:
            continue
        curable = curable and cell.curable
        if cell.word is None:
            why = f"barred: {spec.barred}"
        elif cell.word == "unstable":
            lost = [str(evidence.seeds[i]) for i in places if evidence.status[arm][i] == "diverged"]
            why = f"diverged at seeds {', '.join(lost)}"
        else:
            own = {evidence.status[arm][i] for i in places} - {"absent"}
            why = "failed" if own == {"failed"} else f"invalid: {cell.note}"
        faults.setdefault(why, []).append(arm)
    if not faults:
        return FIT
    said = "; ".join(f"{', '.join(names)} ({why})" for why, names in faults.items())
    return Fitness("needs", f"needs {said}", curable)


def _runs(evidence: Evidence, name: str, places: Iterable[int]) -> list[RunScore]:
    return [run for i in places if (run := evidence.runs[name][i]) is not None]


def _hashes(evidence: Evidence, name: str, reference: str, places: Iterable[int]) -> str:
    for i in places:
        a, b = evidence.runs[name][i], evidence.runs[reference][i]
        if a is not None and b is not None and a.hash is not None and b.hash is not None and a.hash != b.hash:
            return f"seed {evidence.seeds[i]}: {name} and {reference} consumed different tokens (hashes differ)"
    return ""


def _documents(evidence: Evidence, name: str, reference: str, places: Iterable[int]) -> str:
    decision = evidence.decision
    for i in places:
        a, b = (evidence.documents(x, i, decision.stage) for x in (name, reference))
        if a is None or b is None:
            continue
        if not np.array_equal(a.bytes, b.bytes):
            return f"seed {evidence.seeds[i]}: bytes per document differ between {name} and {reference}"
        if decision.metric != "bits_per_byte" and not np.array_equal(a.tokens, b.tokens):
            return (
                f"seed {evidence.seeds[i]}: tokens per document differ between {name} and {reference}: "
                "use bits_per_byte"
            )
    return ""
