"""Case operators: text goes to SentencePiece in lower case, with operators that say what was upper case."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypedDict

import numpy as np

from ablab.core.files import write_atomic
from ablab.core.forms import fits, misfit
from ablab.core.kinds import answer
from ablab.core.opened import opened, read_whole
from ablab.core.strict_json import record
from ablab.data import pieces
from ablab.data.capitals import OPERATORS, Case, PublishedCase, letters_with_two_cases
from ablab.data.tokenizers.tokenizer import Tokenizer


class CaseOps(Tokenizer):
    """Lower-case letters and case operators before SentencePiece, reversible for any text; bytes are the original's.

    " The", "HTTP" and "iPhone" become TITLE " the", ALLCAPS "http" and "i" CAPNEXT "phone". An operator stands before the
    space of its word, so that "the" and "The" share pieces. Operators (U+E001 to U+E004) are tokens of 0 bytes.

    vocab_size (tokens): of the vocabulary that is trained
    model: path of a file that `save` wrote, or of a published SentencePiece model with these operators, used by its own
        rules; "" trains
    """

    source = "parameter-golf pull request 1729 (the operators; there ASCII words only, operator after the space)"
    paths: ClassVar[tuple[str, ...]] = ("model",)

    def __init__(self, *, vocab_size: int = pieces.DEFAULT, model: str = "") -> None:
        pieces.check_size(vocab_size, model, len(OPERATORS))
        self.model, self.trained = model, not model
        self._vocab_size = vocab_size
        self._made: _Made | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids; of a `model`, what its file says. Raises as `ready` where that file has to be read."""
        return self._loaded().pieces.vocab_size if self.model or self._made else self._vocab_size

    @property
    def bos_id(self) -> int:
        """Id of BOS; of a `model`, what its file says. Raises as `ready` where that file has to be read."""
        return self._loaded().pieces.bos_id if self.model or self._made else pieces.BOS

    def ready(self) -> None:
        """Read the model file now, where one is given. ValueError, with the cure, where it is missing or wrong."""
        if self.model:
            self._loaded()

    def train(self, texts: Iterable[str]) -> None:
        """Learn the pieces from `texts`, lowered; the same texts in the same order give the same file.

        ValueError where the texts cannot fill or exceed `vocab_size`, and where a `model` is given.
        """
        if self.model:
            raise ValueError(f"model = {self.model} is used as it is; remove model to train pieces")
        letters = letters_with_two_cases()
        case = Case(letters)
        model = pieces.train((case.lower(text) for text in texts), self._vocab_size, OPERATORS)
        self._made = _Made(pieces.Pieces(model), "ablab", letters)

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode text as ids (int32) and bytes of the original UTF-8 per token (int32, 0 for operators). No BOS; no text yields
        BOS or <unk>. ValueError on lone surrogates, and where a published model would rewrite the text."""
        pieces.check_text(text)
        made = self._loaded()
        ids = made.pieces.encode(made.case.lower(text))
        return ids, made.count(ids)

    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of the original text per token (int32) of one document, in order; they sum to len(to_bytes(ids)).

        Of a letter whose cases differ in bytes, and that was cut into single bytes, each token but the last has at most 1.
        ValueError on an id outside the vocabulary, and where a published model rewrites text (NFKC, spaces).
        """
        made = self._loaded()
        if made.pieces.rewrites:
            raise ValueError(
                f"the model rewrites text (its normaliser is {made.pieces.normalizer}), so that its tokens do not tell the "
                "bytes of the original; take bytes from the sidecar (fineweb_val_bytes_*.bin) beside the token files"
            )
        return made.count(ids)

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Decode the `ids` of one document to the original bytes; any ids decode, operators that change nothing are dropped.

        ValueError on an id outside the vocabulary.
        """
        made = self._loaded()
        return made.case.restore(_text(made.pieces.join(ids))).encode(errors="surrogateescape")

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode `ids` to the original text; bytes that are no UTF-8 become U+FFFD. ValueError as `to_bytes`."""
        return self.to_bytes(ids).decode(errors="replace")

    @property
    def fingerprint(self) -> str:
        """sha256 of the saved file: the rules, the letters and the model."""
        return hashlib.sha256(self._loaded().file()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the tokenizer to the file `path`: a line of JSON, then the SentencePiece model."""
        write_atomic(path, self._loaded().file())

    @classmethod
    def load(cls, path: Path) -> CaseOps:
        """Load the tokenizer saved at `path`. ValueError where it is none."""
        tokenizer = cls()
        tokenizer._made = _Made.saved(path)
        return tokenizer

    def _loaded(self) -> _Made:
        if self._made is None:
            if not self.model:
                raise ValueError("the tokenizer is not trained; call train(texts) or load(path)")
            self._made = _Made.read(Path(self.model))
        return self._made


class _Head(TypedDict):
    """The first line of a file; sha256 is of rules, letters and the model behind it."""

    tokenizer: str
    rules: str
    letters: str
    sha256: str


@dataclass(frozen=True)
class _Made:
    """Pieces, and the `letters` that have two cases; `rules` are ours ("ablab") or "published"."""

    pieces: pieces.Pieces
    rules: str
    letters: str

    @functools.cached_property
    def case(self) -> Case:
        return Case(self.letters) if self.rules == "ablab" else PublishedCase()

    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of restored text per token: differences of its length at the ends of the tokens."""
        lengths = self.pieces.count(ids)
        text = _text(self.pieces.join(ids))
        if not self.case.operator.search(text):
            return lengths
        now, original = self.case.widths(text)
        starts, sums = (np.concatenate(([0], np.cumsum(width))) for width in (now, original))
        ends = np.cumsum(lengths, dtype=np.int64)
        at = np.searchsorted(starts, ends, side="right") - 1
        total = sums[at] + np.minimum(ends - starts[at], np.append(original, 0)[at])
        out: np.ndarray = np.diff(total, prepend=0).astype(np.int32)
        return out

    def file(self) -> bytes:
        head = {"tokenizer": "case_ops", "rules": self.rules, "letters": self.letters, "sha256": self._sha256()}
        return json.dumps(head, ensure_ascii=False).encode() + b"\n" + self.pieces.model

    def _sha256(self) -> str:
        return hashlib.sha256(f"{self.rules} {self.letters} ".encode() + self.pieces.model).hexdigest()

    @classmethod
    def saved(cls, path: Path) -> _Made:
        try:
            head, _, model = read_whole(path, pieces.MOST_BYTES).partition(b"\n")
            saved = record(head)
            if not fits(saved, _Head):
                raise ValueError(misfit(saved, _Head))
            made = cls(pieces.Pieces(model), saved["rules"], saved["letters"])
            if saved["tokenizer"] != "case_ops" or saved["sha256"] != made._sha256():
                raise ValueError("another tokenizer, or changed")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} holds no case_ops tokenizer; prepare the data again") from None
        return made

    @classmethod
    def read(cls, path: Path) -> _Made:
        """Read the file of setting `model`, of either kind."""
        try:
            with opened(path) as file:
                ours = file.read(1) == b"{"
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror or error}); give a saved case_ops or .model file"
            ) from None
        if ours:
            if (other := answer(path)) is not None:
                raise ValueError(f"{path} {other.what}; {other.cure}")
            try:
                return cls.saved(path)
            except ValueError:
                raise ValueError(
                    f"{path} holds no case_ops tokenizer; give one that was saved, or a .model file"
                ) from None
        model = pieces.read(path)
        if not model.symbols.issuperset(OPERATORS):
            raise ValueError(f"{path} has no case operators (U+E001 to U+E004); use tokenizer = sentencepiece with it")
        return cls(model, "published", "")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
