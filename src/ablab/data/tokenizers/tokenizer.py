"""What every tokenizer is: text to token ids and exact bytes per token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from ablab.core.lever import Lever


class Tokenizer(Lever):
    """Text to ids and back. Nothing of text is lost, and the bytes of a document's tokens are those of its text."""

    paths: ClassVar[tuple[str, ...]] = ()  # settings that name files; they are known by what they hold
    trained: bool = False  # it learns from the training split

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    @abstractmethod
    def bos_id(self) -> int:
        """The id that begins every document."""

    @property
    def rewrites(self) -> bool:
        """Whether it normalises text: its bytes are then those of the rewritten text."""
        return False

    @property
    def squeezes(self) -> bool:
        """Whether it makes one space of several."""
        return False

    @property
    def hidden(self) -> bool:
        """Whether tokens do not tell the text's bytes; `shown` then says what they show of them."""
        return False

    def shown(self, ids: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bytes that each of a document's tokens shows, whether it is plain letters, whether a space is before."""
        raise NotImplementedError(f"{type(self).__name__} is hidden and has no `shown`")

    @classmethod
    def owed(cls) -> list[str]:
        """Ask for `shown`, too, where it may be `hidden`."""
        silent = cls.hidden is not Tokenizer.hidden and cls.shown is Tokenizer.shown
        return [*super().owed(), *(["shown"] if silent else [])]

    def ready(self) -> None:
        """Read what must be read, now. ValueError, with the cure, where it is missing or wrong."""

    def train(self, texts: Iterable[str]) -> None:
        """Learn from `texts`; the same texts in the same order give the same tokenizer."""

    @abstractmethod
    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode text as ids (int32) and bytes of UTF-8 per token (int32). No BOS. ValueError for text that is no Unicode."""

    @abstractmethod
    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of text per token (int32) of one document. ValueError on an id outside the vocabulary."""

    @abstractmethod
    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Decode the `ids` of one document to bytes. ValueError on an id outside the vocabulary."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode `ids` to text; bytes that are no UTF-8 become U+FFFD."""
        return self.to_bytes(ids).decode(errors="replace")

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of what it is: the saved file."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the tokenizer to the file `path`."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Self:
        """Load the tokenizer saved at `path`. ValueError where it is of another."""
