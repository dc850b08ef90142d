"""Which text a score is of: tokens per byte tell the tokenizer's export, validation tokens then tell the bytes.

Bits per byte over nats per token is tokens / (bytes ln 2), a property of the validation set alone: two runs with another
ratio were scored on other tokens, whatever their pages say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ablab.records.log import Level, LoggedRun

# bpb / nats of the exports that openai/parameter-golf is scored on, and of bytes; casefold is known to five digits only.
EXPORTS = {
    "sp1024": 0.59225789,
    "sp4096": 0.43458848,
    "sp8192": 0.38713116,
    "sp8192_caseops": 0.45696098,
    "casefold": 0.34699,
    "bytes": 1 / math.log(2),
}
NEAR = 2e-3  # relative: the same tokenizer, perhaps another cut of the text
EQUAL = 2e-5  # relative: the same tokens; 8 digits of two scores leave 1e-8
DIGITS = 6  # behind the point, from which a ratio tells EQUAL from NEAR
GOLF_BYTES = 151_078_222  # of parameter-golf's whole validation set, as its three exports imply it
LEAST = 1e-9  # of a score that a ratio is made of: perfect prediction of a set leaves about so much
OFF = 5e-3  # relative: implied bytes that are another set's; exports of one text differ by 1e-4
PART = 0.99  # of the set's bytes: below it, part of it


@dataclass(frozen=True)
class Export:
    """Tokens per byte, the relative error of its printing, and the name that it has; exact: None where digits do not tell."""

    ratio: float
    error: float
    name: str | None
    exact: bool | None


def ratio(level: Level) -> tuple[float, float] | None:
    """Compute bpb / nats and its relative error by rounding; None where not both are printed."""
    if not (level.nats and level.bpb and LEAST < level.nats < 1 / LEAST and LEAST < level.bpb < 1 / LEAST):
        return None
    half = 0.5 * 10.0**-level.digits
    return level.bpb / level.nats, half / abs(level.bpb) + half / abs(level.nats)


def export(levels: Iterable[Level]) -> Export | None:
    """Name the export of a side's scores, those with the most digits first; None where none has both numbers."""
    ratios = [one for level in levels if (one := ratio(level)) is not None]
    if not ratios:
        return None
    error = min(error for _, error in ratios)
    value = statistics.fmean(ratio for ratio, one in ratios if one <= 2 * error)
    name, known = min(EXPORTS.items(), key=lambda one: abs(value / one[1] - 1))
    off = abs(value / known - 1)
    if off > NEAR + error:
        return Export(value, error, None, None)
    own = 1.5e-5 if name == "casefold" else 0.0
    return Export(value, error, name, off <= EQUAL + own + error if error <= EQUAL else None)


def differ(a: Export, b: Export) -> bool:
    """Tell whether two sides were scored on other tokens, as far as the printed digits tell."""
    return abs(a.ratio / b.ratio - 1) > EQUAL + a.error + b.error


def implied_bytes(run: LoggedRun, text: Export | None) -> float | None:
    """Compute the bytes of the validation set by its tokens and the ratio of the scores; None where either is missing."""
    return run.val_tokens / (math.log(2) * text.ratio) if run.val_tokens and text else None


def is_golf(runs: Iterable[LoggedRun], text: Export | None) -> bool:
    """Tell whether the rules of parameter-golf's set and size are checked on these runs."""
    return any(run.reader == "golf" for run in runs) or bool(text and text.name not in (None, "bytes"))
