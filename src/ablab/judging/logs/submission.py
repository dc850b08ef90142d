"""submission.json of parameter-golf, a claim: its runs are the entries by seed, or by name; a lone number may be a mean."""

from __future__ import annotations

import re

from ablab.judging.logs.building import count
from ablab.judging.logs.document import document, fields, flat, level, line_of, place_of, unquoted, whole
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

NAME = "submission"
MARK = re.compile(rb'"(?:\w*val_(?:bpb|loss)\w*|author|github_id)"')
_SCORE = re.compile(
    r"(?!.*(?:std|mean|delta|gap|gain|baseline|improve|vs_)).*(?:bpb|val_loss)(?:_exact)?", re.IGNORECASE
)
_MEAN = re.compile(r"(?:mean_val_(?:bpb|loss)|val_(?:bpb|loss)_mean)(?:_exact)?", re.IGNORECASE)
_BY_SEED, _BY_NAME = (
    re.compile(r"seed_\w+|\w+_by_seed|per_seed\w*|results?"),
    re.compile(r"experiments|configs?|ablations?|variants"),
)
_BYTES = re.compile(r"(?:artifact|total|submission)_?(?:bytes|size)\w*|bytes_total")
LONE = "a submission's number: it may be the mean of runs, or one of them"


def read(text: Text) -> list[LoggedRun]:
    """Read a run for every seed that has numbers of its own, else for every named experiment, else one for the whole file."""
    claim = fields(document(text))
    by_seed = [run for name, inner in claim.items() if _BY_SEED.fullmatch(name) for run in _each(text, name, inner)]
    named = [run for name, inner in claim.items() if _BY_NAME.fullmatch(name) for run in _named(text, fields(inner))]
    lone = _run(text, claim, 1, notes=[LONE], score=_SCORE) or _run(text, claim, 1, notes=[LONE], score=_MEAN)
    return by_seed or named or ([lone] if lone else [])


def _each(text: Text, outer: str, inner: object) -> list[LoggedRun]:
    start = max(0, text.whole.find(f'"{outer}"'))
    runs = []
    for name, entry in _entries(inner):
        told = fields(entry) if isinstance(entry, dict) else {_metric(outer): entry}
        start = max(start, place_of(text, name, start)) if name else start
        own = whole(unquoted(told.get("seed")))
        seed = count(re.sub(r"(?i)^seed[-_ ]?", "", name)) if own is None else own
        if seed is not None and (run := _run(text, told, text.line_at(start), seed)):
            runs.append(run)
    return runs


def _entries(inner: object) -> list[tuple[str, object]]:
    """List (name, entry); entries of a list have no name, and count only where they tell their seed."""
    return (
        [("", one) for one in inner if isinstance(one, dict)]
        if isinstance(inner, list)
        else list(fields(inner).items())
    )


def _metric(outer: str) -> str:
    """Name the metric of bare numbers under a seed; "" for sizes and times, which are under such names, too."""
    if outer in ("seed_results", "per_seed", "per_seed_results", "results"):
        return "val_bpb"
    fits = re.search(r"bpb|loss", outer) and not re.search(r"std|mean|delta|gap|gain|train", outer)
    return ("val_loss" if "loss" in outer else "val_bpb") if fits else ""


def _named(text: Text, inner: dict[str, object]) -> list[LoggedRun]:
    runs = [_run(text, fields(entry), line_of(text, name), arm=name) for name, entry in inner.items()]
    return [run for run in runs if run]


def _run(
    text: Text,
    told: dict[str, object],
    line: int,
    seed: int | None = None,
    *,
    arm: str | None = None,
    notes: list[str] | None = None,
    score: re.Pattern[str] = _SCORE,
) -> LoggedRun | None:
    lost: dict[str, int] = {}
    stages = {
        name: one
        for name, value in told.items()
        if score.fullmatch(name)
        and (one := level(text, name, unquoted(value), line if line > 1 else None, lost)) is not None
    }
    if not stages and not lost:
        return None
    size = next(
        (got for name, value in told.items() if _BYTES.fullmatch(name) and (got := whole(unquoted(value))) is not None),
        None,
    )
    steps = next(
        (got for name in ("steps", "step", "step_stop", "training_steps") if (got := whole(unquoted(told.get(name))))),
        None,
    )
    facts = {name: value for name, value in flat(told).items() if name == "change"}
    return LoggedRun(text.path, line, stages, seed=seed, bytes=size, val_tokens=whole(told.get("val_tokens")), steps=steps,
                     notes=notes or [], facts=facts, arm=arm, reader=NAME, lost=lost)  # fmt: skip
