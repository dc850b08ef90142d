"""The report's tables, built once for html, markdown and the terminal: the style decides how a cell is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ablab.report import words
from ablab.report.view import View, listing, mapping
from ablab.report.words import DASH, Style, num


@dataclass(frozen=True)
class Table:
    """Heads (plain text, `r` for numbers), rows of cells already written in one style, a plain note, row classes."""

    head: tuple[tuple[str, str], ...]
    rows: list[list[str]]
    note: str = ""
    kinds: list[str] = field(default_factory=list)


def change_text(change: Any, style: Style) -> str:
    """`model.global.position: nope -> grape_a (slopes=geometric)`; settings that both sides have alike are left out."""
    change = mapping(change)
    before, after = change.get("before"), change.get("after")
    if isinstance(before, dict) and isinstance(after, dict) and "name" in before and "name" in after:
        moved = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        before = {k: v for k, v in before.items() if k == "name" or k in moved}
        after = {k: v for k, v in after.items() if k == "name" or k in moved}
    arrow = style.literal(" &rarr; " if isinstance(style, words.Html) else " -> ")
    path = style.text(change.get("path", "?"))
    return (
        style.literal(f"{path}: ") + style.text(words.value_text(before)) + arrow + style.text(words.value_text(after))
    )


def price_text(price: Any) -> str:
    """`26 runs, 521M tokens, 6.8 h`; an unknown shape is written as it is."""
    if isinstance(price, dict):
        runs, tokens, time = num(price.get("runs")), num(price.get("tokens")), num(price.get("seconds"))
        stages = num(price.get("evaluations"))
        parts = [
            words.plural(int(stages), "evaluation")
            if not runs and stages
            else words.plural(int(runs), "run")
            if runs is not None
            else "",
            f"{words.count(tokens)} tokens" if tokens else "",
            words.seconds(time) if time else "",
        ]
        return ", ".join(p for p in parts if p)
    if num(price) is not None:
        return words.plural(int(num(price) or 0), "run")
    return words.clean(price) if price else ""


def cost_of_more(arm: dict[str, Any]) -> str:
    """The price of the seeds that are still wanted; empty where none are."""
    return price_text(arm.get("price")) if more_text(arm) not in (DASH, "0") else ""


def more_text(arm: dict[str, Any]) -> str:
    """`+13 fresh`, `0`, or a dash for the baseline and for words that seeds do not mend."""
    more = num(arm.get("more_seeds"))
    if more is None or arm.get("word") in ("baseline", "invalid", "unstable"):
        return DASH
    return "0" if more == 0 else f"+{more:.0f}" + (" fresh" if arm.get("fresh") else "")


def expect_text(view: View, arm: dict[str, Any], style: Style) -> str:
    """What was expected at the deciding stage, beside whether the interval holds it."""
    expect = arm.get("expect")
    value = num(mapping(expect).get(view.stage)) if isinstance(expect, dict) else num(expect)
    if value is None:
        return ""
    said = f"expected {style.delta(value, view.decimals)}"
    low, high, delta = num(arm.get("low")), num(arm.get("high")), num(arm.get("delta"))
    if low is not None and high is not None:
        return said + (": inside the interval" if low <= value <= high else ": outside the interval")
    return said + (f", so far {style.delta(delta, view.decimals)}" if delta is not None else "")


def verdict_table(view: View, style: Style) -> Table:
    """One row per arm: what changed, the word, the difference with its interval, seeds, p, price and cost."""
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
        cost, word = mapping(arm.get("cost")), view.word(arm)
        name = style.strong(style.name(arm["name"]))
        for change in listing(arm.get("changes")):
            name = name + style.sub(change_text(change, style), "change")
        if arm.get("together"):
            name = name + style.sub(
                style.literal("together, neither credited alone: ") + style.text(arm["together"]), "why"
            )
        if arm.get("because"):
            name = name + style.sub(style.text(arm["because"]), "why")
        name = name + style.sub(style.literal(expect_text(view, arm, style)))
        if over := words.clean(arm.get("over_limits") or ""):
            name = name + style.sub(style.literal("cannot win: ") + style.text(over), "over")
        if arm.get("on") and arm["on"] != view.baseline:
            name = name + style.sub(style.literal("held against ") + style.name(arm["on"]))
        seeds = num(arm.get("seeds"))
        look = f"look {arm['look']} of {len(view.looks)}" if num(arm.get("look")) and view.looks else ""
        rows.append(
            [
                name,
                style.chip(word) + style.sub(tags(arm, style)),
                difference_text(view, arm, style),
                (words.whole(seeds) + style.sub(look)) if seeds is not None else DASH,
                words.p_value(arm.get("p")),
                more_text(arm) + style.sub(style.text(cost_of_more(arm))),
                words.size(cost.get("bytes")),
                words.count(cost.get("parameters")),
                words.whole(cost.get("tokens_per_second")),
            ]
        )
    return Table(head, rows, kinds=[f"w-{view.word(a)}" for a in view.arms])


FREE = (
    "costs nothing beside its reference: no more bytes, and no longer in training or in packing and evaluating the "
    "deciding stage (within 5%, at the whole 95% interval of three pairs of runs or more)"
)


def weights_text(arm: dict[str, Any]) -> str:
    """What the difference of an arm that trains nothing speaks of."""
    if not arm.get("shares_weights"):
        return ""
    return "for these weights" if num(arm.get("seeds")) == 1 else "same weights"


def is_free(arm: dict[str, Any]) -> bool:
    return mapping(arm.get("cost_against")).get("free") is True


def tags(arm: dict[str, Any], style: Style) -> str:
    """What must be read beside the word: over a limit, of shared weights only, free."""
    said = []
    record = mapping(arm.get("record"))
    if record.get("kind") == "exploratory":
        said.append(style.tag("exploratory", words.clean(record.get("because") or "")))
    if record.get("kind") == "added":
        tip = "none of its own results existed when it was declared; it has an error probability of its own"
        said.append(style.tag(f"added after {words.plural(int(num(record.get('after')) or 0), 'result')}", tip))
    if arm.get("over_limits"):
        said.append(style.tag("over the limit", words.clean(arm["over_limits"]), "over"))
    if kind := weights_text(arm):
        said.append(style.tag(kind, "it differs from its reference only after training"))
    if is_free(arm) and arm.get("word") not in ("worse", "unstable", "invalid"):
        said.append(style.tag("free", FREE))
    return style.literal(" ".join(said)) if said else ""


def difference_text(view: View, arm: dict[str, Any], style: Style) -> str:
    """The difference with its interval below; the level for the baseline; a dash where nothing is known."""
    if arm["name"] == view.baseline:
        level = view.level(arm, view.stage)
        return style.literal(f"level {style.fixed(level, view.decimals)}") if level is not None else DASH
    delta = num(arm.get("delta"))
    if delta is None:
        return DASH
    shown = style.strong(style.delta(delta, view.decimals))
    between = style.interval(arm.get("low"), arm.get("high"), view.decimals) or "no interval"
    return shown + style.sub(style.literal(between))


def other_unit_table(view: View, style: Style) -> Table | None:
    """The same differences in the other unit, where one tokenizer makes the factor a constant."""
    factor = view.factor
    rows = [a for a in view.rivals if num(a.get("delta")) is not None]
    if factor is None or not rows:
        return None
    digits = min(6, view.decimals + (1 if factor < 1 else 0))

    def times(value: Any) -> float | None:
        number = num(value)
        return None if number is None else number * factor

    body = [
        [
            style.name(a["name"]),
            style.delta(times(a.get("delta")), digits),
            style.interval(times(a.get("low")), times(a.get("high")), digits) or DASH,
        ]
        for a in rows
    ]
    note = f"1 {view.unit} is {words.significant(factor)} {view.other_unit} on this validation set"
    if view.matters is not None:
        tie, same = style.fixed(view.matters, view.decimals), style.fixed(times(view.matters), digits)
        note += f"; the margin of {tie} is {same} {view.other_unit}"
    return Table((("arm", "l"), (f"difference, {view.other_unit}", "r"), ("interval", "r")), body, note + ".")


def evidence_table(view: View, style: Style) -> Table | None:
    """What stands behind each word: spread, power, seeds on one side, and what common random numbers bought."""
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
        if num(arm.get("delta")) is None:
            continue
        n, lower = num(arm.get("seeds")), num(arm.get("lower"))
        index = arm.get("trajectory")
        index = mapping(index) if isinstance(index, dict) else {"delta": index}
        saved, r, chance = num(arm.get("seeds_saved")), num(arm.get("correlation")), num(arm.get("chance"))
        rows.append(
            [
                style.name(arm["name"]),
                words.whole(n),
                f"{lower:.0f} of {n:.0f}" if lower is not None and n else DASH,
                style.fixed(arm.get("s"), d + 1),
                style.fixed(arm.get("mde"), d),
                style.fixed(r, 2),
                _times(saved),
                style.delta(index.get("delta"), d) + style.sub(style.interval(index.get("low"), index.get("high"), d)),
                _new_text(arm, style, d),
                f"{100 * chance:.0f}%" if chance is not None else DASH,
                words.whole(arm.get("m")),
            ]
        )
    note = (
        "MDE: the true difference seen four times in five with these pairs. Runs saved: how many times more runs unpaired "
        "arms would need for the same interval. Late half: mean difference over evaluations after half the budget. "
        "For new text: the interval with the sampling of documents added. m: arms still sharing the error probability."
    )
    return Table(head, rows, note) if rows else None


def _new_text(arm: dict[str, Any], style: Style, decimals: int) -> str:
    """The interval for new text over what it takes as independent, or that its documents are too few."""
    interval = style.interval(arm.get("low_text"), arm.get("high_text"), decimals)
    return interval + style.sub(style.text(words.clean(arm.get("text_said") or ""))) if interval else DASH


def _times(factor: float | None) -> str:
    if factor is None:
        return DASH
    return f"{factor:.2g}\u00d7" if factor < 100 else "> 100\u00d7"


def text_scored(view: View) -> str:
    """On which text the points of a trajectory are, where it is not all of it; the word is read off stages, which score all."""
    part = mapping(mapping(view.verdict.get("validated")).get(view.baseline))
    if not part or part.get("whole"):
        return ""
    return (
        f" Every point is of the same {words.plural(int(num(part.get('documents')) or 0), 'excerpt')} of held-out documents, "
        f"{words.count(part.get('tokens'))} tokens in all; the stages score all of them."
    )
