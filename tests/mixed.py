"""Text of many scripts, code and numbers, made from ranges of Unicode: the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ablab.core.rng import stream

# First and last code point of letters (and the marks among them) of one script each.
SCRIPTS = {
    "latin": (0x61, 0x7A),
    "latin with marks": (0xC0, 0x24F),
    "greek": (0x386, 0x3CE),
    "cyrillic": (0x400, 0x45F),
    "armenian": (0x531, 0x586),
    "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x620, 0x65F),
    "devanagari": (0x904, 0x94D),
    "bengali": (0x985, 0x9CD),
    "tamil": (0xB85, 0xBCD),
    "thai": (0xE01, 0xE4E),
    "georgian": (0x10D0, 0x10FA),
    "ethiopic": (0x1200, 0x1248),
    "hiragana": (0x3041, 0x3096),
    "katakana": (0x30A1, 0x30FC),
    "han": (0x4E00, 0x9FA5),
    "hangul": (0xAC00, 0xD7A3),
    "mathematics": (0x2200, 0x22FF),
    "emoji": (0x1F300, 0x1F64F),
    "any of the first plane": (0x1, 0xD7FF),
}
CODE = (
    "def {0}({1}):\n    return {1} + {2}\n",
    'for (int {0} = {2}; {0} < {1}; ++{0}) {{\n\t{1}[{0}] = "{0}";\n}}\r\n',
    "SELECT {0}, {1} FROM {2} WHERE {0} >= 10; -- {1}\n",
    "<p class='{0}'>{1} &amp; it's {2}, they'LL see</p>\n\n\n",
    "https://example.org/{0}/{1}?q={2}#{0}\n",
)
BETWEEN = (" ", " ", " ", " ", ", ", ". ", "\n", "  ", "\t", "\u00a0", "\u3000", "\r\n", " - ", "'s ", "/", "\0", "")


def texts(n_bytes: int, *name: str | int) -> Iterator[str]:
    """Texts of about four kilobytes, `n_bytes` of UTF-8 or a little more in all."""
    made, k = 0, 0
    while made < n_bytes:
        text = _text(stream(0, "mixed", *name, k))
        made, k = made + len(text.encode()), k + 1
        yield text


def _text(draw: np.random.Generator) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) < 1800:
        kind = draw.random()
        if kind < 0.1:
            parts.append(CODE[int(draw.random() * len(CODE))].format(*(_word(draw, "latin") for _ in range(3))))
        elif kind < 0.2:
            parts += [str(int(draw.random() * 10.0 ** (1 + draw.random() * 15))), " "]
        elif kind < 0.23:
            parts.append("<|start|>system<|message|>" if draw.random() < 0.5 else "<|endofprompt|>")
        else:
            script = list(SCRIPTS)[int(draw.random() * len(SCRIPTS))]
            for _ in range(1 + int(draw.random() * 12)):
                word = _word(draw, script)
                shown = word.capitalize() if draw.random() < 0.2 else word.upper() if draw.random() < 0.1 else word
                parts += [shown, BETWEEN[int(draw.random() * len(BETWEEN))]]
    return "".join(parts)


def _word(draw: np.random.Generator, script: str) -> str:
    first, last = SCRIPTS[script]
    return "".join(chr(first + int(x * (last + 1 - first))) for x in draw.random(1 + int(draw.random() * 9)))
