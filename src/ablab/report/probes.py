"""Figures of the probes: the induction curve and the needle maps."""

from __future__ import annotations

from markupsafe import Markup

from ablab.records.answer import Apart
from ablab.records.result import Curve, Passkey
from ablab.report import svg
from ablab.report.figures import STYLE, Drawing, fitted
from ablab.report.view import View, grid_of
from ablab.report.words import count, significant


def induction(view: View) -> Drawing | None:
    """Draw how much cheaper a repeated random segment is, by lag."""
    curves = {}
    for name, probe in view.needles().items():
        told = zip(part["lags"], part["values"]) if (part := probe.get("induction")) else ()
        if points := [(x, y) for x, y in told if y is not None and x > 0]:
            curves[name] = sorted(points)
    if not curves:
        return None
    xs = [x for c in curves.values() for x, _ in c]
    ys = [0.0, 0.1, *(y for c in curves.values() for _, y in c)]
    panel = svg.Panel(
        "induction",
        "Induction: gain on a repeated segment",
        (min(xs), max(xs)),
        (min(ys), max(ys)),
        x_log=True,
        x_title="lag, tokens (log)",
        y_title="nats/token saved",
    )
    panel.zero()
    reach = {v for p in view.needles().values() if "induction" in p and (v := p["induction"].get("local_reach"))}
    if len(reach) == 1 and panel.x.low < (lag := reach.pop()) < panel.x.high:
        panel.upright(lag, "local layers reach to here")
    for name, points in curves.items():
        panel.curve(view.index(name), points, name, marks=True)
    said = ", ".join(f"{n} {significant(max(y for _, y in c))} at best" for n, c in curves.items())
    caption = "Random tokens, repeated after a lag: first reading minus second. 0 means no copying at all."
    return Drawing("Induction", (panel.svg(f"Induction gain by lag: {said}"),), caption)


def needle_maps(view: View) -> Drawing | None:
    """Draw the passkey score by length and depth: one map per arm, then each arm's difference to its reference."""
    read = {name: _grid(probe.get("passkey")) for name, probe in view.needles().items()}
    grids = {name: grid for name, grid in read.items() if grid is not None}
    if not grids:
        return None
    most = max([1.0, *(abs(v) for _, _, g in grids.values() for row in g for v in row if v is not None)])
    panels = [_map(fitted(n, 26), *g, most, f"Passkey score of {n} by length and depth") for n, g in grids.items()]
    for arm in view.rivals:
        probe = view.needles().get(arm["name"])
        gap = None if probe is None else _grid(probe.get("difference"))
        if gap is not None:
            title = f"{fitted(arm['name'], 18)} \u2212 {fitted(view.reference(arm), 14)}"
            panels.append(_map(title, *gap, most, f"Difference of passkey scores, {title}"))
    caption = (
        f"Log-odds of the true key against the distractors, nats, haystack prior removed; 0 is chance. Colour runs to "
        f"\u00b1{significant(most)} in every map, blue above zero, orange below. Maps are means over the seeds that all arms "
        "share, differences over each arm's own pairs."
    )
    return Drawing("Needle", tuple(panels), caption, legend=False, small=True)


def _grid(part: Passkey | Apart | None) -> tuple[list[float], list[float], list[list[float | None]]] | None:
    """Return lengths, depths and the scores of a passkey map; None where there is none."""
    if part is None or not part["lengths"] or not part["depths"]:
        return None
    lengths, depths = part["lengths"], part["depths"]
    return lengths, depths, grid_of(part["score"], len(lengths), len(depths))


def _map(
    title: str, lengths: list[float], depths: list[float], grid: list[list[float | None]], most: float, label: str
) -> Markup:
    left, top, width, height = 44.0, 24.0, 250.0, 172.0
    w, h = (width - left - 6) / len(depths), (height - top - 34) / len(lengths)
    out = [svg.text(left, 14, title, "title")]
    for i, length in enumerate(lengths):
        y = top + i * h
        out.append(svg.text(left - 5, y + h / 2 + 4, count(length), "tick", "end"))
        for j, depth in enumerate(depths):
            value = grid[i][j]
            tip = f"length {count(length)}, depth {significant(depth)}: {significant(value)}"
            shade = "none" if value is None else "up" if value >= 0 else "down"
            strength = f' fill-opacity="{0.8 * min(1.0, abs(value or 0.0) / most):.2f}"' if value is not None else ""
            out.append(svg.rect(left + j * w, y, w - 1, h - 1, f"cell {shade}", strength, tip))
            if w >= 26 and value is not None:
                out.append(svg.text(left + j * w + w / 2, y + h / 2 + 4, STYLE.delta(value, 2), "cellvalue", "middle"))
    for j, depth in enumerate(depths):
        if len(depths) <= 8 or j % 2 == 0:
            out.append(svg.text(left + j * w + w / 2, height - 20, significant(depth), "tick", "middle"))
    out.append(svg.text(left + (width - left) / 2, height - 4, "depth of the needle", "label", "middle"))
    out.append(svg.text(11, top + (height - top - 34) / 2, "length", "label", "middle", -90))
    return svg.figure(width, height, label, "".join(out))


def recall(view: View) -> Drawing | None:
    """Draw what a long context is good for in the text itself: recall of what came before, and the gain by position."""
    short = {v for p in view.needles().values() if "gain" in p and (v := p["gain"].get("short"))}
    than = f" beside {count(short.pop())} tokens of it" if len(short) == 1 else ""
    natural = {
        name: (part.get("distances", []), part) for name, p in view.needles().items() if (part := p.get("natural"))
    }
    gain = {name: (part.get("positions", []), part) for name, p in view.needles().items() if (part := p.get("gain"))}
    panels = (
        _measured(view, natural, "natural", "Natural recall", "distance to the earlier occurrence, tokens (log)"),
        _measured(view, gain, "gain", "Context gain", "position in the document, tokens (log)"),
    )
    drawn = tuple(panel for panel in panels if panel is not None)
    caption = (
        "Natural recall: nats saved on text that has come before in its document, by the distance. Context gain: nats per "
        f"token saved by the whole context{than}, by position. Bars are 2 standard errors."
    )
    return Drawing("Recall and context", drawn, caption) if drawn else None


def _measured(
    view: View, parts: dict[str, tuple[list[float], Curve]], key: str, title: str, x_title: str
) -> Markup | None:
    """Draw curves of values with their standard errors over one axis: arm -> (the edges of its bins, the values in them)."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for name, (edges, part) in parts.items():
        middles = [(max(a, 0.5) * b) ** 0.5 for a, b in zip(edges, edges[1:])]  # on a logarithmic axis
        every = zip(middles, part["values"], part["se"])
        if points := [(x, y, e or 0.0) for x, y, e in every if y is not None and x > 0]:
            curves[name] = sorted(points)
    if not curves:
        return None
    at = [x for c in curves.values() for x, _, _ in c]
    ends = [0.0, 0.02, *(y + side * 2 * e for c in curves.values() for _, y, e in c for side in (-1, 1))]
    span = (min(at), max(at)), (min(ends), max(ends))
    panel = svg.Panel(key, title, *span, x_log=True, x_title=x_title, y_title="nats/token saved")
    panel.zero()
    for name, points in curves.items():
        index = view.index(name)
        for x, y, e in points:
            ends_of_bar = panel.x(x), panel.y(y - 2 * e), panel.x(x), panel.y(y + 2 * e)
            panel.draw(svg.line(*ends_of_bar, f"bar {svg.colour(index)}"))
        panel.curve(index, [(x, y) for x, y, _ in points], name, marks=True)
    said = ", ".join(f"{n} {significant(max(y for _, y, _ in c))} at best" for n, c in curves.items())
    return panel.svg(f"{title}: {said}")
