"""Weights & Biases: a run's history as CSV or JSON lines (`_step` and a column a metric), and a chart's (a column a run)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from ablab.judging.logs.building import PRINTED, count, named_level, unit_of
from ablab.judging.logs.document import fields, parsed, printed
from ablab.judging.logs.table import WIDEST
from ablab.judging.logs.text import Text, seed_in
from ablab.judging.logs.trainer import TRAINED
from ablab.records.log import Level, LoggedRun

NAME, LINES, CHART = "wandb", "wandb-history", "wandb-chart"
MARK = re.compile(rb'\A(?:\xef\xbb\xbf)?(?:[^\n]*,)?"?_step"?[,\r\n]')
MARK_LINES = re.compile(rb'(?m)^[ \t]*\{[^\n]{0,4000}"_step"\s*:')
MARK_CHART = re.compile(rb'\A(?:\xef\xbb\xbf)?"?(?:Step|_step|step|Relative Time \([A-Za-z]+\)|Wall Time)"?,[^\n]* - ')
HELD_OUT = re.compile(r"(?:^|[/_.-])(?:eval|val|valid|validation|test)(?:[/_.-]|$)", re.IGNORECASE)
_CELL = re.compile(PRINTED)
_FACT = re.compile(r"learning_rate_peak|batch_size_in_tokens|.*batch_size")
_BAND = re.compile(r".*__(?:MIN|MAX)")


def read(text: Text) -> list[LoggedRun]:
    """Read the run of a history: the last number of every held-out column, else that of the losses of training."""
    heads, rows = _rows(text)
    if "_step" not in heads:
        return []
    return _run(text, heads, _last(heads, rows), NAME)


def read_lines(text: Text) -> list[LoggedRun]:
    """Read the run of a history of JSON lines, each with some of the metrics: the last number of each."""
    last: dict[str, tuple[int, str]] = {}
    for place, line in text.lines(WIDEST):
        if not line.strip():
            continue
        try:
            row = fields(parsed(line))
        except ValueError as error:
            text.odd(place, f"is no JSON ({error})")
            continue
        last |= {head: (place, told) for head, value in row.items() if (told := printed(value)) is not None}
    return _run(text, [*last], last, LINES) if "_step" in last else []


def _run(text: Text, heads: list[str], last: dict[str, tuple[int, str]], reader: str) -> list[LoggedRun]:
    scored = [head for head in heads if unit_of(head) != "value" or HELD_OUT.search(head)]
    held_out = [head for head in scored if HELD_OUT.search(head)]
    stages: dict[str, Level] = {}
    lost: dict[str, int] = {}
    for head in held_out or scored:
        if head in last and (level := named_level(text, last[head][0], head, last[head][1], lost)) is not None:
            stages[head] = level
    if not stages and not lost:
        return []
    facts = {head: last[head][1] for head in heads if _FACT.fullmatch(head) and head in last}
    steps = count(last["_step"][1]) if "_step" in last else None
    batch = count(facts.get("batch_size_in_tokens"))
    first = 1 if reader == LINES else 2
    return [LoggedRun(text.path, first, stages, None, None, text.seed_in_name, steps=steps, facts=facts, reader=reader,
                      lost=lost, tokens=steps * batch if steps is not None and batch else None,
                      notes=[] if held_out else [TRAINED])]  # fmt: skip


def read_chart(text: Text) -> list[LoggedRun]:
    """Read the runs of a chart: the last number of every column `RUN - METRIC`; its smallest and largest are no runs."""
    heads, rows = _rows(text)
    last = _last(heads, rows)
    runs = []
    for head in heads[1:]:
        run, dash, metric = head.rpartition(" - ")
        if not dash or not metric.strip() or _BAND.fullmatch(head) or head not in last:
            continue
        line, cell = last[head]
        lost: dict[str, int] = {}
        level = named_level(text, line, metric.strip(), cell, lost)
        if level is not None or lost:
            steps = next((count(row[0]) for place, row in rows if place == line and row), None)
            runs.append(LoggedRun(text.path, line, {metric.strip(): level} if level else {}, lost=lost,
                                   seed_in_name=seed_in(run), steps=steps,
                                   arm=run.strip() or None, reader=CHART))  # fmt: skip
    return runs


def _rows(text: Text) -> tuple[list[str], list[tuple[int, list[str]]]]:
    heads: list[str] = []
    rows = []
    for place, cells in _cells(text):
        if not heads:
            heads = [cell.strip() for cell in cells]
        elif len(cells) == len(heads):
            rows.append((place, cells))
        elif cells:
            text.odd(place, f"has {len(cells)} cells under {len(heads)} heads; the row is left out")
    return heads, rows


def _cells(text: Text) -> Iterator[tuple[int, list[str]]]:
    for place, line in text.lines(WIDEST):
        try:
            yield from ((place, cells) for cells in csv.reader([line]))
        except csv.Error as error:
            text.odd(place, f"is no row of a table ({error})")


def _last(heads: list[str], rows: list[tuple[int, list[str]]]) -> dict[str, tuple[int, str]]:
    """Return (line, cell) of the last number of every column: a history has empty cells where another metric was logged."""
    last: dict[str, tuple[int, str]] = {}
    for place, cells in reversed(rows):
        for head, cell in zip(heads, cells):
            if head not in last and _CELL.fullmatch(cell.strip()):
                last[head] = (place, cell.strip())
        if len(last) == len(heads):
            break
    return last
