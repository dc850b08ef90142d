"""The spread over documents: shown beside the verdict, and deciding only where one checkpoint is all there is.

Documents are of unequal length, and a ratio of sums follows the long ones. Residuals are divided by 1 - leverage (a document of
half the text pulls the mean towards itself and would look half as far from it), and the degrees of freedom are those of the
documents' effective number (Kish 1965), not of their count: 18 documents of which one is 57% of the text count as 2.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ablab.verdict.evidence import DocumentScores, Evidence

FEWEST = 20  # effective documents: below that a word would be about a handful of texts, whatever the interval covers


@dataclass(frozen=True)
class Spread:
    """The standard error of a ratio of sums over so many documents, or over groups of documents where those are declared.

    effective: how many of equal weight they count as (Kish, W^2 / sum w^2); largest: the share of the heaviest. by: what groups
    the documents, where they are grouped (None: they are not) and where it has a name.
    """

    error: float
    count: int
    effective: float
    largest: float
    by: str | None = None

    @property
    def df(self) -> float:
        """Degrees of freedom of its t interval."""
        return max(1.0, self.effective - 1)

    @property
    def enough(self) -> bool:
        """Whether a word may be read off it."""
        return self.effective >= FEWEST

    @property
    def said(self) -> str:
        """What was taken as independent, and whether it is enough for a word."""
        named = f" by {self.by}" if self.by else ""
        if self.enough:
            groups = f"{self.count:,} groups{named}"
            return "documents taken as independent" if self.by is None else f"{groups} taken as independent"
        unit, what = ("document", "") if self.by is None else (f"group{named}", " groups")
        return (
            f"no word over documents: one {unit} is {self.largest:.0%} of the text; "
            f"{self.count}{what} count as {self.effective:.1f}, {FEWEST} are needed"
        )


def effective(weights: npt.NDArray[np.float64]) -> float:
    """Count these weights as documents of equal weight (Kish); 0 of none."""
    total = float(weights.sum())
    return total * total / float(weights @ weights) if total > 0 else 0.0


def spread(
    differences: npt.NDArray[np.float64],
    delta: float,
    weights: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64] | None = None,
    by: str = "",
) -> Spread | None:
    """Return the spread of sum(differences) / sum(weights) = delta over documents (M,); None where that says nothing.

    r = (e - delta w) / (1 - w/W), se = sqrt(sum r^2) / W. groups, of shape (M,), names what each document belongs to (a
    package, a shard, a site), by its name: documents of a group are added up first, and the groups are what is independent.
    """
    if groups is not None:
        _, place = np.unique(groups, return_inverse=True)
        differences, weights = (np.bincount(place, x).astype(np.float64) for x in (differences, weights))
    total = float(weights.sum())
    if differences.size < 2 or not total > 0 or float(weights.max()) >= total:
        return None
    with np.errstate(all="ignore"):
        residuals = (differences - delta * weights) / (1 - weights / total)
        error = math.sqrt(float(residuals @ residuals)) / total
    if not math.isfinite(error):
        return None
    return Spread(
        error, differences.size, effective(weights), float(weights.max()) / total, None if groups is None else by
    )


def document_error(evidence: Evidence, arm: str, reference: str, places: Sequence[int], delta: float) -> Spread | None:
    """Return the spread of the paired difference, a mean over these places; None without comparable documents."""
    stage, metric = evidence.decision.stage, evidence.decision.metric
    total, first = None, None
    for i in places:
        a, b = evidence.documents(arm, i, stage), evidence.documents(reference, i, stage)
        if a is None or b is None or a.nats.size < 2 or a.nats.shape != b.nats.shape:
            return None
        if total is not None and total.shape != a.nats.shape:
            return None
        with np.errstate(all="ignore"):
            difference = a.nats - b.nats
            total = difference if total is None else total + difference
        first = first or b
    if total is None or first is None:
        return None
    return spread(total / len(places), delta, first.weights(metric), first.groups, first.by)


def same_text(a: DocumentScores, b: DocumentScores) -> bool:
    """Tell whether two scores are of the same documents, token for token as far as counts can tell."""
    return np.array_equal(a.bytes, b.bytes) and np.array_equal(a.tokens, b.tokens)


def combined(terms: Sequence[tuple[float, DocumentScores]], metric: str) -> tuple[float, Spread] | None:
    """Return (difference of the metric, its spread) of signed scores of the same documents; None if that says nothing."""
    first = terms[0][1]
    if first.nats.size < 2 or not all(same_text(first, other) for _, other in terms):
        return None
    weights = first.weights(metric)
    if not weights.sum() > 0:
        return None
    with np.errstate(all="ignore"):
        total = np.sum([x * scores.nats for x, scores in terms], axis=0)
        delta = float(total.sum()) / float(weights.sum())
    error = spread(total, delta, weights, first.groups, first.by)
    return None if error is None or not math.isfinite(delta) else (delta, error)


def bits_per_nat(tokens: float, bytes: float) -> float:
    """Return what turns nats per token into bits per byte on a set of so many tokens and bytes."""
    return tokens / (bytes * math.log(2))
