"""SentencePiece BPE with byte fallback, set up so that every text comes back exactly; or an existing model, as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ablab.core.files import write_atomic
from ablab.data import pieces
from ablab.data.tokenizers.tokenizer import Tokenizer


class SentencePiece(Tokenizer):
    """Byte-pair pieces trained on the training split, byte fallback, no normalisation; or those of a `model` file.

    Text that a given model would rewrite (NFKC, collapsed spaces) is refused, so that bytes stay those of the text.

    vocab_size (tokens): of the vocabulary that is trained
    model: path of a model file, with which nothing is trained: size, BOS, normaliser and dummy prefix are the file's; ""
        trains
    """

    source = "Kudo and Richardson 2018, arXiv 1808.06226"
    paths: ClassVar[tuple[str, ...]] = ("model",)

    def __init__(self, *, vocab_size: int = pieces.DEFAULT, model: str = "") -> None:
        pieces.check_size(vocab_size, model)
        self.model, self.trained = model, not model
        self._vocab_size = vocab_size
        self._pieces: pieces.Pieces | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids; of a `model`, what its file says. Raises as `ready` where that file has to be read."""
        return self._loaded().vocab_size if self.model else self._vocab_size

    @property
    def bos_id(self) -> int:
        """Id of BOS; of a `model`, what its file says. Raises as `ready` where that file has to be read."""
        return self._loaded().bos_id if self.model or self._pieces else pieces.BOS

    @property
    def rewrites(self) -> bool:
        """Whether the model normalises text (NFKC, spaces): its bytes are then those of the rewritten text."""
        return self._loaded().rewrites

    @property
    def squeezes(self) -> bool:
        """Whether the model makes one space of several."""
        return self._loaded().squeezes

    @property
    def hidden(self) -> bool:
        """Whether tokens do not tell the text's bytes: the model normalises, or has case operators."""
        return self.rewrites or self._loaded().operators

    def shown(self, ids: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bytes that each of a document's tokens shows, whether it is plain letters, whether a space is before.

        ValueError on an id outside the vocabulary.
        """
        model = self._loaded()
        array = model.checked(ids)
        return model.shown(array), model.letters[array], model.marked[array]

    def ready(self) -> None:
        """Read the model file now, where one is given. ValueError, with the cure, where it is missing or wrong."""
        if self.model:
            self._loaded()

    def train(self, texts: Iterable[str]) -> None:
        """Learn the pieces from `texts`: one thread, no sampling, so the same texts in the same order give the same bytes.

        ValueError where the texts cannot fill or exceed `vocab_size`, and where a `model` is given.
        """
        if self.model:
            raise ValueError(f"model = {self.model} is used as it is; remove model to train pieces")
        self._pieces = pieces.Pieces(pieces.train(texts, self._vocab_size))
        self._vocab_size = self._pieces.vocab_size

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode text as ids (int32) and UTF-8 bytes per token (int32). No BOS; no text yields BOS or <unk>.

        ValueError on lone surrogates, where the model would rewrite the text, and where it has case operators.
        """
        model = self._loaded()
        if model.operators:
            raise ValueError(
                "the model has case operators (U+E001 to U+E004) and expects text that was transformed before; use token "
                "files made with it, or tokenizer = case_ops"
            )
        ids = model.encode(text)
        return ids, model.count(ids)

    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of text of each token (int32) of a document; control, unknown and unused ids have 0 (`Pieces.count`).

        ValueError on an id outside the vocabulary, and where the model has case operators.
        """
        model = self._loaded()
        if model.operators:
            raise ValueError(
                "the model has case operators (U+E001 to U+E004), which its pieces would count as 3 bytes of text each; "
                "take bytes from the sidecar (fineweb_val_bytes_*.bin) beside the token files"
            )
        return model.count(ids)

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Decode the `ids` of one document to bytes; BOS and <unk> stand for none, case operators for themselves.

        ValueError on an id outside the vocabulary.
        """
        return self._loaded().join(ids)

    @property
    def fingerprint(self) -> str:
        """sha256 of the saved file."""
        return hashlib.sha256(self._loaded().model).hexdigest()

    def save(self, path: Path) -> None:
        """Write the model to the file `path`."""
        write_atomic(path, self._loaded().model)

    @classmethod
    def load(cls, path: Path) -> SentencePiece:
        """Load the tokenizer saved at `path`. ValueError where it is no such model."""
        tokenizer = cls()
        tokenizer._pieces = pieces.read(path)
        tokenizer._vocab_size = tokenizer._pieces.vocab_size
        return tokenizer

    def _loaded(self) -> pieces.Pieces:
        if self._pieces is None:
            if not self.model:
                raise ValueError("the tokenizer is not trained; call train(texts) or load(path)")
            self._pieces = pieces.read(Path(self.model))
        return self._pieces
