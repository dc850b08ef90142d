"""SentencePiece models: training, reading, and the exact bytes that each token stands for."""

from __future__ import annotations

import functools
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablab.core.kinds import no_model
from ablab.core.opened import read_whole
from ablab.data import capitals

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MOST_BYTES = 1 << 28  # of a model; those of a million pieces have 20 MB
SPACE = "\u2581"  # how SentencePiece writes a space
OPERATORS = (
    "\ue001\ue002\ue003\ue004"  # case operators, as in published vocabularies: title, all caps, next cap, escape
)
DEFAULT, LARGEST = 4096, 1 << 16  # sizes of a vocabulary; token files of two bytes
BOS, BYTES = 1, 256  # where train() puts BOS, and how many pieces are single bytes
_UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 2, 3, 4, 5, 6  # types of a piece in the file; 1 is a normal piece
_AGAIN = "give the whole file again (of a corpus: prepare the data again)"
# The trainer drops whole lines that hold U+2581, U+2585, TAB or NUL (its own marks): lines are cut there.
_CUTS = re.compile("[\n\t\0\u2581\u2585]+")


def check_size(vocab_size: int, model: str = "", symbols: int = 0) -> None:
    """Refuse a `vocab_size` that has no room for <unk>, BOS, the symbols, the bytes and one piece, is too large, or is
    given beside the path of a `model`."""
    smallest = 2 + symbols + BYTES + 1
    if not smallest <= vocab_size <= LARGEST:
        raise ValueError(
            f"vocab_size = {vocab_size} is outside {smallest} to {LARGEST}; choose one inside, such as {DEFAULT}"
        )
    if model and vocab_size != DEFAULT:
        raise ValueError(f"vocab_size = {vocab_size} is given beside model, which has its own; remove vocab_size")


def check_text(text: str) -> bytes:
    """Encode `text` in UTF-8. ValueError, with the place, where it holds a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate; text must be valid Unicode") from None


def train(texts: Iterable[str], vocab_size: int, symbols: Sequence[str] = ()) -> bytes:
    """Train a byte-pair model of `texts`: one thread, no sampling, so the same texts in the same order give the same bytes.

    No normalisation, byte fallback, no dummy prefix: every text comes back. `symbols` are always tokens of their own.
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
            vocab_size=vocab_size,
            user_defined_symbols=list(symbols),
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
            bos_id=BOS,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=3,
        )
    except RuntimeError as error:
        raise ValueError(_cure(str(error), vocab_size)) from None
    return out.getvalue()


def read(path: Path) -> Pieces:
    """Read the model in the file `path`. ValueError, with the cure, where there is none or it is not one that we can count."""
    try:
        return Pieces(read_whole(path, MOST_BYTES))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); give the path of a .model file") from None
    except ValueError as error:
        if said := no_model(path):
            raise ValueError(f"{path} {said}") from None
        raise ValueError(f"{path}: {error}") from None


class Pieces:
    """A SentencePiece model. ValueError where the bytes are no such model, or one whose bytes cannot be counted.

    `rewrites`: it normalises text or drops spaces. `dummy_prefix`: a document begins with a space of its own that is no
    text. `exact`: neither, so its tokens are the text. `lengths`: int32, bytes per id, spaces included.
    """

    def __init__(self, model: bytes) -> None:
        try:
            fields = list(_fields(model))
            texts, kinds = _table(_raw(value) for number, value in fields if number == 1)
            trainer, normalizer, back = (_message(fields, number) for number in (2, 3, 5))
            if not (texts and trainer and normalizer):
                raise ValueError("cut between two pieces")
            bos = _raw(trainer.get(46, b"<s>")).decode()
            self.normalizer = _raw(normalizer.get(1, b"")).decode() or "unnamed"
        except (IndexError, KeyError, OverflowError, ValueError):
            raise ValueError(f"holds no SentencePiece model, or only a part of one; {_AGAIN}") from None
        self.model, self.vocab_size, self.dummy_prefix = model, len(texts), bool(normalizer.get(3, 1))
        suffix = self.dummy_prefix and trainer.get(24, 0)
        if suffix or not normalizer.get(5, 1) or back.get(2):
            raise ValueError(
                "the model treats spaces in a way that is not counted here (as suffixes, unescaped, or with a "
                "denormaliser); give a model with escape_whitespaces and without treat_whitespace_as_suffix"
            )
        controls = [i for i, text in enumerate(texts) if text == bos and kinds[i] == _CONTROL]
        if not controls:
            raise ValueError(
                f"the model has no BOS ({bos}), which every document begins with; train it with bos_id >= 0"
            )
        self.bos_id = controls[0]
        self.boundary = np.isin(kinds, (_UNKNOWN, _CONTROL, _UNUSED))
        self.marked = np.array([text.startswith(SPACE) for text in texts]) & ~self.boundary & (kinds != _BYTE)
        self.bytes = [_bytes_of(text, int(kind)) for text, kind in zip(texts, kinds)]
        self.lengths = np.array([len(piece) for piece in self.bytes], np.int32)
        self.letters = np.array([_plain(text) for text in texts]) & (self.lengths > 0) & (kinds != _BYTE)
        self._byte_ids = {self.bytes[i][0]: int(i) for i in np.flatnonzero(kinds == _BYTE)}
        usable = {text: i for i, text in enumerate(texts) if not self.boundary[i] and kinds[i] != _BYTE}
        self.symbols = {text for text, i in usable.items() if kinds[i] == _USER}
        self.has_space = SPACE in usable
        self._charmap, self.squeezes = bool(normalizer.get(2)), bool(normalizer.get(4, 1))
        self.rewrites = self._charmap or self.squeezes
        self.exact = not self.dummy_prefix and not self.rewrites and len(self._byte_ids) == BYTES
        if not self.exact and not self.has_space:
            raise ValueError(
                "the model has no piece for a bare space (U+2581), so that spaces would count as unknown, 0 bytes; "
                "give a model that has one"
            )

    @property
    def operators(self) -> bool:
        """Whether the vocabulary has case operators: bytes of its text cannot be known from ids and pieces alone."""
        return not self.symbols.isdisjoint(capitals.OPERATORS)

    def encode(self, text: str) -> np.ndarray:
        """Encode `text` as the model cuts it, ids (int32); no BOS. ValueError on lone surrogates, or where the model rewrites
        the text, so that its tokens would stand for other bytes."""
        raw = check_text(text)
        if not self.exact:
            ids = np.asarray(self._processor.encode(text), np.int32)
            if (back := self.join(ids)) != raw:
                raise self._rewritten(text, back)
            return ids
        parts = self._own_bytes.split(text)
        encoded: list[int] = self._processor.encode(parts[0])
        for mark, part in zip(parts[1::2], parts[2::2]):
            encoded += [self._byte_ids[byte] for byte in mark.encode()]
            encoded += self._processor.encode(part)
        return np.asarray(encoded, np.int32)

    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of text (int32) of each token of one document. ValueError on an id outside the vocabulary.

        bytes(y after x) = bytes(y without its space) + [y begins with U+2581] * [x is no boundary], boundaries being
        control, unknown and unused pieces and the document's start; without a dummy prefix every space is text.
        """
        array = self.checked(ids)
        out: np.ndarray = self.lengths[array] - self._dummies(array)
        return out

    def shown(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes (int32) that each token of one document shows, case operators none; of normalised text."""
        array = self.checked(ids)
        operators = np.array([sum(piece.count(mark.encode()) for mark in OPERATORS) for piece in self.bytes], np.int32)
        out: np.ndarray = self.lengths[array] - self._dummies(array) - 3 * operators[array]
        return out

    def join(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Join the bytes that the tokens of one document stand for. ValueError as `count`."""
        array = self.checked(ids)
        table = self.bytes
        pieces = [table[i] for i in array.tolist()]
        for i in np.flatnonzero(self._dummies(array)).tolist():
            pieces[i] = pieces[i][1:]
        return b"".join(pieces)

    def checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return `ids` as int64. ValueError where one is outside the vocabulary."""
        array = np.asarray(ids, np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"token ids must lie in 0 to {self.vocab_size - 1}")
        return array

    def _dummies(self, array: np.ndarray) -> np.ndarray:
        """Tell where a token begins with the space that the model put before the text (bool)."""
        if not self.dummy_prefix or not array.size:
            return np.zeros(len(array), bool)
        out: np.ndarray = self.marked[array] & np.append(True, self.boundary[array[:-1]])
        return out

    @functools.cached_property
    def _processor(self) -> SentencePieceProcessor:
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise ValueError(f"holds no SentencePiece model ({error}); {_AGAIN}") from None

    @functools.cached_property
    def _own_bytes(self) -> re.Pattern[str]:
        """What we encode ourselves, byte by byte: a U+2581 of the text would come back as a space, and a space without a
        piece of its own as U+2581."""
        return re.compile(f"([{SPACE}])" if self.has_space else f"([{SPACE} ])")

    def _rewritten(self, text: str, back: bytes) -> ValueError:
        other = back.decode(errors="replace")
        at = next((i for i, (a, b) in enumerate(zip(text, other)) if a != b), min(len(text), len(other)))
        if text[at : at + 1] == SPACE:
            needs = ", ".join(dict.fromkeys([*self._missing(), "add_dummy_prefix = false"]))
            return ValueError(
                f"the model does not give the text back: character {at} is U+2581, which the model itself writes for a space; "
                f"take it out of the text, or use a model trained with {needs}"
            )
        return ValueError(
            f"the model does not give the text back: from character {at} on {text[at : at + 12]!r} comes back as "
            f"{other[at : at + 12]!r} (its normaliser is {self.normalizer}); use a model trained with "
            f"{', '.join(self._missing())}, or token files made with this one"
        )

    def _missing(self) -> list[str]:
        """List what a model must be trained with to give every text back, and this one was not."""
        asked = {
            'normalization_rule_name = "identity"': not self._charmap,
            "remove_extra_whitespaces = false": not self.squeezes,
            "byte_fallback = true": len(self._byte_ids) == BYTES,
        }
        return [name for name, met in asked.items() if not met] or ["add_dummy_prefix = false"]


def _plain(text: str) -> bool:
    """Tell whether a piece is letters, behind a space or not, that no normaliser makes of other ones or takes apart."""
    word = text.removeprefix(SPACE)
    return word.isalpha() and unicodedata.normalize("NFKD", word) == word


def _bytes_of(text: str, kind: int) -> bytes:
    if kind in (_UNKNOWN, _CONTROL, _UNUSED):
        return b""
    # A U+2581 inside a piece is a space too, 1 byte. Published tables count 3 there, which no piece of a model that cuts
    # at spaces has.
    return bytes([int(text[3:5], 16)]) if kind == _BYTE else text.replace(SPACE, " ").encode()


def _table(pieces: Iterable[bytes]) -> tuple[list[str], np.ndarray]:
    """Return texts and types of the pieces, by id."""
    texts, kinds = [], []
    for piece in pieces:
        fields = dict(_fields(piece))
        texts.append(_raw(fields[1]).decode())
        kinds.append(fields.get(3, 1))
    return texts, np.array(kinds, np.int64)


def _message(fields: list[tuple[int, int | bytes]], number: int) -> dict[int, int | bytes]:
    return {k: v for field, value in fields if field == number for k, v in _fields(_raw(value))}


def _raw(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text belongs")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protocol buffer message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in _CUTS.split(text):
            if line:
                yield line


def _cure(message: str, vocab_size: int) -> str:
    if match := re.search(r"value <= (\d+)", message):
        return (
            f"vocab_size = {vocab_size} is too large for the training text, which supports {match[1]} pieces; "
            f"set vocab_size <= {match[1]} or give more text"
        )
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size = {vocab_size} is too small for the characters of the training text, which need {match[1]}; "
            f"set vocab_size > {match[1]}"
        )
    return f"SentencePiece cannot be trained with vocab_size = {vocab_size}: {' '.join(message.split())}"
