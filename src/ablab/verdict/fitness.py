"""What is checked before any statistics: is an arm fit to be compared with its reference at all?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ablab.verdict.evidence import ArmSpec, Evidence, RunScore


@dataclass(frozen=True)
class Fitness:
    """word is None (fit), "invalid" or "unstable"; curable: seeds not run yet may still turn it."""

    word: str | None = None
    note: str = ""
    curable: bool = False


FIT = Fitness()


def fitness(evidence: Evidence, arm: ArmSpec, reference: str, places: Sequence[int]) -> Fitness:
    """The first fault in a fixed precedence: every invalid before unstable."""
    name = arm.name
    for checked in (name, reference):
        gates = sorted({g for run in _runs(evidence, checked, places) for g in run.gates})
        if gates:
            return Fitness("invalid", f"gate violated by {checked}: {', '.join(gates)}")
    fault = "" if arm.data_is_lever else _hashes(evidence, name, reference, places)
    fault = fault or _documents(evidence, name, reference, places)
    fault = fault or _repeats(evidence, name, places) or _repeats(evidence, reference, places)
    if fault:
        return Fitness("invalid", fault)
    ended = [s for i in places if (s := evidence.status[reference][i]) != "absent"]
    if ended and "done" not in ended:
        return Fitness("invalid", f"{reference} has ended runs but none done", curable=True)
    own = [s for i in places if (s := evidence.status[name][i]) != "absent"]
    if own and all(s == "failed" for s in own):
        return Fitness("invalid", f"all runs of {name} failed", curable=True)
    for i in places:
        if evidence.status[name][i] == "diverged" and evidence.status[reference][i] in ("done", "failed"):
            return Fitness("unstable", f"seed {evidence.seeds[i]}: {name} diverged and {reference} did not")
    return FIT


def worst(found: Iterable[Fitness]) -> Fitness:
    """Of the cells of a contrast: invalid before unstable before fit, lasting before curable."""
    order = {"invalid": 0, "unstable": 1, None: 2}
    return min(found, key=lambda f: (order[f.word], f.curable), default=FIT)


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


def _repeats(evidence: Evidence, name: str, places: Iterable[int]) -> str:
    """Two seeds with the same nats in every document are one run twice, or say nothing. Plain numbers may agree by rounding."""
    seen: dict[bytes, int] = {}
    for i in places:
        documents = evidence.documents(name, i, evidence.decision.stage)
        if documents is None or documents.nats.size == 0 or evidence.status[name][i] != "done":
            continue
        key = documents.nats.tobytes()
        if key in seen:
            seeds = f"{name}: seeds {evidence.seeds[seen[key]]} and {evidence.seeds[i]}"
            return f"{seeds} score every document exactly alike: the same run twice, or weights that say nothing"
        seen[key] = i
    return ""
