"""nanochat's report.md: a part for every phase, settings and scores as `- key: value`.

The base model's training is the run; scores of later phases have their phase before their name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ablab.judging.logs.building import PRINTED, count, is_setting, named_level, number
from ablab.judging.logs.text import Text
from ablab.records.log import Level, LoggedRun

NAME = "nanochat"
MARK = re.compile(rb"(?i)(?m)^- (?:(?:minimum |final )?validation bpb|val bpb): ")
BASE = "Base model training"
_ITEM = re.compile(r"- ([^:]{1,60}): ?(.{0,200})")
_SCORE = re.compile(r"(?:(?:minimum |final )?validation (?:bpb|loss)|val bpb|(?:chat)?core metric.*)", re.IGNORECASE)
_DERIVED = "Number of parameters"  # what follows was computed, and is no setting
_COUNTS = {
    "Calculated number of iterations": "steps",
    "Number of iterations": "steps",
    "Number of training tokens": "tokens",
}


def read(text: Text) -> list[LoggedRun]:
    """Read the run that the report tells of; [] where it holds no score."""
    stages: dict[str, Level] = {}
    lost: dict[str, int] = {}
    settings: dict[str, str] = {}
    counts: dict[str, int] = {}
    notes, code, seed, seconds, derived = [], None, None, None, False
    for line, part, name, value in _told(text):
        if _SCORE.fullmatch(name) and (match := re.match(PRINTED, value)):
            label = name if part.startswith("Base model") else f"{part}: {name}"
            if (level := named_level(text, line, name, match[0], lost, label)) is not None:
                stages[label] = level
        elif name == "Commit":
            code, dirty = value.split(" ")[0] or None, "dirty" in value
            code = f"{code} and changes ({text.path})" if code and dirty else code  # two such trees need not be one
            notes += ["the checkout had changes that were not committed"] if dirty else []
        elif part == BASE:
            derived = derived or name == _DERIVED
            if name in _COUNTS and (told := count(value)) is not None:
                counts[_COUNTS[name]] = told
            elif name == "Total training time" and value.endswith("m"):
                seconds = minutes * 60 if (minutes := number(value[:-1])) is not None else None
            elif name == "seed":
                seed = count(value)
            elif not derived and is_setting(name, value):
                settings[name] = value
    if not stages and not lost:
        return []
    return [LoggedRun(text.path, 1, stages, settings or None, seed, text.seed_in_name, steps=counts.get("steps"),
                      tokens=counts.get("tokens"), seconds=seconds, notes=notes, code=code, lost=lost,
                      reader=NAME)]  # fmt: skip


def _told(text: Text) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line, part, name, value) of every `- name: value`."""
    part = ""
    for place, line in text.lines():
        if line.startswith("## "):
            part = line[3:].strip()
        elif match := _ITEM.fullmatch(line):
            yield place, part, match[1].strip(), match[2].strip()
