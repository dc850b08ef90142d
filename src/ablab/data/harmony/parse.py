"""Token ids back to conversations; what is out of format is named with the index of its token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from ablab.data.harmony.conversation import CHANNELS, ROLES, Channel, Message, Role
from ablab.data.harmony.render import CHANNEL, END, EOD, MESSAGE, RETURN, START, WORDS
from ablab.data.tokenizers.o200k_harmony import CONTROL, SPECIAL, VOCAB_SIZE, O200kHarmony

_NAMES = {i: name for name, i in SPECIAL.items()}
_ROLE_IDS = {WORDS[role]: role for role in ROLES}
_CHANNEL_IDS = {WORDS[channel]: channel for channel in CHANNELS}


class FormatError(ValueError):
    """Ids that are no Harmony conversation: `index` is the token, `fault` what is wrong there."""

    def __init__(self, index: int, fault: str) -> None:
        self.index, self.fault = index, fault
        super().__init__(f"token {index}: {fault}")


class MessageSpan(NamedTuple):
    """Where one message lies: `start` is its <|start|>, text is `body` to `end`, `end` is its <|end|> or <|return|>."""

    role: Role
    channel: Channel | None
    start: int
    body: int
    end: int


def parse(tokens: Sequence[int] | np.ndarray, tokenizer: O200kHarmony) -> tuple[Message, ...]:
    """Parse the messages of `tokens` (N,), with or without <|endoftext|> at the end. A text may be empty (after truncation).

    Errors: FormatError as `parts`, and where the text of a message is no UTF-8; ValueError where the vocabulary file is
    missing or wrong.
    """
    ids = _array(tokens)
    return tuple(Message(part.role, _text(ids, part, tokenizer), part.channel) for part in parts(ids, tokenizer))


def parts(tokens: Sequence[int] | np.ndarray, tokenizer: O200kHarmony) -> list[MessageSpan]:
    """Find where the messages of `tokens` lie.

    FormatError on: an id outside the vocabulary, no message, text or a control token between messages, an unknown role or
    channel, a header without <|message|>, a control token inside text, an unterminated message, <|return|> anywhere but
    after the final that is last, and a whole document (one with <|endoftext|>) whose last final ends in <|end|>.
    """
    ids = _array(tokens)
    control = np.flatnonzero(ids >= CONTROL)
    whole = bool(len(ids)) and int(ids[-1]) == EOD
    stop = len(ids) - whole
    walk = _Walk(ids, control[control < stop].tolist(), stop, tokenizer)
    spans: list[MessageSpan] = []
    while walk.at < stop:
        spans.append(walk.message())
        if ids[spans[-1].end] == RETURN and walk.at < stop and ids[walk.at] == START:
            raise FormatError(spans[-1].end, "<|return|> before the last message")
    if not spans:
        raise FormatError(0, "no message")
    if whole and spans[-1].channel == "final" and ids[spans[-1].end] != RETURN:
        raise FormatError(spans[-1].end, "the last final ends in <|end|>, not in <|return|>")
    return spans


class _Walk:
    """A place `at` in the ids, and the control tokens that are still ahead."""

    def __init__(self, ids: np.ndarray, control: list[int], stop: int, tokenizer: O200kHarmony) -> None:
        self.ids, self.stop, self.tokenizer, self.at = ids, stop, tokenizer, 0
        self._ahead = iter(control)

    def message(self) -> MessageSpan:
        start = self.at
        token = int(self.ids[start])
        if token != START:
            raise FormatError(start, f"{_named(token)} outside a message, where <|start|> is due")
        next(self._ahead)
        at, mark = self._control(start, f"the header of the message at token {start} has no <|message|>")
        role = self._word(start + 1, at, _ROLE_IDS, "role")
        channel = None
        if mark == CHANNEL:
            before = at
            at, mark = self._control(start, f"the header of the message at token {start} has no <|message|>")
            channel = self._word(before + 1, at, _CHANNEL_IDS, "channel")
        if mark != MESSAGE:
            raise FormatError(at, f"{_named(mark)} in a header, where <|message|> is due")
        if (role == "assistant") != (channel is not None):
            what = "no channel" if channel is None else f"the channel {channel!r}, which it cannot have"
            raise FormatError(start, f"the {role} message has {what}; known for assistant: {', '.join(CHANNELS)}")
        body = at + 1
        end, mark = self._control(start, f"the {role} message at token {start} is not ended")
        if mark not in (END, RETURN):
            raise FormatError(end, f"{_named(mark)} inside the text of the {role} message at token {start}")
        if mark == RETURN and channel != "final":
            raise FormatError(end, f"<|return|> ends the {channel or role} message; only a final can end in it")
        self.at = end + 1
        return MessageSpan(cast(Role, role), cast("Channel | None", channel), start, body, end)

    def _control(self, start: int, absent: str) -> tuple[int, int]:
        """Find index and id of the next control token."""
        at = next(self._ahead, None)
        if at is None:
            raise FormatError(self.stop, f"the ids stop here, but {absent}")
        return at, int(self.ids[at])

    def _word(self, start: int, stop: int, known: dict[int, str], what: str) -> str:
        if stop - start == 1 and (word := known.get(int(self.ids[start]))):
            return word
        text = self.tokenizer.decode(self.ids[start:stop])
        tools = "; messages to and from tools are not read" if " to=" in text else ""
        raise FormatError(start, f"unknown {what} {text!r}; known: {', '.join(known.values())}{tools}")


def _text(ids: np.ndarray, part: MessageSpan, tokenizer: O200kHarmony) -> str:
    piece = ids[part.body : part.end]
    try:
        return tokenizer.to_bytes(piece).decode()
    except UnicodeDecodeError as error:
        ends = np.cumsum(tokenizer.count(piece))
        index = part.body + int(np.searchsorted(ends, error.start, side="right"))
        raise FormatError(index, f"the text of the {part.role} message at token {part.start} is no UTF-8") from None


def _array(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    ids = np.asarray(tokens)
    if not len(ids):
        return np.zeros(0, np.int64)
    wrong = np.flatnonzero((ids < 0) | (ids >= VOCAB_SIZE))
    if len(wrong):
        raise FormatError(int(wrong[0]), f"id {ids[wrong[0]]} is outside the vocabulary of {VOCAB_SIZE}")
    return ids


def _named(i: int) -> str:
    return _NAMES.get(i, "text")
