"""The long-context probe: can the model find what stood far back? Scored by likelihood, never by generation."""

from __future__ import annotations

import hashlib
import math
from typing import ClassVar

import numpy as np

from ablab.core.lever import Choice
from ablab.data import Corpus
from ablab.model.decoder import Decoder, inference
from ablab.records.settings import ModelSettings, Settings
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.scoring.evaluators.needle import far, induction, passkey
from ablab.scoring.ledger import Ledger
from ablab.scoring.scores import Scores

CEILING = 0.98
SHORT = 256  # tokens: what a local model sees, in the probe of context gain
SMALL = 50_000  # tokens forwarded, where the budget is left to ablab: this up to seq_len 512, 1000 * seq_len above


class Needle(Evaluator):
    """Long-context probe: random segments copied at lags (Olsson 2209.11895), a ranked passkey in real text (2305.16300).

    And two tiers on ordinary held-out text: natural recall (rare pairs that come again, as in Zoology 2312.04927) and
    context gain (against the last `short` tokens alone, as LongPPL 2410.23771 asks).

    A probe never decides. Every arm and seed sees the same items: they depend on the corpus, the lengths and the settings.

    lengths (tokens): of passkey rows; default: those of seq_len / 4, / 2 and whole that hold a needle
    depths: where in a row the needle stands, from 0 (the start) to 1
    items: at most per cell, fewer where tokens_budget is spent
    candidates: values that are ranked
    lags (tokens): of the copies; default: powers of two and the longest that fits
    tokens_budget (tokens): most that are forwarded; default: 1,000 seq_len, or 50,000 up to a seq_len of 512
    natural_tokens (tokens): most that are forwarded for the two tiers of ordinary text, on top; 0 leaves them out; default:
        a fifth of the probe's
    short (tokens): of a short window; default: 256, at most a quarter of seq_len
    """

    source = "Mohtashami and Jaggi 2023, arXiv 2305.16300; Olsson et al. 2022, arXiv 2209.11895"
    revision: ClassVar[int] = 2  # with natural recall and context gain
    decides: ClassVar[bool] = False

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for a shorter seq_len: its own default lengths and lags, few items, and budgets that suffice."""
        natural_tokens = None if choice["natural_tokens"] else choice["natural_tokens"]
        return {
            "lengths": None, "lags": None, "items": 2, "tokens_budget": None, "natural_tokens": natural_tokens, "short": None
        }  # fmt: skip

    def __init__(
        self,
        *,
        lengths: tuple[int, ...] | None = None,
        depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
        items: int = 64,
        candidates: int = 32,
        lags: tuple[int, ...] | None = None,
        tokens_budget: int | None = None,
        natural_tokens: int | None = None,
        short: int | None = None,
    ) -> None:
        if not depths or not all(0 <= depth <= 1 for depth in depths):
            raise ValueError(f"depths = {list(depths)} must lie in 0 to 1; 0 is the start of the text, 1 its end")
        for name, value, least in (("items", items, 2), ("candidates", candidates, 2)):
            if value < least:
                raise ValueError(f"{name} = {value} is too few; give at least {least}")
        for name, several in (("lengths", lengths), ("lags", lags)):
            if several is not None and (len(several) == 0 or min(several) < 1):
                raise ValueError(f"{name} = {list(several)} must be positive numbers; or leave it out")
        if tokens_budget is not None and tokens_budget < 1:
            raise ValueError(f"tokens_budget = {tokens_budget} pays for nothing; leave it out for the default")
        if natural_tokens is not None and natural_tokens < 0:
            raise ValueError(f"natural_tokens = {natural_tokens} is below 0; give 0 for none of it")
        if short is not None and short < 1:
            raise ValueError(f"short = {short} is no window; give at least 1")
        if short is not None and natural_tokens == 0:
            raise ValueError(f"short = {short} acts on nothing with natural_tokens = 0; remove it, or give tokens")
        self.natural_tokens, self.short = natural_tokens, short
        self.lengths, self.depths = lengths, [float(depth) for depth in depths]
        self.items, self.candidates, self.lags, self.tokens_budget = items, candidates, lags, tokens_budget

    def fit(self, settings: Settings, corpus: Corpus, model: Decoder | None = None) -> None:
        """Refuse a length, lag or window that does not fit seq_len, or a budget that does not pay for two items."""
        self._cells(settings["model"]["seq_len"], corpus)

    def _cells(self, seq_len: int, corpus: Corpus) -> tuple[passkey.Phrase, list[int], list[int], int, int, int, int]:
        """Return the needle's words, lengths, lags, items of each, a short window and the budget of ordinary text."""
        phrase = passkey.phrase_of(lambda text: corpus.tokenizer.encode(text)[0].tolist(), self.candidates)
        lengths, lags = self._lengths(seq_len, phrase), self._lags(seq_len)
        return phrase, lengths, lags, *self._afford(lengths, lags, seq_len), *self._natural(seq_len)

    def __call__(
        self,
        model: Decoder,
        corpus: Corpus,
        settings: Settings,
        *,
        seed: int,
        precision: str,
        ledger: Ledger | None = None,
    ) -> Scores:
        """Score without documents; the results are in `extra`. Neither `seed` (no run has items of its own) nor `ledger`
        (no target of the text is scored) is used.

        Raises ValueError where a length, lag or window does not fit seq_len, or a budget does not pay for two items.
        """
        seq_len = settings["model"]["seq_len"]
        phrase, lengths, lags, count, copies, short, natural_tokens = self._cells(seq_len, corpus)
        begins = corpus.valid.starts[:-1][np.diff(corpus.valid.starts) > 0]
        text = np.delete(corpus.valid.tokens, begins).astype(np.int64)  # all documents, without BOS
        bos, seen = corpus.bos_id, hashlib.blake2b(digest_size=16)
        pool, segment = induction.frequent(text), induction.segment_of(seq_len)
        odds, hits, saved, tokens = [], [], [], 0
        with inference(model, precision) as device:
            for lag in lags:
                rows = induction.rows(pool, bos, lag, segment, copies, corpus.key)
                saved.append(induction.saved(model, rows, lag, segment, device))
                seen.update(rows.tobytes())
                tokens += rows[:, 1:].size
            for length in lengths:
                made = passkey.items_of(phrase, text, bos, length, self.depths, self.candidates, count, corpus.key)
                ranked = passkey.ranked(model, made, device)
                odds.append(ranked[0])
                hits.append(ranked[1])
                seen.update(made.rows_IDT.tobytes() + made.candidates_IK.tobytes())
                tokens += made.rows_IDT.size
            natural = far.measure(model, corpus, seq_len, short, natural_tokens, device) if natural_tokens else {}
        extra = self._passkey(np.stack(odds), np.stack(hits), lengths)
        extra["induction"] = {
            "lags": lags,
            "values": [float(values.mean()) for values in saved],
            "se": [float(values.std(ddof=1) / math.sqrt(len(values))) for values in saved],
            "items": copies,
            "segment": segment,
            "local_reach": local_reach(settings["model"]),
        }
        extra |= {"tokens": tokens, "items_hash": seen.hexdigest(), **natural}
        return Scores(np.zeros(0), np.zeros(0), np.zeros(0), extra=extra)

    def _passkey(self, odds_LID: np.ndarray, hits_LID: np.ndarray, lengths: list[int]) -> dict[str, object]:
        score_LID = odds_LID[..., :-1] - odds_LID[..., -1:]
        hit_LID = hits_LID[..., :-1]
        clusters = score_LID.mean(2).reshape(-1)  # depths of one item share its text: one number each
        score, se = float(clusters.mean()), float(clusters.std(ddof=1) / math.sqrt(len(clusters)))
        low, high = wilson(int(hit_LID.sum()), hit_LID.size)
        acc = float(hit_LID.mean())
        return {
            "score": score,
            "score_se": se,
            "acc": acc,
            "acc_low": low,
            "acc_high": high,
            "chance": 1 / self.candidates,
            "prior_acc": float(hits_LID[..., -1].mean()),
            "above_floor": bool(score - 1.96 * se > 0),
            "below_ceiling": bool(acc < CEILING),
            "items": int(score_LID.shape[1]),
            "candidates": self.candidates,
            "passkey": {
                "lengths": lengths,
                "depths": self.depths,
                "score": score_LID.mean(1).tolist(),
                "acc": hit_LID.mean(1).tolist(),
            },
        }

    def _lengths(self, seq_len: int, phrase: passkey.Phrase) -> list[int]:
        if self.lengths is None:
            fit = [n for n in sorted({seq_len // 4, seq_len // 2, seq_len}) if n >= phrase.least]
            if not fit:
                raise ValueError(f"seq_len {seq_len} cannot hold a needle; it takes {phrase.least} tokens")
            return fit
        for length in self.lengths:
            if length > seq_len:
                raise ValueError(
                    f"lengths: {length} is more than seq_len {seq_len}; give lengths the model was trained on"
                )
            if length < phrase.least:
                raise ValueError(f"lengths: {length} cannot hold a needle; give at least {phrase.least}")
        return list(self.lengths)

    def _lags(self, seq_len: int) -> list[int]:
        if self.lags is None:
            return induction.default_lags(seq_len)
        segment = induction.segment_of(seq_len)
        for lag in self.lags:
            if not segment <= lag <= seq_len - segment:
                raise ValueError(
                    f"lags: {lag} does not fit; give {segment} to {seq_len - segment} for seq_len {seq_len}"
                )
        return list(self.lags)

    def _natural(self, seq_len: int) -> tuple[int, int]:
        """Return the tokens of a short window, and the budget of the two tiers of ordinary text."""
        short = self.short or max(1, min(SHORT, seq_len // 4))
        if short >= seq_len:
            raise ValueError(f"short = {short} is no part of seq_len {seq_len}; give 1 to {seq_len - 1}")
        least = 4 * seq_len
        budget = max(least, _budget(seq_len) // 5) if self.natural_tokens is None else self.natural_tokens
        if 0 < budget < least:
            raise ValueError(
                f"natural_tokens = {budget} does not pay for two rows of {seq_len} and as many tokens in short windows; "
                f"give at least {least}, or 0 for none of it"
            )
        return short, budget

    def _afford(self, lengths: list[int], lags: list[int], seq_len: int) -> tuple[int, int]:
        """Return items per passkey cell and per lag: a fifth of the budget goes to the copies, the rest to the passkey."""
        budget = self.tokens_budget or _budget(seq_len)
        one, copy = sum(lengths) * (len(self.depths) + 1), induction.cost(lags, seq_len)
        count, copies = min(self.items, budget * 4 // 5 // one), min(self.items, budget // 5 // copy)
        if count < 2 or copies < 2:
            least = max(math.ceil(2 * one * 5 / 4), 10 * copy)
            raise ValueError(
                f"tokens_budget = {budget} does not pay for two items; give at least {least}, or fewer cells"
            )
        return count, copies


def _budget(seq_len: int) -> int:
    return SMALL if seq_len <= 512 else 1000 * seq_len


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Compute Wilson's 95% interval of a share (1927)."""
    share, square = hits / trials, z * z / trials
    middle = share + square / 2
    spread = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return (middle - spread) / (1 + square), (middle + spread) / (1 + square)


def local_reach(model: ModelSettings) -> int:
    """Return how far windowed layers alone carry information: longer lags need a layer that sees everything."""
    windows = [model["kinds"][letter]["window"] for letter in model["layers"]]
    return sum(window - 1 for window in windows if window is not None)
