"""What a stage's label means, by the words inside it: public logs print 565 labels, and no list of them is ever whole.

The order is that of the procedure from its end: what is adapted to the text that it is scored on is no longer comparable
with what is not, whatever else the label says; a label in which none of the words stands keeps its own name.
"""

from __future__ import annotations

import re

from ablab.records.log import Level, LoggedRun

VAL = "val"  # the label of validations while a model is trained
_WORDS = (
    ("adaptive", re.compile(r"slot|n_?gram|ppm|cache|mixer|hedge")),  # state that grows with the text itself
    ("ttt", re.compile(r"ttt|test.?time")),
    ("sliding", re.compile(r"slid|(?<![a-z])sw(?![a-z])|stride")),
    ("pre_quant", re.compile(r"pre.?quant|post.?(?:ema|swa|averag)|diagnostic|unquantiz")),
    ("quant", re.compile(r"roundtrip|quant|(?<![a-z])int\d|(?<![a-z])q\d(?!\d)|gptq|dequant")),
)
STAGES = (*(name for name, _ in _WORDS), VAL)


def stage_of(label: str) -> str:
    """Return one of STAGES, or the label itself where it has no word of theirs."""
    low = label.lower()
    if re.search(r"diagnostic", low) and re.search(r"(?<!pre.)(?<!pre)quantized", low):
        low = low.replace("diagnostic", "")  # `diagnostic quantized` is what `quantized` is elsewhere
    return next((name for name, words in _WORDS if words.search(low)), label)


def labels(run: LoggedRun) -> dict[str, str]:
    """Map a stage to the label that speaks for it: of several the one with the most digits, of equal ones the last.

    A label that repeats the score of a stage after its own is left out, where the stage has another: some scripts print
    the sliding score once more as `final_int8_zlib_roundtrip_exact`.
    """
    by_stage: dict[str, str] = {}
    for label in _without_repeats(run):
        stage = stage_of(label)
        if stage not in by_stage or run.stages[label].digits >= run.stages[by_stage[stage]].digits:
            by_stage[stage] = label
    return by_stage


def _without_repeats(run: LoggedRun) -> list[str]:
    first: dict[tuple[float | None, float | None, float | None], str] = {}
    kept = []
    for label, level in run.stages.items():
        earlier = first.setdefault(_numbers(level), label)
        repeats = stage_of(earlier) != stage_of(label) and level.digits > 4
        if not (repeats and _others(run, label)):
            kept.append(label)
    return kept


def _others(run: LoggedRun, label: str) -> bool:
    """Tell whether another label of the same stage has another score."""
    return any(
        stage_of(one) == stage_of(label) and _numbers(level) != _numbers(run.stages[label])
        for one, level in run.stages.items()
    )


def _numbers(level: Level) -> tuple[float | None, float | None, float | None]:
    return level.nats, level.bpb, level.value
