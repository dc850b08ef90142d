"""marin's speedrun_results.json: `runs[].run_info` with scores under `eval/...`, settings of the training and of the model."""

from __future__ import annotations

import re

from ablab.judging.logs.building import numbered
from ablab.judging.logs.document import document, fields, flat, items, level, line_of, place_of, seconds, whole
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

NAME = "marin"
MARK = re.compile(rb'"run_info"\s*:')
_SETTINGS = ("train_config", "model_config")  # not on which machines it ran


def read(text: Text) -> list[LoggedRun]:
    """Read the runs of the file, in its order."""
    runs, start = [], 0
    for one in items(fields(document(text)).get("runs")):
        start = max(start, place_of(text, "run_info", start + 1))
        if (run := _run(text, fields(fields(one).get("run_info")), start)) is not None:
            runs.append(run)
    return numbered(runs)


def _run(text: Text, info: dict[str, object], start: int) -> LoggedRun | None:
    lost: dict[str, int] = {}
    stages = {
        name: told
        for name, value in info.items()
        if name.startswith("eval/") and (told := level(text, name, value, line_of(text, name, start), lost)) is not None
    }
    if not stages and not lost:
        return None
    settings = {key: one for name in _SETTINGS for key, one in flat(info.get(name), f"{name}.").items()}
    train = fields(info.get("train_config"))
    seed = whole(train.get("train_seed", train.get("seed", train.get("data_seed"))))
    return LoggedRun(text.path, text.line_at(start), stages, settings or None, seed, text.seed_in_name,
                     steps=whole(train.get("num_train_steps")), tokens=whole(info.get("total_tokens")),
                     seconds=seconds(info.get("training_time")), reader=NAME, lost=lost)  # fmt: skip
