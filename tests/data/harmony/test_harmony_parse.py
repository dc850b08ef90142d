"""Parsing: openai-harmony's published examples, and every fault of format with its token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.harmony.talk import CONVERSATIONS, EXAMPLES, RENDERER, TOKENIZER

from ablab.data.harmony.conversation import from_synth
from ablab.data.harmony.parse import FormatError, parse, parts

PUBLISHED: dict[str, list[int]] = EXAMPLES["examples"]
ASKED = [200006, 173781]  # <|start|>assistant: where a prompt ends and an answer begins
FAULTS = {  # examples with tools, or that no training conversation looks like: the ids are those of an answer alone
    "does_not_drop_if_ongoing_analysis": (37, "unknown role 'assistant to=functions.lookup_weather'; known: system, "),
    "tool_response_parsing": (
        1,
        "unknown role 'browser.search to=assistant'; known: system, developer, user, assistant;",
    ),
    "simple_reasoning_response": (23, "<|return|> ends the analysis message; only a final can end in it"),
    "simple_tool_call": (24, "<|return|> ends the analysis message; only a final can end in it"),
    "streamable_parser": (
        77,
        "unknown channel 'commentary to=browser.search code'; known: analysis, final; messages to",
    ),
}
S, E, M, C, R, EOD = 200006, 200007, 200008, 200005, 200002, 199999
USER, ASSISTANT, ANALYSIS, FINAL = 1428, 173781, 35644, 17196
HI = [S, USER, M, 3686, E]
ANSWER = [S, ASSISTANT, C, FINAL, M, 19, R]


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - FAULTS.keys()))
def test_published_examples_come_back(name: str) -> None:
    ids = PUBLISHED[name]
    prompt = ids if ids[-2:] == ASKED else [*ids, *ASKED]
    messages = parse(prompt[:-2], TOKENIZER)
    assert RENDERER.render_prompt(messages) == prompt
    if messages[-1].channel == "final":
        assert RENDERER.render(messages).tokens.tolist() == [*ids[:-1], R, EOD]


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_published_examples_with_tools_are_refused(name: str) -> None:
    ids = PUBLISHED[name]
    with pytest.raises(FormatError) as caught:
        parse(ids if ids[0] == S else ASKED + ids, TOKENIZER)
    index, fault = FAULTS[name]
    assert caught.value.index == index and caught.value.fault.startswith(fault)


def test_there_are_23_published_examples() -> None:
    assert len(PUBLISHED) == 23 and len(FAULTS) == 5


@pytest.mark.parametrize(
    ("ids", "index", "fault"),
    [
        ([], 0, "no message"),
        ([EOD], 0, "no message"),
        ([3686], 0, "text outside a message, where <|start|> is due"),
        ([*HI, 13, *ANSWER], 5, "text outside a message, where <|start|> is due"),
        ([*HI, E], 5, "<|end|> outside a message, where <|start|> is due"),
        ([199998, *HI], 0, "<|startoftext|> outside a message, where <|start|> is due"),
        ([*HI, EOD, *ANSWER], 5, "<|endoftext|> outside a message, where <|start|> is due"),
        ([*HI, *ANSWER, EOD, EOD], 12, "<|endoftext|> outside a message"),
        ([*HI, S], 6, "the ids stop here, but the header of the message at token 5 has no <|message|>"),
        ([*HI, *ASKED], 7, "the ids stop here, but the header of the message at token 5 has no <|message|>"),
        ([*HI, *ASKED, C, FINAL], 9, "the ids stop here, but the header of the message at token 5 has no <|message|>"),
        ([S, USER, E], 2, "<|end|> in a header, where <|message|> is due"),
        ([S, ASSISTANT, C, FINAL, E], 4, "<|end|> in a header, where <|message|> is due"),
        ([S, ASSISTANT, C, FINAL, 200003, M, 19, R], 4, "<|constrain|> in a header, where <|message|> is due"),
        ([S, M, 3686, E], 1, "unknown role ''; known: system, developer, user, assistant"),
        ([S, 3686, M, 3686, E], 1, "unknown role 'hi'; known: system, developer, user, assistant"),
        ([S, USER, USER, M, 3686, E], 1, "unknown role 'useruser'; known:"),
        ([S, ASSISTANT, C, USER, M, 19, E], 3, "unknown channel 'user'; known: analysis, final"),
        ([S, ASSISTANT, C, M, 19, E], 3, "unknown channel ''; known: analysis, final"),
        ([S, ASSISTANT, M, 19, E], 0, "the assistant message has no channel; known for assistant: analysis, final"),
        ([*HI, S, USER, C, FINAL, M, 1, E], 5, "the user message has the channel 'final', which it cannot have; known"),
        ([*HI, S, USER, M, 3686], 9, "the ids stop here, but the user message at token 5 is not ended"),
        ([*HI, S, USER, M, 3686, EOD], 9, "the ids stop here, but the user message at token 5 is not ended"),
        ([S, USER, M, 3686, S, USER, M, 1, E], 4, "<|start|> inside the text of the user message at token 0"),
        ([S, USER, M, 3686, 200018, E], 4, "<|endofprompt|> inside the text of the user message at token 0"),
        ([S, USER, M, 3686, 200012], 4, "<|call|> inside the text of the user message at token 0"),
        ([S, USER, M, 3686, R], 4, "<|return|> ends the user message; only a final can end in it"),
        ([*ANSWER, *HI], 6, "<|return|> before the last message"),
        ([*HI, *ANSWER[:-1], E, EOD], 11, "the last final ends in <|end|>, not in <|return|>"),
        ([*HI, 201088], 5, "id 201088 is outside the vocabulary of 201088"),
        ([*HI, -1], 5, "id -1 is outside the vocabulary of 201088"),
    ],
)
def test_faults_of_format(ids: list[int], index: int, fault: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(ids, TOKENIZER)
    assert caught.value.index == index and caught.value.fault.startswith(fault)
    assert str(caught.value) == f"token {index}: {caught.value.fault}"


def test_text_that_is_no_unicode() -> None:
    face = TOKENIZER.encode("hi \U0001f9ff")[0].tolist()
    ids = [*HI, S, USER, M, *face[:-1], E]
    with pytest.raises(FormatError, match=r"the text of the user message at token 5 is no UTF-8") as caught:
        parse(ids, TOKENIZER)
    assert 8 < caught.value.index < len(ids) - 1


def test_where_messages_lie() -> None:
    ids = RENDERER.render(from_synth("What is 2+2?", "2+2=4.", "4")).tokens
    assert [tuple(part) for part in parts(ids, TOKENIZER)] == [
        ("user", None, 0, 3, 10),
        ("assistant", "analysis", 11, 16, 22),
        ("assistant", "final", 23, 28, 29),
    ]


def test_an_empty_text_is_read() -> None:
    assert [m.text for m in parse([*HI, S, ASSISTANT, C, ANALYSIS, M, E, *ANSWER, EOD], TOKENIZER)] == ["hi", "", "4"]


@settings(max_examples=120, deadline=None)
@given(CONVERSATIONS, st.data())
def test_damage_is_named_or_reads_as_other_messages(messages: tuple, data: st.DataObject) -> None:
    """Whatever is cut out or changed, nothing but FormatError comes, with a token that is there, or ids that render."""
    ids = RENDERER.render(messages).tokens.tolist()
    at = data.draw(st.integers(0, len(ids) - 1))
    new = data.draw(st.sampled_from([[], [S], [E], [M], [C], [R], [EOD], [USER], [19], [200018]]))
    damaged = [*ids[:at], *new, *ids[at + 1 :]]
    try:
        found = parse(np.array(damaged), TOKENIZER)
    except FormatError as error:
        assert 0 <= error.index <= len(damaged)
    else:
        assert len(found) == damaged.count(S)
