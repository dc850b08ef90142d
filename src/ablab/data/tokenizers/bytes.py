"""The byte tokenizer: one token per UTF-8 byte."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablab.core.files import read_json, write_atomic
from ablab.data.tokenizers.tokenizer import Tokenizer

_CONTENT = '{"tokenizer": "bytes", "vocab_size": 257, "bos_id": 256}\n'


class Bytes(Tokenizer):
    """One token per UTF-8 byte; ids 0 to 255 are the bytes, 256 is BOS. Nothing to train."""

    source = "Xue et al. 2021 (ByT5), arXiv 2105.13626"
    vocab_size = 257
    bos_id = 256

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode text as ids (int32) and bytes per token (int32, all ones). No BOS. ValueError on lone surrogates."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} is a lone surrogate; text must be valid Unicode") from None
        ids = np.frombuffer(data, np.uint8).astype(np.int32)
        return ids, np.ones(len(ids), np.int32)

    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of text per token (int32): one, and none for BOS. ValueError on an id outside the vocabulary."""
        out: np.ndarray = (self._checked(ids) != self.bos_id).astype(np.int32)
        return out

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Decode `ids` to the bytes that they stand for; BOS stands for none. ValueError on an id outside the vocabulary."""
        array = self._checked(ids)
        out: bytes = array[array != self.bos_id].astype(np.uint8).tobytes()
        return out

    @property
    def fingerprint(self) -> str:
        """sha256 of the saved file."""
        return hashlib.sha256(_CONTENT.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the tokenizer to the file `path`."""
        write_atomic(path, _CONTENT)

    @classmethod
    def load(cls, path: Path) -> Bytes:
        """Load the tokenizer saved at `path`. ValueError where the file is of another tokenizer."""
        record = read_json(path)
        if not isinstance(record, dict) or record.get("tokenizer") != "bytes":
            raise ValueError(f"{path} holds no byte tokenizer; prepare the data again")
        return cls()

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids, np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"token ids must lie in 0 to {self.vocab_size - 1}")
        return array
