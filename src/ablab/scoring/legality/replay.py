"""Whether an evaluator is legal, seen from outside: it is run again on a little text whose later tokens have changed.

Nothing is believed that it says of itself. What it scored before the change must stay as it was, and so must the whole
distribution at the first changed token: whatever looks ahead, learns before it scores, fits the window that it scores or
goes over the text twice moves one of them. The distribution must sum to 1 and hold the score. Source of the rules:
openai/parameter-golf, issue #1017 (C1 to C4).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ablab.core import rng
from ablab.data import Corpus
from ablab.data.corpus.corpus import Valid
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.scoring.ledger import Ledger
from ablab.scoring.legality.forward import SCORER_TOLERANCE, SUM_TOLERANCE, exactly

SHORTEST = 4  # tokens of a document that is worth replaying
WATCHED = 8  # distributions that are summed

Place = tuple[int, int]


def check(
    evaluator: Evaluator,
    model: Decoder,
    corpus: Corpus,
    settings: Settings,
    *,
    seed: int,
    precision: str,
    executor: str,
) -> tuple[list[str], dict[str, float]]:
    """Check the evaluator's rehearsal on a few documents: violations in words (normally none) and the largest deviations."""
    rehearsed, size = evaluator.rehearsal(settings)
    text = excerpt(corpus, size)
    model, precision, most = exactly(model, settings, precision=precision, executor=executor)
    turns, others = places(text)
    watched = list(
        dict.fromkeys([*turns, *others])
    )  # in every run the same ones: products of other shapes round differently

    def run(on: Corpus) -> Ledger:
        ledger = Ledger(on, watch=watched)
        rehearsed(model, on, settings, seed=seed, precision=precision, ledger=ledger)
        return ledger

    plain = run(text)
    violations = [f"rehearsal: {violation}" for violation in plain.violations()]
    total, scorer, unseen = normalised(plain, text, watched)
    earlier = at = 0.0
    for turn in turns:
        changed = run(with_another_tail(text, turn))
        earlier = max(earlier, _moved(plain.trace(), changed.trace(), before(plain, text, turn)))
        if turn in plain.seen and turn in changed.seen:
            at = max(at, _largest(plain.seen[turn], changed.seen[turn]))
    if unseen:
        violations.append(f"C2 normalised: {unseen} scores came without the distribution that they were read from")
    if not earlier <= most:
        violations.append(
            f"C1 causal: a later token changed moves an earlier score by {earlier:.3g} (at most {most:g})"
        )
    if not at <= most:
        violations.append(
            f"C1 causal: the distribution of a token depends on that token, by {at:.3g} (at most {most:g})"
        )
    if not total <= SUM_TOLERANCE:
        violations.append(f"C2 normalised: what is scored sums to 1 within {total:.3g} (at most {SUM_TOLERANCE:g})")
    if not scorer <= SCORER_TOLERANCE:
        violations.append(
            f"C2 scorer: a score differs from its distribution by {scorer:.3g} (at most {SCORER_TOLERANCE:g})"
        )
    return violations, {"replayed": earlier, "at": at, "mass": total, "score": scorer}


def excerpt(corpus: Corpus, size: int) -> Corpus:
    """Take about `size` tokens of the first documents, two at least where there are two; all but the first are scored."""
    kept, total, most = [], 0, max(SHORTEST, size * 2 // 3)
    for index, document in enumerate(corpus.valid):
        ids, n_bytes, _ = document
        if len(ids) < SHORTEST:
            continue
        cut = min(len(ids), most, max(SHORTEST, size - total))
        kept.append((index, ids[:cut], n_bytes[:cut]))
        total += cut
        if total >= size and len(kept) > 1:
            break
    if not kept:
        raise ValueError(f"no held-out document has {SHORTEST} tokens; the checks need one")
    starts = np.cumsum([0, *(len(ids) for _, ids, _ in kept)])[:-1]
    valid = Valid(
        np.concatenate([ids for _, ids, _ in kept]),
        np.concatenate([n_bytes for _, _, n_bytes in kept]),
        starts,
        corpus.valid.digests[[index for index, _, _ in kept]],
    )
    return dataclasses.replace(corpus, valid=valid)


def places(corpus: Corpus) -> tuple[list[Place], list[Place]]:
    """Choose where texts turn (in the longest document, and in the last), and targets whose distributions are summed."""
    draw = rng.stream(0, "gates", corpus.key, "replay")
    lengths = np.diff(corpus.valid.starts)
    turns = []
    for document in dict.fromkeys((int(np.argmax(lengths)), len(lengths) - 1)):
        length = int(lengths[document])
        turns.append((document, int(draw.integers(max(1, length // 2), length))))
    targets = [(d, p) for d, length in enumerate(lengths.tolist()) for p in range(1, length)]
    chosen = draw.permutation(len(targets))[:WATCHED]
    return turns, [targets[i] for i in chosen]


def with_another_tail(corpus: Corpus, turn: Place) -> Corpus:
    """Return the corpus with every token of a document from `turn` on replaced by another one."""
    valid, (document, place) = corpus.valid, turn
    tokens = valid.tokens.astype(np.int64)
    tail = slice(int(valid.starts[document]) + place, int(valid.starts[document + 1]))
    draw = rng.stream(0, "gates", corpus.key, "tail", document)
    tokens[tail] = (tokens[tail] + draw.integers(1, corpus.vocab_size, size=tokens[tail].shape)) % corpus.vocab_size
    changed = Valid(tokens, valid.n_bytes, valid.starts[:-1], valid.digests, valid.marks)
    return dataclasses.replace(corpus, valid=changed)


def before(ledger: Ledger, corpus: Corpus, turn: Place) -> np.ndarray:
    """Tell which tokens must not feel a change at `turn`: earlier ones of its document, and what was scored before it."""
    document, place = turn
    start, end = (int(x) for x in corpus.valid.starts[document : document + 2])
    safe_T = np.zeros(len(corpus.valid.tokens), bool)
    order = ledger.order()
    (late,) = np.nonzero((order >= start + place) & (order < end))
    safe_T[order[: late[0] if len(late) else len(order)]] = True
    safe_T[start + place : end] = False
    safe_T[start : start + place] = True
    return safe_T


def normalised(ledger: Ledger, corpus: Corpus, watched: list[Place]) -> tuple[float, float, int]:
    """Measure |sum - 1| of the watched distributions, how far scores are from them, and how many were not shown."""
    trace, total, scorer, unseen = ledger.trace(), 0.0, 0.0, 0
    for document, place in watched:
        log_p, at = ledger.seen.get((document, place)), int(corpus.valid.starts[document]) + place
        if ledger.fault and not np.isfinite(trace[at]) and (log_p is None or not np.isfinite(log_p).all()):
            continue  # it diverged, and said so: this token has no score to look at
        if log_p is None or log_p.shape != (corpus.vocab_size,):
            unseen += 1
            continue
        total = max(total, _number(abs(float(np.exp(log_p).sum()) - 1)))
        apart = abs(float(trace[at] + log_p[int(corpus.valid.tokens[at])]))
        # Of what diverges a score may be 10^5 nats: it is rounded by more than any sane score is wrong.
        scorer = max(scorer, _number(apart / max(1.0, abs(float(trace[at])) / 100)))
    return total, scorer, unseen


def _moved(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    return _largest(one[where], other[where])


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference; two NaN (or two equal infinities) are equal, one is infinitely far from a number."""
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(one - other))
    return _number(float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))


def _number(value: float) -> float:
    return float("inf") if value != value else value
