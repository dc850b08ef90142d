"""Tables of cost: what each arm costs, beside its reference and under the limits, and the account of its artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ablab.report import words
from ablab.report.tables import FREE, Table, is_free
from ablab.report.view import View, listing, mapping
from ablab.report.words import DASH, Style, num

TIMES = ("tokens_per_second", "step_ms", "train_seconds")  # of a clock, which other work on the machine moves
UNITS = {"bytes": "B", "memory": "B", "seconds": "s", "stage_seconds": "s"}
NAMES = {
    "bytes": "artifact",
    "parameters": "parameters",
    "seconds": "training time",
    "stage_seconds": "slowest stage",
    "memory": "peak memory",
}


def cost_table(view: View, style: Style) -> Table | None:
    """What each arm costs, beside what it brings."""
    fields = (
        ("parameters", "parameters", words.whole),
        ("body", "body_parameters", words.whole),
        ("embedding", "embedding_parameters", words.whole),
        ("FLOP/token", "flops_per_token", words.count),
        ("cache/token", "cache_bytes_per_token", words.size),
        ("cache of a row", "cache_bytes_at_seq_len", words.size),
        ("tokens/s", "tokens_per_second", words.whole),
        ("step", "step_ms", _milliseconds),
        ("training time", "train_seconds", words.seconds),
        ("artifact", "bytes", words.size),
    )
    known = [f for f in fields if any(num(mapping(a.get("cost")).get(f[1])) is not None for a in view.arms)]
    if not known:
        return None
    base = mapping(next((a.get("cost") for a in view.arms if a["name"] == view.baseline), None))
    rows = []
    for arm in view.arms:
        cost = mapping(arm.get("cost"))
        cells = []
        for _, key, write in known:
            mine, theirs = num(cost.get(key)), num(base.get(key))
            if key in TIMES:
                cells.append(write(mine) + style.sub(style.literal(_spread(cost, key, write))))
                continue
            ratio = (
                f"{100 * (mine / theirs - 1):+.1f}%".replace("-", style.minus) if mine is not None and theirs else ""
            )
            changed = ratio and arm["name"] != view.baseline and ratio[1:] != "0.0%"
            cells.append(write(mine) + (style.sub(style.literal(ratio)) if changed else style.literal("")))
        rows.append([style.name(arm["name"]), *cells])
    note = (
        "Small: against the baseline; of times the least and the most. Times are of this machine, whatever else it did, "
        "medians over the seeds that all arms share: what one arm takes beside another is told by pairs of runs, below. "
        "Sizes in decimal units."
    )
    if kind := base.get("cache_precision"):
        note += f" Cache: what decoding keeps of a row's first token, and of seq_len tokens, in {words.clean(kind)}."
    return Table((("arm", "l"), *((label, "r") for label, _, _ in known)), rows, note)


def _spread(cost: dict[str, Any], key: str, write: Callable[[object], str]) -> str:
    """`1,900 to 2,300 over 3 runs`; nothing where that is not known."""
    of = mapping(mapping(cost.get("spread")).get("tokens_per_second" if key == "step_ms" else key))
    low, high, runs = num(of.get("low")), num(of.get("high")), num(of.get("runs"))
    if low is None or high is None or runs is None:
        return ""
    if key == "step_ms":
        return ""  # the speed says it
    if runs == 1:
        return "one run"
    return f"{write(low)} to {write(high)} over {words.whole(runs)} runs"


def _milliseconds(value: object) -> str:
    number = num(value)
    return DASH if number is None else words.seconds(number / 1000)


def margin_text(row: dict[str, Any], unit: str) -> str:
    """`114,295 B under 16,000,000`: how far a value is from its limit."""
    margin, limit = num(row.get("margin")), num(row.get("limit"))
    if margin is None or limit is None:
        return ""
    side = "over" if margin < 0 else "under"
    return f"{_exact(abs(margin))}{f' {unit}' if unit else ''} {side} {_exact(limit)}"


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:,.3g}"


def limit_table(view: View, style: Style) -> Table | None:
    """Each arm against each limit of the study, to the byte."""
    held = {a["name"]: mapping(mapping(a.get("cost")).get("limits")) for a in view.arms}
    asked = list(dict.fromkeys(what for rows in held.values() for what in rows if what in NAMES))
    if not asked:
        return None
    rows = []
    for name, limits in held.items():
        cells = []
        for what in asked:
            row = mapping(limits.get(what))
            value, over = num(row.get("value")), (num(row.get("margin")) or 0.0) < 0
            said = f"{_exact(value)} {UNITS.get(what, '')}".strip() if value is not None else DASH
            margin = style.literal(margin_text(row, UNITS.get(what, "")))
            cells.append(
                style.literal(said) + style.sub(style.strong(margin) if over else margin, "over" if over else "")
            )
        rows.append([style.name(name), *cells])
    head = (("arm", "l"), *((NAMES[what], "r") for what in asked))
    note = "An arm over a limit keeps its word and cannot win. Bytes and memory: the largest seed; times: medians."
    return Table(head, rows, note)


def beside_table(view: View, style: Style) -> Table | None:
    """What each arm costs beside its reference, and which are free."""
    rows = []
    for arm in view.rivals:
        beside = mapping(arm.get("cost_against"))
        if any(num(beside.get(key)) is not None for key in ("bytes", "train_time", "stage_time")):
            same = style.sub("same weights" if arm.get("shares_weights") else "")
            rows.append(
                [
                    style.name(arm["name"]) + style.sub(style.literal("against ") + style.name(view.reference(arm))),
                    words.difference(beside.get("bytes")),
                    words.ratio(beside.get("train_time")) + (same or _pairs(beside.get("train_spread"), style)),
                    words.ratio(beside.get("stage_time")) + _pairs(beside.get("stage_spread"), style),
                    words.ratio(beside.get("peak_bytes")),
                    style.tag("free", FREE) if is_free(arm) else "unknown" if beside.get("free") is None else "no",
                ]
            )
    head = (
        ("arm", "l"),
        ("artifact", "r"),
        ("training time", "r"),
        (f"time of {view.stage}", "r"),
        ("peak memory", "r"),
        ("free?", "l"),
    )
    note = (
        "Times: the median over pairs of runs at one seed, and the least and the most of them. "
        f"Free: {FREE}; unknown where the clocks do not tell."
    )
    return Table(head, rows, note) if rows else None


def _pairs(spread: object, style: Style) -> str:
    """Below a ratio of times: `0.97x to 1.21x over 3 pairs`."""
    of = mapping(spread)
    low, high, pairs = num(of.get("low")), num(of.get("high")), num(of.get("pairs"))
    if low is None or high is None or not pairs:
        return style.sub("")
    if pairs == 1:
        return style.sub(style.literal("one pair of runs"))
    return style.sub(style.literal(f"{words.ratio(low)} to {words.ratio(high)} over {words.whole(pairs)} pairs"))


def stage_cost_table(view: View, style: Style) -> Table | None:
    """Seconds and peak memory of every stage of every arm, medians over its seeds."""
    stages = list(dict.fromkeys(s for a in view.arms for s in mapping(mapping(a.get("cost")).get("stages"))))
    if not stages:
        return None
    rows = []
    for arm in view.arms:
        cells = []
        for stage in stages:
            one = mapping(mapping(mapping(arm.get("cost")).get("stages")).get(stage))
            parts = ", ".join(
                f"{part} {words.seconds(one.get(part))}" for part in ("pack", "check", "evaluate") if num(one.get(part))
            )
            peak = f"peak {words.size(one.get('peak_bytes'))}" if num(one.get("peak_bytes")) is not None else ""
            over = style.literal(_spread({"spread": {"seconds": one.get("spread")}}, "seconds", words.seconds))
            cells.append(words.seconds(one.get("seconds")) + style.sub(over) + style.sub(parts) + style.sub(peak))
        rows.append([style.name(arm["name"]), *cells])
    note = (
        "Time to pack and unpack, to check the rules, and to evaluate. On a CPU the peak is that of the whole process."
    )
    return Table((("arm", "l"), *((stage, "r") for stage in stages)), rows, note)


def artifact_table(view: View, style: Style) -> Table | None:
    """The artifact of every arm at every stage that packs: bytes, parts, how it was made, predicted beside measured."""
    rows, kinds = [], []
    for stage, by_arm in mapping(view.verdict.get("artifacts")).items():
        first = True
        for arm in view.arms:
            one = mapping(mapping(by_arm).get(arm["name"]))
            if not one:
                continue
            kinds.append("start" if first else "")
            first = False
            rows.append([style.text(stage), style.name(arm["name"]), *_artifact_cells(one, style)])
    head = (
        ("stage", "l"),
        ("arm", "l"),
        ("artifact, bytes", "r"),
        ("model + code", "r"),
        ("predicted", "r"),
        ("measured / predicted", "r"),
        ("how", "l"),
    )
    note = (
        "Bytes of the file that is written, and of the minified and compressed script where one is counted. Predicted: the "
        "entropy of the rounded numbers; a ratio outside 1.00 to 1.05 is pointed out."
    )
    return Table(head, rows, note, kinds) if rows else None


def _artifact_cells(one: dict[str, Any], style: Style) -> list[str]:
    least, most = num(one.get("least")), num(one.get("most"))
    span = (
        f"{words.whole(least)} to {words.whole(most)} over {words.whole(one.get('seeds'))} seeds"
        if least != most
        else ""
    )
    raw, size = num(one.get("raw_bytes")), num(one.get("model_bytes"))
    times = f"{raw / size:.2f}\u00d7 smaller than trained" if raw and size else ""
    schemes = [
        style.literal(f"{words.whole(mapping(s).get('tensors'))} \u00d7 ") + style.text(name)
        for name, s in mapping(one.get("schemes")).items()
    ]
    how = style.text(words.value_text(one.get("codec"))) if one.get("codec") else style.literal("")
    said = [
        *schemes,
        *(style.text(words.clean(note)) for note in listing(one.get("notes"))),
        *_rotated(one, style),
    ]
    for part in said:
        how = how + style.sub(part)
    return [
        words.whole(one.get("bytes")) + style.sub(span),
        f"{words.whole(one.get('model_bytes'))} + {words.whole(one.get('code_bytes'))}" + style.sub(times),
        words.whole(one.get("predicted_bytes")),
        _ratio(one.get("ratio"), style),
        how,
    ]


def _rotated(one: dict[str, Any], style: Style) -> list[str]:
    rows = [mapping(row) for row in listing(one.get("hadamard"))]
    said = []
    if rows:
        said.append(f"{sum(row.get('kept') is True for row in rows)} of {len(rows)} tensors rotated")
    if corrected := listing(one.get("lqer")):
        said.append(f"low-rank correction of {words.plural(len(corrected), 'tensor')}")
    return [style.literal(text) for text in said]


def _ratio(value: object, style: Style) -> str:
    number = num(value)
    if number is None:
        return DASH
    return f"{number:.3f}" if 1.0 <= number <= 1.05 else style.strong(f"{number:.3f}")


def rotation_tables(view: View, style: Style) -> list[tuple[str, Table]]:
    """Per stage and arm, folded away: what rotation did to every tensor, and what low-rank factors gave back."""
    found = []
    for stage, by_arm in mapping(view.verdict.get("artifacts")).items():
        for name, one in mapping(by_arm).items():
            where = f"{words.clean(stage)}, {words.clean(name, words.NAME)}"
            if rows := [mapping(row) for row in listing(mapping(one).get("hadamard"))]:
                said = f"Hadamard rotation: {where}: {words.plural(len(rows), 'tensor')}"
                found.append((said, _rotation(rows, style)))
            if rows := [mapping(row) for row in listing(mapping(one).get("lqer"))]:
                said = f"Low-rank correction: {where}: {words.plural(len(rows), 'tensor')}"
                found.append((said, _corrections(rows, style)))
    return found


def _rotation(rows: list[dict[str, Any]], style: Style) -> Table:
    bits = list(dict.fromkeys(b for row in rows for b in mapping(row.get("mse_before"))))
    cells = []
    for row in rows:
        before, after = mapping(row.get("mse_before")), mapping(row.get("mse_after"))
        cells.append(
            [
                style.name(row.get("name", "?")),
                _pair(row.get("kurtosis_before"), row.get("kurtosis_after"), style),
                *(_pair(before.get(b), after.get(b), style) for b in bits),
                _pair(row.get("error_before"), row.get("error_after"), style),
                "yes" if row.get("kept") is True else "no",
            ]
        )
    head = [("tensor", "l"), ("kurtosis", "r"), *((f"mse {words.clean(b)}", "r") for b in bits)]
    head += [("error that decides", "r"), ("rotated", "l")]
    note = "As trained, and below it rotated. Kurtosis of rows: 3 for normal numbers. mse: of rounding to nearest."
    return Table(tuple(head), cells, note)


def _corrections(rows: list[dict[str, Any]], style: Style) -> Table:
    cells = [
        [
            style.name(row.get("name", "?")),
            words.whole(row.get("rank")),
            _pair(row.get("error_before"), row.get("error_after"), style),
            _pair(row.get("layer_before"), row.get("layer_after"), style),
        ]
        for row in rows
    ]
    head = (("tensor", "l"), ("rank", "r"), ("norm of the error", "r"), ("error of the layer's output", "r"))
    return Table(head, cells, "Without factors, and below it with them.")


def _pair(before: object, after: object, style: Style) -> str:
    return words.significant(before) + style.sub(words.significant(after) if num(after) is not None else "")
