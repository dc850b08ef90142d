"""The formats that are read, one line each: a file is offered to them in this order, and the first that finds a run has it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ablab.core.fault import Fault
from ablab.judging.logs import golf, lists, modded, table
from ablab.judging.logs.text import Text, opened_text
from ablab.records.log import LoggedRun

_LOG = r".*\.(log|txt|out|err|stdout|text)|[^.]+"


class Format(NamedTuple):
    """what: for a sentence; names: of files that may be of it; mark: bytes that every such file holds."""

    name: str
    what: str
    names: str
    mark: re.Pattern[bytes]
    read: Callable[[Text], list[LoggedRun]]


FORMATS = (
    Format(modded.NAME, "a log of modded-nanogpt", _LOG, modded.MARK, modded.read),
    Format(golf.NAME, "a log of a parameter-golf script", _LOG, golf.MARK, golf.read),
    Format(lists.NAME, "a README with lists of losses", r".*\.(md|markdown)", lists.MARK, lists.read),
    Format(table.NAME, "a table: arm, seed, value", r".*\.(csv|tsv|jsonl|ndjson|md|markdown)", table.MARK, table.read),
)


class Reading(NamedTuple):
    """What a file held. reader: a format's name, "" where none found a run; faults: what is odd, each by file and line."""

    path: Path
    runs: list[LoggedRun]
    faults: list[Fault]
    reader: str = ""


def read(path: Path) -> Reading:
    """The runs of a file. A file that cannot be opened, or holds none, is a fault and no exception."""
    fitting = [one for one in FORMATS if re.fullmatch(one.names, path.name, re.IGNORECASE)]
    if not fitting:
        return Reading(path, [], [Fault(str(path), "has a name that no reader takes", f"known: {known()}")])
    try:
        text = opened_text(path)
    except OSError as error:
        return Reading(path, [], [Fault(str(path), str(error.strerror or error))])
    return from_text(text, fitting)


def from_text(text: Text, formats: list[Format] | None = None) -> Reading:
    """The runs of a text that is already read, by the first of `formats` (all) that finds one."""
    if not text.is_text:
        return Reading(text.path, [], [Fault(str(text.path), "is no text")])
    for one in FORMATS if formats is None else formats:
        if one.mark.search(text.data):
            text.faults.clear()
            if runs := one.read(text):
                return Reading(text.path, runs, text.faults, one.name)
    return Reading(
        text.path, [], [*text.faults, Fault(str(text.path), "holds no score that a reader knows", f"known: {known()}")]
    )


def known() -> str:
    """Every format, for a cure."""
    return "; ".join(f"{one.what} ({one.name})" for one in FORMATS)
