"""Synthetic documents: the same everywhere, learnable, not trivial."""

from __future__ import annotations

import functools

import numpy as np

from ablab.core.rng import stream

DOCUMENTS = 2400
_CONSONANTS, _VOWELS = "bcdfghklmnprstvz", "aeiou"


@functools.cache
def documents() -> tuple[str, ...]:
    """Make about 1.3 MB in 2400 documents of made-up sentences.

    Words follow each other by one of six sparse bigram tables (local statistics), a name and its number given in the
    first line return later (long-range copying), and sums are right (a rule to learn). Only uniform draws are used:
    those are the part of numpy's generators that is safest from change.
    """
    words, tables = _words(), [_successors(topic) for topic in range(6)]
    return tuple(_document(stream(0, "data", "mock", "document", index), words, tables) for index in range(DOCUMENTS))


def _words() -> list[str]:
    rng, words = stream(0, "data", "mock", "words"), list[str]()
    while len(words) < 300:
        syllables = 1 + int(rng.random() * 3)
        word = "".join(_pick(rng, _CONSONANTS) + _pick(rng, _VOWELS) for _ in range(syllables))
        if word not in words:
            words.append(word)
    return words


def _successors(topic: int) -> np.ndarray:
    return (stream(0, "data", "mock", "topic", topic).random((300, 8)) * 300).astype(int)


def _document(rng: np.random.Generator, words: list[str], tables: list[np.ndarray]) -> str:
    successors = tables[int(rng.random() * len(tables))]
    name = _pick(rng, words).capitalize() + _pick(rng, words)
    number = int(rng.random() * 1000)
    lines = [f"{name} has the number {number}."]
    word = int(rng.random() * 300)
    for _ in range(4 + int(rng.random() * 18)):
        kind = rng.random()
        if kind < 0.12:
            a, b = int(rng.random() * 100), int(rng.random() * 100)
            lines.append(f"{a} + {b} = {a + b}.")
        elif kind < 0.24:
            lines.append(f"The number of {name} is {number}.")
        else:
            sentence = []
            for _ in range(4 + int(rng.random() * 10)):
                sentence.append(words[word])
                # squared: the first successors are much likelier than the last
                word = int(successors[word, int(rng.random() ** 2 * 8)])
            lines.append(" ".join(sentence).capitalize() + ".")
    return "\n".join(lines) + "\n"


def _pick(rng: np.random.Generator, options: str | list[str]) -> str:
    return options[int(rng.random() * len(options))]
