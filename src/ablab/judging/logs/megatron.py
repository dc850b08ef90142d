"""Megatron: the stdout of a training, and the golden values of its functional tests."""

from __future__ import annotations

import re

from ablab.judging.logs.building import NUMBER, PRINTED, Building, count, number
from ablab.judging.logs.document import document, fields, level, line_of, printed, whole
from ablab.judging.logs.text import Text
from ablab.judging.logs.trainer import TRAINED
from ablab.records.log import Level, LoggedRun

NAME, GOLDEN = "megatron", "megatron-golden"
MARK = re.compile(rb"\blm loss(?: value)?:? ")
MARK_GOLDEN = re.compile(rb'"lm loss"\s*:')
_ARGUMENT = re.compile(r"(?:\[[^\]]{1,40}\]:?)?\s{1,4}([a-z]\w{0,60}) \.{2,} (.{0,200})")
_STEP = re.compile(r"\biteration\s+(\d{1,12})\s*/\s*(\d{1,12})\s*\|")
_SAMPLES = re.compile(r"consumed samples:\s*(\d{1,15})")
_TIME = re.compile(rf"elapsed time per iteration \(ms\):\s*({NUMBER})")
_LOSS = re.compile(rf"\blm loss:\s*({PRINTED})", re.IGNORECASE)
_VALIDATION = re.compile(rf"validation loss at (.{{1,80}}?)\s*\|.*?lm loss value:\s*({PRINTED})", re.IGNORECASE)
_ON = re.compile(r"\bon (\w+)(?: set)?")
_NO_SETTING = re.compile(r"(.*_)?(rank|tensorboard.*|wandb.*|load|save|port|addr)")


def read(text: Text) -> list[LoggedRun]:
    """Read the run: its last validation on every set; the last loss of training where there was none."""
    run, last, trained = Building(1), 0, None
    for place, line in text.lines():
        if " .." in line and (match := _ARGUMENT.fullmatch(line.rstrip())):
            if not _NO_SETTING.fullmatch(match[1]):
                run.setting(match[1], match[2].strip())
        elif (match := _VALIDATION.search(line)) is not None:
            on = _ON.search(match[1])
            run.stages.pop(label := f"{on[1]} set" if on else "validation set", None)  # of every set the last
            run.score(text, label, place, match[2], None)
        elif (match := _STEP.search(line)) is not None:
            if (loss := _LOSS.search(line)) is not None:
                trained = (place, loss[1])
                run.trained(*trained)
            run.counts["steps"], run.planned = int(match[1]), int(match[2])
            if (samples := _SAMPLES.search(line)) and (length := count((run.settings or {}).get("seq_length"))):
                run.counts["tokens"] = int(samples[1]) * length
            if (took := _TIME.search(line)) and (ms := number(took[1])) is not None and int(match[1]) > last:
                run.seconds = (run.seconds or 0.0) + ms / 1000 * (int(match[1]) - last)
            last = int(match[1])
    if not run.stages and not run.lost and trained is not None:
        run.score(text, "lm loss", trained[0], trained[1], None)
        run.notes.append(TRAINED)
    run.ended = run.planned is None or run.counts.get("steps") == run.planned
    return [run.run(text, NAME)] if run.told else []


def read_golden(text: Text) -> list[LoggedRun]:
    """Read the run whose values a test compares others with: its last losses of training."""
    held = fields(document(text))
    stages: dict[str, Level] = {}
    lost: dict[str, int] = {}
    steps = None
    for name, inner in held.items():
        if "loss" not in name or not isinstance(inner, dict):
            continue
        values = inner.get("values")
        told = list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else []
        kept = [value for value in told if printed(value) is not None]
        if kept and (score := level(text, name, kept[-1], gone=lost)) is not None:
            stages[name] = score
            steps = whole(inner.get("end_step"))
    notes = [TRAINED]
    return [LoggedRun(text.path, line_of(text, "lm loss"), stages, None, None, text.seed_in_name, steps=steps, notes=notes,
                      reader=GOLDEN, lost=lost)] if stages or lost else []  # fmt: skip
