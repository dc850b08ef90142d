"""What is wrong, or to be known, about one side's runs: each kind with its rule."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from ablab.judging.compare import exports, levers
from ablab.judging.compare.side import ORDER, SURE, Group, number
from ablab.judging.logs.stages import labels
from ablab.records.comparison import Flag, Grade, Side
from ablab.records.log import LoggedRun
from ablab.verdict.rates import clopper_pearson

LIMIT = 16_000_000  # bytes of a parameter-golf artifact
ALL_SHARDS = 1400  # from so many training shards on, the validation text may be among them
LOW = 0.9  # bits per byte that no model of this size reaches without a cache, or a leak
EARLY = (
    0.02  # share of the side's median steps by which a run may end early: clocks of like machines differ by half of it
)
SHOWN = 6  # settings or files in a sentence


def of_side(group: Group, side: Side) -> Iterator[Flag]:
    """Yield every kind that one side alone can show."""

    def flag(kind: str, grade: Grade, said: str) -> Flag:
        return {"kind": kind, "side": side, "grade": grade, "said": f"{side}: {said}"}

    runs = [one.run for one in group.scored]
    golf = exports.is_golf(runs, group.export)
    yield from (flag(*one) for one in _text(group, golf))
    if golf:
        yield from (flag(*one) for one in _golf(group))
    if others := _others(group):
        said = f"judged is {group.stage}; --stage asks for another: {', '.join(others[:SHOWN])}"
        yield flag("stage_chosen", "notes", said)
    if known := group.nowhere:
        yield flag(
            "stage_missing", "stops", f"no run has a score at {group.stage!r}; there is {', '.join(known[:SHOWN])}"
        )
    yield from (flag(*one) for one in _diverged(group))
    yield from (flag(*one) for one in _independent(group))
    yield from (flag(*one) for one in _alike(runs))


def _others(group: Group) -> list[str]:
    """List scores of the metric beside one whose label says nothing of a procedure: of several, none is the last."""
    if group.stage is None or group.asked or group.stage in ORDER:
        return []
    stages = {
        name for one in group.scored for name, label in labels(one.run).items()
        if number(one.run.stages[label], group.metric) is not None
    }  # fmt: skip
    return sorted(stages - {group.stage})


def _text(group: Group, golf: bool) -> Iterator[tuple[str, Grade, str]]:
    """Yield which text was scored."""
    text, size = group.export, group.implied_bytes
    if text is not None and text.name is None:
        near = min(exports.EXPORTS.items(), key=lambda one: abs(text.ratio - one[1]))
        said = f"{text.ratio:.8f} tokens per byte are those of no known export; the nearest is {near[0]}, {near[1]:.8f}"
        yield "unknown_export", "warns" if golf else "notes", said
    elif text is not None and text.exact is False:
        known = exports.EXPORTS[str(text.name)]
        said = f"{text.ratio:.8f} tokens per byte: another export of {text.name} ({known:.8f})"
        yield "other_export", "notes", said
    if golf and size is not None:
        whole = exports.GOLF_BYTES
        said = f"validation tokens and scores imply {size / 1e6:.1f}M bytes, the whole set has {whole / 1e6:.1f}M"
        if size < exports.PART * whole:
            yield "part_of_set", "warns", f"scored on part of the validation set: {said}"
        elif abs(size / whole - 1) > exports.OFF:
            yield "bytes_not_golfs", "warns", said


def _golf(group: Group) -> Iterator[tuple[str, Grade, str]]:
    """Yield the rules of parameter-golf that a log can break."""
    runs = [one.run for one in group.scored]
    if lows := [one for one in group.scored if (one.level.bpb or 1.0) < LOW]:
        score = f"{lows[0].label} is {lows[0].level.bpb:.4f} bits per byte"
        yield "very_low", "warns", f"{score}: ask for proof that its probabilities sum to one"
    if large := [run for run in runs if (run.bytes or 0) > LIMIT]:
        most = max(run.bytes or 0 for run in large)
        said = f"{len(large)} artifacts are over {LIMIT:,} bytes, the largest {most:,} (some logs count raw code)"
        yield "artifact_too_large", "warns", said
    if many := [run.shards or 0 for run in runs if (run.shards or 0) >= ALL_SHARDS]:
        yield "many_shards", "warns", f"{max(many)} training shards: the validation text may be among them"


def _diverged(group: Group) -> Iterator[tuple[str, Grade, str]]:
    """Yield the runs that diverged, each by file and line, with their rate: the mean is that of the runs which survived."""
    if group.lost:
        many, total = group.divergences
        low, high = clopper_pearson(many, total, 0.05)
        named = [f"{run.source.name}:{max(run.lost.values())}" for run in group.lost]
        more = f", and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        rate = f"{many} of {total} runs ({many / total:.0%}, interval {low:.0%} to {high:.0%})"
        said = f"{rate} diverged, end with nan or infinity and have no score: {', '.join(named[:SHOWN])}{more}"
        yield "diverged", "warns", said


def _independent(group: Group) -> Iterator[tuple[str, Grade, str]]:
    """Yield whether each run is one of its own."""
    files = sorted({str(run.source) for run in group.attempts})
    if files:
        gone = sum(bool(run.lost) for run in group.attempts)
        more = f" ({gone} of them diverged)" if gone else ""
        said = f"{len(group.attempts)} earlier runs of the same files do not count{more}: {', '.join(files[:SHOWN])}"
        yield "several_runs_in_file", "notes", said
    for run in sorted((one.run for one in group.scored), key=lambda run: (run.seed_in_name or 0, str(run.source))):
        if None not in (run.seed, run.seed_in_name) and run.seed != run.seed_in_name:
            yield (
                "seed_label",
                "warns",
                f"{run.source.name} is named for seed {run.seed_in_name} and ran seed {run.seed}",
            )
    counts = Counter(one.seed for one in group.scored if one.seed is not None)
    for seed, count in sorted(counts.items()):
        if count > 1:
            yield "same_seed_repeats", "warns", f"seed {seed} ran {count} times: counted once, as the mean"
    for seeds, value, digits in _copies(group):
        if digits >= SURE:
            said = f"seeds {', '.join(map(str, seeds))} have one score to {digits} digits ({value}): counted once"
            yield "identical_scores", "warns", said
        else:
            said = f"seeds {', '.join(map(str, seeds))} have one score ({value}), by chance at {digits} digits: each counts"
            yield "equal_as_printed", "notes", said
    if nameless := sum(one.seed is None for one in group.scored):
        yield "no_seed", "notes", f"{nameless} of {len(group.scored)} runs tell no seed: taken as independent"
    if cut := [one.run for one in group.scored if not one.run.complete]:
        yield "incomplete", "warns", f"{', '.join(str(run.source.name) for run in cut[:SHOWN])} did not come to an end"
    missing = len(group.runs) - len(group.attempts) - len(group.scored) - len(group.lost)
    if missing and group.scored:
        yield "no_score", "notes", f"{missing} of {len(group.runs)} runs have no score at this stage and do not count"


def _copies(group: Group) -> Iterator[tuple[list[int], float, int]]:
    """Yield seeds that differ and have one score as printed."""
    same: dict[tuple[float, int], list[int]] = {}
    for one in group.scored:
        seeds = same.setdefault((one.value, one.level.digits), [])
        if one.seed is not None and one.seed not in seeds:
            seeds.append(one.seed)
    yield from ((sorted(seeds), value, digits) for (value, digits), seeds in same.items() if len(seeds) > 1)


def _alike(runs: Sequence[LoggedRun]) -> Iterator[tuple[str, Grade, str]]:
    """Yield whether the runs of a side are runs of one thing."""
    if differing := levers.within(runs):
        names = [*differing]
        more = "" if len(names) <= SHOWN else f", and {len(names) - SHOWN} more"
        yield (
            "settings_differ_between_seeds",
            "warns",
            f"settings differ between its runs: {', '.join(names[:SHOWN])}{more}",
        )
    if len({run.code_bytes for run in runs if run.code_bytes is not None}) > 1:
        sizes = sorted({run.code_bytes for run in runs if run.code_bytes is not None})
        yield "code_differs_between_seeds", "notes", f"code of {', '.join(f'{size:,}' for size in sizes)} bytes"
    stepped = [run for run in runs if run.steps]
    usual = statistics.median([run.steps or 0 for run in stepped]) if stepped else 0.0
    for run in stepped:
        if (run.steps or 0) < (1 - EARLY) * usual:
            who = run.source.name if run.seed is None else f"seed {run.seed}"
            said = f"{who} stopped at step {run.steps:,}, {usual - (run.steps or 0):,.0f} before the side's median"
            yield "stopped_early", "warns", said
