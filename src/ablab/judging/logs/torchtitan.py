"""torchtitan: the lines `step: N loss: X` of a training, and its files of pairs under `# step loss`."""

from __future__ import annotations

import re

from ablab.judging.logs.building import PRINTED, Building
from ablab.judging.logs.stages import VAL
from ablab.judging.logs.text import Text
from ablab.judging.logs.trainer import TRAINED
from ablab.records.log import LoggedRun

NAME = "torchtitan"
MARK = re.compile(rb"(?m)\bstep: +\d+ +(?:\x1b\[[\d;]*m)?loss: |^# step\s+loss\b")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_LINE = re.compile(rf"(?P<valid>validate )?step:\s+(?P<step>\d{{1,12}})\s+loss:\s+(?P<loss>{PRINTED})")
_PAIR = re.compile(rf"(?P<step>\d{{1,12}})\s+(?P<loss>{PRINTED})(?:\s+\S+)?\s*")
_COMMENT = re.compile(r"# ([A-Za-z_]\w{0,40}): (.{1,200})")


def read(text: Text) -> list[LoggedRun]:
    """Read the run: its last validation, else the last loss of its training."""
    run, pairs, last = Building(1), False, None
    for place, line in text.lines():
        line = _COLOUR.sub("", line) if "\x1b" in line else line
        if line.startswith("#"):
            pairs = pairs or line.startswith(("# step loss", "# step\tloss"))
            if (told := _COMMENT.fullmatch(line.rstrip())) is not None:
                run.facts[told[1]] = told[2]
            continue
        match = _PAIR.fullmatch(line) if pairs else _LINE.search(line) if "step:" in line else None
        if match is None:
            continue
        run.counts["steps"] = int(match["step"])
        if not pairs and match["valid"]:
            run.score(text, VAL, place, match["loss"], None)
        else:
            last = (place, match["loss"])
            run.trained(*last)
    if not run.stages and not run.lost and last is not None:
        run.score(text, "loss", last[0], last[1], None)
        run.notes.append(TRAINED)
    run.ended = True  # neither form says how many steps were planned
    return [run.run(text, NAME)] if run.told else []
