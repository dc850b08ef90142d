"""Runs that pose as several seeds: one training counted twice makes the spread too small and the word too bold.

Two trainings from different seeds differ in their level and, document by document, around it. Both distances are looked at
beside those of the other pairs of seeds. A copy, rounded, stored in fewer bits or with a little noise added, is far closer in
both.

False alarms: where trainings differ in v independent directions, a squared distance is a chi-square of v degrees of freedom;
a pair lies under NEAR of the median with probability P(chi2_v < NEAR^2 x median): .011 for the level (v = 1) and 2.8e-4 around
it at v = 2, both together 3e-6 a pair, 8.4e-5 for an arm of 8 seeds. Six tiny trainings over 12 documents differed in 2.5
directions around their level, and their closest pair lay at .57 of the median distance. This needs MOST_FEW documents.

Where every seed is a copy, or two seeds are all there are, no other pair gives a scale, so there is a floor of its own that
some pair of an arm must keep: FLOOR of its nats. 381 pairs of tiny trainings (bf16 and fp32, 33 documents of 23 to 1,592
tokens) lay 6e-3 of them apart at least. A floor by the noise of a token, .001 nats for each root of one where those trainings
kept .47, was tried and accused quiet arms of a few hundred tokens.

Plain numbers, one a seed: two seeds that are equal in the arm and in its reference, to RESOLVED of the value. In one of the two
alone equality is mostly rounding.

Unseen: copies with more noise than FLOOR where every seed is one; noisy plain numbers, ones of fewer digits, and ones copied in
one arm alone. Seeds that start from one checkpoint and are trained so little that all stay within FLOOR are accused.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from decimal import Decimal
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ablab.verdict.evidence import Evidence

NEAR = 0.02  # of the median distance of the run's own arm
BESIDE = 0.005  # of that of its reference, whose spread may be another by a small factor
ROUNDING = 1e-6  # of the nats themselves: sums in fp32, or logs of six digits
MOST_FEW = 8  # documents, for the bound of NEAR
FLOOR = 3e-5  # of the nats: 200 times below the closest pair of real trainings that was seen, twice what noise of 1e-5 gives
RESOLVED = 1e-6  # of a plain number: coarser ones agree by rounding

Found = dict[tuple[str, int], npt.NDArray[np.float64]]


def copies(evidence: Evidence, name: str, reference: str, places: Iterable[int]) -> str:
    """Name the first two seeds of an arm or its reference that are one run; "" where there are none.

    Runs of the two at different seeds are looked at too: a file of the one may stand in for a seed of the other.
    """
    spots = list(places)
    nats_of = {
        (arm, i): nats
        for arm in dict.fromkeys((name, reference))
        for i in spots
        if (nats := _nats(evidence, arm, i)) is not None
    }
    scales = {arm: _scale(nats_of, arm) for arm in (name, reference)}
    sizes = {spot: _norm(nats) for spot, nats in nats_of.items()}
    own = [arm for arm in scales if arm not in evidence.specs or not evidence.specs[arm].shares_weights]
    alike = {arm for arm in own if _all_alike(nats_of, arm)}  # what only packs or scores has its reference's trainings
    for (one, i), (other, j) in combinations(nats_of, 2):
        if i == j:
            continue
        a, b = nats_of[one, i], nats_of[other, j]
        if a.shape != b.shape:
            continue
        if np.array_equal(a, b):
            said = "exactly alike: the same run twice, or weights that say nothing"
            return f"{_seeds(evidence, (one, i), (other, j))} score every document {said}"
        size, gap, theirs = sizes[one, i], _norm(a - b), reference if one == name else name
        if not (one == other and one in alike):  # those are one training whatever their distance
            if a.size < MOST_FEW:
                continue
            apart = _distances(a, b)
            near = all(
                d <= max(NEAR * own, BESIDE * beside)
                for d, own, beside in zip(apart, scales[one], scales[theirs], strict=True)
            )
            if not near and gap > ROUNDING * size:
                continue
        said = f"nearly alike ({gap / size if size else 0:.1g} of their nats apart): one training under two seeds"
        return f"{_seeds(evidence, (one, i), (other, j))} score every document {said}"
    return _equal_numbers(evidence, name, reference, spots)


def _seeds(evidence: Evidence, one: tuple[str, int], other: tuple[str, int]) -> str:
    """Name two runs, each an arm and the place of its seed."""
    (name, i), (beside, j) = one, other
    if name == beside:
        return f"{name}: seeds {evidence.seeds[i]} and {evidence.seeds[j]}"
    return f"{name}, seed {evidence.seeds[i]}, and {beside}, seed {evidence.seeds[j]},"


def _nats(evidence: Evidence, arm: str, place: int) -> npt.NDArray[np.float64] | None:
    """Return the nats of a done run's documents at the deciding stage, None where it has none."""
    documents = evidence.documents(arm, place, evidence.decision.stage)
    if documents is None or documents.nats.size == 0 or evidence.status[arm][place] != "done":
        return None
    return documents.nats


def _all_alike(nats_of: Found, arm: str) -> bool:
    """Tell whether no two of an arm's seeds lie further apart than FLOOR."""
    own = [nats for (one, _), nats in nats_of.items() if one == arm]
    pairs = [(a, b) for a, b in combinations(own, 2) if a.shape == b.shape]
    return bool(pairs) and all(_norm(a - b) <= FLOOR * _norm(a) for a, b in pairs)


def _equal_numbers(evidence: Evidence, name: str, reference: str, places: Iterable[int]) -> str:
    """Name the first two seeds whose plain numbers are equal in the arm and in its reference, where they have the digits."""
    stage = evidence.decision.stage
    mine, theirs = (evidence.values(arm, stage) for arm in (name, reference))
    plain = [
        i
        for i in evidence.common([name, reference], places)
        if all(evidence.documents(arm, i, stage) is None for arm in (name, reference))
    ]
    if any(_coarse([column[i] for i in plain]) for column in (mine, theirs)):
        return ""
    for i, j in combinations(plain, 2):
        if mine[i] == mine[j] and theirs[i] == theirs[j]:
            seeds = f"seeds {evidence.seeds[i]} and {evidence.seeds[j]}"
            return f"{name} and {reference}: {seeds} score exactly alike in both: one training under two seeds"
    return ""


def _coarse(values: Iterable[float]) -> bool:
    """Tell whether all lie on a grid, decimal or binary, that is wider than RESOLVED of their size."""
    known = list(values)
    step = RESOLVED * max(map(abs, known), default=0.0) * (1 + 1e-9)
    if step == 0.0 or not math.isfinite(step):
        return True
    decimals = max(-int(Decimal(repr(x)).normalize().as_tuple().exponent) for x in known)
    halvings = max(x.as_integer_ratio()[1].bit_length() - 1 for x in known)
    return decimals < -math.log10(step) or halvings < -math.log2(step)


def _norm(x: npt.NDArray[np.float64]) -> float:
    """Compute the Euclidean norm, without the overflow of squares."""
    top = float(np.abs(x).max(initial=0.0))
    return top * float(np.linalg.norm(x / top)) if 0 < top < math.inf else top


def _distances(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Measure (of the level, around it) how far two runs lie apart in all documents alike, and in each by itself."""
    gap = a - b
    level = float(gap.mean())
    return abs(level), _norm(gap - level)


def _scale(nats_of: Found, arm: str) -> tuple[float, float]:
    """Return the median distances of an arm's seeds; 0 where they are too few to tell one copy from the rule."""
    own = [nats for (one, _), nats in nats_of.items() if one == arm]
    apart = [_distances(a, b) for a, b in combinations(own, 2) if a.shape == b.shape]
    known = [d for d in apart if all(map(math.isfinite, d))]
    if len(known) < 3:
        return 0.0, 0.0
    return statistics.median(d for d, _ in known), statistics.median(d for _, d in known)
