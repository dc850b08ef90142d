"""SentencePiece BPE with byte fallback, set up so that every text comes back exactly."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ablab.files import write_atomic

# SentencePiece writes a space as U+2581, so a U+2581 of the text itself would come back as a space: it is encoded by us,
# as its three bytes. The trainer drops whole lines that hold U+2581, U+2585, TAB or NUL (its own marks): they are cut there.
_SPACE = "\u2581"
_TRAINING_CUTS = re.compile("[\n\t\0\u2581\u2585]+")
_SMALLEST = 2 + 256 + 1  # <unk>, BOS, the 256 bytes, and at least one piece


class SentencePiece:
    """Byte-pair pieces trained on the training split, byte fallback, no normalisation."""

    source = "Kudo and Richardson 2018, arXiv 1808.06226"
    revision: ClassVar[int] = 1
    trained: ClassVar[bool] = True
    bos_id = 1

    def __init__(self, *, vocab_size: int = 4096) -> None:
        if not _SMALLEST <= vocab_size <= 8192:
            raise ValueError(
                f"vocab_size = {vocab_size} is outside {_SMALLEST} to 8192; choose one inside, such as 4096"
            )
        self.vocab_size = vocab_size
        self._model = b""

    def train(self, texts: Iterable[str]) -> None:
        """Learn the pieces from `texts`: one thread, no sampling, so the same texts in the same order give the same bytes.

        ValueError where the texts cannot fill or exceed `vocab_size`.
        """
        import sentencepiece

        lines, out = list(_lines(texts)), io.BytesIO()
        if not lines:
            raise ValueError("the training text is empty; give more text")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=out,
                model_type="bpe",
                vocab_size=self.vocab_size,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                character_coverage=0.9995,
                required_chars="\n",  # lines are cut at newlines, so the trainer never sees one
                max_sentence_length=1 << 30,
                unk_id=0,
                bos_id=self.bos_id,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,
                minloglevel=3,
            )
        except RuntimeError as error:
            raise ValueError(_cure(str(error), self.vocab_size)) from None
        self._read(out.getvalue())

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """ids (int32) and UTF-8 bytes per token (int32). No BOS; no text yields BOS or <unk>. ValueError on surrogates."""
        self._ready()
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} is a lone surrogate; text must be valid Unicode") from None
        first, *others = text.split(_SPACE)
        ids: list[int] = self._processor.encode(first)
        for part in others:
            ids += self._space_ids + self._processor.encode(part)
        array = np.asarray(ids, np.int32)
        return array, self._lengths[array]

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that `ids` stand for; BOS and <unk> stand for none. ValueError on an id outside the vocabulary."""
        self._ready()
        array = np.asarray(ids, np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"token ids must lie in 0 to {self.vocab_size - 1}")
        table = self._bytes
        return b"".join([table[i] for i in array.tolist()])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.to_bytes(ids).decode(errors="replace")

    @property
    def fingerprint(self) -> str:
        """sha256 of the saved file."""
        self._ready()
        return hashlib.sha256(self._model).hexdigest()

    def save(self, path: Path) -> None:
        """Write the trained model to the file `path`."""
        self._ready()
        write_atomic(path, self._model)

    @classmethod
    def load(cls, path: Path) -> SentencePiece:
        """The tokenizer saved at `path`. ValueError where it is no such model."""
        tokenizer = cls()
        try:
            tokenizer._read(path.read_bytes())
        except RuntimeError as error:
            raise ValueError(f"{path} holds no SentencePiece model ({error}); prepare the data again") from None
        return tokenizer

    def _ready(self) -> None:
        if not self._model:
            raise ValueError("the tokenizer is not trained; call train(texts) or load(path)")

    def _read(self, model: bytes) -> None:
        import sentencepiece

        processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._model, self._processor, self.vocab_size = model, processor, processor.get_piece_size()
        if processor.bos_id() != self.bos_id or not processor.is_byte(2):
            raise ValueError("the SentencePiece model has no BOS at id 1 or no byte pieces; prepare the data again")
        self._bytes = [_bytes_of(processor, i) for i in range(self.vocab_size)]
        self._lengths = np.array([len(piece) for piece in self._bytes], np.int32)
        self._space_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]


def _bytes_of(processor: Any, i: int) -> bytes:
    if processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i):
        return b""
    piece = processor.id_to_piece(i)
    return bytes([int(piece[3:5], 16)]) if processor.is_byte(i) else piece.replace(_SPACE, " ").encode()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in _TRAINING_CUTS.split(text):
            if line:
                yield line


def _cure(message: str, vocab_size: int) -> str:
    if found := re.search(r"value <= (\d+)", message):
        return (
            f"vocab_size = {vocab_size} is too large for the training text, which supports {found[1]} pieces; "
            f"set vocab_size <= {found[1]} or give more text"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size = {vocab_size} is too small for the characters of the training text, which need {found[1]}; "
            f"set vocab_size > {found[1]}"
        )
    return f"SentencePiece cannot be trained with vocab_size = {vocab_size}: {' '.join(message.split())}"
