"""The formats that are read, one line each: a file is offered to them in this order, and the first that finds a run has it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ablab.core.fault import Fault
from ablab.judging.logs import (
    golf,
    lists,
    llmc,
    marin,
    megatron,
    modded,
    nanochat,
    nanogpt,
    olmo,
    submission,
    table,
    tensorboard,
    torchtitan,
    trainer,
    verdicts,
    wandb,
)
from ablab.judging.logs.text import Text, opened_text
from ablab.records.log import LoggedRun

_LOG = r".*\.(log|txt|out|err|stdout|text)|[^.]+"


class Format(NamedTuple):
    """names: of files that may be of it; mark: bytes that every such file holds; binary: no text."""

    name: str
    names: str
    mark: re.Pattern[bytes]
    read: Callable[[Text], list[LoggedRun]]
    binary: bool = False


_JSON, _MD, _CSV = r".*\.json", r".*\.(md|markdown)", r".*\.csv"
FORMATS = (
    Format(modded.NAME, _LOG, modded.MARK, modded.read),
    Format(golf.NAME, _LOG, golf.MARK, golf.read),
    Format(nanogpt.NAME, _LOG, nanogpt.MARK, nanogpt.read),
    Format(llmc.NAME, _LOG, llmc.MARK, llmc.read),
    Format(megatron.NAME, _LOG, megatron.MARK, megatron.read),
    Format(torchtitan.NAME, _LOG, torchtitan.MARK, torchtitan.read),
    Format(nanochat.NAME, _MD, nanochat.MARK, nanochat.read),
    Format(lists.NAME, _MD, lists.MARK, lists.read),
    Format(wandb.NAME, _CSV, wandb.MARK, wandb.read),
    Format(wandb.CHART, _CSV, wandb.MARK_CHART, wandb.read_chart),
    Format(
        wandb.LINES,
        r".*\.(jsonl|ndjson)",
        wandb.MARK_LINES,
        wandb.read_lines,
    ),
    Format(table.NAME, r".*\.(csv|tsv|jsonl|ndjson|md|markdown)", table.MARK, table.read),
    Format(marin.NAME, _JSON, marin.MARK, marin.read),
    Format(trainer.NAME, _JSON, trainer.MARK, trainer.read),
    Format(megatron.GOLDEN, _JSON, megatron.MARK_GOLDEN, megatron.read_golden),
    Format(verdicts.NAME, _JSON, verdicts.MARK, verdicts.read),
    Format(olmo.NAME, olmo.FILE.pattern, olmo.MARK, olmo.read),
    Format(submission.NAME, _JSON, submission.MARK, submission.read),
    Format(tensorboard.NAME, r".*tfevents.*", tensorboard.MARK, tensorboard.read, binary=True),
)


class Reading(NamedTuple):
    """What a file held. reader: a format's name, "" where none found a run; faults: what is odd, each by file and line.

    strange: nothing in it looks like a score, so that it may well be another kind of file.
    """

    path: Path
    runs: list[LoggedRun]
    faults: list[Fault]
    reader: str = ""
    strange: bool = False


def read(path: Path) -> Reading:
    """Read the runs of a file. A file that cannot be opened, or holds none, is a fault and no exception."""
    if not fitting(path):
        return Reading(path, [], [Fault(str(path), "has a name that no reader takes", f"known: {known()}")])
    try:
        return from_text(opened_text(path))
    except OSError as error:
        return Reading(path, [], [Fault(str(path), str(error.strerror or error))])


def from_text(text: Text) -> Reading:
    """Read the runs of what is already read, by the first format that takes its name and sees one."""
    offered = [one for one in fitting(text.path) if one.binary or text.is_text]
    if not offered:
        return Reading(text.path, [], [Fault(str(text.path), "is no text")])
    strange, odd = True, dict[str, Fault]()
    for one in offered:
        if one.mark.search(text.data):
            strange = False
            text.faults.clear()
            if runs := one.read(text):
                return Reading(text.path, runs, text.faults, one.name)
            odd |= {str(fault): fault for fault in text.faults}
    none = Fault(str(text.path), "holds no score that a reader knows", f"known: {known()}")
    return Reading(text.path, [], [*odd.values(), none], strange=strange)


def fitting(path: Path) -> list[Format]:
    """List the formats that a file of this name may be of."""
    return [one for one in FORMATS if re.fullmatch(one.names, path.name, re.IGNORECASE | re.DOTALL)]


def known() -> str:
    """List every format, for a cure."""
    return ", ".join(one.name for one in FORMATS)
