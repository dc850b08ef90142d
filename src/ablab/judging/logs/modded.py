"""Logs of modded-nanogpt: the program itself, a rule, then steps with a validation loss in nats and no seed.

The program's text is what tells one arm from another: its hash is the run's code.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from ablab.judging.logs import golf
from ablab.judging.logs.building import numbered
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

NAME = "modded"
MARK = re.compile(rb"(?m)^(?:step:|s:)?\d+/\d+ val_loss:[-+\dniNI]")
_RULE = re.compile(r"(?m)^={20,}[ \t\r]*$")


def read(text: Text) -> list[LoggedRun]:
    """Read the runs; [] for a log with bits per byte, which is another's, and for one that does not begin with its program."""
    rule = _RULE.search(text.whole)
    if rule is None or not re.search(r"(?m)^[ \t]*import \w", text.whole[: rule.start()]):
        return []
    runs = golf.parsed(text)
    if any(level.bpb is not None for run in runs for level in run.stages.values()):
        return []
    program = text.whole[: rule.start()].replace("\r\n", "\n").strip().encode("utf-8", "replace")
    code = hashlib.sha256(program).hexdigest()
    return numbered([replace(run.run(text, NAME), code=code, code_bytes=len(program)) for run in runs])
