"""Whether a byte sidecar can be true, where the tokens alone do not tell the text's bytes.

A model that normalises text (NFKC, spaces squeezed), or whose text was transformed before, has tokens that stand for other
bytes than they show. But not all of them: a piece of plain letters stands for these letters, and what the whole text shows
is near what it was.
"""

from __future__ import annotations

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.data.tokenizers.tokenizer import Tokenizer

# Sidecars made by sentencepiece's own alignment to the original text (nmt_nfkc, nmt_nfkc_cf, nfkc; 80 files of Python's
# library, 0.5 M tokens of letters each): letters alone have a ratio of 1.0000, no class of lengths has another most common
# count than its own, and the whole has 1.274 where indentation is squeezed, 1.0000 else. Full-width punctuation shows 1 of
# 3 bytes: about 1.07 of Chinese text.
REVISION = 1  # raised when other sidecars would be refused
LETTERS = 0.1  # how far the ratio of letters may be from 1: words in full width show 1 of 3 bytes
ODD = 0.01  # share of letters' tokens in lengths whose most common count is not that length
WHOLE = {
    True: (0.67, 1.5),
    False: (0.8, 1.25),
}  # least and most of all bytes told to all shown, by whether spaces are squeezed
FEW = 64  # bytes, or tokens of one length, of which nothing is concluded
_LONGEST = 64  # lengths beyond it are counted as it


class SidecarBytes:
    """Bytes per token as a sidecar tells them, beside what the tokens show; add document by document."""

    def __init__(self, *, squeezes: bool) -> None:
        self._least, self._most = WHOLE[squeezes]
        self._told = self._shown = 0
        self._inner = np.zeros(2, np.int64)  # told, shown: of letters that no space stands before
        self._counts = np.zeros((_LONGEST + 1, _LONGEST + 1), np.int64)  # of letters' tokens: shown by told

    def add(self, told_N: np.ndarray, shown_N: np.ndarray, letters_N: np.ndarray, spaced_N: np.ndarray) -> None:
        """Add tokens: shown_N bytes of their pieces; letters_N: which are plain letters, spaced_N: which begin with a space."""
        told_N = told_N.astype(np.int64)
        self._told += int(told_N.sum())
        self._shown += int(shown_N.sum())
        inner = letters_N & ~spaced_N
        self._inner += int(told_N[inner].sum()), int(shown_N[inner].sum())
        pairs = np.minimum(shown_N[letters_N], _LONGEST), np.minimum(told_N[letters_N], _LONGEST)
        np.add.at(self._counts, pairs, 1)

    def check(self, place: str) -> None:
        """Refuse a sidecar that cannot be true, with the ratio."""
        if self._shown < FEW:
            return
        told, shown = self._inner.tolist()
        by_length = self._counts.sum(1)
        odd = (self._counts.argmax(1) != np.arange(_LONGEST + 1)) & (by_length >= FEW)
        share = int(by_length[odd].sum()) / max(1, int(by_length.sum()))
        ratio, letters = self._told / max(1, self._shown), told / max(1, shown)
        fault = ""
        if not self._least <= ratio <= self._most:
            fault = f"counts {self._told:,} bytes where the tokens show {self._shown:,} (ratio {ratio:.4f})"
            fault += f"; what this model's normaliser does to a text stays within {self._least:g} and {self._most:g}"
        elif shown >= FEW and abs(letters - 1) > LETTERS:
            fault = f"counts {told:,} bytes of plain letters where there are {shown:,} (ratio {letters:.4f})"
            fault += f"; over the whole text the ratio is {ratio:.4f}"
        elif share > ODD:
            length = int(np.flatnonzero(odd)[0])
            fault = f"counts {int(self._counts[length].argmax())} bytes for most pieces of {length} letters"
            fault += f" (ratio {ratio:.4f} over the whole text)"
        if fault:
            cure = "bits per byte would be wrong by that ratio; write it again from the text"
            raise CheckFailed(Fault(place, fault, cure))


def told_by(tokenizer: Tokenizer) -> SidecarBytes | None:
    """Make a check for this tokenizer's sidecars; None where tokens tell the text's bytes themselves."""
    return SidecarBytes(squeezes=tokenizer.squeezes) if tokenizer.hidden else None


def identity(tokenizer: Tokenizer) -> dict[str, int]:
    """Return what a corpus's key holds of this check: nothing where the tokens themselves tell the bytes, and always did."""
    return {"sidecars": REVISION} if not tokenizer.trained and tokenizer.hidden else {}
