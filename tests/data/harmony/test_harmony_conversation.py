"""Rows to messages, system text as openai-harmony writes it, and every bad conversation by name."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import ChannelConfig, DeveloperContent, Role, SystemContent
from openai_harmony import Message as Theirs
from tests.data.harmony.talk import CONVERSATIONS, RENDERER, ask, official

from ablab.data.harmony.conversation import BadConversation, Message, check, from_messages, from_synth

GOOD = from_synth("What is 2+2?", "2+2=4.", "4")
OPTIONAL = st.none() | st.text(min_size=1)


def dicts(*messages: Message) -> list[dict[str, Any]]:
    return [
        {"role": m.role, "content": m.text} | ({} if m.channel is None else {"channel": m.channel}) for m in messages
    ]


def test_a_synth_row() -> None:
    assert ask("What is 2+2?", "2+2=4.", "4") == GOOD
    check(GOOD)
    assert pickle.loads(pickle.dumps(GOOD)) == GOOD


@given(CONVERSATIONS)
def test_messages_of_plain_text(messages: tuple[Message, ...]) -> None:
    plain = dicts(*messages)
    assert from_messages(plain) == from_messages({"messages": plain, "id": 1}) == messages
    parts = [{**one, "content": [{"type": "text", "text": one["content"]}], "recipient": None} for one in plain]
    assert from_messages(parts) == messages
    check(messages)


@settings(max_examples=60, deadline=None)
@given(
    identity=OPTIONAL,
    effort=st.sampled_from([None, "Low", "Medium", "High"]),
    date=OPTIONAL,
    cutoff=OPTIONAL,
    channels=st.none() | st.tuples(st.lists(st.sampled_from(["analysis", "commentary", "final"])), st.booleans()),
    given_out=st.sets(st.sampled_from(["model_identity", "reasoning_effort", "knowledge_cutoff", "channel_config"])),
    instructions=st.text(),
)
def test_system_and_developer_content_is_written_as_openai_harmony_does(
    identity: str | None,
    effort: str | None,
    date: str | None,
    cutoff: str | None,
    channels: tuple[list[str], bool] | None,
    given_out: set[str],
    instructions: str,
) -> None:
    config = channels and {"valid_channels": channels[0], "channel_required": channels[1]}
    system = {
        "type": "system_content",
        "model_identity": identity,
        "reasoning_effort": effort,
        "conversation_start_date": date,
        "knowledge_cutoff": cutoff,
        "channel_config": config,
    }
    system = {name: value for name, value in system.items() if name not in given_out}  # then openai-harmony's default
    developer = {"type": "developer_content", "instructions": instructions}
    rows = [
        {"role": "system", "content": [system]},
        {"role": "developer", "content": [developer]},
        *dicts(*GOOD),
    ]
    messages = from_messages(rows)
    theirs = official()._library.Conversation.from_messages([Theirs.from_dict(row) for row in rows])
    ids = official()._encoding.render_conversation(theirs, config=official()._keep_all)
    if not messages[0].text:
        with pytest.raises(BadConversation, match="message 0: the system text is empty"):
            check(messages)
        messages = messages[1:]
        ids = ids[4:]
    assert RENDERER.render_prompt(messages)[:-2] == ids


def test_contents_made_with_openai_harmony() -> None:
    contents = [
        SystemContent.new().with_conversation_start_date("2026-01-01").with_required_channels(["analysis", "final"]),
        DeveloperContent.new().with_instructions("Count aloud."),
    ]
    rows = [
        json.loads(Theirs.from_role_and_content(role, content).to_json())
        for role, content in zip((Role.SYSTEM, Role.DEVELOPER), contents)
    ]
    messages = from_messages(rows)
    assert [m.role for m in messages] == ["system", "developer"]
    assert messages[1].text == "# Instructions\n\nCount aloud."
    assert messages[0].text.endswith("# Valid channels: analysis, final. Channel must be included for every message.")
    assert ChannelConfig.require_channels(["final"]).channel_required


def test_thinking_becomes_analysis() -> None:
    rows = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "thinking": "t"}]
    assert from_messages(rows) == from_synth("q", "t", "a")
    rows[1]["channel"] = "final"
    assert from_messages(rows) == from_synth("q", "t", "a")
    rows[1]["channel"] = "analysis"
    with pytest.raises(BadConversation, match="message 1: 'thinking' belongs to an assistant's final message only"):
        from_messages(rows)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("text", "the messages are a string, not a list"),
        (None, "the messages are null, not a list"),
        ({"turns": []}, "the messages are an object, not a list"),
        ({"messages": [], "tools": ["f"]}, "the conversation offers tools; conversations with tools cannot be built"),
        ([["user", "hi"]], "message 0 is a list, not an object with role and content"),
        ([{"role": "user"}], "message 0 has no 'content'; it has 'role'"),
        ([{"content": "x", "from": "me"}], "message 0 has no 'role'; it has 'content', 'from'"),
        ([{"role": "user", "content": None}], "message 0: the content is null, not text or a list of one part"),
        ([{"role": "user", "content": []}], "message 0 has 0 parts of content; write one, since ids depend on the cut"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}],
            "message 0 has 2 parts of content; write one",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0: a part of type 'text' has no text"),
        ([{"role": "user", "content": ["text"]}], "message 0: content of the unknown type None; known: text, system"),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            "message 0: content of the unknown type 'image'; known: text, system_",
        ),
        (
            [{"role": "user", "content": [{"type": "system_content"}]}],
            "message 0: content of type 'system_content' in a message of role 'user'",
        ),
        (
            [{"role": "system", "content": [{"type": "system_content", "reasoning_effort": "huge"}]}],
            "message 0: openai-harmony refuses the system_content: 1 validation error for SystemContent; reasoning_effort",
        ),
        (
            [{"role": "system", "content": [{"type": "system_content", "model_idenity": "me"}]}],
            "message 0 has 'model_idenity' in its system_content, which is not one of model_identity, reasoning_effort",
        ),
        (
            [{"role": "developer", "content": [{"type": "developer_content", "instruction": "Count."}]}],
            "message 0 has 'instruction' in its developer_content, which is not one of instructions",
        ),
        (
            [{"role": "system", "content": [{"type": "system_content", "channel_config": {"channels": ["final"]}}]}],
            "message 0 has 'channels' in its channel_config, which is not one of valid_channels, channel_required",
        ),
        (
            [{"role": "developer", "content": [{"type": "developer_content", "tools": {"functions": {}}}]}],
            "message 0 offers tools; conversations with tools cannot be built; leave them out",
        ),
        (
            [{"role": "assistant", "content": "{}", "channel": "commentary", "recipient": "functions.f"}],
            "message 0 has 'recipient', which is not one of role, content, channel, thinking; conversations with tools",
        ),
        ([{"role": "user", "content": "x", "name": "Ann"}], "message 0 has 'name', which is not one of role, content"),
    ],
)
def test_rows_of_another_shape(value: Any, fault: str) -> None:
    with pytest.raises(BadConversation, match=f"^{re.escape(fault)}"):
        from_messages(value)


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "the conversation is empty"),
        ([("user", "hi", None)], "no assistant message; there is nothing to learn"),
        ([("tool", "hi", None)], "message 0: unknown role 'tool'; known: system, developer, user, assistant"),
        ([("user", "q", None), (None, "x", None)], "message 1: unknown role None; known: system, developer"),
        ([("assistant", "x", None)], "message 0: assistant with no channel; known: analysis, final"),
        (
            [("assistant", "x", "commentary")],
            "message 0: assistant with the unknown channel 'commentary'; known: analysis, final",
        ),
        ([("user", "x", "final")], "message 0: a user message has the channel 'final'; it can have none"),
        ([("user", "", None), ("assistant", "x", "final")], "message 0: the user text is empty"),
        ([("user", "q", None), ("assistant", "", "analysis")], "message 1: the analysis text is empty"),
        ([("user", "q", None), ("assistant", "", "final")], "message 1: the final text is empty"),
        ([("user", "q", None), ("assistant", None, "final")], "message 1: the text is NoneType, not a string"),
        (
            [("user", "q", None), ("assistant", "ab\udc80", "final")],
            "message 1: character 2 is a lone surrogate; text must be valid Unicode",
        ),
    ],
)
def test_bad_conversations(messages: list[tuple[Any, Any, Any]], fault: str) -> None:
    made = [Message(*one) for one in messages]
    for refuse in (check, RENDERER.render):
        with pytest.raises(BadConversation, match=f"^{re.escape(fault)}"):
            refuse(made)


def test_a_prompt_needs_no_assistant() -> None:
    check([Message("user", "hi")], prompt=True)
    with pytest.raises(BadConversation, match="is empty"):
        check([], prompt=True)
