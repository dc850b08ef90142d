"""The spread over documents: shown beside the verdict, and deciding only where one checkpoint is all there is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ablab.verdict.evidence import Documents, Evidence


def document_error(
    evidence: Evidence, arm: str, reference: str, places: Sequence[int], delta: float
) -> tuple[float, int] | None:
    """(se_doc, number of documents) of the paired difference over these places; None without comparable documents."""
    stage, metric = evidence.decision.stage, evidence.decision.metric
    total, weights = None, None
    for i in places:
        a, b = evidence.documents(arm, i, stage), evidence.documents(reference, i, stage)
        if a is None or b is None or a.nats.size < 2 or a.nats.shape != b.nats.shape:
            return None
        if total is not None and total.shape != a.nats.shape:
            return None
        difference = a.nats - b.nats
        total = difference if total is None else total + difference
        if weights is None:
            weights = b.weights(metric)
    if total is None or weights is None or weights.sum() <= 0:
        return None
    count = int(total.size)
    with np.errstate(all="ignore"):
        residual = total / len(places) - delta * weights
        error = math.sqrt(count / (count - 1) * float(residual @ residual)) / float(weights.sum())
    return (error, count) if math.isfinite(error) else None


def same_text(a: Documents, b: Documents) -> bool:
    """Whether two scores are of the same documents, token for token as far as counts can tell."""
    return np.array_equal(a.bytes, b.bytes) and np.array_equal(a.tokens, b.tokens)


def combined(terms: Sequence[tuple[float, Documents]], metric: str) -> tuple[float, float, int] | None:
    """(difference of the metric, its se_doc, documents) of signed scores of the same documents; None if that says nothing."""
    first = terms[0][1]
    if first.nats.size < 2 or not all(same_text(first, other) for _, other in terms):
        return None
    weights, count = first.weights(metric), int(first.nats.size)
    if not weights.sum() > 0:
        return None
    with np.errstate(all="ignore"):
        total = np.sum([x * scores.nats for x, scores in terms], axis=0)
        delta = float(total.sum()) / float(weights.sum())
        residual = total - delta * weights
        error = math.sqrt(count / (count - 1) * float(residual @ residual)) / float(weights.sum())
    return (delta, error, count) if math.isfinite(delta) and math.isfinite(error) else None


def bits_per_nat(tokens: float, bytes: float) -> float:
    """What turns nats per token into bits per byte on a set of so many tokens and bytes."""
    return tokens / (bytes * math.log(2))
