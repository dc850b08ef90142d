"""Hugging Face's trainer_state.json: `log_history`, of which the last evaluation counts."""

from __future__ import annotations

import re

from ablab.judging.logs.document import document, fields, flat, items, level, line_of, seconds, whole
from ablab.judging.logs.text import Text
from ablab.records.log import Level, LoggedRun

NAME = "trainer"
TRAINED = "nothing was evaluated: the loss is the last of training"
MARK = re.compile(rb'"log_history"\s*:')
_COST = re.compile(r"eval_(runtime|.*_per_second|.*time|num_.*|mem_.*)|.*_runtime")
_FACTS = ("train_batch_size", "max_steps", "num_train_epochs")


def read(text: Text) -> list[LoggedRun]:
    """Read the run; its labels are the keys of the last evaluation, or `loss` of training where nothing was evaluated."""
    state = fields(document(text))
    history = [fields(one) for one in items(state.get("log_history"))]
    values: dict[str, object] = {}
    for entry in history:
        evaluated = {key: one for key, one in entry.items() if key.startswith("eval_") and not _COST.fullmatch(key)}
        values |= evaluated
    notes: list[str] = []
    if not values:
        trained = [one for entry in history if (one := entry.get("loss")) is not None]
        values, notes = ({"loss": trained[-1]}, [TRAINED]) if trained else ({}, [])
    stages: dict[str, Level] = {}
    lost: dict[str, int] = {}
    for name, value in values.items():
        if (told := level(text, name, value, _last(text, name), lost)) is not None:
            stages[name] = told
    if not stages and not lost:
        return []
    steps, planned = whole(state.get("global_step")), whole(state.get("max_steps"))
    took = next((one for entry in reversed(history) if (one := seconds(entry.get("train_runtime"))) is not None), None)
    facts = {name: value for name, value in flat(state).items() if name in _FACTS}
    trial = state.get("trial_params")
    ended = steps is None or not planned or steps >= planned
    return [LoggedRun(text.path, line_of(text, "log_history"), stages, flat(trial) if isinstance(trial, dict) else None,
                      seed_in_name=text.seed_in_name, steps=steps, tokens=whole(state.get("num_input_tokens_seen")) or None,
                      seconds=took, notes=notes, facts=facts, complete=ended, reader=NAME, lost=lost)]  # fmt: skip


def _last(text: Text, name: str) -> int:
    return text.line_at(max(0, text.whole.rfind(f'"{name}"')))
