"""A document as text to look at: runs of tokens with one mark, control tokens by name, odd characters escaped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.lever import Choice
from ablab.data.tokenizers.tokenizer import Tokenizer
from ablab.records.harmony import HarmonyManifest

MARKS = ("not trained", "reasoning", "final", "trained", "unknown")  # unknown: a label that means nothing


class RunShown(TypedDict):
    """A run for readers. `parts`: (is it a control token, text)."""

    mark: str
    tokens: int
    parts: list[tuple[bool, str]]


@dataclass(frozen=True)
class Passage:
    """Tokens that follow each other with one mark. `parts`: (is it a control token, text)."""

    mark: str
    tokens: int
    parts: tuple[tuple[bool, str], ...]

    def shown(self) -> RunShown:
        """Return the run as JSON writes it."""
        return {"mark": self.mark, "tokens": self.tokens, "parts": list(self.parts)}


@dataclass
class Speller:
    """Turns ids to text, or to numbers where there is no tokenizer; `note` says why."""

    words: Tokenizer | None
    note: str = ""

    @property
    def bos_id(self) -> int | None:
        """The id that begins documents, where it is known."""
        return None if self.words is None else self.words.bos_id

    def parts(self, ids: np.ndarray) -> list[tuple[bool, str]]:
        """Spell tokens that follow each other as (control token?, text)."""
        if self.words is None:
            return [(False, " ".join(map(str, ids.tolist())))] if len(ids) else []
        parts: list[tuple[bool, str]] = []
        start = 0
        names = {int(i): self._control(int(i)) for i in np.unique(ids)}
        for at, value in enumerate(ids.tolist()):
            name = names[value]
            if name is not None:
                parts += [*self._text(ids[start:at]), (True, name)]
                start = at + 1
        return parts + self._text(ids[start:])

    def _text(self, ids: np.ndarray) -> list[tuple[bool, str]]:
        assert self.words is not None
        return [(False, printable(self.words.to_bytes(ids)))] if len(ids) else []

    def _control(self, token: int) -> str | None:
        """Spell a token without text as it is shown; None for one with text."""
        assert self.words is not None
        if not 0 <= token < self.words.vocab_size:
            return f"<|{token}: beyond the vocabulary|>"
        if self.words.to_bytes([token, token]):  # twice: a piece that is one space is nothing where a document begins
            return None
        name = self.words.decode([token])
        if name.startswith("<|") and name.endswith("|>"):
            return name
        return "<|bos|>" if token == self.words.bos_id else f"<|{token}|>"


def decoder(tokenizer: str | Choice | Tokenizer | None, manifest: HarmonyManifest | None) -> Speller:
    """Make the decoder of `tokenizer` (a lever's name, a .model file, settings, or the lever), or of a build's own.

    CheckFailed where what was given cannot be used; a build's own that cannot be read becomes a note.
    """
    if tokenizer is not None:
        return Speller(_built(tokenizer) if isinstance(tokenizer, str | dict) else tokenizer)
    if manifest is None:
        return Speller(None, "token ids; name a tokenizer to see text")
    try:
        return Speller(_built(manifest["tokenizer"].get("name")))
    except CheckFailed as error:
        return Speller(None, f"token ids, as the text cannot be shown: {error}")


def _built(asked: str | Choice | None) -> Tokenizer:
    from ablab.data.tokenizers import slot

    if isinstance(asked, str) and asked.endswith(".model"):
        asked = {"name": "sentencepiece", "model": asked}
    choice, faults = slot.one(asked, "tokenizer")
    if choice is None or faults:
        raise CheckFailed(faults)
    try:
        words = slot.build(choice)
        if words.trained:
            raise ValueError(
                "learns its pieces from texts; name the .model file that holds them: --tokenizer FILE.model"
            )
        words.to_bytes([0])  # reads the vocabulary, where there is one
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        fault, _, cure = str(error).partition("; ")
        raise CheckFailed(Fault(f"tokenizer {choice['name']}", fault, cure)) from error
    return words


def runs(ids: np.ndarray, marks: np.ndarray | None, words: Speller) -> list[Passage]:
    """Cut the tokens where their mark (index into MARKS) changes; one run of mark "" where there are no marks."""
    if marks is None:
        return [Passage("", len(ids), tuple(words.parts(ids)))] if len(ids) else []
    cuts = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), len(ids)]
    return [
        Passage(MARKS[int(marks[start])], stop - start, tuple(words.parts(ids[start:stop])))
        for start, stop in zip(cuts, cuts[1:])
        if stop > start
    ]


def printable(raw: bytes) -> str:
    r"""Spell text as a terminal shows it: lone bytes and characters that cannot be seen become \x1b, \u200b and so on.

    Line feeds stay. Text that looks like a control token gets a backslash before it.
    """
    text = "".join(
        c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in raw.decode(errors="backslashreplace")
    )
    return text.replace("<|", "\\<|")
