"""A run while its log is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from ablab.judging.logs.stages import VAL
from ablab.judging.logs.text import Text, decimals
from ablab.records.log import Level, LoggedRun

NUMBER = r"[-+]?(?:\d+(?!\d*,\d)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?"  # `3,28` is none: a decimal comma?
LOST = r"[-+]?(?i:nan(?:\(\w{0,9}\))?|inf(?:inity)?)(?![A-Za-z0-9_])"  # as C, Python and JSON print it
PRINTED = rf"(?:{NUMBER}|{LOST})"
_NO_SETTING = re.compile(
    r"(.*_)?(seed|paths?|dirs?|files?|folders?|logfile)|(local_|global_|node_)?rank|is_ma(ster|in)_process|master_process|"
    r"run|run_?(id|name)|(out|output|log|experiment|exp|wandb)_?(name|id)?|device|host(name)?|timestamp|date|commit|git_.*",
    re.IGNORECASE,
)
_PATH = re.compile(r"(\.{0,2}/|~/|[A-Za-z]:\\)\S*")
_BPB = re.compile(r"bpb|bpp|bits.?per.?byte", re.IGNORECASE)
_LOSS = re.compile(r"loss|nats|(?<![a-z])nll(?![a-z])|cross.?entropy", re.IGNORECASE)
SMALL = 18  # digits of a number that is still a count


@dataclass
class Building:
    """What is known of a run so far; `scored` after a score that a new run could not print first."""

    line: int
    stages: dict[str, Level] = field(default_factory=dict)
    settings: dict[str, str] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    counts: dict[str, int] = field(default_factory=dict)  # code_bytes, bytes, val_tokens, shards, steps, tokens
    seconds: float | None = None
    clock: str = ""  # the last line with one
    planned: int | None = None  # steps
    ended: bool | None = None  # None: the log does not say
    scored: bool = False
    notes: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)  # label -> line of a last score that is nan or infinite
    broken: int | None = None  # the line from which on the loss of training is none, after the last score

    def trained(self, line: int, loss: str | None) -> None:
        """Keep whether the last loss of training is a number: a run whose loss is none at its end has diverged."""
        self.broken = None if not lost(loss) else self.broken or line

    def score(self, text: Text, label: str, line: int, nats: str | None, bpb: str | None) -> None:
        """Keep a score; one that its label already has is the later one, and a note where they differ."""
        level = level_of(line, nats, bpb)
        self.lost.pop(label, None)
        if level is None:
            self.stages.pop(label, None)  # what the label held is of a time before
            if lost(nats) or lost(bpb):
                self.lost[label] = line
            text.odd(line, f"the score of {label!r} is no finite number above 0")
            self.notes.append(f"{label} has no score in line {line}")
            return
        if label != VAL and (old := self.stages.get(label)) and (old.nats, old.bpb) != (level.nats, level.bpb):
            self.notes.append(f"{label} is scored in lines {old.line} and {line}; the later one counts")
        self.stages.pop(label, None)
        self.stages[label] = level
        self.broken = None

    def setting(self, name: str, value: str) -> None:
        """Keep a line of a list of settings; seeds, paths and ranks are none."""
        if name.lower() == "seed" and (seed := count(value)) is not None:
            self.seed = seed
        self.settings = {} if self.settings is None else self.settings
        if is_setting(name, value):
            self.settings[name] = value

    @property
    def complete(self) -> bool:
        """Whether it said that it ended; else, was scored after its training, or made every step that was planned."""
        if self.ended is not None:
            return self.ended
        return any(label != VAL for label in self.stages) or self.counts.get("steps") == self.planned

    def run(self, text: Text, reader: str) -> LoggedRun:
        """Make the record of the run."""
        known = self.counts.get
        if self.broken is not None:
            text.odd(self.broken, "the loss of training is no finite number from here to the end")
            self.lost |= dict.fromkeys(self.stages or ["loss"], self.broken)
            self.stages = {}
        return LoggedRun(
            text.path,
            self.line,
            self.stages,
            self.settings,
            self.seed,
            text.seed_in_name,
            known("code_bytes"),
            known("bytes"),
            known("val_tokens"),
            known("shards"),
            known("steps"),
            known("tokens"),
            self.seconds,
            notes=self.notes,
            facts=self.facts,
            complete=self.complete,
            reader=reader,
            lost=self.lost,
        )

    @property
    def told(self) -> bool:
        """Whether it told a score, or lost it."""
        return bool(self.stages or self.lost or self.broken)


def numbered(runs: list[LoggedRun]) -> list[LoggedRun]:
    """Number the runs of a file. One that is there twice, word for word, was written to it twice."""
    kept: dict[tuple[object, ...], LoggedRun] = {}
    for run in runs:
        printed = tuple((label, level.nats, level.bpb, level.value) for label, level in run.stages.items())
        same = kept.setdefault((run.seed, run.steps, printed, tuple(run.lost)), run)
        if same is not run:
            same.notes.append(f"stands in the file once more, from line {run.line}")
    return [replace(run, number=number, of=len(kept)) for number, run in enumerate(kept.values(), 1)]


def level_of(line: int, nats: str | None = None, bpb: str | None = None, value: str | None = None) -> Level | None:
    """Read a level of numbers as printed; None where there is none, or one is not finite, or a loss is not above 0."""
    told = [one for one in (nats, bpb, value) if one is not None]
    read = [number(one) for one in (nats, bpb, value)]
    if not told or any(one is not None and got is None for one, got in zip((nats, bpb, value), read)):
        return None
    if any(loss is not None and loss <= 0 for loss in read[:2]):
        return None
    return Level(read[0], read[1], min(map(decimals, told)), line, read[2])


def unit_of(name: str) -> str:
    """Return the field of Level for a metric of this name: bpb, nats for every loss, value for what says neither."""
    return "bpb" if _BPB.search(name) else "nats" if _LOSS.search(name) else "value"


def lost(printed: str | None) -> bool:
    """Tell whether a score is printed as nan or infinite, or as a number that is too large to be one."""
    if printed is None or number(printed) is not None:
        return False
    return re.fullmatch(PRINTED, printed.strip()) is not None


def named_level(
    text: Text, line: int, name: str, printed: str | None, gone: dict[str, int] | None = None, label: str = ""
) -> Level | None:
    """Read a level in the unit of the metric's name; where it is no finite number above 0, an odd line and None.

    One that is nan or infinite is entered in `gone` under its label, by default its name.
    """
    if printed is None:
        return None
    if (level := level_of(line, **{unit_of(name): printed})) is None:
        if gone is not None and lost(printed):
            gone[label or name] = line
        text.odd(line, f"{name} {printed[:40]!r} is no finite number above 0")
    return level


def number(text: str | None) -> float | None:
    """Read a finite number; None for anything else."""
    try:
        value = float(text) if text is not None and len(text) <= 40 else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?:[eE][-+]?\d{1,3})?")
POINTS = "write a point before decimals and nothing between thousands"


def ungrouped(text: str) -> str | None:
    """Strip a number of its thousands' commas, one before every three digits; None where a comma may be a decimal one."""
    if "," not in text:
        return text
    return text.replace(",", "") if _GROUPED.fullmatch(text) else None


def count(text: str | None) -> int | None:
    """Read a whole number from 0, with or without thousands' commas; None for anything else."""
    digits = (ungrouped((text or "").strip()) or "").replace("_", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= SMALL else None


def is_setting(name: str, value: str) -> bool:
    """Tell whether a setting may make a run another one: seeds, ranks, paths and names of runs do not."""
    return not (_NO_SETTING.fullmatch(name) or _PATH.fullmatch(value.strip().strip("'\"")))
