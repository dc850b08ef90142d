"""Runs that pose as several seeds: one training counted twice makes the spread too small and the word too bold.

Two trainings from different seeds differ in their level and, document by document, around it. Both distances are looked at
beside those of the other pairs of seeds. A copy, rounded, stored in fewer bits or with a little noise added, is far closer in
both.

False alarms: where trainings differ in v independent directions, a squared distance is a chi-square of v degrees of freedom;
a pair lies under NEAR of the median with probability P(chi2_v < NEAR^2 x median): .011 for the level (v = 1) and 2.8e-4 around
it at v = 2, both together 3e-6 a pair, 8.4e-5 for an arm of 8 seeds. Six tiny trainings over 12 documents differed in 2.5
directions around their level, and their closest pair lay at .57 of the median distance. With fewer than MOST_FEW documents only
equal nats are called a copy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ablab.verdict.evidence import Evidence

NEAR = 0.02  # of the median distance of the run's own arm
BESIDE = 0.005  # of that of its reference, whose spread may be another by a small factor
ROUNDING = 1e-6  # of the nats themselves: sums in fp32, or logs of six digits
MOST_FEW = 8  # documents, for the bound above

Found = dict[tuple[str, int], npt.NDArray[np.float64]]


def copies(evidence: Evidence, name: str, reference: str, places: Iterable[int]) -> str:
    """The first two seeds of an arm or its reference that are one run; "" where there are none.

    Runs of the two at different seeds are looked at too: a file of the one may stand in for a seed of the other.
    """
    spots = list(places)
    found = {
        (arm, i): nats
        for arm in dict.fromkeys((name, reference))
        for i in spots
        if (nats := _nats(evidence, arm, i)) is not None
    }
    scales = {arm: _scale(found, arm) for arm in (name, reference)}
    for (one, i), (other, j) in combinations(found, 2):
        if i == j:
            continue
        a, b = found[one, i], found[other, j]
        if a.shape != b.shape:
            continue
        seeds = f"{one}: seeds {evidence.seeds[i]} and {evidence.seeds[j]}"
        if one != other:
            seeds = f"{one}, seed {evidence.seeds[i]}, and {other}, seed {evidence.seeds[j]},"
        if np.array_equal(a, b):
            return f"{seeds} score every document exactly alike: the same run twice, or weights that say nothing"
        if a.size < MOST_FEW:
            continue
        size, theirs = float(np.linalg.norm(a)), reference if one == name else name
        apart = _distances(a, b)
        near = all(
            d <= max(NEAR * own, BESIDE * beside)
            for d, own, beside in zip(apart, scales[one], scales[theirs], strict=True)
        )
        if near or float(np.linalg.norm(a - b)) <= ROUNDING * size:
            share = f"{float(np.linalg.norm(a - b)) / size:.1g} of their nats apart"
            return f"{seeds} score every document nearly alike ({share}): one training under two seeds"
    return ""


def _nats(evidence: Evidence, arm: str, place: int) -> npt.NDArray[np.float64] | None:
    """The nats of a done run's documents at the deciding stage; plain numbers may agree by rounding and are not looked at."""
    documents = evidence.documents(arm, place, evidence.decision.stage)
    if documents is None or documents.nats.size == 0 or evidence.status[arm][place] != "done":
        return None
    return documents.nats


def _distances(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float]:
    """(of the level, around it): how far two runs lie apart in all documents alike, and in each by itself."""
    gap = a - b
    level = float(gap.mean())
    return abs(level), float(np.linalg.norm(gap - level))


def _scale(found: Found, arm: str) -> tuple[float, float]:
    """The median distances of an arm's seeds; 0 where they are too few to tell one copy from the rule."""
    own = [nats for (one, _), nats in found.items() if one == arm]
    apart = [_distances(a, b) for a, b in combinations(own, 2) if a.shape == b.shape]
    known = [d for d in apart if all(map(math.isfinite, d))]
    if len(known) < 3:
        return 0.0, 0.0
    return statistics.median(d for d, _ in known), statistics.median(d for _, d in known)
