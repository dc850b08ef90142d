"""The check of bytes: nats per token, bits per byte, tokens and bytes must tell one story, and an untrained model must be one.

One line finds most wrong scores of the field (parameter-golf, issue 1719 and the submissions like it): tokens * nats per
token / (ln 2 * bits per byte) are the bytes that the score was divided by, and they must be those of the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ablab.core.fault import CheckFailed, Fault
from ablab.data.corpus.corpus import Corpus, Valid

TOLERANCE = 1e-9  # relative; sums are fp64
KNOWS = (
    0.8  # of ln V: what no untrained model reaches. Tied embeddings favour a token's own repetition by a few percent.
)


def implied_bytes(nats_per_token: float, bits_per_byte: float, tokens: int) -> float:
    """Return the bytes that a pair of scores over `tokens` tokens was divided by."""
    return tokens * nats_per_token / (math.log(2) * bits_per_byte)


def told(metrics: Mapping[str, float | None], valid: Valid) -> list[str]:
    """Return an empty list where the scores imply the bytes of the held-out text; else the violation in words."""
    nats, bits = metrics["nats_per_token"], metrics["bits_per_byte"]
    if nats is None or bits is None or not (math.isfinite(nats) and math.isfinite(bits) and bits > 0):
        return []  # nothing was scored, or it diverged: said elsewhere
    implied, real = implied_bytes(nats, bits, valid.n_targets), valid.n_scored_bytes
    if abs(implied - real) <= TOLERANCE * real:
        return []
    return [
        f"bytes: the scores imply {implied:,.0f} bytes, the held-out text has {real:,} (ratio {implied / real:.4f})"
    ]


def untrained(metrics: Mapping[str, float], corpus: Corpus, *, place: str) -> dict[str, float | None]:
    """Return what a model scored before its first step, beside ln V: a fingerprint of tokens, bytes and vocabulary.

    CheckFailed where it knows the text already (weights are not random, or scores see their targets), or where the bytes
    do not agree. There is no upper bound: wide initial weights score far above ln V and are a choice, not a fault.
    """
    valid, uniform = corpus.valid, math.log(corpus.vocab_size)
    if wrong := told(metrics, valid):
        raise CheckFailed(
            Fault(place, wrong[0], "token files and byte counts do not belong together; prepare the data again")
        )
    if metrics["nats_per_token"] < KNOWS * uniform:
        fault = (
            f"scores {metrics['nats_per_token']:.4f} nats per token before its first step, where ln V = {uniform:.4f}"
        )
        raise CheckFailed(Fault(place, fault, "its weights are not random, or a score sees its own target"))
    per_byte = uniform * valid.n_targets / (math.log(2) * valid.n_scored_bytes) if valid.n_scored_bytes else None
    return {
        "nats_per_token": metrics["nats_per_token"],
        "ln_vocab": uniform,
        "bits_per_byte": metrics["bits_per_byte"],
        "bits_per_byte_of_ln_vocab": per_byte,
        "tokens": valid.n_targets,
        "bytes": valid.n_scored_bytes,
    }
