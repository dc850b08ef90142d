"""Made-up conversations: the same everywhere, learnable, with right reasoning and answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ablab.core.rng import stream

ROWS = 2400
FIELDS = ("synth_id", "query", "synthetic_reasoning", "synthetic_answer")
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def rows(start: int, stop: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows `start` to `stop` as (id, query, reasoning, answer): sums digit by digit, and numbers to look up in a list.

    Each has a stream of its own, so any slice can be made alone. Only uniform draws are used: those are the part of
    numpy's generators that is safest from change.
    """
    for index in range(start, stop):
        draw = stream(0, "harmony", "mock", index)
        query, reasoning, answer = _sum(draw) if draw.random() < 0.4 else _lookup(draw)
        yield f"mock-{index}", query, reasoning, answer


def _sum(draw: np.random.Generator) -> tuple[str, str, str]:
    a, b = int(draw.random() * 1000), int(draw.random() * 1000)
    steps, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        left, right = a // 10**place % 10, b // 10**place % 10
        total = left + right + carry
        brought = f" + {carry}" if carry else ""
        steps.append(f"{left} + {right}{brought} = {total}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    return f"What is {a} + {b}?", "\n".join([*steps, f"The sum is {a + b}."]), f"{a} + {b} = {a + b}."


def _lookup(draw: np.random.Generator) -> tuple[str, str, str]:
    names = list(dict.fromkeys(_name(draw) for _ in range(2 + int(draw.random() * 6))))
    held = {name: int(draw.random() * 90) + 10 for name in names}
    first, other = (names[int(draw.random() * len(names))] for _ in range(2))
    listed = ", ".join(f"{name} has {number}" for name, number in held.items())
    if first == other or draw.random() < 0.5:
        answer = f"{first} has {held[first]}."
        return f"{listed}. What has {first}?", f"I read the list. It says that {answer}", answer
    total = held[first] + held[other]
    reasoning = f"I read the list. {first} has {held[first]}, {other} has {held[other]}."
    reasoning += f" {held[first]} + {held[other]} = {total}."
    return f"{listed}. What have {first} and {other} together?", reasoning, f"Together they have {total}."


def _name(draw: np.random.Generator) -> str:
    syllables = 2 + int(draw.random() * 2)
    letters = (_pick(draw, _CONSONANTS) + _pick(draw, _VOWELS) for _ in range(syllables))
    return "".join(letters).capitalize()


def _pick(draw: np.random.Generator, options: str) -> str:
    return options[int(draw.random() * len(options))]
