"""Structured truncation: what goes first, what stays whole, and masks that stay with their tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.harmony.talk import CONVERSATIONS, RENDERER, TOKENIZER, ask

from ablab.data.harmony.conversation import Message, from_synth
from ablab.data.harmony.parse import parse
from ablab.data.harmony.render import Rendered
from ablab.data.harmony.truncate import truncate

WORDS = "one two three four five six seven eight nine ten"  # ten tokens
ROW = RENDERER.render(
    from_synth(WORDS, WORDS, WORDS)
)  # 5 + 7 + 7 tokens of headers and ends, <|endoftext|>, 30 of text


def texts(rendered: Rendered | None) -> list[str]:
    assert rendered is not None
    return [message.text for message in parse(rendered.tokens, TOKENIZER)]


def cut(max_tokens: int, rendered: Rendered = ROW) -> Rendered | None:
    return truncate(rendered, max_tokens, TOKENIZER)


def test_what_fits_is_left_alone() -> None:
    assert len(ROW.tokens) == 47
    assert cut(47) is ROW and cut(1000) is ROW


def test_reasoning_goes_first_from_the_left() -> None:
    assert texts(cut(46)) == [WORDS, WORDS.removeprefix("one"), WORDS]
    assert texts(cut(38)) == [WORDS, " ten", WORDS]
    assert texts(cut(37)) == [WORDS, "", WORDS]


def test_then_the_question_from_the_left_but_not_all_of_it() -> None:
    assert texts(cut(36)) == [WORDS.removeprefix("one"), "", WORDS]
    assert texts(cut(28)) == [" ten", "", WORDS]
    assert cut(27) is None


def test_masks_stay_with_their_tokens() -> None:
    short = cut(36)
    assert short is not None
    assert short.tokens[-1] == 199999 and len(short.tokens) == 36
    assert short.span.tolist() == [0] * 12 + [1] * 6 + [2] * 16 + [0] * 2
    assert short.loss_mask.tolist() == [0] * 12 + [1] * 22 + [0] * 2
    assert [a.dtype for a in short] == [np.int32, np.uint8, np.uint8]


def test_with_many_turns_the_oldest_reasoning_goes_first_and_only_the_last_question() -> None:
    turns = RENDERER.render((Message("system", WORDS), *ask(WORDS, WORDS, WORDS), *ask(WORDS, WORDS, WORDS)))
    n = len(turns.tokens)
    assert texts(cut(n - 9, turns)) == [WORDS, WORDS, " ten", WORDS, WORDS, WORDS, WORDS]
    assert texts(cut(n - 15, turns)) == [WORDS, WORDS, "", WORDS, WORDS, " six seven eight nine ten", WORDS]
    assert texts(cut(n - 29, turns)) == [WORDS, WORDS, "", WORDS, " ten", "", WORDS]
    assert cut(n - 30, turns) is None


def test_a_cut_never_falls_inside_a_character() -> None:
    faces = "\U0001f9ff" * 4  # several tokens each
    rendered = RENDERER.render(from_synth("q", faces, "a"))
    n, per_face = len(rendered.tokens), len(TOKENIZER.encode("\U0001f9ff")[0])
    assert per_face > 1
    for over in range(1, 4 * per_face + 1):
        short = cut(n - over, rendered)
        assert texts(short)[1] == faces[-(-over // per_face) :]


def test_without_reasoning_or_question() -> None:
    only = RENDERER.render((Message("assistant", WORDS, "final"),))
    assert cut(len(only.tokens) - 1, only) is None
    reasoning = RENDERER.render((Message("user", "q"), Message("assistant", WORDS, "analysis")))
    assert texts(cut(len(reasoning.tokens) - 9, reasoning)) == ["q", " ten"]


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_a_limit_that_nothing_meets(max_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"max_tokens = {max_tokens} is below 1; give at least 1"):
        cut(max_tokens)


@settings(max_examples=120, deadline=None)
@given(CONVERSATIONS, st.data())
def test_any_conversation(messages: tuple[Message, ...], data: st.DataObject) -> None:
    rendered = RENDERER.render(messages)
    limit = data.draw(st.integers(1, len(rendered.tokens)))
    short = cut(limit, rendered)
    last = max((k for k, m in enumerate(messages) if m.role == "user"), default=-1)
    loose = [m.channel == "analysis" or k == last for k, m in enumerate(messages)]
    # It is dropped where it is too long with all reasoning gone and one character of the question left.
    gone = sum(_tokens(m.text) for m, free in zip(messages, loose) if free)
    left = _of_the_last_character(messages[last].text) if last >= 0 else 0
    assert (short is None) == (len(rendered.tokens) - gone + left > limit)
    if short is None:
        return
    assert len(short.tokens) <= limit and {len(a) for a in short} == {len(short.tokens)}
    found = parse(short.tokens, TOKENIZER)
    assert [(m.role, m.channel) for m in found] == [(m.role, m.channel) for m in messages]
    for before, after, free in zip(messages, found, loose):
        assert before.text.endswith(after.text) if free else before.text == after.text
    # The masks are those that the messages have where they now lie.
    at, mask, span = 0, [], []
    for part, message in zip(_lengths(short), found):
        at += part
        mask += [int(message.role == "assistant")] * part
        span += [{None: 0, "analysis": 1, "final": 2}[message.channel]] * part
    assert at == len(short.tokens) - 1
    assert short.loss_mask.tolist() == [*mask[1:], 0, 0] and short.span.tolist() == [*span[1:], 0, 0]


def _lengths(rendered: Rendered) -> list[int]:
    starts = np.flatnonzero(rendered.tokens == 200006)
    return np.diff(np.append(starts, len(rendered.tokens) - 1)).tolist()


def _tokens(text: str) -> int:
    return len(TOKENIZER.encode(text)[0])


def _of_the_last_character(text: str) -> int:
    """How many tokens from the right it takes to hold whole characters."""
    ids = TOKENIZER.encode(text)[0]
    for n in range(1, len(ids) + 1):
        try:
            TOKENIZER.to_bytes(ids[-n:]).decode()
        except UnicodeDecodeError:
            continue
        return n
    raise AssertionError("the text itself is whole")
