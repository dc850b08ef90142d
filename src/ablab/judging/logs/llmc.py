"""main.log of llm.c: `s:STEP tel:LOSS` at a validation, `trl:` (once `tl:`) at every step, `eval:` of HellaSwag."""

from __future__ import annotations

import re

from ablab.judging.logs.building import PRINTED, Building
from ablab.judging.logs.stages import VAL
from ablab.judging.logs.text import Text
from ablab.judging.logs.trainer import TRAINED
from ablab.records.log import LoggedRun

NAME = "llmc"
MARK = re.compile(rb"(?m)^s:\d+ t(?:el|rl|l):[-+\dniNI]")
_LINE = re.compile(rf"s:(?P<step>\d{{1,12}}) (?P<what>tel|trl|tl):(?P<loss>{PRINTED})(?:\s.*)?")


def read(text: Text) -> list[LoggedRun]:
    """Read the run: its last validation, else the last loss of training. A log that begins anew was resumed: one run."""
    run, last = Building(1), None
    for place, line in text.lines():
        if not line.startswith("s:") or (match := _LINE.fullmatch(line)) is None:
            continue
        run.counts["steps"] = int(match["step"])
        if match["what"] == "tel":
            run.score(text, VAL, place, match["loss"], None)
        else:
            last = (place, match["loss"])
            run.trained(*last)
    if not run.stages and not run.lost and last is not None:
        run.score(text, "loss", last[0], last[1], None)
        run.notes.append(TRAINED)
    run.ended = True  # the log does not say how many steps were planned
    return [run.run(text, NAME)] if run.told else []
