"""What the tests of compressors, evaluators and stages score: a byte corpus of real sentences, and oracle models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests import tiny
from torch import Tensor, nn

from ablab.artifact import codecs, compressors
from ablab.core.rng import stream
from ablab.data import Corpus, prepare
from ablab.data.corpus.corpus import Valid
from ablab.model.embeddings.embedding import Embedding
from ablab.model.parts.part import Part
from ablab.scoring import evaluators

TEXT = "the a stone river walks over under with night day green house small tree and then it was cold far"


def text_corpus(root: Path, tokenizer: Any = "bytes", documents: int = 60) -> Corpus:
    """Documents of 40 to 900 bytes, a third of them held out."""
    folder = root / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(documents):
        draws = stream(3, "test", "sentences", i)
        known = TEXT.split()
        words = [known[j] for j in draws.integers(len(known), size=int(draws.integers(8, 180)))]
        (folder / f"{i:02}.txt").write_text(f"{i} " + " ".join(words) + ".\n")
    data = {
        "source": [f"{folder}/*.txt"],
        "text_field": "text",
        "tokenizer": {"name": tokenizer} if isinstance(tokenizer, str) else tokenizer,
        "valid_fraction": 0.35,
        "valid_source": None,
        "valid_text_bytes": None,
        "valid_bytes": 1_000_000,
        "span": 64,
    }
    return prepare(data, root / "data", say=lambda _: None)


def stages(**asked: dict[str, Any]) -> dict[str, Any]:
    """Canonical stage tables."""
    return {
        name: {
            "after": stage.get("after"),
            "compress": tiny.choice(compressors.slot, stage.get("compress", "keep")),
            "codec": tiny.choice(codecs.slot, stage.get("codec", "raw")),
            "code": stage.get("code"),
            "windows": stage.get("windows"),
            "evaluate": tiny.choice(evaluators.slot, stage["evaluate"]),
        }
        for name, stage in asked.items()
    }


def corpus_of(lengths: list[int]) -> Corpus:
    """A corpus in memory whose documents have these many tokens after BOS."""
    held = [np.array([tiny.BOS, *(np.arange(n) * (7 + i) % 32)], np.uint16) for i, n in enumerate(lengths)]
    flat = np.concatenate(held)
    starts = np.cumsum([0, *map(len, held)])[:-1].astype(np.int64)
    digests = np.zeros((len(held), 16), np.uint8)
    digests[:, 0] = np.arange(len(held))
    valid = Valid(flat, (flat % 3 + 1) * (flat != tiny.BOS), starts, digests)
    return dataclasses.replace(tiny.corpus(), valid=valid)


class Stand(nn.Module):
    """A model that is a rule: subclasses say which token comes next; its logit stands `margin` above all others."""

    def __init__(self, vocab_size: int, margin: float = 40.0) -> None:
        super().__init__()
        self.vocab_size, self.margin = vocab_size, margin
        self.weight = nn.Parameter(torch.zeros(1))
        self.mixer = Embedding()  # it may look anywhere

    def parts(self) -> dict[str, Part]:
        """None of it hears of lengths."""
        return {}

    def guess(self, row: np.ndarray) -> np.ndarray:
        """The next token after each place of a row, -1 where the rule says nothing."""
        return np.full(len(row), -1)

    def forward(self, tokens_BT: Tensor, ids_BT: Tensor) -> Tensor:
        logits = torch.zeros(*tokens_BT.shape, self.vocab_size)
        for b, row in enumerate(tokens_BT.numpy()):
            guess = self.guess(row)
            (known,) = np.nonzero(guess >= 0)
            logits[b, known, guess[known]] = self.margin
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def nll(self, tokens_BT: Tensor, targets_BT: Tensor, ids_BT: Tensor) -> Tensor:
        logits = self(tokens_BT, ids_BT)
        flat = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets_BT.flatten(), ignore_index=-1, reduction="none"
        )
        return flat.view(targets_BT.shape)


class Lag(Stand):
    """Knows that a row ends in `segment` tokens that began `lag` = row length - segment earlier: perfect copying."""

    def __init__(self, vocab_size: int, segment: int) -> None:
        super().__init__(vocab_size)
        self.segment = segment

    def guess(self, row: np.ndarray) -> np.ndarray:
        found, lag = np.full(len(row), -1), len(row) - self.segment
        found[lag:] = row[1 : self.segment + 1]
        return found


class Recall(Stand):
    """Says what followed the last time that the same `least` tokens were there: perfect induction."""

    least = 7

    def guess(self, row: np.ndarray) -> np.ndarray:
        found, seen = np.full(len(row), -1), dict[bytes, int]()
        for at in range(self.least, len(row) + 1):
            context = row[at - self.least : at].tobytes()
            found[at - 1] = seen.get(context, -1)
            if at < len(row):
                seen[context] = int(row[at])
        return found
