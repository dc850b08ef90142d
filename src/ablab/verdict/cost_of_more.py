"""What it takes to learn more of an inconclusive row, in words."""

from __future__ import annotations

from ablab.verdict.describe import NEVER, NO_SIGN, UNKNOWN
from ablab.verdict.rows import Row


def price_text(row: Row) -> str:
    """Write `about 3 more seeds: 6 runs, 9.8M tokens, 4 min` of an inconclusive row."""
    if NO_SIGN in row.notes:
        return NO_SIGN
    if row.more_seeds is None:
        return f"diverged once: {NEVER}" if NEVER in row.notes else "more held-out documents would tell"
    kind = "fresh seeds" if row.fresh else "seeds"
    about = f"about {row.more_seeds} more {kind}"
    if NEVER in row.notes:
        about = f"diverged once: {NEVER}; {row.more_seeds} to its next look"
    elif UNKNOWN in row.notes:
        about = f"{UNKNOWN}; {row.more_seeds} {kind} would measure it"
    elif "probe not finished" in row.notes:
        about = f"{row.more_seeds} seed{'s' * (row.more_seeds != 1)} to the end of its probe"
    if row.price is None:
        return about
    time = "" if row.price.seconds is None else f", {_time(row.price.seconds)}"
    tokens = "" if not row.price.tokens else f", {_count(row.price.tokens)} tokens"
    what = (
        f"{row.price.runs} run{'s' * (row.price.runs != 1)}"
        if row.price.runs or not row.price.evaluations
        else f"{row.price.evaluations} evaluations"
    )
    return f"{about}: {what}{tokens}{time}"


def _count(number: float) -> str:
    """Write 1,640,000 as 1.64M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:,.0f}"


def _time(seconds: float) -> str:
    """Write seconds in the unit that a person would say: s, min, h or days."""
    for size, unit in ((2 * 86400, "days"), (5400, "h"), (90, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"
