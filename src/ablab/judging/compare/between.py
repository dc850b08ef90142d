"""What is wrong, or to be known, about two sides together: first of all whether they can be compared."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from ablab.judging.compare import exports
from ablab.judging.compare.faults import EARLY
from ablab.judging.compare.side import METRICS, SURE, Group
from ablab.records.comparison import Flag, Grade, Levers

SAME = 1e-3  # relative: implied bytes of one text, which its exports and dropped tails move by 1e-4


def of_both(x: Group, y: Group, between: Levers) -> Iterator[Flag]:
    """Yield every kind that takes both sides, in the order of the questions: text, stage, data, levers, independence."""

    def flag(kind: str, grade: Grade, said: str) -> Flag:
        return {"kind": kind, "side": "", "grade": grade, "said": said}

    yield from (flag(*one) for one in _text(x, y))
    if x.stage != y.stage and x.stage and y.stage:
        yield flag(
            "stages_differ",
            "warns",
            f"stages differ: {x.stage} against {y.stage}; part of the difference may be theirs",
        )
    yield from (flag(*one) for one in _data(x, y))
    if between["count"] is not None:
        kind = "same_settings" if not between["count"] and between["code"] != "differs" else "levers_in_block"
        yield flag(kind, "notes" if between["count"] == 1 else "warns", between["said"])
    else:
        yield flag("levers_unknown", "notes", between["said"])
    yield from (flag(*one) for one in _independent(x, y))


def _text(x: Group, y: Group) -> Iterator[tuple[str, Grade, str]]:
    """Yield units, export and bytes: what stops a comparison."""
    if not (x.scored and y.scored):
        have = {
            name
            for g in (x, y)
            for run in g.runs
            for level in run.stages.values()
            for name in _units(level.nats, level.bpb)
        }
        if x.nowhere or y.nowhere:
            return  # said of the side
        gone = any(g.lost and not any(run.stages for run in g.runs) for g in (x, y))  # a side that diverged whole
        if x.runs and y.runs and have and not gone:
            said = f"no score of {METRICS.get(x.metric, x.metric)} on both sides: {', '.join(sorted(have))} are there"
            yield "units_differ", "stops", said
        return
    a, b, sizes = x.export, y.export, (x.implied_bytes, y.implied_bytes)
    if sizes[0] and sizes[1] and abs(sizes[0] / sizes[1] - 1) > SAME:
        grade: Grade = "stops" if abs(sizes[0] / sizes[1] - 1) > exports.OFF else "warns"
        said = f"scored on other text: {sizes[0] / 1e6:.2f}M bytes implied against {sizes[1] / 1e6:.2f}M"
        yield "bytes_differ", grade, said
    if a is None or b is None or not exports.differ(a, b):
        return
    ratios = f"tokens per byte differ: {a.ratio:.8f} against {b.ratio:.8f}"
    if x.metric != "bpb":
        yield "tokens_per_byte_differ", "stops", f"{ratios}: nats per token do not compare, bits per byte might"
    elif None in sizes and None in (a.name, b.name):
        said = (
            f"{ratios}: one is of no known export, and no count of validation tokens shows that the bytes are the same"
        )
        yield "tokens_per_byte_differ", "stops", said
    else:
        same = "another tokenizer" if a.name != b.name else "another export of one tokenizer"
        yield "tokens_per_byte_differ", "warns", f"{ratios}: {same}; to be judged in bits per byte only"


def _units(nats: float | None, bpb: float | None) -> list[str]:
    return [METRICS[name] for name, value in (("nats", nats), ("bpb", bpb)) if value is not None]


def _data(x: Group, y: Group) -> Iterator[tuple[str, Grade, str]]:
    tokens = [{one.run.val_tokens for one in g.scored if one.run.val_tokens} for g in (x, y)]
    if tokens[0] and tokens[1] and tokens[0] != tokens[1] and x.export and y.export and x.export.name == y.export.name:
        shown = " against ".join(", ".join(f"{n:,}" for n in sorted(side)) for side in tokens)
        yield "val_tokens_differ", "notes", f"validation tokens: {shown}"
    shards = [{one.run.shards for one in g.scored if one.run.shards is not None} for g in (x, y)]
    if shards[0] and shards[1] and shards[0] != shards[1]:
        shown = " against ".join(", ".join(map(str, sorted(side))) for side in shards)
        yield "shards_differ", "notes", f"training shards: {shown}"
    steps = [[one.run.steps for one in g.scored if one.run.steps] for g in (x, y)]
    if steps[0] and steps[1]:
        a, b = statistics.median(steps[0]), statistics.median(steps[1])
        if abs(a / b - 1) > EARLY:
            yield "steps_differ", "notes", f"steps: {a:,.0f} against {b:,.0f} (medians)"


def _places(side: Group) -> set[object]:
    return {(one.run.source, one.run.line, one.run.number, one.value) for one in side.scored}


def _independent(x: Group, y: Group) -> Iterator[tuple[str, Grade, str]]:
    shared = {(one.value, one.label) for one in x.scored if one.level.digits >= SURE} & {
        (one.value, one.label) for one in y.scored
    }
    files = _places(x) & _places(y)
    if shared or files:
        many = max(len(shared), len(files))
        yield "shared_run", "stops", f"{many} runs stand on both sides" if many > 1 else "one run stands on both sides"
    if x.seeds and y.seeds and x.seeds != y.seeds:
        only = " against ".join(", ".join(map(str, sorted(seeds))) for seeds in (x.seeds, y.seeds))
        yield "seed_sets_differ", "notes", f"seeds: {only}"
    pairs = [{(one.seed, one.run.steps) for one in g.scored} for g in (x, y)]
    if pairs[0] and pairs[0] == pairs[1] and all(None not in pair for pair in pairs[0]):
        yield "same_seeds_and_steps", "notes", "both sides ran the same seeds to the same steps"
    finest = [max((one.level.digits for one in g.scored), default=SURE) for g in (x, y)]  # a list drops zeros at an end
    places = min(finest)
    if places < SURE:
        yield (
            "coarse_digits",
            "notes",
            f"scores are printed to {places} digits: differences below {10.0**-places:g} are not seen",
        )
