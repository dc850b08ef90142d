"""Score-first SGD: chunks of the text in its order, each scored and then learned from by all weights."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from ablab.core.lever import Choice, value_or_none
from ablab.data import Corpus
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.runtime.machine import dtype_of
from ablab.scoring.evaluators.evaluator import Evaluator, declared, input_lengths, made, sizes, within
from ablab.scoring.evaluators.ttt.descent import (
    CHUNK,
    Descent,
    chunks,
    cosine,
    learned,
    movable,
    moved,
    n_chunks,
    scored,
    split,
)
from ablab.scoring.evaluators.ttt.watch import Watch, forfeit
from ablab.scoring.ledger import Ledger
from ablab.training.roles import decays, not_negative

SHORT = 32  # tokens: seq_len of a miniature at least
LEAST = 4  # chunks of a text, where the chunk's size is left to ablab


@dataclass(frozen=True)
class Sgd:
    """SGD over what was scored. Raises ValueError for settings outside their range.

    lr: at chunk c of C lr 0.5 (1 + cos(pi c / (C - 1)))
    momentum: goes on from chunk to chunk
    clip: largest norm of the gradient; 0 is none
    """

    lr: float = 0.005
    momentum: float = 0.9
    clip: float = 1.0

    def __post_init__(self) -> None:
        not_negative(**{"optimizer.lr": self.lr, "optimizer.clip": self.clip})
        decays(**{"optimizer.momentum": self.momentum})


class TttSgd(Evaluator):
    """Trains a copy of all weights on the text, in its order, each chunk after it was scored.

    A chunk takes the windows whose first scored token it holds; after its scores (all but the last chunk's) `epochs` go over
    what it scored, in windows of seq_len, in order. Balancing losses of mixtures are off, routers' biases stay. Nothing
    depends on the seed. Divergence (see Watch) ends the scores: NaN from there on, every token still accounted for.
    extra: {"adapted": {"tensors", "numbers"}, "chunks", "steps", "chunk_nats"}. ValueError for settings that do not fit each
    other or the text.

    chunk (tokens): scored, then learned from; a multiple of seq_len; default: 32,768 in whole windows, fewer where the text
        would have less than 4 chunks
    epochs: over each chunk
    optimizer: SGD; a number is its lr
    batch_tokens (tokens): of one step; default: the whole chunk
    freeze: roles (embedding, head, matrix, scalar) or beginnings of names that stay
    stride (tokens): between windows, as in sliding; default: as seq_len
    seq_len (tokens): of a window, declared to the position schemes; default: the trained one
    documents: of the held-out text, the same for all arms; default: all
    """

    source = "openai/parameter-golf #461, #1413"
    revision: ClassVar[int] = 3  # 3: a lever of its own; 2: chunks left to ablab are as many tokens whatever seq_len is

    def __init__(
        self,
        *,
        chunk: int | None = None,
        epochs: int = 3,
        optimizer: Sgd = Sgd(),
        batch_tokens: int | None = None,
        freeze: tuple[str, ...] = (),
        stride: int | None = None,
        seq_len: int | None = None,
        documents: int | None = None,
    ) -> None:
        super().__init__(documents=documents, seq_len=seq_len)
        sizes(chunk=chunk, stride=stride, batch_tokens=batch_tokens)
        if epochs < 0:
            raise ValueError(f"epochs = {epochs} is no number of epochs; give 0 or more")
        self.chunk, self.epochs, self.optimizer, self.batch_tokens = chunk, epochs, optimizer, batch_tokens
        self.freeze, self.stride = freeze, stride
        self.rehearsed = False  # on little text: adapting nothing there says nothing of the whole
        if seq_len is not None:
            self._fit_sizes(seq_len)

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for lengths that are `long` times these; few, short steps."""
        small = Evaluator.miniature(choice, long)
        length, own = value_or_none(choice, "seq_len", int), value_or_none(small, "seq_len", int) or SHORT
        chunk, batch, stride = (value_or_none(choice, key, int) for key in ("chunk", "batch_tokens", "stride"))
        if stride is not None:
            small["stride"] = max(1, round(stride * long))
        if chunk is not None:
            scaled = round(chunk * long) if length is None else max(1, chunk // length) * own
            # A longer chunk than 512 would leave one or two of a miniature's text; the default is then as many windows as fit.
            small["chunk"] = None if scaled > 512 else max(4, scaled)
        if batch is not None:
            scaled = round(batch * long)
            if length is not None:  # a window at least, a chunk at most
                scaled = min(max(own, scaled), value_or_none(small, "chunk", int) or max(own, scaled))
            small["batch_tokens"] = max(4, scaled) if scaled <= 256 else None
        return small

    def rehearsal(self, settings: Settings) -> tuple[Self, int]:
        """Return the same on little text, and how many tokens of it: a few chunks, an update after each."""
        seq_len, small = self.window(settings), self.of_all()
        self._fit_sizes(seq_len)
        small.rehearsed, small.chunk, small.batch_tokens, small.epochs = True, seq_len, None, min(1, self.epochs)
        small.stride = self.stride and min(seq_len, max(self.stride, seq_len // 4))
        return small, 4 * seq_len

    def fit(self, settings: Settings, corpus: Corpus, model: Decoder | None = None) -> None:
        """Refuse settings that do not fit the model or the text; only lengths and sizes are read."""
        seq_len, lengths = self.window(settings), input_lengths(corpus, self.documents)
        self._fit_sizes(seq_len)
        within(settings, corpus, model, min(seq_len, max(lengths, default=0)))
        if self.freeze:
            moved(made(settings, corpus, model), self.freeze)
        if self.optimizer.lr and self.epochs and not self.rehearsed:
            self._fit_text(seq_len, lengths)

    def _fit_sizes(self, seq_len: int) -> None:
        """Refuse a chunk that would split a window, a stride that leaves tokens out, or a step that holds no window."""
        chunk, stride, batch = self.chunk, self.stride, self.batch_tokens
        if chunk is not None and chunk % seq_len:
            raise ValueError(f"chunk = {chunk} splits a window of {seq_len} tokens; give a multiple of {seq_len}")
        if stride is not None and stride > seq_len:
            raise ValueError(f"stride = {stride} is more than seq_len {seq_len}; give at most {seq_len}")
        if batch is not None and batch < seq_len:
            raise ValueError(f"batch_tokens = {batch} holds no window of {seq_len} tokens; give at least {seq_len}")
        if batch is not None and chunk is not None and batch > chunk:
            raise ValueError(f"batch_tokens = {batch} is more than a chunk of {chunk}; give at most {chunk}")

    def _fit_text(self, seq_len: int, lengths: list[int]) -> None:
        """Refuse a text of one chunk, with nothing to adapt."""
        stride, chunk = self.stride or seq_len, self._chunk(seq_len, lengths)
        if n_chunks(lengths, seq_len, stride, chunk) > 1:
            return
        if self.chunk is not None and n_chunks(lengths, seq_len, stride, seq_len) > 1:
            raise ValueError(f"chunk = {chunk} holds the whole text, so nothing is adapted; give a smaller chunk")
        raise ValueError(
            f"the text has fewer than two windows of {seq_len} tokens, so nothing is adapted; "
            "give more held-out text, or a smaller seq_len"
        )

    def _chunk(self, seq_len: int, lengths: list[int]) -> int:
        """Return the chunk that was asked for, or ablab's own."""
        windows = min(CHUNK // seq_len, sum(lengths) // (LEAST * seq_len))
        return self.chunk or max(1, windows) * seq_len

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand every target's score to the ledger, chunk by chunk; the model is left alone: a copy adapts."""
        dtype_of(precision)
        seq_len, trained, lengths = self.window(settings), settings["model"]["seq_len"], input_lengths(corpus)
        stride, chunk = self.stride or seq_len, self._chunk(seq_len, lengths)
        count, how = n_chunks(lengths, seq_len, stride, chunk), self.optimizer
        own = copy.deepcopy(model).eval()
        moving = movable(own, self.freeze)
        descent = Descent(own, moving, ledger, momentum=how.momentum, clip=how.clip, precision=precision)
        watch, means, fault = Watch(), list[float](), ""
        with declared(own, seq_len, trained), declared(model, seq_len, trained):
            for number, cuts in enumerate(chunks(lengths, seq_len, stride, chunk)):
                read = (corpus, cuts, seq_len, stride, precision)
                nats_N = scored(own, *read, ledger)
                means.append(float(nats_N.mean()) if len(nats_N) else math.nan)
                fault = watch.see(nats_N, functools.partial(scored, model, *read))
                if not fault and self.epochs and number < count - 1:
                    steps = split(corpus, learned(cuts, seq_len), seq_len, self.batch_tokens, moving)
                    fault = descent.learn(steps, how.lr * cosine(number, count), self.epochs)
                if fault:
                    forfeit(ledger, corpus, seq_len, f"at chunk {number + 1} of {count}: {fault}")
                    break
        return {
            "adapted": {"tensors": len(moving), "numbers": sum(p.numel() for p in moving.values())},
            "chunks": count,
            "steps": descent.steps,
            "chunk_nats": means,
        }
