"""Conversations: who says what in which channel, from rows of a data set, and what is wrong with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

Role = Literal["system", "developer", "user", "assistant"]
Channel = Literal["analysis", "final"]
ROLES: tuple[str, ...] = ("system", "developer", "user", "assistant")
CHANNELS: tuple[str, ...] = ("analysis", "final")
_FIELDS = ("role", "content", "channel", "thinking")
_INSIDE: dict[str, tuple[str, ...]] = {
    "system_content": (
        "model_identity",
        "reasoning_effort",
        "conversation_start_date",
        "knowledge_cutoff",
        "channel_config",
    ),
    "developer_content": ("instructions",),
    "channel_config": ("valid_channels", "channel_required"),
}
_TOOLS = "conversations with tools cannot be built; leave them out"


class BadConversation(ValueError):
    """A conversation that cannot be rendered; the text says which message and why."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Assistant messages have a channel (analysis is reasoning, final the answer), others have none."""

    role: Role
    text: str
    channel: Channel | None = None


def check(messages: Sequence[Message], *, prompt: bool = False) -> None:
    """Raise BadConversation, naming the message, unless `messages` can be rendered.

    Refused: no messages, an unknown role or channel, an assistant message without channel, a channel of another role, empty
    text of any message (openai-harmony would render it, but a row with an empty question, reasoning or answer teaches the
    empty one), lone surrogates, and no assistant message (except in a `prompt`, which asks for one).
    """
    check_form(messages, prompt=prompt)
    for k, message in enumerate(messages):
        try:
            message.text.encode()
        except UnicodeEncodeError as error:
            raise lone_surrogate(k, error.start) from None


def check_form(messages: Sequence[Message], *, prompt: bool = False) -> None:
    """Check all that `check` does but lone surrogates, which an encoder meets by itself."""
    if not messages:
        raise BadConversation("the conversation is empty")
    answered = prompt
    for k, message in enumerate(messages):
        role, channel = message.role, message.channel
        if role == "assistant":
            answered = True
            if channel not in CHANNELS:
                fault = "no channel" if channel is None else f"the unknown channel {channel!r}"
                raise BadConversation(f"message {k}: assistant with {fault}; known: {', '.join(CHANNELS)}")
        elif role not in ROLES:
            raise BadConversation(f"message {k}: unknown role {role!r}; known: {', '.join(ROLES)}")
        elif channel is not None:
            raise BadConversation(f"message {k}: a {role} message has the channel {channel!r}; it can have none")
        if not isinstance(message.text, str):
            raise BadConversation(f"message {k}: the text is {type(message.text).__name__}, not a string")
        if not message.text:
            raise BadConversation(f"message {k}: the {channel or role} text is empty")
    if not answered:
        raise BadConversation("no assistant message; there is nothing to learn")


def lone_surrogate(k: int, i: int) -> BadConversation:
    """Make the error for character `i` of message `k`."""
    return BadConversation(f"message {k}: character {i} is a lone surrogate; text must be valid Unicode")


def from_synth(query: str, reasoning: str, answer: str) -> tuple[Message, ...]:
    """Read a row of SYNTH: the question, the reasoning (analysis) and the answer (final). Not checked."""
    return (
        Message("user", query),
        Message("assistant", reasoning, "analysis"),
        Message("assistant", answer, "final"),
    )


def from_messages(value: object) -> tuple[Message, ...]:
    """Read a list of {"role", "content"[, "channel"][, "thinking"]}, or {"messages": that list}, as messages. Not checked.

    `content` is text, or a list of one part: {"type": "text"}, or openai-harmony's "system_content" (identity, dates,
    reasoning effort, channels) and "developer_content" (instructions), written out as openai-harmony does. `thinking` of
    an assistant message becomes an analysis message before it, which is final where it names no channel.

    BadConversation on another shape, and on what has no place in a training row: names, recipients, tools.
    """
    if isinstance(value, dict) and "messages" in value:
        if value.get("tools"):
            raise BadConversation(f"the conversation offers tools; {_TOOLS}")
        value = value["messages"]
    if not isinstance(value, list):
        raise BadConversation(f"the messages are {_kind(value)}, not a list")
    return tuple(message for k, one in enumerate(value) for message in _from_dict(k, one))


def _from_dict(k: int, value: object) -> Iterable[Message]:
    if not isinstance(value, dict):
        raise BadConversation(f"message {k} is {_kind(value)}, not an object with role and content")
    for name in ("role", "content"):
        if name not in value:
            raise BadConversation(f"message {k} has no {name!r}; it has {', '.join(map(repr, value)) or 'nothing'}")
    for name, given in value.items():
        if name not in _FIELDS and given not in (None, [], {}):
            raise BadConversation(f"message {k} has {name!r}, which is not one of {', '.join(_FIELDS)}; {_TOOLS}")
    role, channel = cast(Role, value["role"]), cast("Channel | None", value.get("channel"))
    text = _text(k, role, value["content"])
    thinking = value.get("thinking")
    if thinking is None:
        return [Message(role, text, channel)]
    if role != "assistant" or channel == "analysis":
        raise BadConversation(f"message {k}: 'thinking' belongs to an assistant's final message only")
    return [Message(role, _text(k, role, thinking), "analysis"), Message(role, text, channel or "final")]


def _text(k: int, role: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadConversation(f"message {k}: the content is {_kind(content)}, not text or a list of one part")
    if len(content) != 1:
        raise BadConversation(
            f"message {k} has {len(content)} parts of content; write one, since ids depend on the cut"
        )
    part = content[0]
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise BadConversation(f"message {k}: a part of type 'text' has no text")
        return cast(str, part["text"])
    if kind not in ("system_content", "developer_content"):
        known = "text, system_content, developer_content"
        raise BadConversation(f"message {k}: content of the unknown type {kind!r}; known: {known}")
    if kind != f"{role}_content":
        raise BadConversation(f"message {k}: content of type {kind!r} in a message of role {role!r}")
    if part.get("tools"):
        raise BadConversation(f"message {k} offers tools; {_TOOLS}")
    for inside, holder in ((kind, part), ("channel_config", part.get("channel_config"))):
        for name, given in holder.items() if isinstance(holder, dict) else ():
            if name not in ("type", "tools", *_INSIDE[inside]) and given not in (None, [], {}):
                known = ", ".join(_INSIDE[inside])
                raise BadConversation(f"message {k} has {name!r} in its {inside}, which is not one of {known}")
    try:
        return _written_out(json.dumps(part))
    except ValueError as error:
        reason = "; ".join(str(error).splitlines()[:3])
        raise BadConversation(f"message {k}: openai-harmony refuses the {kind}: {reason}") from None


@functools.lru_cache(maxsize=256)  # the same for all rows of a data set, as a rule
def _written_out(part: str) -> str:
    """Write out a system or developer content, as openai-harmony does; its classes fill in what is not given."""
    from openai_harmony import DeveloperContent, SystemContent

    raw = json.loads(part)
    if raw.pop("type") == "developer_content":
        instructions = DeveloperContent(**raw).instructions
        return "" if instructions is None else f"# Instructions\n\n{instructions}"
    content = SystemContent(**raw)
    about = {"Knowledge cutoff: ": content.knowledge_cutoff, "Current date: ": content.conversation_start_date}
    top = [] if content.model_identity is None else [content.model_identity]
    top += [f"{name}{given}" for name, given in about.items() if given is not None]
    sections = ["\n".join(top)] if top else []
    if content.reasoning_effort is not None:
        sections.append(f"Reasoning: {content.reasoning_effort.value.lower()}")
    if content.channel_config is not None and content.channel_config.valid_channels:
        required = " Channel must be included for every message." if content.channel_config.channel_required else ""
        sections.append(f"# Valid channels: {', '.join(content.channel_config.valid_channels)}.{required}")
    return "\n\n".join(sections)


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(value), repr(value)[:40])
