"""Factorials in the report: a sentence, a picture of every pair of factors, what levels do alone and together, the cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ablab.core.plain import plural
from ablab.records.answer import Crossed, Effect
from ablab.report import svg, words
from ablab.report.figures import Drawing, fitted
from ablab.report.tables import PageTable, price_text
from ablab.report.view import View, mean_of
from ablab.report.words import DASH, Html, Style

APART = 14.0  # units of the drawing between two labels


@dataclass(frozen=True)
class ShownFactorial:
    """One factorial as the pages show it."""

    name: str
    sentence: str
    drawing: Drawing | None
    effects: PageTable
    cells: PageTable


def shown(view: View, style: Style) -> list[ShownFactorial]:
    """Show every factorial of the verdict, its name in this style."""
    return [
        ShownFactorial(
            style.name(one["name"]),
            one["sentence"],
            drawing(view, one) if isinstance(style, Html) else None,
            effect_table(view, one, style),
            cell_table(view, one, style),
        )
        for one in factorials(view)
    ]


def factorials(view: View) -> list[Crossed]:
    """List those that the verdict holds."""
    return view.verdict.get("factorials", [])


def effect_table(view: View, one: Crossed, style: Style) -> PageTable:
    """Show what each level does alone, and what two or three do beyond that: word, interval, pairs, price."""
    head = (("effect", "l"), ("word", "l"), ("difference", "r"), ("seeds", "r"), ("p", "r"), ("more seeds", "r"))
    rows = []
    for effect in one["effects"]:
        between = style.interval(effect["low"], effect["high"], view.decimals)
        rows.append(
            [
                style.name(effect["label"]) + style.sub(style.text(kind(effect))),
                word_text(effect, style) + style.sub(style.text(said(effect))),
                style.strong(style.delta(effect["delta"], view.decimals)) + style.sub(between),
                words.whole(effect["seeds"]) if effect["seeds"] else DASH,
                words.p_value(effect["p"]) if effect["order"] == 2 else DASH,
                more_text(effect) + style.sub(style.text(price_text(effect["price"]) if effect["more_seeds"] else "")),
            ]
        )
    note = (
        f"Differences in {view.unit}, lower is better; of an interaction it is what both do beyond the sum of what each "
        "does, and above zero they interfere. Interactions of two have a place in the family as arms have; main effects "
        "average over the other factors and have none."
    )
    return PageTable(
        head, rows, note, kinds=[f"w-{effect['word']}" if effect["word"] else "" for effect in one["effects"]]
    )


def kind(effect: Effect) -> str:
    """Say what an effect is, and how much of the sum of two is there together."""
    if effect["order"] != 2:
        return "alone, the others averaged" if effect["order"] == 1 else "beyond their pairs"
    share, alone = effect["share"], effect["alone"]
    counts = share is not None and alone is not None and alone[0] * alone[1] > 0
    return f"together; {share:.0%} of the sum" if counts else "together"


def said(effect: Effect) -> str:
    """Say an interaction's word in other words; of what has no word, why."""
    return "; ".join([*([effect["reading"]] if effect["reading"] else []), *effect["notes"]])


def word_text(effect: Effect, style: Style) -> str:
    """Write the word, or a dash."""
    return style.chip(effect["word"]) if effect["word"] else DASH


def briefly(effect: Effect) -> str:
    """Show the same for a terminal: without what the page says besides."""
    return effect["reading"] or (
        effect["notes"][0] if effect["notes"] and effect["word"] in (None, "inconclusive") else ""
    )


def more_text(effect: Effect) -> str:
    """Write as of an arm: `+13 fresh`, `0`; a dash for what is asked no seeds for."""
    more = effect["more_seeds"]
    if more is None or effect["word"] is None:
        return DASH
    return "0" if more == 0 else f"+{more}" + (" fresh" if effect["fresh"] else "")


def cell_table(view: View, one: Crossed, style: Style) -> PageTable:
    """Show every cell: its levels, its metric over the seeds at which all cells are done, and its word as an arm."""
    arms = {arm["name"]: arm for arm in view.arms}
    head = (
        *((factor["name"], "l") for factor in one["factors"]),
        ("level", "r"),
        ("to the baseline", "r"),
        ("word", "l"),
    )
    rows = []
    for cell in one["cells"]:
        levels = [factor["levels"][at] for factor, at in zip(one["factors"], cell["at"], strict=True)]
        arm = arms.get(cell["arm"])
        apart = "" if arm is None else style.interval(arm["low"], arm["high"], view.decimals)
        delta = None if arm is None else arm["delta"]
        rows.append(
            [
                *(style.name(level) for level in levels),
                style.fixed(cell["mean"], view.decimals),
                (style.delta(delta, view.decimals) if delta is not None else DASH) + style.sub(apart),
                DASH if arm is None else style.chip(view.word(arm)),
            ]
        )
    seeds = plural(len(one["seeds"]), "seed")
    note = f"Levels in {view.unit} over {seeds} at which every cell that can be compared is done."
    return PageTable(head, rows, note)


class _Places(svg.Axis):
    """Levels side by side: ticks are their numbers."""

    count: int

    def ticks(self, wanted: int = 5) -> list[float]:
        return [float(i) for i in range(int(self.high) + 1)]


class _LevelPanel(svg.Panel):
    """A panel whose axis of x names levels."""

    names: list[str]

    def x_text(self, value: float) -> str:
        """Write a level's name below its tick."""
        return fitted(self.names[int(value)], 16)


def drawing(view: View, one: Crossed) -> Drawing | None:
    """Draw a panel for every pair of factors: a line per level of the second over the levels of the first."""
    panels = [
        panel
        for (f, g) in itertools.combinations(range(len(one["factors"])), 2)
        if (panel := _panel(view, one, f, g)) is not None
    ]
    if not panels:
        return None
    others = ", levels of the other factors averaged" if len(one["factors"]) > 2 else ""
    caption = (
        f"Mean difference to the baseline in {view.unit}, lower is better, over {plural(len(one['seeds']), 'seed')}"
        f"{others}. Open and dashed: where both would stand if they added up. Bar: the interval of the interaction around "
        "where both do stand; it is shown where the bar leaves the open mark out. Parallel lines: no interaction."
    )
    return Drawing(one["name"], tuple(panels), caption, legend=False)


def _panel(view: View, one: Crossed, f: int, g: int) -> Markup | None:
    first, second = one["factors"][f], one["factors"][g]
    means = {(i, k): _mean(one, f, i, g, k) for i in range(len(first["levels"])) for k in range(len(second["levels"]))}
    base = means[0, 0]
    if base is None:
        return None
    at = {where: y - base for where, y in means.items() if y is not None}
    beyond = {_levels(effect, f, g): effect for effect in one["effects"] if _levels(effect, f, g)}
    sums = {(i, k): at[i, 0] + at[0, k] for i, k in means if i and k and (i, 0) in at and (0, k) in at}
    bars = {
        where: (sums[where] + low, sums[where] + high)
        for where, effect in beyond.items()
        if where in sums and (low := effect["low"]) is not None and (high := effect["high"]) is not None
    }
    ys = [*at.values(), *sums.values(), *(y for bar in bars.values() for y in bar), 0.0]
    reach = len(first["levels"]) - 1
    panel = _LevelPanel(
        f"{one['name']}-{f}-{g}", f"{fitted(first['name'], 24)} by {fitted(second['name'], 24)}", (-0.15, reach + 0.75),
        (min(ys), max(ys)), x_title=first["name"], y_title=view.unit,
    )  # fmt: skip
    panel.x = _Places(-0.15, reach + 0.75, panel.x.start, panel.x.end)
    panel.names = first["levels"]
    panel.zero()
    ends = []
    for k in range(len(second["levels"])):
        points = [(float(i), at[i, k]) for i in range(reach + 1) if (i, k) in at]
        if not points:
            continue
        name = f"{second['name']}={second['levels'][k]}"
        panel.curve(k, points, name, marks=True)
        ends.append((k, name, points[-1]))
        panel.draw(*_added(panel, k, at, sums, bars))
    panel.draw(*_labels(panel, ends))
    told = "; ".join(f"{e['label']}: {said(e) or e['word'] or 'no word'}" for e in beyond.values())
    return panel.svg(f"Interaction plot of {first['name']} and {second['name']}. {told}")


def _added(
    panel: svg.Panel,
    k: int,
    at: dict[tuple[int, int], float],
    sums: dict[tuple[int, int], float],
    bars: dict[tuple[int, int], tuple[float, float]],
) -> Iterator[str]:
    """Return where the level k would be if it added up, and the interval of how far it does not."""
    for (i, j), y in sums.items():
        if j != k:
            continue
        x, shade = panel.x(i), svg.colour(k)
        yield svg.line(panel.x(0), panel.y(at[0, k]), x, panel.y(y), f"bar {shade}", ' stroke-dasharray="2 3"')
        if (i, j) in bars:
            low, high = bars[i, j]
            yield svg.line(x + 9, panel.y(low), x + 9, panel.y(high), f"whisker {shade}")
            yield from (svg.line(x + 5, panel.y(end), x + 13, panel.y(end), f"whisker {shade}") for end in (low, high))
        yield f'<circle cx="{svg.pt(x)}" cy="{svg.pt(panel.y(y))}" r="4.4" class="hollow {shade}"/>'


def _labels(panel: svg.Panel, ends: Sequence[tuple[int, str, tuple[float, float]]]) -> list[str]:
    """Place the lines' names beside their ends, pushed apart where they would touch."""
    placed: list[str] = []
    free = panel.top + 4
    for k, name, (x, y) in sorted(ends, key=lambda end: panel.y(end[2][1])):
        free = max(panel.y(y) + 4, free)
        placed.append(svg.text(panel.x(x) + 18, free, fitted(name, 20), f"level {svg.colour(k)}"))
        free += APART
    return placed


def _levels(effect: Effect, f: int, g: int) -> tuple[int, int] | None:
    """Return the levels of an interaction of these two factors; None of another effect."""
    of = {factor: level for factor, level in effect["of"]}
    return (of[f], of[g]) if effect["order"] == 2 and set(of) == {f, g} else None


def _mean(one: Crossed, f: int, i: int, g: int, k: int) -> float | None:
    """Average the cells with these levels of two factors; None where one of them is missing."""
    values = [cell["mean"] for cell in one["cells"] if cell["at"][f] == i and cell["at"][g] == k]
    return None if None in values else mean_of(values)
