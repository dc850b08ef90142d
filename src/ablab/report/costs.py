"""Tables of cost: what each arm costs, beside its reference and under the limits, and the account of its artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ablab.core.plain import plural
from ablab.records.answer import ArtifactAnswer
from ablab.records.cost import Margin, Range, Times
from ablab.records.result import Corrected, Rotated
from ablab.report import words
from ablab.report.tables import FREE, PageTable, is_free
from ablab.report.view import View
from ablab.report.words import DASH, Style

UNITS = {"bytes": "B", "memory": "B", "seconds": "s", "stage_seconds": "s"}
NAMES = {
    "bytes": "artifact",
    "parameters": "parameters",
    "seconds": "training time",
    "stage_seconds": "slowest stage",
    "memory": "peak memory",
}


def _milliseconds(value: object) -> str:
    number = words.num(value)
    return DASH if number is None else words.seconds(number / 1000)


Field = Literal[
    "parameters", "body_parameters", "embedding_parameters", "flops_per_token", "cache_bytes_per_token",
    "cache_bytes_at_seq_len", "tokens_per_second", "step_ms", "train_seconds", "bytes",
]  # fmt: skip
FIELDS: tuple[tuple[str, Field, Callable[[object], str]], ...] = (
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


def cost_table(view: View, style: Style) -> PageTable | None:
    """Show what each arm costs, beside what it brings."""
    if (base := view.base) is None:
        return None
    known = [f for f in FIELDS if any(a["cost"][f[1]] is not None for a in view.arms)]
    rows = []
    for arm in view.arms:
        cells = []
        for _, key, write in known:
            mine, theirs = arm["cost"][key], base["cost"][key]
            if key == "tokens_per_second" or key == "train_seconds":
                cells.append(write(mine) + style.sub(style.literal(_spread(arm["cost"]["spread"][key], write))))
                continue
            ratio = (
                f"{100 * (mine / theirs - 1):+.1f}%".replace("-", style.minus) if mine is not None and theirs else ""
            )
            changed = ratio and arm["name"] != view.baseline and ratio[1:] != "0.0%" and key != "step_ms"
            cells.append(write(mine) + (style.sub(style.literal(ratio)) if changed else style.literal("")))
        rows.append([style.name(arm["name"]), *cells])
    note = (
        "Small: against the baseline; of times the least and the most. Times are of this machine, whatever else it did, "
        "medians over the seeds that all arms share: what one arm takes beside another is told by pairs of runs, below. "
        "Sizes in decimal units."
    )
    if not view.of_program:
        note += (
            " Cache: what decoding keeps of a row's first token, and of seq_len tokens, in "
            f"{base['cost']['cache_precision']}."
        )
    return PageTable((("arm", "l"), *((label, "r") for label, _, _ in known)), rows, note)


def _spread(of: Range | None, write: Callable[[object], str]) -> str:
    """Write `1,900 to 2,300 over 3 runs`; nothing where that is not known."""
    if of is None:
        return ""
    if of["runs"] == 1:
        return "one run"
    return f"{write(of['low'])} to {write(of['high'])} over {words.whole(of['runs'])} runs"


def margin_text(row: Margin, unit: str) -> str:
    """Write `114,295 B under 16,000,000`: how far a value is from its limit."""
    side = "over" if row["margin"] < 0 else "under"
    return f"{_exact(abs(row['margin']))}{f' {unit}' if unit else ''} {side} {_exact(row['limit'])}"


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:,.3g}"


def limit_table(view: View, style: Style) -> PageTable | None:
    """Show each arm against each limit of the study, to the byte."""
    held = {a["name"]: a["cost"]["limits"] for a in view.arms}
    asked = list(dict.fromkeys(what for rows in held.values() for what in rows if what in NAMES))
    if not asked:
        return None
    rows = []
    for name, limits in held.items():
        cells = []
        for what in asked:
            if (row := limits.get(what)) is None:
                cells.append(style.literal(DASH))
                continue
            unit, over = UNITS.get(what, ""), row["margin"] < 0
            said = style.literal(f"{_exact(row['value'])} {unit}".strip())
            margin = style.literal(margin_text(row, unit))
            cells.append(said + style.sub(style.strong(margin) if over else margin, "over" if over else ""))
        rows.append([style.name(name), *cells])
    head = (("arm", "l"), *((NAMES[what], "r") for what in asked))
    note = "An arm over a limit keeps its word and cannot win. Bytes and memory: the largest seed; times: medians."
    return PageTable(head, rows, note)


def beside_table(view: View, style: Style) -> PageTable | None:
    """Show what each arm costs beside its reference, and which are free."""
    rows = []
    for arm in view.rivals:
        beside = arm["cost_against"]
        if beside and any(one is not None for one in (beside["bytes"], beside["train_time"], beside["stage_time"])):
            same = style.sub("same weights" if arm["shares_weights"] else "")
            rows.append(
                [
                    style.name(arm["name"]) + style.sub(style.literal("against ") + style.name(view.reference(arm))),
                    words.difference(beside["bytes"]),
                    words.ratio(beside["train_time"]) + (same or _pairs(beside["train_spread"], style)),
                    words.ratio(beside["stage_time"]) + _pairs(beside["stage_spread"], style),
                    words.ratio(beside["peak_bytes"]),
                    style.tag("free", FREE) if is_free(arm) else "unknown" if beside["free"] is None else "no",
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
    return PageTable(head, rows, note) if rows else None


def _pairs(of: Times | None, style: Style) -> str:
    """Write below a ratio of times `0.97x to 1.21x over 3 pairs`."""
    if of is None or not of["pairs"]:
        return style.sub("")
    if of["pairs"] == 1:
        return style.sub(style.literal("one pair of runs"))
    ends = f"{words.ratio(of['low'])} to {words.ratio(of['high'])}"
    return style.sub(style.literal(f"{ends} over {words.whole(of['pairs'])} pairs"))


def stage_cost_table(view: View, style: Style) -> PageTable | None:
    """Show seconds and peak memory of every stage of every arm, medians over its seeds."""
    stages = list(dict.fromkeys(stage for arm in view.arms for stage in arm["cost"]["stages"]))
    if not stages:
        return None
    rows = []
    for arm in view.arms:
        cells = []
        for stage in stages:
            if (one := arm["cost"]["stages"].get(stage)) is None:
                cells.append(DASH)
                continue
            took = (("pack", one["pack"]), ("check", one["check"]), ("evaluate", one["evaluate"]))
            parts = ", ".join(f"{part} {words.seconds(seconds)}" for part, seconds in took if seconds)
            peak = f"peak {words.size(one['peak_bytes'])}" if one["peak_bytes"] is not None else ""
            over = style.literal(_spread(one["spread"], words.seconds))
            cells.append(words.seconds(one["seconds"]) + style.sub(over) + style.sub(parts) + style.sub(peak))
        rows.append([style.name(arm["name"]), *cells])
    note = (
        "Time to pack and unpack, to check the rules, and to evaluate. On a CPU the peak is that of the whole process."
    )
    return PageTable((("arm", "l"), *((stage, "r") for stage in stages)), rows, note)


def artifact_table(view: View, style: Style) -> PageTable | None:
    """Show the artifact of every arm at every stage that packs: bytes, parts, how it was made, predicted beside measured."""
    rows, kinds = [], []
    for stage, by_arm in view.verdict["artifacts"].items():
        first = True
        for arm in view.arms:
            if (one := by_arm.get(arm["name"])) is None:
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
    return PageTable(head, rows, note, kinds) if rows else None


def _artifact_cells(one: ArtifactAnswer, style: Style) -> list[str]:
    least, most, seeds = (words.whole(one[key]) for key in ("least", "most", "seeds"))
    span = f"{least} to {most} over {seeds} seeds" if least != most else ""
    raw, size = one.get("raw_bytes"), one["model_bytes"]
    times = f"{raw / size:.2f}\u00d7 smaller than trained" if raw and size else ""
    schemes = [
        style.literal(f"{words.whole(scheme['tensors'])} \u00d7 ") + style.text(name)
        for name, scheme in one.get("schemes", {}).items()
    ]
    how = style.text(one["codec"]) if "codec" in one else style.literal("")
    said = [*schemes, *(style.text(note) for note in one.get("notes", ())), *_rotated(one, style)]
    for part in said:
        how = how + style.sub(part)
    return [
        words.whole(one["bytes"]) + style.sub(span),
        f"{words.whole(one['model_bytes'])} + {words.whole(one['code_bytes'])}" + style.sub(times),
        words.whole(one.get("predicted_bytes")),
        _ratio(one.get("ratio"), style),
        how,
    ]


def _rotated(one: ArtifactAnswer, style: Style) -> list[str]:
    said = []
    if rows := one.get("hadamard"):
        said.append(f"{sum(row['kept'] for row in rows)} of {len(rows)} tensors rotated")
    if corrected := one.get("lqer"):
        said.append(f"low-rank correction of {plural(len(corrected), 'tensor')}")
    return [style.literal(text) for text in said]


def _ratio(number: float | None, style: Style) -> str:
    if number is None:
        return DASH
    return f"{number:.3f}" if 1.0 <= number <= 1.05 else style.strong(f"{number:.3f}")


def rotation_tables(view: View, style: Style) -> list[tuple[str, PageTable]]:
    """Show per stage and arm, folded away, what rotation did to every tensor, and what low-rank factors gave back."""
    tables = []
    for stage, by_arm in view.verdict["artifacts"].items():
        for name, one in by_arm.items():
            where = f"{stage}, {words.clean(name, words.NAME)}"
            if rotated := one.get("hadamard"):
                said = f"Hadamard rotation: {where}: {plural(len(rotated), 'tensor')}"
                tables.append((said, _rotation(rotated, style)))
            if corrected := one.get("lqer"):
                said = f"Low-rank correction: {where}: {plural(len(corrected), 'tensor')}"
                tables.append((said, _corrections(corrected, style)))
    return tables


def _rotation(rows: list[Rotated], style: Style) -> PageTable:
    bits = list(dict.fromkeys(b for row in rows for b in row["mse_before"]))
    cells = [
        [
            style.name(row["name"]),
            _pair(row["kurtosis_before"], row["kurtosis_after"], style),
            *(_pair(row["mse_before"].get(b), row["mse_after"].get(b), style) for b in bits),
            _pair(row["error_before"], row["error_after"], style),
            "yes" if row["kept"] else "no",
        ]
        for row in rows
    ]
    head = [("tensor", "l"), ("kurtosis", "r"), *((f"mse {b}", "r") for b in bits)]
    head += [("error that decides", "r"), ("rotated", "l")]
    note = "As trained, and below it rotated. Kurtosis of rows: 3 for normal numbers. mse: of rounding to nearest."
    return PageTable(tuple(head), cells, note)


def _corrections(rows: list[Corrected], style: Style) -> PageTable:
    cells = [
        [
            style.name(row["name"]),
            words.whole(row["rank"]),
            _pair(row["error_before"], row["error_after"], style),
            _pair(row.get("layer_before"), row.get("layer_after"), style),
        ]
        for row in rows
    ]
    head = (("tensor", "l"), ("rank", "r"), ("norm of the error", "r"), ("error of the layer's output", "r"))
    return PageTable(head, cells, "Without factors, and below it with them.")


def _pair(before: float | None, after: float | None, style: Style) -> str:
    return words.significant(before) + style.sub(words.significant(after) if after is not None else "")
