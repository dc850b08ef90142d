"""Tables: CSV, TSV, JSON lines and Markdown, one run a row; or one run a cell, where columns are headed `seed 42`.

A column's metric and unit are read from its head (`val_bpb`, `loss`, `value`), the run's arm from the first column that
names one. A row of means or deviations, or a number with its own error, is no run: it is named, and left out.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import NamedTuple

from ablab.core.loose_json import loads
from ablab.judging.logs.building import POINTS, count, is_setting, lost, named_level, ungrouped, unit_of
from ablab.judging.logs.text import Text, seed_in
from ablab.records.log import Level, LoggedRun

NAME = "table"
MARK = re.compile(rb"(?i)seed|arm\b|bpb|bpp|loss|value|score|nats|metric|accuracy|perplexity")
WIDEST = 1 << 16  # characters of a row
_ARM = ("arm", "variant", "variant_name", "config", "configuration", "name", "experiment", "method", "model", "setting",
        "run", "run_id", "run_name", "change", "lever", "id", "commit")  # fmt: skip
_SEED = re.compile(r"(?:random[ _])?seed", re.IGNORECASE)
_SEED_COLUMN = re.compile(r"\W*(?:seed|s)[ _=:-]?(\d{1,18})\W*", re.IGNORECASE)
_VALUE = re.compile(r"(?<![a-z])(value|score|metric|result|acc|accuracy|ppl|perplexity|y)(?![a-z])", re.IGNORECASE)
_DERIVED = (  # columns that are neither a result nor a setting
    r"gap|delta|diff|Δ|std|stdev|(?<![a-z])(?:sd|p|se|ci|n|z)(?![a-z])|error|vs\b|improve|gain|baseline|memory|mem_|_gb|time|_ms|"
    r"(?<![a-z])ms(?![a-z])|sec|per_s|/s"
)
_NO_METRIC = re.compile(
    rf"{_DERIVED}|train|weight|scale|every|lambda|coef|alpha|(?<![a-z])lr(?![a-z])|metric_name|primary|target|tokens|count",
    re.IGNORECASE,
)
_NO_FACT = re.compile(
    rf"{_DERIVED}|loss|bpb|note|comment|descr|status|verdict|kept|reason|date|commit|url|link|hypothesis", re.IGNORECASE
)
_BYTES = re.compile(r"(?:total_?|artifact_?|submission_?)+\s?(?:bytes|size)\w*|bytes_total|artifact", re.IGNORECASE)
SUMMARY = re.compile(r"\W*(mean|avg|average|std|stdev|sd|sem|median|min|max|delta|Δ|total|range|n)\b.*", re.IGNORECASE)
_STEPS = re.compile(r"(train_?|training |stopped_?)?(steps?|iterations)", re.IGNORECASE)
_CELL = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_RULE = re.compile(r"\|?:?-+:?(\|:?-+:?)*\|?")


class TableRow(NamedTuple):
    """A row of a table, under the heads of its columns."""

    line: int
    cells: dict[str, str]


def read(text: Text) -> list[LoggedRun]:
    """Read the runs of every table of the file."""
    suffix = PurePath(text.path.name).suffix.lower()
    rows = {".md": markdown, ".markdown": markdown, ".jsonl": _json_lines, ".ndjson": _json_lines}.get(
        suffix, _separated
    )
    return [run for one in rows(text) for run in _runs(text, one)]


def _runs(text: Text, rows: list[TableRow]) -> Iterator[LoggedRun]:
    heads = list(dict.fromkeys(head for row in rows[:100] for head in row.cells))
    arm = next((head for name in _ARM for head in heads if _word(head) == name), None)
    seed = next((head for head in heads if _SEED.fullmatch(_word(head).replace("_", " "))), None)
    by_seed = {head: match[1] for head in heads if (match := _SEED_COLUMN.fullmatch(plain(head)))}
    metrics = [head for head in heads if head not in (arm, seed) and _metric(head)]
    if by_seed and not metrics:
        yield from _wide(text, _pointed(text, rows, by_seed), by_seed, arm or heads[0])
    elif metrics and (arm or seed):
        yield from filter(None, (_run(text, row, arm, seed, metrics) for row in _pointed(text, rows, metrics)))


def _pointed(text: Text, rows: list[TableRow], heads: Iterable[str]) -> Iterator[TableRow]:
    """Yield the rows without the numbers in which a comma may be a decimal one, each of which is an odd line.

    `1,234` is a thousand only where no comma of its column stands elsewhere, in no loss (none has thousands), and where a
    semicolon does not part the cells: that is how a program writes tables whose decimals have commas.
    """
    semicolons = ";" in text.whole.partition("\n")[0]
    spoiled = {
        head for head in heads if semicolons or unit_of(plain(head)) != "value"
        or any(ungrouped(told[0]) is None for row in rows if (told := _CELL.match(plain(row.cells.get(head, "")))))
    }  # fmt: skip
    for row in rows:
        odd = [
            h for h in heads if h in spoiled and (told := _CELL.match(plain(row.cells.get(h, "")))) and "," in told[0]
        ]
        for head in odd:
            text.odd(row.line, f"{plain(head)} {row.cells[head][:40]!r} may have a decimal comma: not read", POINTS)
        yield row._replace(cells=row.cells | dict.fromkeys(odd, "")) if odd else row


def _run(text: Text, row: TableRow, arm: str | None, seed: str | None, metrics: list[str]) -> LoggedRun | None:
    cells = {head: plain(cell) for head, cell in row.cells.items()}
    if any(SUMMARY.fullmatch(cells[head]) for head in (arm, seed) if head and head in cells):
        text.odd(row.line, f"`{next(iter(cells.values()))}` sums up other rows; it is no run")
        return None
    stages, gone = {}, dict[str, int]()
    for head in metrics:
        if (level := _level(text, row.line, head, cells.get(head, ""), gone)) is not None:
            stages[plain(head)] = level
    if not stages and not gone:
        told = next((cells[head] for head in metrics if cells.get(head)), "")
        known = text.faults and text.faults[-1].place.endswith(f":{row.line}")  # why it has none
        if not known and any(cells.get(head) for head in (arm, seed) if head):
            text.odd(
                row.line, f"`{next(iter(cells.values()))[:40]}` has no score{f', but {told[:40]!r}' if told else ''}"
            )
        return None
    number = count(cells.get(seed, "")) if seed else None
    if seed and number is None and cells.get(seed):
        text.odd(row.line, f"seed {cells[seed][:40]!r} is no whole number; the run has none")
    rest = {
        head: cell for head, cell in cells.items() if head not in (arm, seed, *metrics) and not _NO_FACT.search(head)
    }
    size = next((n for head, cell in rest.items() if _BYTES.fullmatch(_word(head)) and (n := _leading(cell))), None)
    steps = next((n for head, cell in rest.items() if _STEPS.fullmatch(plain(head)) and (n := _leading(cell))), None)
    facts = {head: cell for head, cell in rest.items() if cell and is_setting(_word(head), cell) and _short(head, cell)}
    name = cells.get(arm) if arm else None
    named = None if number is not None else seed_in(name or "") if arm else text.seed_in_name
    return LoggedRun(text.path, row.line, stages, seed=number, seed_in_name=named,
                     bytes=size, steps=steps, facts=facts, arm=name or None, reader=NAME, lost=gone)  # fmt: skip


def _wide(text: Text, rows: Iterable[TableRow], by_seed: dict[str, str], arm: str) -> Iterator[LoggedRun]:
    for row in rows:
        for head, seed in by_seed.items():
            gone: dict[str, int] = {}
            if (cell := plain(row.cells.get(head, ""))) and not lost(cell) and not _CELL.match(cell):
                text.odd(row.line, f"seed {seed} has no score, but {cell[:40]!r}")
            level = _level(text, row.line, "value", plain(row.cells.get(head, "")), gone)
            if level is not None or gone:
                name, stages = plain(row.cells.get(arm, "")) or None, {"value": level} if level else {}
                yield LoggedRun(text.path, row.line, stages, seed=int(seed), arm=name, reader=NAME, lost=gone)


def _level(text: Text, line: int, head: str, cell: str, gone: dict[str, int]) -> Level | None:
    if lost(cell):
        return named_level(text, line, plain(head), cell.strip(), gone)
    told = _CELL.match(cell)
    if told is None:
        return None
    if "±" in cell or "+/-" in cell or "+-" in cell:
        text.odd(line, f"{plain(head)} {cell[:40]!r} is a mean with its error; it is no run")
        return None
    return named_level(text, line, plain(head), told[0].replace(",", ""))


def _metric(head: str) -> bool:
    head = plain(head)
    return not _NO_METRIC.search(head) and (unit_of(head) != "value" or bool(_VALUE.search(head)))


def _short(head: str, cell: str) -> bool:
    return (
        len(head) <= 60 and len(cell) <= 60 and not _BYTES.fullmatch(_word(head)) and not _STEPS.fullmatch(plain(head))
    )


def _leading(cell: str) -> int | None:
    match = re.match(r"[\d,]+", cell)
    return count(match[0]) if match else None


def plain(cell: str) -> str:
    """Strip a cell of Markdown's signs."""
    return cell.strip().replace("**", "").strip("`_* \t")


def _word(head: str) -> str:
    return plain(head).lower().replace(" ", "_")


def _separated(text: Text) -> Iterator[list[TableRow]]:
    kept = [(number, line) for number, line in text.lines(WIDEST) if line.strip() and not line.startswith("#")]
    if not kept:
        return
    tab = max(",\t;", key=kept[0][1].count)
    heads: list[str] = []
    rows = []
    try:
        lines = csv.reader((line + "\n" for _, line in kept), delimiter=tab)
        for cells in lines:
            place = kept[min(lines.line_num, len(kept)) - 1][0]
            if not heads:
                heads = cells
            elif len(cells) == len(heads):
                rows.append(TableRow(place, dict(zip(heads, cells))))
            else:
                text.odd(place, f"has {len(cells)} cells under {len(heads)} heads; the row is left out")
    except csv.Error as error:
        text.odd(kept[-1][0], f"is no table further on ({error})")
    yield rows


def _json_lines(text: Text) -> Iterator[list[TableRow]]:
    rows = []
    for place, line in text.lines(WIDEST):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except ValueError as error:
            text.odd(place, f"is no JSON ({error})")
            continue
        if isinstance(row, dict):
            rows.append(
                TableRow(place, {head: _printed(one) for head, one in row.items() if not isinstance(one, list | dict)})
            )
    yield rows


def _printed(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def markdown(text: Text) -> Iterator[list[TableRow]]:
    """Yield the tables of a page of Markdown, in its order; [] between them."""
    heads: list[str] | None = None
    before, rows = "", list[TableRow]()
    for place, line in text.lines(WIDEST):
        if "|" in line and "-" in line and "|" in before and _RULE.fullmatch("".join(line.split())):
            yield rows
            heads, rows = _cells(before), []
        elif "|" not in line:
            yield rows
            heads, rows = None, []
        elif heads is not None:
            cells = _cells(line)
            if len(cells) == len(heads):
                rows.append(TableRow(place, dict(zip(heads, cells))))
            else:
                text.odd(place, f"has {len(cells)} cells under {len(heads)} heads; the row is left out")
        before = line
    yield rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))]
