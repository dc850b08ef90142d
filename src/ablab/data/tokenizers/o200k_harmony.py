"""o200k Harmony, the tokenizer of GPT-OSS: byte pairs by tiktoken, ids of control tokens as published."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ablab.core.fault import to_install
from ablab.core.files import read_json, write_json
from ablab.data import vocabulary
from ablab.data.tokenizers.tokenizer import Tokenizer

VOCAB_SIZE = 201_088
CONTROL = 199_998  # ids from here on are control tokens
_NOTHING = frozenset[str]()  # of a text becomes a control token
_NAMED = {
    "<|startoftext|>": 199_998,
    "<|endoftext|>": 199_999,
    "<|return|>": 200_002,
    "<|constrain|>": 200_003,
    "<|channel|>": 200_005,
    "<|start|>": 200_006,
    "<|end|>": 200_007,
    "<|message|>": 200_008,
    "<|call|>": 200_012,
}
# Each id without a name of its own is called after its number. 200018 has both: it is <|endofprompt|> in o200k_base, and
# the published table calls it <|reserved_200018|> too, hence 1091 strings for 1090 ids.
_RESERVED = {f"<|reserved_{i}|>": i for i in range(CONTROL, VOCAB_SIZE) if i not in _NAMED.values()}
LONG_SPACE = 1 << 16  # from so many spaces on a run is cut by hand
# White space without line breaks, as Unicode has it; Python's \s takes four control characters more.
_SPACE = r"[\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_SPACES = re.compile(f"{_SPACE}{{{LONG_SPACE},}}")
SPECIAL: dict[str, int] = {**_NAMED, **_RESERVED, "<|endofprompt|>": 200_018}


class O200kHarmony(Tokenizer):
    """The tokenizer of GPT-OSS (o200k base with Harmony's control tokens), 201088 ids, from a local vocabulary file.

    vocab: path of the vocabulary file; "" is the installed one
    """

    source = "OpenAI 2025, gpt-oss and openai-harmony; tiktoken's o200k_harmony"
    paths: ClassVar[tuple[str, ...]] = ("vocab",)
    vocab_size = VOCAB_SIZE
    bos_id = 199_998
    eod_id = 199_999
    pad_id = -1

    def __init__(self, *, vocab: str = "") -> None:
        self.vocab = vocab  # path of the vocabulary file; nothing means the installed one. Read at first use.

    def ready(self) -> None:
        """Read the vocabulary now (once per process). ValueError, with the cure, where the file is missing or wrong."""
        self.table()

    def table(self) -> Vocabulary:
        """Read the vocabulary file at first use. Errors as `ready`."""
        return _table(self.vocab)

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode `text`, in which "<|start|>" and its like are text, as ids (int32) and bytes per token (int32). No BOS.

        ValueError on lone surrogates.
        """
        table = self.table()
        try:
            ids = table.encode(text).copy()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} is a lone surrogate; text must be valid Unicode") from None
        return ids, table.lengths[ids]

    def count(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Count the bytes of text (int32) of each token of a document.

        Control tokens have 0, and so have the words of a message's header, between <|start|> and <|message|>: nobody
        wrote them. ValueError on an id outside the vocabulary.
        """
        array = _checked(ids)
        return np.where(_headers(array), 0, self.table().lengths[array]).astype(np.int32)

    def to_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Decode a document's `ids` to bytes of text; control tokens and headers stand for none, as in `count`."""
        array = _checked(ids)
        return self.table().encoding.decode_bytes(array[(array < CONTROL) & ~_headers(array)].tolist())

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode `ids` to text to look at, control tokens by name; bytes that are no UTF-8 become U+FFFD.

        ValueError on an id outside the vocabulary.
        """
        array, table = _checked(ids), self.table()
        pieces, start = [], 0
        for i in np.flatnonzero(array >= CONTROL).tolist():
            pieces += [table.encoding.decode_bytes(array[start:i].tolist()), table.names[int(array[i])].encode()]
            start = i + 1
        return b"".join([*pieces, table.encoding.decode_bytes(array[start:].tolist())]).decode(errors="replace")

    @property
    def fingerprint(self) -> str:
        """sha256 of the vocabulary file, the only one that is accepted."""
        return vocabulary.SHA256

    def save(self, path: Path) -> None:
        """Write which vocabulary this is to the file `path`."""
        about = {"tokenizer": "o200k_harmony", "sha256": vocabulary.SHA256, "vocab_size": VOCAB_SIZE}
        write_json(path, {**about, "vocab": self.vocab})

    @classmethod
    def load(cls, path: Path) -> O200kHarmony:
        """Load the tokenizer saved at `path`. ValueError where the file is of another tokenizer, vocabulary or size."""
        record = read_json(path)
        if not isinstance(record, dict) or record.get("tokenizer") != "o200k_harmony":
            raise ValueError(f"{path} holds no o200k_harmony tokenizer; prepare the data again")
        for name, wanted in (("sha256", vocabulary.SHA256), ("vocab_size", VOCAB_SIZE)):
            if record.get(name) != wanted:
                raise ValueError(f"{path}: {name} is {record.get(name)!r}, not {wanted!r}; prepare the data again")
        return cls(vocab=str(record.get("vocab", "")))


def _headers(ids: np.ndarray) -> np.ndarray:
    """Tell which tokens lie between <|start|> and the next <|message|> (bool). Text never yields either."""
    places = np.arange(len(ids))
    opened, closed = (
        np.maximum.accumulate(np.where(ids == SPECIAL[name], places, -1)) for name in ("<|start|>", "<|message|>")
    )
    inside: np.ndarray = opened > closed
    return inside


class Vocabulary:
    """A vocabulary in memory: tiktoken's `encoding`, `lengths` (201088, int32: bytes of text per id) and `names`."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        import tiktoken

        self.encoding = tiktoken.Encoding(
            "o200k_harmony", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIAL
        )
        if self.encoding.n_vocab != VOCAB_SIZE or len(ranks) != CONTROL:
            cure = f"in the folder of constraints.txt: {to_install('tiktoken')} --constraint constraints.txt"
            raise ValueError(
                f"o200k_harmony has {len(ranks)} ranks and {self.encoding.n_vocab} ids here, not {CONTROL} and "
                f"{VOCAB_SIZE}; run 'ablab data vocab' and, {cure}"
            )
        self.lengths = np.zeros(VOCAB_SIZE, np.int32)
        self.lengths[:CONTROL] = [len(token) for token in ranks]
        # A token that begins inside a character: text must not be cut before it.
        self.inside = np.zeros(VOCAB_SIZE, bool)
        self.inside[:CONTROL] = [token[0] & 0xC0 == 0x80 for token in ranks]
        self.lengths.flags.writeable = self.inside.flags.writeable = False
        self.names = {i: name for name, i in SPECIAL.items()}  # <|endofprompt|> stands last and names 200018
        # The buffer saves a list of Python integers: 1.6 times as fast as np.array(encode_ordinary(text)).
        self._encode = self.encoding._core_bpe.encode_to_tiktoken_buffer
        self._piece = self.encoding._core_bpe.encode_single_piece

    def encode(self, text: str) -> np.ndarray:
        """Encode `text` as ids (int32, read-only); no string becomes a control token. UnicodeEncodeError.

        A long run of spaces is more than the pattern's engine can go back over ("Max stack size exceeded", somewhere beyond
        300,000). Such a run is one piece but for its last space, which belongs to what follows, so text is cut there.
        """
        runs = [] if len(text) < LONG_SPACE else [run for run in _SPACES.finditer(text) if not _breaks(text, run.end())]
        if not runs:
            return np.frombuffer(self._encode(text, _NOTHING), np.int32)
        ids, at = [], 0
        for run in runs:
            end = run.end() - (run.end() < len(text))
            ids.append(np.frombuffer(self._encode(text[at : run.start()], _NOTHING), np.int32))
            ids.append(np.array(self._piece(text[run.start() : end].encode()), np.int32))
            at = end
        return np.concatenate([*ids, np.frombuffer(self._encode(text[at:], _NOTHING), np.int32)])


def _breaks(text: str, at: int) -> bool:
    """Tell whether a run of spaces ends in a line break, which is part of its piece."""
    return text[at : at + 1] in ("\r", "\n")


def _pattern() -> str:
    """Return how o200k cuts text before pairs are merged: the first alternative that fits, left to right.

    Ids depend on each character of it, so it must mean exactly what the published one does.
    """
    lower, upper = r"\p{Ll}", r"\p{Lu}\p{Lt}"
    either = r"\p{Lm}\p{Lo}\p{M}"  # letters without case, and marks: they go with both
    before, after = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    words = [f"{before}[{upper}{either}]{many}[{lower}{either}]{some}{after}" for many, some in ("*+", "+*")]
    numbers, signs = r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
    spaces = [r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
    return "|".join([*words, numbers, signs, *spaces])


PATTERN = _pattern()


@functools.lru_cache(maxsize=4)
def _table(vocab: str) -> Vocabulary:
    return Vocabulary(vocabulary.ranks(vocabulary.read(Path(vocab) if vocab else None)))


def _checked(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(ids, np.int64)
    if array.size and (array.min() < 0 or array.max() >= VOCAB_SIZE):
        raise ValueError(f"token ids must lie in 0 to {VOCAB_SIZE - 1}")
    return array
