"""The score of one run in what its program left: by a reader of logs, a regular expression, or a field of JSON."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault
from ablab.core.loose_json import loads
from ablab.judging.logs.building import ungrouped, unit_of
from ablab.judging.logs.stages import labels
from ablab.judging.logs.text import Text, decimals, opened_text
from ablab.records.log import Level, LoggedRun
from ablab.records.settings import LogSettings

Reader = Callable[[Text], list[LoggedRun]]
NOT_FINITE = re.compile(r"(?<![\w.])[-+]?(?:nan|inf(?:inity)?)(?![\w.])", re.IGNORECASE)
_GOES_ON = re.compile(r"[eE][-+]?\d|\.?#|[.,]?\d")  # 3.2|e-05, 1.|#QNAN, 2|,050
_DECIMAL = re.compile(r"(?<![\w.])[-+]?\d+\.(\d+)(?:[eE][-+]?\d+)?")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\b(?:nan|inf)\b")


class NoScore(CheckFailed):
    """What a program left holds no score."""


@dataclass(frozen=True)
class Score:
    """value: None where it is not finite. text: as printed. echo, echo_digits: as in `ablab.records.result.Read`."""

    value: float | None
    file: Path
    line: int
    text: str
    digits: int
    echo: str
    echo_digits: int


def score(log: LogSettings, metric: str, file: Path, reader: Reader | None) -> Score:
    """Read the score in `file`; reader: that of `log["reader"]`. NoScore where there is none, or too many to choose from."""
    try:
        text = _marked(opened_text(file))
    except OSError as error:
        raise NoScore(
            Fault(str(file), f"cannot be read ({error.strerror or error})", "is it where the program writes?")
        ) from error
    try:
        return _found(log, metric, text, reader)
    except NoScore as error:
        if text.is_text:
            raise
        fault = f"holds zeros, as no text in UTF-8 or UTF-16 does, and no score that is found ({error.faults[0].fault})"
        raise NoScore(Fault(str(file), fault, "have the program write text")) from error


def _marked(text: Text) -> Text:
    """Return a text in UTF-16 that does not begin with its mark as one that does: every other byte of it is zero."""
    first = text.data[:4096]
    even, odd = (first[side::2].count(0) / max(1, len(first) // 2) for side in (0, 1))
    mark = b"\xff\xfe" if odd > 0.6 and even < 0.1 else b"\xfe\xff" if even > 0.6 and odd < 0.1 else b""
    return Text(text.path, mark + text.data) if mark else text


def _found(log: LogSettings, metric: str, text: Text, reader: Reader | None) -> Score:
    if reader is not None:
        return _of_reader(text, reader, log, metric)
    if log["regex"] is not None:
        return _of_regex(text, log["regex"], last=log["last"])
    return _of_field(text, log["field"] or "")


def _of_regex(text: Text, pattern: str, *, last: bool) -> Score:
    """Read the number of the last or the first line that matches. One with nan for its number matches, too.

    `([\\d.]+)` does not match nan, and the score of a run that has diverged would be one from before it did.
    """
    kept: tuple[int, str, str] | None = None
    compiled = re.compile(pattern)
    for number, line in text.lines():
        match, finite = compiled.search(line), True
        if match is None and NOT_FINITE.search(line):
            match, finite = compiled.search(NOT_FINITE.sub("0", line)), False
        if match is not None and match[1] is not None and (last or kept is None):
            if finite and _GOES_ON.match(line, match.end(1)):
                fault = f"goes on behind {match[1][-30:]!r}, which {pattern!r} takes for the number"
                raise NoScore(
                    Fault(f"{text.path}:{number}", fault, "have the group of runner.log.regex take all of it")
                )
            kept = number, line, match[1] if finite else "nan"
    if kept is None:
        raise NoScore(Fault(str(text.path), f"has no line that {pattern!r} matches", "mend runner.log.regex"))
    at, line, printed = kept
    return _score(text, at, printed, _track(text, line, printed))


def _of_reader(text: Text, reader: Reader, log: LogSettings, metric: str) -> Score:
    """Read the score at the stage asked for. A later one that is no number, or the only one, is a run that diverged."""
    runs, lines = reader(text), dict(text.lines())
    if not runs:
        told = next((one.fault for one in text.faults), f"holds no score that the reader {log['reader']} knows")
        raise NoScore(Fault(str(text.path), told, "read it another way: runner.log = { regex = ... }"))
    stages, lost = runs[-1].stages, runs[-1].lost
    asked = log["stage"] or (next(iter(stages)) if len(stages) == 1 and not lost else "")
    asked = labels(runs[-1]).get(asked, asked)  # a stage by what it means, or a label as it is printed
    if asked not in stages and lost:
        line = max(lost.values())
        return _score(text, line, "nan", [])
    if asked not in stages:
        cure = f'choose one: runner.log = {{ reader = "{log["reader"]}", stage = "{next(reversed(stages))}" }}'
        raise NoScore(Fault(str(text.path), f"holds scores of {', '.join(map(repr, stages))}", cure))
    level = stages[asked]
    value = _in_unit(level, metric)
    if value is None:
        fault = f"holds no {metric} of {asked!r} (nats {level.nats}, bits per byte {level.bpb}, other {level.value})"
        raise NoScore(
            Fault(f"{text.path}:{level.line}", fault, "name the metric by what is printed: val_loss or val_bpb")
        )
    track = _track(text, lines.get(level.line, ""), repr(value))
    return _score(text, level.line, repr(value), track, level.digits)


def _in_unit(level: Level, metric: str) -> float | None:
    """Return the only number of a level; of several the one that a metric of this name is of."""
    told = {"bpb": level.bpb, "nats": level.nats, "value": level.value}
    known = [one for one in told.values() if one is not None]
    return known[0] if len(known) == 1 else told[unit_of(metric)]


def _of_field(text: Text, field: str) -> Score:
    """Read the number under a key, of a document or of the last line that has it."""
    line, track = 0, list[str]()
    for number, part in _documents(text):
        value: object = part
        for key in field.split("."):
            value = value.get(key, "") if isinstance(value, dict) else ""
        value = math.nan if value is None else value  # null, as many programs write nan
        if isinstance(value, str) and NOT_FINITE.fullmatch(value.strip()):
            value = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            line, track = number, [*track, repr(value)]
    if not track:
        raise NoScore(Fault(str(text.path), f"has no number under {field!r}", "mend runner.log.field"))
    return _score(text, line, track[-1], track)


def _documents(text: Text) -> Iterator[tuple[int, object]]:
    """Yield (line, value): the file as one document, else every line that is one."""
    try:
        yield 1, loads(text.whole)
        return
    except ValueError:
        pass
    for number, line in text.lines(longest=1 << 20):
        try:
            yield number, loads(NOT_FINITE.sub("NaN", line) if line.lstrip().startswith("{") else line)
        except ValueError:
            continue


def _score(text: Text, number: int, printed: str, track: list[str], digits: int | None = None) -> Score:
    """Make a score with all those of the run. NoScore where the text is no number."""
    if (value := _value(printed)) is None:
        fault = f"holds {printed[:60]!r} for a score, which is no number"
        raise NoScore(Fault(f"{text.path}:{number}", fault, "have runner.log name the number alone"))
    places = sum(len(decimal[1]) for one in track or [printed] for decimal in _DECIMAL.finditer(one))
    echo = hashlib.sha256("\n".join([printed, *track]).encode()).hexdigest()[:32]
    finite = math.isfinite(value)
    return Score(
        value if finite else None, text.path, number, printed, decimals(printed) if digits is None and finite else digits or 0,
        echo, places,
    )  # fmt: skip


def _track(text: Text, line: str, printed: str) -> list[str]:
    """List the numbers at the score's place in all lines that the same statement has printed: times beside it do not count."""
    places = [place for place, one in enumerate(_NUMBER.findall(line)) if _value(one) == _value(printed)]
    bones = _bones(line)
    return [_NUMBER.findall(one)[places[-1]] for _, one in text.lines() if _bones(one) == bones] if places else []


def _value(printed: str) -> float | None:
    """Return the number that is printed; None for what is none."""
    try:
        return float(ungrouped(printed.strip()) or "")
    except ValueError:
        return None


def _bones(line: str) -> str:
    """Strip a line of its numbers: lines that one statement has printed are then equal."""
    return _NUMBER.sub("#", line)
