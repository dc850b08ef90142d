"""Which texts hold a piece so long that openai-harmony cannot be asked about it."""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

from ablab.data.tokenizers.o200k_harmony import PATTERN

# openai-harmony merges the bytes of a piece (a word, a run of spaces or of signs) in time that grows with their square:
# 65,536 take 2 s on one core, a million would take 9 minutes, and of a million spaces it dies. A piece is no longer than the
# run of letters and signs, or of white space, that it lies in; so few texts are looked at closely.
LONGEST = 1 << 16  # bytes of one piece; of several, the root of the sum of their squares
COUNTED = 1 << 12  # bytes from which on a piece counts
_MAY = re.compile(rf"\S{{{COUNTED // 4},}}|\s{{{COUNTED // 4},}}")


def longest(texts: list[str]) -> tuple[int, int, int, str] | None:
    """Return (text, character, bytes, a sign of its midst) of the longest piece, where all together are too long; else None."""
    squares, most = 0, (0, 0, 0, "")
    for number, text in enumerate(texts):
        if len(text) < COUNTED // 4 or not _MAY.search(text):
            continue
        for piece in _pattern().finditer(text):
            if piece.end() - piece.start() < COUNTED // 4:
                continue
            size = len(piece[0].encode(errors="surrogatepass"))
            if size >= COUNTED:
                squares += size * size
                if size > most[2]:
                    most = (number, piece.start(), size, piece[0][len(piece[0]) // 2])
    return most if squares > LONGEST * LONGEST else None


@functools.cache
def _pattern() -> Any:
    regex: Any = importlib.import_module("regex")  # tiktoken depends on it; Python's re knows no \p{L}. It has no stubs
    return regex.compile(PATTERN)
