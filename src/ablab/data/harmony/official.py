"""The ids that openai-harmony itself gives, for the sampled check of a build and for tests. Imported late: it is slow."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ablab.data.vocabulary import default_path, read

if TYPE_CHECKING:
    from openai_harmony import Message as TheirMessage

    from ablab.data.harmony.conversation import Message

EOD = 199_999
_BASE = "TIKTOKEN_ENCODINGS_BASE"


class OfficialRenderer:
    """openai-harmony with auto_drop_analysis=False on the vocabulary file at `vocab_path` (None: the installed one).

    ValueError where that file is not the vocabulary; ModuleNotFoundError where openai-harmony is not installed.
    """

    def __init__(self, vocab_path: Path | None = None) -> None:
        import openai_harmony

        path = vocab_path or default_path()
        read(vocab_path)  # openai-harmony would fetch the file where it finds none: ours is checked first
        self._library: ModuleType = openai_harmony
        with _found_at(path):
            self._encoding = openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
        self._keep_all = openai_harmony.RenderConversationConfig(auto_drop_analysis=False)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation for training: all ids, EOD included."""
        conversation = self._library.Conversation.from_messages([self.message(one) for one in messages])
        rendered = self._encoding.render_conversation_for_training(conversation, config=self._keep_all)
        return [*rendered, EOD]

    def message(self, message: Message) -> TheirMessage:
        """Return `message` as openai-harmony's own."""
        made = self._library.Message.from_role_and_content(self._library.Role(message.role), message.text)
        return made if message.channel is None else made.with_channel(message.channel)


@contextlib.contextmanager
def _found_at(path: Path) -> Iterator[None]:
    """Have the variable that openai-harmony looks at name a folder that holds `path` under the name it wants."""
    before = os.environ.get(_BASE)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "o200k_base.tiktoken").symlink_to(path.resolve())
        os.environ[_BASE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_BASE]
            else:
                os.environ[_BASE] = before
