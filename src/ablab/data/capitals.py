"""Case operators: text in lower case with operators that say what was upper case, and back; exact for any text."""

from __future__ import annotations

import functools
import re
import string

import numpy as np

# As in published vocabularies: capital at the beginning of a word, all of it, the next letter; and: what follows is text.
OPERATORS = "\ue001\ue002\ue003\ue004"
TITLE, ALLCAPS, CAPNEXT, ESC = list(OPERATORS)
# Go with a word though they have no other case: combining marks, and small letters whose capital is two letters or that of
# another letter. So "STRA\u00dfE" and decomposed accents are one word.
_NEUTRAL = "\u0300-\u036f\u00df\u0131\u0149\u017f\u01f0\u03c2"


class Case:
    """The transform: `lower(text)` and its inverse `restore(text)`. `letters`: the capitals, then their small letters.

    A word is a run of such letters and of what goes with them. A run of two capitals or more that no small letter follows
    has ALLCAPS, one that begins a word TITLE, any other capital CAPNEXT.
    """

    def __init__(self, letters: str, mark: str = _NEUTRAL) -> None:
        half = len(letters) // 2
        upper, lower = letters[:half], letters[half:]
        self._down, self._up = str.maketrans(upper, lower), str.maketrans(lower, upper)
        capital, small = _ranges(upper), _ranges(lower)
        word, marks = f"[{capital}{small}{mark}]", f"[{mark}]*" if mark else ""
        # It begins with one class, which is searched for fast; with alternatives in front it took four times as long.
        self._cases = re.compile(
            f"[{capital}](?:((?:{marks}[{capital}])+{marks}(?![{small}{mark}]))|((?<!{word}[{capital}]))|)"
        )
        operators = f"[{OPERATORS}]"
        self.operator = re.compile(operators)
        self._marked = re.compile(
            f"{ESC}({operators})|{ALLCAPS}( ?{word}+)|[{TITLE}{CAPNEXT}]( ?[{small}])|{operators}"
        )
        # Letters whose cases differ in UTF-8 bytes: only where there are some does a letter's size have to be looked up.
        odd = "".join(c for a, b in zip(upper, lower) if len(a.encode()) != len(b.encode()) for c in (a, b))
        self._odd = re.compile(f"[{ESC}{odd}]")

    def escaped(self, text: str) -> str:
        """Return `text`, in which each operator of the text itself has ESC before it."""
        return self.operator.sub(lambda match: ESC + match[0], text) if self.operator.search(text) else text

    def lower(self, text: str) -> str:
        """Write `text` in lower case, with operators; text of its own that looks like them is escaped."""
        down = self._down

        def mark(match: re.Match[str]) -> str:
            kind = match.lastindex
            return (CAPNEXT if kind is None else ALLCAPS if kind == 1 else TITLE) + match[0].translate(down)

        text = self._cases.sub(mark, self.escaped(text))
        return text.replace(" " + TITLE, TITLE + " ").replace(" " + ALLCAPS, ALLCAPS + " ")

    def restore(self, text: str) -> str:
        """Restore the text that `lower` made `text` from. Every text decodes: an operator without its letter is dropped."""
        return self._marked.sub(self._restored, text) if self.operator.search(text) else text

    def widths(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Count UTF-8 bytes of each character of a lowered `text`, and of what `restore` makes of it (both int64)."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        now = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
        now[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1  # a byte that is no UTF-8
        original = now.copy()
        original[(codes >= ord(TITLE)) & (codes <= ord(ESC))] = 0
        if self._odd.search(text):
            for match in self._marked.finditer(text):
                made, end = self._restored(match), match.end()
                original[end - len(made) : end] = [len(c.encode(errors="surrogateescape")) for c in made]
        return now, original

    def _restored(self, match: re.Match[str]) -> str:
        group = match.lastindex
        if group is None:
            return ""
        return match[1] if group == 1 else match[group].translate(self._up)


class PublishedCase(Case):
    """The published transform (lossless_caps_caseops_v1), by what it makes of text: words are runs of ASCII letters, an
    operator stands right before its word, and in words of mixed case every capital but the first has CAPNEXT."""

    _WORD = re.compile("(?<![A-Za-z])[a-z]*[A-Z][A-Za-z]*")
    _CAPITAL = re.compile("[A-Z]")

    def __init__(self) -> None:
        super().__init__(string.ascii_uppercase + string.ascii_lowercase, "")

    def lower(self, text: str) -> str:
        """Write `text` with ASCII letters in lower case, with operators; text of its own that looks like them is escaped."""
        return self._WORD.sub(self._word, self.escaped(text))

    def _word(self, match: re.Match[str]) -> str:
        word = match[0]
        if len(word) > 1 and word.isupper():
            return ALLCAPS + word.lower()
        first = TITLE + word[0].lower() if word[0].isupper() else word[0]
        return first + self._CAPITAL.sub(lambda capital: CAPNEXT + capital[0].lower(), word[1:])


@functools.cache
def letters_with_two_cases() -> str:
    """Return capitals, then their small letters: every letter that is a single code point in both cases, and comes back.

    They are saved with the tokenizer, so that text decodes alike under a Unicode with more letters.
    """
    upper, lower = [], []
    for code in range(0x20000):
        small = chr(code).lower()
        if len(small) == 1 and small != chr(code) and small.upper() == chr(code):
            upper.append(chr(code))
            lower.append(small)
    return "".join(upper + lower)


def _ranges(letters: str) -> str:
    """Write `letters` as the inside of a character class."""
    codes = np.unique([ord(letter) for letter in letters])
    runs = np.split(codes, np.flatnonzero(np.diff(codes) > 1) + 1)
    return "".join(f"\\U{run[0]:08x}-\\U{run[-1]:08x}" for run in runs)
