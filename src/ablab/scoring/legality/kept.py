"""Whether the scores that are kept are legal: those of the file, not those of a smaller evaluation that goes before.

Code may look ahead in batches of many rows alone, in long ones, in bf16, from its thousandth call on. So while the held-out
text is scored, every few forward passes are made again at once, with the same batch in which later tokens, other windows
and other rows have changed: what was computed for the file must stay. Windows of them are also read alone, and rows. When
all is scored, the same evaluation begins again on the text of which all that is still to come has changed, and goes on as
far as that: what it scores before must be what is in the file. Whatever the second pass does, a score that knew more
than its past differs from it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablab.core import rng
from ablab.data import Corpus
from ablab.data.corpus.corpus import Valid
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model.cache import Cache
from ablab.model.decoder import Decoder
from ablab.model.parts.linear import Linear
from ablab.scoring.evaluators.evaluator import Evaluator, chosen, sample
from ablab.scoring.ledger import Enough, Ledger
from ablab.scoring.legality.forward import SUM_TOLERANCE, mixture
from ablab.scoring.legality.replay import normalised
from ablab.scoring.scores import Scores

EVERY = 16  # forward passes, of which about one is made again: some 1/16 + 2 rows of the evaluation's time
PLACES = 64  # of one pass whose nats are compared: those before a change, and those whose hidden states moved most
EDGES = 32  # of them, places just before a change
# The part of the text that is scored again with all that follows changed lies between these shares of it, and a little
# more where an evaluator goes through the text in another order.
AGAIN = (0.04, 0.1)
LEAST = 0.03
WATCHED = 8  # targets whose distributions are kept
# How far nats may move, by the precision of the run. Same shapes gave the same bits with every position, window and expert
# in fp32 and bf16 on a CPU; read alone, 2.3e-5 at most in fp32, 0.11 at most and 6e-4 on average in bf16 (256 places of
# models of 20 to 60 nats a token, whose logits bf16 rounds by 0.06). Kernels of a GPU and experts whose scores are near
# choose by rounding: of a mixture, and of what is read alone, the mean of a pass is looked at.
ROUNDING = {"fp64": 1e-6, "fp32": 1e-3, "bf16": 0.05}


@dataclasses.dataclass
class Moved:
    """How far nats of scored places lie from those that were kept: of each repeated pass the largest and the mean."""

    largest: float = 0.0
    mean: float = 0.0

    def see(self, kept_N: np.ndarray, again_N: np.ndarray) -> None:
        """See two scores: two NaN, or the same infinity twice, are equal; one alone is infinitely far."""
        same = (kept_N == again_N) | (np.isnan(kept_N) & np.isnan(again_N))
        with np.errstate(invalid="ignore"):
            apart = np.nan_to_num(np.where(same, 0.0, np.abs(again_N - kept_N)), nan=np.inf, posinf=np.inf)
        if apart.size:
            self.largest, self.mean = max(self.largest, float(apart.max())), max(self.mean, float(apart.mean()))


@dataclasses.dataclass
class Calls:
    """What the repeated forward passes showed."""

    count: int = 0
    repeated: int = 0
    seconds: float = 0.0
    later: Moved = dataclasses.field(default_factory=Moved)  # all that came later, or stood beside, changed
    alone: Moved = dataclasses.field(default_factory=Moved)  # rows and windows by themselves


@contextlib.contextmanager
def repeating(model: Decoder, vocab_size: int, draw: np.random.Generator) -> Iterator[Calls]:
    """Make the first, and about every EVERYth, forward pass of `model` and of its copies again where it is made."""
    calls, waiting = Calls(), dict[int, Cache | None]()

    def before(module: Decoder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("cache", args[3] if len(args) > 3 else None)
        number, calls.count = calls.count, calls.count + 1
        waiting.clear()
        if draw.integers(EVERY) == 0 or number == 0:  # one at least, however few there are
            shared = {id(part): part for part in module.modules()}  # a cache knows the layers: they are not copied
            waiting[number] = copy.deepcopy(cache, shared) if cache is not None else None

    def after(module: Decoder, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> None:
        if not waiting:
            return
        ((_, cache),) = waiting.items()
        waiting.clear()
        began, calls.repeated = time.perf_counter(), calls.repeated + 1
        given = dict(zip(("tokens_BT", "ids_BT"), args)) | kwargs
        tokens, ids = given["tokens_BT"], given["ids_BT"]
        again = _Again(module, tokens, ids, hidden, cache, vocab_size, draw)
        again.later(calls.later)
        if cache is None and not any(isinstance(part, Linear) and part.adapter for part in module.modules()):
            again.alone(calls.alone)  # rows over a cache, and rows with adapters of their own, are never alone
        calls.seconds += time.perf_counter() - began

    hooks = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


class _Again:
    """One forward pass that was made, and is made again otherwise."""

    def __init__(
        self,
        module: Decoder,
        tokens: Tensor,
        ids: Tensor,
        hidden: Tensor,
        cache: Cache | None,
        size: int,
        draw: np.random.Generator,
    ) -> None:
        self.module, self.tokens, self.ids, self.hidden = module, tokens, ids, hidden
        self.cache, self.size, self.draw = cache, size, draw

    @torch.no_grad()
    def later(self, moved: Moved) -> None:
        """Change of each window the tail, or all, or nothing; of each row, too. What stands before a change must stay."""
        ids, (rows, length) = self.ids.cpu().numpy(), self.ids.shape
        begins = np.ones((rows, length), bool)
        begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
        starts = np.flatnonzero(begins)
        sizes = np.diff(np.append(starts, rows * length))
        kind = self.draw.integers(4, size=len(starts)) if len(starts) > 1 else np.full(1, 2)
        inside = self.draw.integers(1, np.maximum(2, sizes))  # a window of one token has nothing before its change
        cuts = np.where(kind == 0, 0, np.where(kind == 1, sizes, np.minimum(inside, sizes)))
        offset = np.arange(rows * length) - np.repeat(starts, sizes)
        changed = offset >= np.repeat(cuts, sizes)
        if changed.all() or not changed.any():
            return
        tokens = self.tokens.cpu().numpy().ravel()
        other = (tokens + self.draw.integers(1, self.size, size=len(tokens))) % self.size
        given = torch.from_numpy(np.where(changed, other, tokens).reshape(rows, length)).to(self.tokens)
        again = self.module.forward(given, self.ids, None, self.cache)
        edges = (starts + cuts - 1)[(cuts > 0) & (cuts < sizes)]
        self._compare(moved, np.flatnonzero(~changed), self.draw.permutation(edges)[:EDGES], again.flatten(0, 1))

    @torch.no_grad()
    def alone(self, moved: Moved) -> None:
        """Score a row by itself, and a window by itself."""
        rows, length = self.ids.shape
        row = int(self.draw.integers(rows))
        own = self.ids[row].cpu().numpy()
        (inside,) = np.nonzero(own == own[int(self.draw.integers(length))])
        for first, last in {(0, length), (int(inside[0]), int(inside[-1]) + 1)}:
            if rows == 1 and (first, last) == (0, length):
                continue  # it was alone
            cut = (slice(row, row + 1), slice(first, last))
            again = self.module.forward(self.tokens[cut].contiguous(), self.ids[cut].contiguous())[0]
            places = row * length + np.arange(first, last)
            self._compare(moved, places, places[:0], again, places)

    def _compare(
        self, moved: Moved, places: np.ndarray, edges: np.ndarray, again: Tensor, of: np.ndarray | None = None
    ) -> None:
        """Compare nats of the token that follows: at edges, and where hidden states moved most. of: the places of `again`."""
        kept = self.hidden.flatten(0, 1)
        here = torch.from_numpy(places).to(kept.device)
        there = here if of is None else torch.arange(len(places), device=kept.device)
        far = (kept[here].double() - again[there].double()).abs().amax(-1)
        most = far.nan_to_num(nan=float("inf")).topk(min(len(places), PLACES - len(edges))).indices.cpu().numpy()
        looked = np.unique(np.concatenate([edges, places[most]]))
        row = np.searchsorted(places, looked)
        tokens = self.tokens.flatten()
        target = tokens[(torch.from_numpy(looked).to(tokens.device) + 1) % len(tokens)]

        def nats(hidden: Tensor, at: Tensor) -> np.ndarray:
            log_p = self.module.logits(hidden[at]).double().log_softmax(-1)
            picked: np.ndarray = -log_p.gather(-1, target[:, None])[:, 0].cpu().numpy()
            return picked

        moved.see(nats(kept, here[row]), nats(again, there[row]))


Evaluate = Callable[[Decoder, Corpus, Ledger | None], Scores]


class Observed:
    """The evaluation whose scores are kept, looked at while it runs (`run`) and afterwards (`check`).

    digest: of the weights; where it is looked is drawn from it, so that no code knows it beforehand.
    """

    def __init__(self, model: Decoder, corpus: Corpus, evaluator: Evaluator, *, seed: int, digest: str) -> None:
        self.model, self.corpus, self.calls = model, corpus, Calls()
        self.documents = evaluator.documents
        self.draw = rng.stream(seed, "gates", corpus.key, "kept", digest)
        self.twin, self.ledger, self.watched = None, None, list[tuple[int, int]]()
        if evaluator.decides:
            self.twin = copy.deepcopy(model)  # as it is now: what it counts, it counts again
            scored = sample(corpus, self.documents)
            self.watched = self._places(scored.valid)
            self.ledger = Ledger(scored, watch=self.watched)

    def _places(self, valid: Valid) -> list[tuple[int, int]]:
        """Choose targets whose distributions are kept: half of them where the text may turn, half anywhere."""
        at = np.flatnonzero(valid.marks != UNTRAINED)
        if not len(at):
            return []
        low, high = (int(share * len(at)) for share in AGAIN)
        early = low + self.draw.integers(max(1, high - low), size=WATCHED // 2)
        chosen = np.unique(at[np.concatenate([early, self.draw.integers(len(at), size=WATCHED // 2)])])
        document = np.searchsorted(valid.starts, chosen, side="right") - 1
        return list(zip(document.tolist(), (chosen - valid.starts[document]).tolist()))

    def run(self, evaluate: Evaluate) -> Scores:
        """Return the scores of evaluate(model, corpus, ledger)."""
        with repeating(self.model, self.corpus.vocab_size, self.draw) as self.calls:
            return evaluate(self.model, self.corpus, self.ledger)

    def check(self, evaluate: Evaluate, scores: Scores, *, precision: str) -> tuple[list[str], dict[str, float]]:
        """Check what the scores that `run` gave violate, in words; and the largest deviations seen."""
        most, rough = ROUNDING[precision], mixture(self.model)
        later, alone = self.calls.later, self.calls.alone
        seen = {"kept_later": later.mean if rough else later.largest, "kept_alone": alone.mean}
        violations = []
        if not seen["kept_later"] <= most:
            what = "what comes later, or stands beside, moves a score that is kept"
            violations.append(f"C1 causal: {what} by {seen['kept_later']:.3g} (at most {most:g})")
        if not alone.mean <= most:
            violations.append(
                f"C1 alone: tokens read alone differ from those kept by {alone.mean:.3g} (at most {most:g})"
            )
        if self.ledger is None:
            return violations, seen
        if told := _not_told(scores, self.ledger):
            return [*violations, told], seen
        total, scorer, unseen = normalised(self.ledger, self.ledger.corpus, self.watched)
        moved, at = self._begun_again(evaluate)
        before = moved.mean if rough else moved.largest
        if unseen:
            violations.append(f"C2 normalised: {unseen} scores that are kept came without their distribution")
        if not total <= SUM_TOLERANCE:
            violations.append(f"C2 normalised: what is kept sums to 1 within {total:.3g} (at most {SUM_TOLERANCE:g})")
        if not scorer <= most:
            violations.append(
                f"C2 scorer: a kept score differs from its distribution by {scorer:.3g} (at most {most:g})"
            )
        if not before <= most:
            violations.append(
                f"C1 causal: text still to come, changed, moves a kept score by {before:.3g} (at most {most:g})"
            )
        if not at <= most and not rough:
            violations.append(
                f"C1 causal: a kept distribution depends on its own token, by {at:.3g} (at most {most:g})"
            )
        return violations, {**seen, "kept_mass": total, "kept_score": scorer, "kept_before": before, "kept_at": at}

    def _begun_again(self, evaluate: Evaluate) -> tuple[Moved, float]:
        """Measure how far scores move, and the distribution at the turn does, when all text from the turn on is other text."""
        assert self.ledger is not None and self.twin is not None
        kept, moved, order = self.ledger, Moved(), self.ledger.order()
        starts = kept.corpus.valid.starts
        when = np.full(len(kept.corpus.valid.tokens), -1)
        when[order[::-1]] = np.arange(len(order))[::-1]  # of several scores the first
        turns = sorted((int(when[starts[d] + p]), (d, p)) for d, p in self.watched if when[starts[d] + p] >= 0)
        if not turns:
            return moved, 0.0
        turn, (document, place) = next((one for one in turns if one[0] >= LEAST * len(order)), turns[-1])
        again = Ledger(self._other(when, turn), watch=[(document, place)], most=turn + 1)
        with contextlib.suppress(Enough):
            evaluate(self.twin, self._whole(again.corpus), again)
        moved.see(kept.trace()[order[:turn]], again.trace()[order[:turn]])
        one, other = (ledger.seen.get((document, place)) for ledger in (kept, again))
        at = Moved()
        if one is not None and other is not None:
            at.see(one, other)
        return moved, at.largest

    def _other(self, when: np.ndarray, turn: int) -> Corpus:
        """Return the scored documents with every token changed that is not before the `turn`th score, or before one that is."""
        assert self.ledger is not None
        corpus = self.ledger.corpus
        valid, count = corpus.valid, len(corpus.valid.tokens)
        earlier = np.flatnonzero((when >= 0) & (when < turn))
        document = np.searchsorted(valid.starts, np.arange(count), side="right") - 1
        last = valid.starts[:-1].copy()  # a document's first token is nobody's target: it stays
        np.maximum.at(last, document[earlier], earlier)
        changed = np.arange(count) > last[document]
        tokens = valid.tokens.astype(np.int64)
        other = (tokens + self.draw.integers(1, corpus.vocab_size, size=count)) % corpus.vocab_size
        tokens = np.where(changed, other, tokens).astype(valid.tokens.dtype)
        return dataclasses.replace(corpus, valid=_with(valid, tokens))

    def _whole(self, part: Corpus) -> Corpus:
        """Return the whole corpus with the tokens of `part` in the documents that are scored."""
        if self.documents is None:
            return part
        valid, tokens = self.corpus.valid, np.array(self.corpus.valid.tokens)
        for number, document in enumerate(chosen(self.corpus, self.documents).tolist()):
            own = slice(*part.valid.starts[number : number + 2].tolist())
            tokens[slice(*valid.starts[document : document + 2].tolist())] = part.valid.tokens[own]
        return dataclasses.replace(self.corpus, valid=_with(valid, tokens))


def _with(valid: Valid, tokens: np.ndarray) -> Valid:
    return Valid(tokens, valid.n_bytes, valid.starts[:-1], valid.digests, valid.marks)


def _not_told(scores: Scores, ledger: Ledger) -> str:
    """Say where the returned scores are not those that the ledger saw; else nothing."""
    own = ledger.scores([0, 1 << 40])
    if scores.nats.shape != own.nats.shape:
        return (
            f"C4 ledger: {len(scores.nats)} documents have scores, {len(own.nats)} were scored before the checks' eyes"
        )
    (wrong,) = np.nonzero(~((scores.nats == own.nats) | (np.isnan(scores.nats) & np.isnan(own.nats))))
    if not len(wrong):
        return ""
    at = int(wrong[0])
    apart = f"{scores.nats[at]:.6g} nats against {own.nats[at]:.6g}"
    return f"C4 ledger: scores are not those that were handed in (first at document {at}: {apart})"
