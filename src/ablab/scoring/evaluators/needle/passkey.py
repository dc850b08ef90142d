"""Ranked passkey: a needle in real text, and candidates for its value of one token each."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ablab.core import rng
from ablab.model.decoder import FORWARD_TOKENS, Decoder

LEAST_HAY = 8  # tokens of real text around a needle
TEMPLATES = (" key is {}.", ' key "{}".', " key={};")  # the first whose values are single tokens often enough
WORDS = """red blue green black white gold north south east west one two three four five six seven eight nine ten man day
time year world life hand part place work week case point company number group problem fact name list file line text type
data class value index error test path size code key string object"""
VALUES = (*string.ascii_uppercase, *string.digits, *string.ascii_lowercase, *WORDS.split())


@dataclass(frozen=True)
class Phrase:
    """A needle in tokens: before + one of `values` + after. The query is `before`."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    values: tuple[int, ...]

    @property
    def least(self) -> int:
        """Shortest row that holds BOS, needle, query and LEAST_HAY tokens of text."""
        return 1 + self.needle + len(self.before) + LEAST_HAY

    @property
    def needle(self) -> int:
        return len(self.before) + 1 + len(self.after)


def phrase_of(encode: Callable[[str], Sequence[int]], candidates: int) -> Phrase:
    """Choose the first template with `candidates` values that are one token inside it, with the same tokens around them.

    Raises ValueError where no template has that many under this tokenizer.
    """
    best: Phrase | None = None
    for template in TEMPLATES:
        groups: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[int, None]] = {}
        for value in VALUES:
            ids = tuple(int(i) for i in encode(template.format(value)))
            for place, token in enumerate(ids):  # needles that differ in one token share what is around it
                groups.setdefault((ids[:place], ids[place + 1 :]), {})[token] = None
        (before, after), values = max(groups.items(), key=lambda group: len(group[1]))
        if best is None or len(values) > len(best.values):
            best = Phrase(before, after, tuple(values))
        if len(best.values) >= candidates:
            return best
    most = len(best.values) if best else 0
    raise ValueError(
        f"this tokenizer has only {most} values of one token for {candidates} candidates; set candidates <= {most}"
        if most >= 2
        else "this tokenizer has no values of one token; the needle probe cannot be used with it"
    )


@dataclass(frozen=True)
class Items:
    """Rows of one length: (items, depths + 1, length), the last without the needle. candidates (items, K), true (items,)."""

    rows_IDT: np.ndarray
    candidates_IK: np.ndarray
    true_I: np.ndarray


def items_of(
    phrase: Phrase,
    text: np.ndarray,
    bos: int,
    length: int,
    depths: Sequence[float],
    candidates: int,
    items: int,
    key: str,
) -> Items:
    """Make items of one length. One haystack, value and set of candidates serves every depth; item i has its own stream.

    Depth d puts the needle after round(d * hay) tokens of text; the row without it has more text instead, so that the
    query stands at the same place.
    """
    hay = length - phrase.least + LEAST_HAY
    rows = np.empty((items, len(depths) + 1, length), dtype=np.int64)
    chosen, true = np.empty((items, candidates), dtype=np.int64), np.empty(items, dtype=np.int64)
    for item in range(items):
        draw = rng.stream(0, "probe", key, "passkey", length, item)
        start = int(draw.integers(len(text)))
        around = np.take(text, np.arange(start, start + hay + phrase.needle), mode="wrap")
        chosen[item] = np.asarray(phrase.values)[draw.permutation(len(phrase.values))[:candidates]]
        true[item] = draw.integers(candidates)
        needle = [*phrase.before, chosen[item, true[item]], *phrase.after]
        for i, depth in enumerate(depths):
            at = round(depth * hay)
            rows[item, i] = [bos, *around[:at], *needle, *around[at:hay], *phrase.before]
        rows[item, -1] = [bos, *around, *phrase.before]
    return Items(rows, chosen, true)


def ranked(model: Decoder, items: Items, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Compute log-odds and hits, (items, depths + 1): log p(true) - log mean p(distractors); true is the likeliest one."""
    count, places, length = items.rows_IDT.shape
    flat = items.rows_IDT.reshape(-1, length)
    step = max(1, FORWARD_TOKENS // length)
    pieces = []
    for at in range(0, len(flat), step):
        tokens = torch.from_numpy(flat[at : at + step]).to(device)
        hidden = model(tokens, torch.zeros_like(tokens))
        pieces.append(model.logits(hidden[:, -1:])[:, 0].double().cpu().numpy())
    logits = np.concatenate(pieces).reshape(count, places, -1)
    logits_IDK = np.take_along_axis(logits, items.candidates_IK[:, None, :], axis=2)
    is_true = np.arange(logits_IDK.shape[2]) == items.true_I[:, None]
    true_ID = logits_IDK[np.broadcast_to(is_true[:, None], logits_IDK.shape)].reshape(count, places)
    others = np.where(is_true[:, None], -np.inf, logits_IDK)
    top = others.max(2, keepdims=True)
    mean = top[..., 0] + np.log(np.exp(others - top).sum(2) / (logits_IDK.shape[2] - 1))
    return true_ID - mean, true_ID > top[..., 0]
