"""What the tests of Harmony share: the tokenizer, openai-harmony beside it, and random conversations."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ablab.data.harmony.conversation import Message
from ablab.data.harmony.official import OfficialRenderer
from ablab.data.harmony.render import Renderer
from ablab.data.tokenizers.o200k_harmony import O200kHarmony

TOKENIZER = O200kHarmony()
RENDERER = Renderer(TOKENIZER)
EXAMPLES: dict[str, Any] = json.loads((Path(__file__).parents[2] / "golden/harmony_examples.json").read_text())

CONTROL = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|endoftext|>", "<|endofprompt|>", "<"]
TEXTS = st.lists(st.text() | st.sampled_from([*CONTROL, "assistant", "final", " ", "\n", "\0"]), min_size=1, max_size=5)
NOT_EMPTY = TEXTS.map("".join).filter(bool)
ASSISTANT = st.builds(Message, st.just("assistant"), NOT_EMPTY, st.sampled_from(["analysis", "final"]))
OTHERS = st.builds(Message, st.sampled_from(["system", "developer", "user"]), NOT_EMPTY)
TURNS = st.lists(ASSISTANT | OTHERS, max_size=7)
CONVERSATIONS = st.tuples(TURNS, ASSISTANT, TURNS).map(lambda parts: (*parts[0], parts[1], *parts[2]))


@functools.cache
def official() -> OfficialRenderer:
    """openai-harmony on the same vocabulary file."""
    return OfficialRenderer()


def ask(question: str, reasoning: str, answer: str) -> tuple[Message, ...]:
    return Message("user", question), Message("assistant", reasoning, "analysis"), Message("assistant", answer, "final")
