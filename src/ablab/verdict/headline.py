"""The first sentence of a verdict: what was shown, by how much at least, and what is still open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ablab.verdict.describe import UNKNOWN
from ablab.verdict.evidence import Evidence
from ablab.verdict.rows import Row
from ablab.verdict.winner import NOTHING

UNITS = {"nats_per_token": "nats/token", "bits_per_byte": "bits/byte"}
JUDGED = ("better", "worse", "equivalent", "inconclusive")


def sentence(
    evidence: Evidence,
    rows: Mapping[str, Row],
    winner: str | None,
    decided_by: str,
    missing: int,
    warnings: Iterable[str],
) -> str:
    """Warnings, the winner or why there is none, and every inconclusive arm with its price.

    A winner that was shown better comes with the near end of its interval: best guesses of what was selected for being good
    are too good. A baseline that stays because nothing was shown is no winner.
    """
    said = "".join(f"Warning: {one}. " for one in warnings)
    if missing:
        said += f"No winner ({decided_by}), {missing} runs to the next look"
    elif winner is None:
        said += f"No winner ({decided_by})"
    elif winner == evidence.baseline:
        said += _stays(rows, decided_by)
    else:
        said += f"The winner is {winner} ({decided_by}" + _lead(evidence, rows[winner])
    open_ = [f"{r.name} ({_price_text(r)})" for r in rows.values() if r.word == "inconclusive"]
    return said + (f"; inconclusive: {', '.join(open_)}." if open_ else ".")


def _lead(evidence: Evidence, row: Row) -> str:
    if row.word != "better" or row.high is None or row.delta is None:
        return "; no arm is shown better)"
    metric = evidence.decision.metric
    unit = UNITS.get(metric, metric)
    return f"): at least {-row.high:.3g} {unit} better than {row.on} (best guess {-row.delta:.3g})"


def _stays(rows: Mapping[str, Row], decided_by: str) -> str:
    """The baseline where it is left: shown ahead of every arm, or only not shown behind."""
    words = [row.word for row in rows.values() if row.word in JUDGED]
    if words and set(words) == {"worse"}:
        return "The winner is the baseline (every arm is shown worse)"
    apart = [r for r in rows.values() if r.low is not None and r.high is not None and (r.low > 0 or r.high < 0)]
    if "better" in words:
        what = "no arm that may win is shown better"
    elif "worse" in words:
        what = "no arm is shown better"
    elif any(row.word == "equivalent" for row in apart):
        what = "nothing is shown to differ by what matters"
    elif apart:
        what = "no arm is shown better"
    else:
        what = "nothing is shown to differ"
    return f"No winner: {what}; the baseline stays" + ("" if decided_by == NOTHING else f" ({decided_by})")


def _price_text(row: Row) -> str:
    if row.more_seeds is None:
        return "more held-out documents would tell"
    kind = "fresh seeds" if row.fresh else "seeds"
    about = f"about {row.more_seeds} more {kind}"
    if UNKNOWN in row.notes:
        about = f"{UNKNOWN}; {row.more_seeds} {kind} would measure it"
    if row.price is None:
        return about
    time = "" if row.price.seconds is None else f", {_time(row.price.seconds)}"
    tokens = "" if not row.price.tokens else f", {_count(row.price.tokens)} tokens"
    what = (
        f"{row.price.runs} runs"
        if row.price.runs or not row.price.evaluations
        else f"{row.price.evaluations} evaluations"
    )
    return f"{about}: {what}{tokens}{time}"


def _count(number: float) -> str:
    """1,640,000 as 1.64M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:,.0f}"


def _time(seconds: float) -> str:
    """Seconds in the unit that a person would say: s, min, h or days."""
    for size, unit in ((2 * 86400, "days"), (5400, "h"), (90, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"
