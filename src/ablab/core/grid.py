"""Tables and paragraphs for a terminal of any width: nothing is cut, and no name is broken inside a word.

A table that is too wide goes on in a second one below, its names repeated, as a long page of a book does; where not even
that fits, every row becomes a short paragraph. Rich alone would squeeze columns until `baseline` reads `baseli / ne`.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablab.core.plain import plain
from ablab.core.streams import styled

SEPARATORS = (r"/,", r".", r"_=:&+\-")  # where a word may be broken; the later ones only inside what is still too long
FACTORS = re.compile(r"[^,]+,?")
NAME = 22  # characters of a name that leave room for the verdict's longest words in 100 columns


@dataclass(frozen=True)
class Column:
    """A column: its title, its side, and of one whose text may be wrapped the fewest characters that it is worth."""

    title: str
    right: bool = False
    least: int = 0


def show(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Text | str]],
    console: Console,
    *,
    width: int,
    box: Box | None = None,
) -> None:
    """Print rows of cells, the first of each its name, in at most `width` columns.

    Columns that find no room beside the others follow in further tables. Words longer than `width` stay whole all the same:
    the terminal wraps them.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    gap = 2 if box is None else 3
    heads = [shown(column.title) for column in columns]
    widths = [max(_wide(row[i]) for row in [heads, *cells]) for i in range(len(columns))]
    left = width - sum(gap + _least(column, wide) for column, wide in zip(columns[1:], widths[1:]))
    room = left if left >= min(NAME, widths[0]) else min(NAME, width // 3)
    head, *names = [lines(name(one, room)) for one in [heads[0], *(row[0] for row in cells)]]
    widths[0] = max(map(_wide, [head, *names]))
    if widths[0] + gap + max((_least(c, w) for c, w in zip(columns[1:], widths[1:])), default=0) > width:
        _paragraphs(columns, cells, console, width)
        return
    for group in _groups(columns, widths, width, gap):
        table = Table(box=box, pad_edge=False, show_edge=False)
        spare = width - sum(gap + widths[i] for i in group if not columns[i].least) - widths[0]
        texts = [i for i in group if columns[i].least]
        for i in (0, *group):
            table.add_column(heads[i] if i else head, justify="right" if columns[i].right else "left", no_wrap=True)
        for row, named in zip(cells, names):
            kept = [lines(wrapped(row[i], spare // len(texts) - gap)) if i in texts else row[i] for i in group]
            table.add_row(named, *kept)
        _print(table, console, width)


def console() -> Console:
    """Open the terminal; of a pipe 120 columns, or what COLUMNS says."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(file=styled(), highlight=False, soft_wrap=not sys.stdout.isatty(), width=width)


def shown(text: Text | str) -> Text:
    """Make text of anybody's fit for a cell or a paragraph; where it would command the terminal its marks are spelled out."""
    text = text if isinstance(text, Text) else Text(plain(text))
    return text if (safe := plain(text.plain)) == text.plain else Text(safe, style=text.style)


def say(text: Text | str, console: Console, *, width: int, indent: int = 0, hang: int = 0) -> None:
    """Print a paragraph in at most `width` columns, later lines `hang` further in.

    One line where it is no terminal, unless COLUMNS says how wide what reads it is: tables follow it there, too.
    """
    text = shown(text)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return _say(Text(" " * indent) + text, console)
    for i, line in enumerate(wrapped(text, width - indent - hang, first=width - indent)):
        _say(Text(" " * (indent + (hang if i else 0))) + line, console)


def wrapped(text: Text, width: int, first: int | None = None) -> list[Text]:
    """Wrap `text` to lines of at most `width` cells (the first one `first`), broken at blanks, and a word too long for a line
    behind a separator: a path behind a slash. What has neither stays whole.
    """
    broken: list[Text] = []
    for paragraph in text.split("\n", allow_blank=True):
        cuts, used, room = list[int](), 0, width if broken or first is None else first
        for at, piece in _pieces(paragraph.plain, width):
            bare = piece.lstrip()
            if used and used + cell_len(piece) > room:
                cuts.append(at + len(piece) - len(bare))
                used, room = cell_len(bare), width
            else:
                used += cell_len(piece)
        for line in paragraph.divide(cuts):
            line.rstrip()
            broken.append(line)
    return broken


def _pieces(plain: str, width: int) -> Iterator[tuple[int, str]]:
    """Yield what may stand on a line of its own, with the blanks before it, and where it begins."""
    for word in re.finditer(r"\s*\S+", plain):
        yield from _broken(word[0], word.start(), width)


def _broken(word: str, at: int, width: int, rank: int = 0) -> Iterator[tuple[int, str]]:
    if cell_len(word.strip()) <= width or rank == len(SEPARATORS):
        yield at, word
        return
    signs = SEPARATORS[rank]
    for piece in re.finditer(rf"\s*[^{signs}]*[{signs}]+|[^{signs}]+", word):
        yield from _broken(piece[0], at + piece.start(), width, rank + 1)


def name(text: Text, room: int) -> list[Text]:
    """Break a name into lines: whole where it has room; else one of a factorial between its factors, then behind separators."""
    if _wide(text) <= room:
        return [text]
    factors = text.divide([match.end() for match in FACTORS.finditer(text.plain)][:-1])
    return [line for factor in factors for line in wrapped(factor, room)]


def lines(parts: Sequence[Text]) -> Text:
    """Join several lines as the text of one cell."""
    return Text("\n").join(parts)


def _groups(columns: Sequence[Column], widths: Sequence[int], width: int, gap: int) -> list[list[int]]:
    """Group the columns into tables, without the name's."""
    groups: list[list[int]] = [[]]
    used = widths[0]
    for i in range(1, len(columns)):
        need = gap + _least(columns[i], widths[i])
        if groups[-1] and used + need > width:
            groups.append([])
            used = widths[0]
        groups[-1].append(i)
        used += need
    return groups


def _least(column: Column, width: int) -> int:
    return min(width, column.least) if column.least else width


def _paragraphs(columns: Sequence[Column], rows: list[list[Text]], console: Console, width: int) -> None:
    for row in rows:
        say(row[0], console, width=width, hang=2)
        rest = [Text(f"{c.title} ").append_text(cell) for c, cell in zip(columns[1:], row[1:]) if cell.plain.strip()]
        for part in rest:
            say(Text(" ").join(part.split("\n")), console, width=width, indent=2, hang=2)


def _wide(text: Text) -> int:
    return max((cell_len(line) for line in text.plain.split("\n")), default=0)


def _print(table: Table, console: Console, width: int) -> None:
    if console.is_terminal:
        console.print(table, width=width, highlight=False)
        return
    plain = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with plain.capture() as held:
        plain.print(table, highlight=False)
    for row in held.get().splitlines():
        _say(Text(row.rstrip()), console)  # without the blanks that fill a column


def _say(text: Text, console: Console) -> None:
    options: dict[str, Any] = {"highlight": False, "soft_wrap": True}
    console.print(text, **options)
