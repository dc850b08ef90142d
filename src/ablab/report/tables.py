"""The report's tables, built once for html, markdown and the terminal: the style decides how a cell is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from ablab.core.plain import plural
from ablab.records.answer import ArmAnswer, Changed, Price
from ablab.report import words
from ablab.report.view import View
from ablab.report.words import DASH, Style


@dataclass(frozen=True)
class PageTable:
    """Heads (plain text, `r` for numbers), rows of cells already written in one style, a plain note, row classes."""

    head: tuple[tuple[str, str], ...]
    rows: list[list[str]]
    note: str = ""
    kinds: list[str] = field(default_factory=list)


def change_text(change: Changed, style: Style) -> str:
    """Write `model.global.position: nope -> grape_a (slopes=geometric)`; settings that both sides have alike are left out."""
    before, after = change["before"], change["after"]
    if isinstance(before, dict) and isinstance(after, dict) and "name" in before and "name" in after:
        moved = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        before = {k: v for k, v in before.items() if k == "name" or k in moved}
        after = {k: v for k, v in after.items() if k == "name" or k in moved}
    arrow = style.literal(" &rarr; " if isinstance(style, words.Html) else " -> ")
    path = style.text(change["path"])
    return (
        style.literal(f"{path}: ") + style.text(words.value_text(before)) + arrow + style.text(words.value_text(after))
    )


def price_text(price: Price | None) -> str:
    """Write `26 runs, 521M tokens, 6.8 h`; empty where there is none."""
    if price is None:
        return ""
    runs, stages = price["runs"], price["evaluations"]
    parts = [
        plural(stages, "evaluation") if not runs and stages else plural(runs, "run"),
        f"{words.count(price['tokens'])} tokens" if price["tokens"] else "",
        words.seconds(price["seconds"]) if price["seconds"] else "",
    ]
    return ", ".join(p for p in parts if p)


def cost_of_more(arm: ArmAnswer) -> str:
    """Write the price of the seeds that are still wanted; empty where none are."""
    return price_text(arm["price"]) if more_text(arm) not in (DASH, "0") else ""


def more_text(arm: ArmAnswer) -> str:
    """Write `+13 fresh`, `0`, or a dash for the baseline and for words that seeds do not mend."""
    more = arm["more_seeds"]
    if more is None or arm["word"] in ("baseline", "invalid", "unstable"):
        return DASH
    return "0" if more == 0 else f"+{more}" + (" fresh" if arm["fresh"] else "")


def expect_text(view: View, arm: ArmAnswer, style: Style) -> str:
    """Write what was expected at the deciding stage, beside whether the interval holds it."""
    value = arm["expect"].get(view.stage)
    if value is None:
        return ""
    said = f"expected {style.delta(value, view.decimals)}"
    low, high, delta = arm["low"], arm["high"], arm["delta"]
    if low is not None and high is not None:
        return said + (": inside the interval" if low <= value <= high else ": outside the interval")
    return said + (f", so far {style.delta(delta, view.decimals)}" if delta is not None else "")


def verdict_table(view: View, style: Style) -> PageTable:
    """Show one row per arm: what changed, the word, the difference with its interval, seeds, p, price and cost."""
    head = (
        ("arm, and what changed", "l"),
        ("verdict", "l"),
        (f"difference, {view.unit}", "r"),
        ("seeds", "r"),
        ("p", "r"),
        ("more seeds", "r"),
        ("bytes", "r"),
        ("parameters", "r"),
        ("tokens/s", "r"),
    )
    rows = []
    for arm in view.arms:
        cost, word = arm["cost"], view.word(arm)
        name = style.strong(style.name(arm["name"]))
        for change in arm["changes"]:
            name = name + style.sub(change_text(change, style), "change")
        if arm["together"]:
            name = name + style.sub(
                style.literal("together, neither credited alone: ") + style.text(arm["together"]), "why"
            )
        if arm["because"]:
            name = name + style.sub(style.text(arm["because"]), "why")
        name = name + style.sub(style.literal(expect_text(view, arm, style)))
        if arm["over_limits"]:
            name = name + style.sub(style.literal("cannot win: ") + style.text(arm["over_limits"]), "over")
        if arm["on"] and arm["on"] != view.baseline:
            name = name + style.sub(style.literal("compared with ") + style.name(arm["on"]))
        look = f"look {arm['look']} of {len(view.looks)}" if arm["look"] and view.looks else ""
        rows.append(
            [
                name,
                style.chip(word) + style.sub(tags(arm, style)),
                difference_text(view, arm, style),
                words.whole(arm["seeds"]) + style.sub(look),
                words.p_value(arm["p"]),
                more_text(arm) + style.sub(style.text(cost_of_more(arm))),
                words.size(cost["bytes"]),
                words.count(cost["parameters"]),
                words.whole(cost["tokens_per_second"]),
            ]
        )
    kinds = [f"w-{view.word(a)}" for a in view.arms]
    if view.of_program:  # of which nobody here knows bytes, parameters or tokens
        return PageTable(head[:-3], [row[:-3] for row in rows], kinds=kinds)
    return PageTable(head, rows, kinds=kinds)


FREE = (
    "costs nothing beside its reference: no more bytes, and no longer in training or in packing and evaluating the "
    "deciding stage (within 5%, at the whole 95% interval of three pairs of runs or more)"
)


def weights_text(arm: ArmAnswer) -> str:
    """Say what the difference of an arm that trains nothing speaks of."""
    if not arm["shares_weights"]:
        return ""
    return "for these weights" if arm["seeds"] == 1 else "same weights"


def is_free(arm: ArmAnswer) -> bool:
    beside = arm["cost_against"]
    return beside is not None and beside["free"] is True


def tags(arm: ArmAnswer, style: Style) -> str:
    """Write what must be read beside the word: over a limit, of shared weights only, free."""
    said, record = list[str](), arm.get("record")
    if record and record["kind"] == "exploratory":
        said.append(style.tag("exploratory", record["because"]))
    if record and record["kind"] == "added":
        tip = "none of its own results existed when it was declared; it has an error probability of its own"
        said.append(style.tag(f"added after {plural(record['after'], 'result')}", tip))
    if arm["over_limits"]:
        said.append(style.tag("over the limit", arm["over_limits"], "over"))
    if kind := weights_text(arm):
        said.append(style.tag(kind, "it differs from its reference only after training"))
    if is_free(arm) and arm["word"] not in ("worse", "unstable", "invalid"):
        said.append(style.tag("free", FREE))
    return style.literal(" ".join(said)) if said else ""


def difference_text(view: View, arm: ArmAnswer, style: Style) -> str:
    """Write the difference with its interval below; the level for the baseline; a dash where nothing is known."""
    if arm["name"] == view.baseline:
        level = view.level(arm, view.stage)
        return style.literal(f"level {style.fixed(level, view.decimals)}") if level is not None else DASH
    if arm["delta"] is None:
        return DASH
    shown = style.strong(style.delta(arm["delta"], view.decimals))
    between = style.interval(arm["low"], arm["high"], view.decimals) or "no interval"
    return shown + style.sub(style.literal(between))


def other_unit_table(view: View, style: Style) -> PageTable | None:
    """Show the same differences in the other unit, where one tokenizer makes the factor a constant."""
    factor = view.factor
    rows = [a for a in view.rivals if a["delta"] is not None]
    if factor is None or not rows:
        return None
    digits = min(6, view.decimals + (1 if factor < 1 else 0))

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    body = [
        [
            style.name(a["name"]),
            style.delta(times(a["delta"]), digits),
            style.interval(times(a["low"]), times(a["high"]), digits) or DASH,
        ]
        for a in rows
    ]
    note = f"1 {view.unit} is {words.significant(factor)} {view.other_unit} on this validation set"
    tie, same = style.fixed(view.matters, view.decimals), style.fixed(times(view.matters), digits)
    note += f"; the margin of {tie} is {same} {view.other_unit}"
    return PageTable((("arm", "l"), (f"difference, {view.other_unit}", "r"), ("interval", "r")), body, note + ".")


def evidence_table(view: View, style: Style) -> PageTable | None:
    """Show what stands behind each word: spread, power, seeds on one side, and what common random numbers bought."""
    head = (
        ("arm", "l"),
        ("pairs", "r"),
        ("below 0", "r"),
        ("sd of difference", "r"),
        ("MDE", "r"),
        ("correlation r", "r"),
        ("runs saved", "r"),
        ("late half", "r"),
        ("for new text", "r"),
        ("chance to settle", "r"),
        ("m", "r"),
    )
    d, rows = view.decimals, []
    for arm in view.rivals:
        if arm["delta"] is None:
            continue
        n, lower, late, chance = arm["seeds"], arm["lower"], arm["trajectory"], arm["chance"]
        rows.append(
            [
                style.name(arm["name"]),
                words.whole(n),
                f"{lower} of {n}" if lower is not None and n else DASH,
                style.fixed(arm["s"], d + 1),
                style.fixed(arm["mde"], d),
                style.fixed(arm["correlation"], 2),
                _times(arm["seeds_saved"]),
                style.delta(late["delta"], d) + style.sub(style.interval(late["low"], late["high"], d))
                if late
                else DASH,
                _new_text(arm, style, d),
                f"{100 * chance:.0f}%" if chance is not None else DASH,
                words.whole(arm["m"]),
            ]
        )
    note = (
        "MDE: the true difference seen four times in five with these pairs. Runs saved: how many times more runs unpaired "
        "arms would need for the same interval. Late half: mean difference over evaluations after half the budget. "
        "For new text: the interval with the sampling of documents added. m: arms still sharing the error probability."
    )
    return PageTable(head, rows, note) if rows else None


def _new_text(arm: ArmAnswer, style: Style, decimals: int) -> str:
    """Write the interval for new text over what it takes as independent, or that its documents are too few."""
    interval = style.interval(arm["low_text"], arm["high_text"], decimals)
    return interval + style.sub(style.text(arm["text_said"])) if interval else DASH


def _times(factor: float | None) -> str:
    if factor is None:
        return DASH
    return f"{factor:.2g}\u00d7" if factor < 100 else "> 100\u00d7"


def text_scored(view: View) -> str:
    """Say on which text a trajectory's points are, where it is not all of it; the word is read off stages, which score all."""
    part = view.verdict["validated"].get(view.baseline)
    if not part or part["whole"]:
        return ""
    return (
        f" Every point is of the same {plural(part['documents'], 'excerpt')} of held-out documents, "
        f"{words.count(part['tokens'])} tokens in all; the stages score all of them."
    )
