"""Lists of final losses in a README: `losses = [3.2775, 3.2776, ...]`, one run a number, one arm a list."""

from __future__ import annotations

import re

from ablab.judging.logs.building import LOST, level_of
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

NAME = "lists"
MARK = re.compile(rb"\[\s*(?:\d\.\d{3,}\s*,|" + LOST.encode() + rb"\s*,\s*\d\.\d{3,})")
_ONE = rf"(?:\d\.\d{{2,}}|{LOST}|float\(['\"]{LOST}['\"]\))"
_LIST = re.compile(
    r"(?m)^[ \t]*(?:[-*>] )?(?:`{0,3}|(?P<name>[\w .-]{1,60}?)\s*[=:]\s*)(?:np\.array|torch\.tensor|numpy\.array)?\(?"
    rf"\[(?P<numbers>\s*{_ONE}(?:\s*,\s*{_ONE})+\s*,?\s*)\](?!\s*[\],])"
)
_NUMBER = re.compile(rf"\d\.\d+|{LOST}")
_OTHER = re.compile(r"time|sec|(?<![a-z])ms|speed|step|lr|weight|param|init|scale", re.IGNORECASE)
_BPB = re.compile(r"bpb|bits", re.IGNORECASE)
_NO_NAME = re.compile(r"```.*|\s*|import .*|.*[;{}()]\s*|-{3,}")


def read(text: Text) -> list[LoggedRun]:
    """Read a run a number. An arm has its list's name; of a list only called losses, the line above it."""
    runs = []
    for one in _LIST.finditer(text.whole):
        name = (one["name"] or "").strip()
        above = _above(text.whole[max(0, one.start() - 2000) : one.start()])
        if _OTHER.search(name) or (not name and _OTHER.search(above)):
            continue
        arm = (
            above or name
            if re.fullmatch(r"(?:val_?)?loss(?:es)?|accs?|vals?|values|results|x|y|", name.lower())
            else name
        )
        label = "bpb" if _BPB.search(name) else "val"
        for number in _NUMBER.finditer(one["numbers"]):
            at = text.line_at(one.start("numbers") + number.start())
            level = level_of(at, bpb=number[0]) if label == "bpb" else level_of(at, nats=number[0])
            if level is None:
                text.odd(at, f"{number[0]} is no finite number above 0")
            stages, lost = ({}, {label: at}) if level is None else ({label: level}, {})
            runs.append(LoggedRun(text.path, at, stages, arm=arm or None, reader=NAME, lost=lost))
    return runs


def _above(before: str) -> str:
    """Return the last line with words above the list, without Markdown's signs."""
    for line in reversed(before.split("\n")[:-1]):
        if not _NO_NAME.fullmatch(line):
            return line.strip("#*_:- \t`")[:80].rstrip()
    return ""
