"""The stdout of nanoGPT's train.py: `step N: train loss X, val loss Y` at every evaluation."""

from __future__ import annotations

import re

from ablab.judging.logs.building import PRINTED, Building, count, is_setting
from ablab.judging.logs.stages import VAL
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

NAME = "nanogpt"
MARK = re.compile(rb"(?m)^step \d+: train loss ")
_EVALUATED = re.compile(rf"step (\d{{1,12}}): train loss \S{{1,30}}, val loss ({PRINTED})")
_TRAINED = re.compile(rf"iter \d{{1,12}}: loss ({PRINTED})")
_TOKENS = re.compile(r"tokens per iteration will be: ([\d,]{1,20})")
_OVERRIDE = re.compile(r"Overriding: ([A-Za-z_]\w{0,60}) = (.{0,200})")


def read(text: Text) -> list[LoggedRun]:
    """Read the run: its last evaluation. What the command line overrode are facts; the log has no other settings."""
    run, batch = Building(1), None
    for place, line in text.lines():
        if (match := _EVALUATED.match(line)) is not None:
            run.counts["steps"] = int(match[1])
            run.score(text, VAL, place, match[2], None)
        elif (match := _TRAINED.match(line)) is not None:
            run.trained(place, match[1])
        elif (match := _TOKENS.match(line)) is not None:
            batch = count(match[1])
        elif (match := _OVERRIDE.fullmatch(line)) is not None:
            name, value = match[1], match[2].strip()
            if name == "seed":
                run.seed = count(value)
            elif is_setting(name, value):
                run.facts[name] = value
    planned = count(run.facts.get("max_iters"))
    run.ended = planned is None or run.counts.get("steps", 0) >= planned
    if batch and "steps" in run.counts:
        run.counts["tokens"] = batch * run.counts["steps"]
    return [run.run(text, NAME)] if run.told else []
