"""Conversations to token ids, loss mask and spans, by openai-harmony's rules (auto_drop_analysis=False).

A message is `<|start|>role[<|channel|>channel]<|message|>text<|end|>`. Where the last message is an assistant's final, it
ends in `<|return|>` instead: sampling stops there. `<|endoftext|>` ends the document. Text never becomes a control token.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ablab.data.harmony.conversation import CHANNELS, ROLES, BadConversation, Message, check_form, lone_surrogate
from ablab.data.spans import FINAL, NONE, REASONING
from ablab.data.tokenizers.o200k_harmony import PATTERN, SPECIAL, O200kHarmony

EOD, RETURN = SPECIAL["<|endoftext|>"], SPECIAL["<|return|>"]
START, CHANNEL, MESSAGE, END = (SPECIAL[f"<|{name}|>"] for name in ("start", "channel", "message", "end"))
# Roles and channels are single tokens, encoded once and pinned here: a header costs nothing.
WORDS = {
    "system": 17_360,
    "developer": 77_944,
    "user": 1_428,
    "assistant": 173_781,
    "analysis": 35_644,
    "final": 17_196,
}
SPANS = {None: NONE, "analysis": REASONING, "final": FINAL}
_ENDED, _RETURNED = np.array([END, EOD], np.int32), np.array([RETURN, EOD], np.int32)
MOST = 2**31 - 1  # tokens: what int32 lengths of a document can say
# openai-harmony merges the bytes of a piece (a word, a run of spaces or of signs) in time that grows with their square:
# 65,536 take 2 s on one core, a million would take 9 minutes, and of a million spaces it dies. A piece is no longer than the
# run of letters and signs, or of white space, that it lies in; so few texts are looked at closely.
LONGEST = 1 << 16  # bytes of one piece; of several, the root of the sum of their squares
COUNTED = 1 << 12  # bytes from which on a piece counts
_MAY = re.compile(rf"\S{{{COUNTED // 4},}}|\s{{{COUNTED // 4},}}")


class Rendered(NamedTuple):
    """One document. All (N,): `tokens` int32, its last is <|endoftext|>; `loss_mask` and `span` uint8.

    `loss_mask` and `span` are label-aligned: the value at i speaks of token i + 1, which position i predicts; the last is
    0. An assistant's message counts whole, from <|start|> to <|end|> or <|return|>; <|endoftext|> does not count.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    span: np.ndarray


class Renderer:
    """Renders conversations with `tokenizer`; `longest` is the most tokens that a document may have."""

    def __init__(self, tokenizer: O200kHarmony, *, longest: int = MOST) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        headers: dict[tuple[str, str | None], list[int]] = {(r, None): [START, WORDS[r], MESSAGE] for r in ROLES[:3]}
        for channel in CHANNELS:
            headers["assistant", channel] = [START, WORDS["assistant"], CHANNEL, WORDS[channel], MESSAGE]
        self._first = {key: np.array(ids, np.int32) for key, ids in headers.items()}
        self._next = {key: np.array([END, *ids], np.int32) for key, ids in headers.items()}

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Render a whole conversation for training, <|endoftext|> included.

        Errors: BadConversation as `conversation.check`, where it has more than `longest` tokens, and where a piece of
        it is too long (see long); ValueError where the vocabulary file is missing or wrong.
        """
        check_form(messages)
        if (piece := longest([message.text for message in messages])) is not None:
            k, at, size, sign = piece
            fault = (
                f"message {k}: from character {at:,} on {size:,} bytes of {sign!a} and its like follow without a break"
            )
            raise BadConversation(f"{fault}; the longest that openai-harmony can be asked about is {LONGEST:,}")
        pieces: list[np.ndarray] = []
        ends, at = [], 0
        for message, text in zip(messages, self._texts(messages)):
            header = (self._next if pieces else self._first)[message.role, message.channel]
            pieces += (header, text)
            at += len(header) + len(text)
            ends.append(at)  # where this message's <|end|> lies
        pieces.append(_RETURNED if messages[-1].channel == "final" else _ENDED)
        if at + 2 > self.longest:
            raise BadConversation(f"the conversation has {at + 2} tokens; a document can have {self.longest}")
        span, start = np.zeros(at + 2, np.uint8), 0
        for message, end in zip(messages, ends):
            if message.channel is not None:
                span[start:end] = SPANS[message.channel]
            start = end
        return Rendered(np.concatenate(pieces), (span != NONE).view(np.uint8), span)

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Render `messages` as ids up to and including the `<|start|>assistant` that a model goes on from.

        Errors as `render`, but an assistant message need not be there.
        """
        check_form(messages, prompt=True)
        ids: list[int] = []
        for message, text in zip(messages, self._texts(messages)):
            ids += [*self._first[message.role, message.channel].tolist(), *text.tolist(), END]
        return [*ids, START, WORDS["assistant"]]

    def _texts(self, messages: Sequence[Message]) -> list[np.ndarray]:
        encode = self.tokenizer.table().encode
        texts = []
        for k, message in enumerate(messages):
            try:
                texts.append(encode(message.text))
            except UnicodeEncodeError as error:
                raise lone_surrogate(k, error.start) from None
        return texts


def longest(texts: list[str]) -> tuple[int, int, int, str] | None:
    """Return (text, character, bytes, a sign of its midst) of the longest piece, where all together are too long; else None."""
    squares, most = 0, (0, 0, 0, "")
    for number, text in enumerate(texts):
        if len(text) < COUNTED // 4 or not _MAY.search(text):
            continue
        for piece in _pattern().finditer(text):
            if piece.end() - piece.start() < COUNTED // 4:
                continue
            size = len(piece[0].encode(errors="surrogatepass"))
            if size >= COUNTED:
                squares += size * size
                if size > most[2]:
                    most = (number, piece.start(), size, piece[0][len(piece[0]) // 2])
    return most if squares > LONGEST * LONGEST else None


@functools.cache
def _pattern() -> Any:
    regex: Any = importlib.import_module("regex")  # tiktoken depends on it; Python's re knows no \p{L}. It has no stubs
    return regex.compile(PATTERN)
