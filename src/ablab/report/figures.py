"""The report's figures from a View: each returns markup, or nothing where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ablab.records.answer import ArmAnswer
from ablab.report import svg
from ablab.report.view import View
from ablab.report.words import Html

STYLE = Html()


@dataclass(frozen=True)
class Drawing:
    """A group of panels with its caption; `legend` says whether arms are told apart in it."""

    title: str
    panels: tuple[Markup, ...]
    caption: str
    legend: bool = True
    warning: str = ""
    small: bool = False


def legend(view: View) -> list[tuple[Markup, str]]:
    """Draw a swatch and the name of every arm, in the table's order."""
    swatches = []
    for i, arm in enumerate(view.arms):
        body = svg.line(1, 7, 27, 7, f"line {svg.colour(i)}", svg.dash(i)) + svg.mark(i, 14, 7, 3.4)
        swatch = Markup(f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">{body}</svg>')
        swatches.append((swatch, STYLE.name(arm["name"])))
    return swatches


def focus(extents: Sequence[float], least: float) -> float:
    """Return the largest distance from zero worth a linear scale: an arm four times further out than the rest is off it.

    Arms that differ in nothing (the same weights, before they are packed) have no say in it.
    """
    extents = [extent for extent in extents if extent > 0]
    reach = max(least, min(extents, default=0.0))
    for extent in sorted(extents):
        if extent > 4 * reach:
            break
        reach = max(reach, extent)
    return reach or 1.0


def forest(view: View) -> Markup | None:
    """Draw one row per arm: its interval, its mean, a tick for each seed; the tie band and zero behind."""
    rows = [a for a in view.rivals if a["delta"] is not None]
    if not rows:
        return None
    width, top, step = 460.0, 30.0, 50.0
    height = top + step * len(rows) + 40
    margin = view.matters
    spans = [[v for v in (a["low"], a["high"], a["delta"]) if v is not None] for a in rows]
    reach = focus([max(map(abs, s)) for s in spans], 2 * margin)
    near = [v for s in spans if max(map(abs, s)) <= reach for v in s]
    near += [d for a in rows for _, d in view.differences(a) if abs(d) <= reach]
    low, high = min([0.0, -1.6 * margin, *near]), max([0.0, 1.6 * margin, *near])
    pad = (high - low) * 0.06 or 1.0
    x = svg.Axis(low - pad, high + pad, 10, width - 10)
    floor = height - 38
    out = [svg.text(10, 16, f"Difference, {view.unit} (left of zero is better)", "title")]
    ticks = x.ticks(6)
    for v in ticks:
        out.append(svg.line(x(v), floor, x(v), floor + 4, "axis"))
        out.append(svg.text(x(v), floor + 16, svg.tick_text(v, ticks), "tick", "middle"))
    out.append(svg.line(10, floor, width - 10, floor, "axis"))
    if margin:
        tie = f"shaded: a tie, within \u00b1{STYLE.fixed(margin, view.decimals)}"
        out.append(svg.text(width - 10, height - 5, tie, "note", "end"))
    for i, arm in enumerate(rows):
        out.extend(_forest_row(view, arm, x, top + step * i))
    said = "; ".join(f"{a['name']} {view.word(a)} {STYLE.delta(a['delta'], view.decimals)}" for a in rows)
    return svg.figure(width, height, f"Forest plot of the differences: {said}", "".join(out))


def _forest_row(view: View, arm: ArmAnswer, x: svg.Axis, y: float) -> list[str]:
    name, word, index = arm["name"], view.word(arm), view.index(arm["name"])
    delta, low, high = arm["delta"], arm["low"], arm["high"]
    shown = f"{STYLE.delta(delta, view.decimals)} {STYLE.interval(low, high, view.decimals)}".strip()
    chip = f'<tspan class="w-{word}">{word}</tspan> {shown}'
    out = [
        svg.text(10, y + 10, fitted(name, 26), "arm"),
        f'<text x="450" y="{svg.pt(y + 10)}" class="value" text-anchor="end">{chip}</text>',
    ]
    at = y + 29
    if view.matters:
        out.append(svg.rect(x(-view.matters), at - 12, x(view.matters) - x(-view.matters), 24, "matters"))
    out.append(svg.line(x(0), at - 12, x(0), at + 12, "zero"))
    if delta is not None and not x.low <= delta <= x.high:
        side = 1 if delta > x.high else -1
        edge = (x.end if side > 0 else x.start) - 16 * side
        note = svg.text(edge, at + 4, "off this scale", "note", "end" if side > 0 else "start")
        return [*out, _arrow(x, side, at, index), note]
    if low is not None and high is not None:
        out.append(svg.line(max(x(low), x.start), at, min(x(high), x.end), at, f"whisker {svg.colour(index)}"))
        for v, side in ((low, -1), (high, 1)):
            inside = x.low <= v <= x.high
            out.append(_cap(x(v), at, index) if inside else _arrow(x, side, at, index))
    for seed, d in view.differences(arm):
        tip = f"seed {seed}: {STYLE.delta(d, view.decimals)} {view.unit}"
        out.append(svg.rect(x(d) - 0.75, at - 9, 1.5, 18, "seed", title=tip))
    if delta is not None:
        out.append(
            svg.mark(index, x(delta), at, 5, f"{name}: {shown} {view.unit}", "" if low is not None else " hollow")
        )
    return out


def _cap(at_x: float, at: float, index: int) -> str:
    return svg.line(at_x, at - 6, at_x, at + 6, f"whisker {svg.colour(index)}")


def _arrow(x: svg.Axis, side: int, at: float, index: int) -> str:
    """Draw a tip at the edge: what is meant lies beyond the scale."""
    edge = x.end if side > 0 else x.start
    corners = [(edge, at), (edge - 11 * side, at - 6), (edge - 11 * side, at + 6)]
    return svg.path(corners, f"offscale {svg.colour(index)}", closed=True)


def fitted(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"
