"""Figures of curves: trajectories against tokens, and loss by position; each with its panel of differences."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ablab.report import svg
from ablab.report.figures import STYLE, Drawing, focus
from ablab.report.tables import text_scored
from ablab.report.view import Series, View

CROWD = 6  # with more arms than this, bands of seeds would hide the lines


def _mean(series: Series) -> list[tuple[float, float]]:
    return [(t, sum(v.values()) / len(v)) for t, v in series.items()]


def _ends(series: Series) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    return [(t, min(v.values())) for t, v in series.items()], [(t, max(v.values())) for t, v in series.items()]


def _late(all_series: Sequence[Series], start: float) -> list[float]:
    """Return values from `start` on: the early fall would flatten everything else."""
    late = [v for s in all_series for t, by in s.items() if t >= start for v in by.values()]
    return late or [v for s in all_series for by in s.values() for v in by.values()]


def trajectories(view: View) -> Drawing | None:
    """Draw loss against tokens, and the difference to the reference, which is what is judged."""
    curves = {a["name"]: view.curve(a["name"]) for a in view.arms}
    curves = {name: c for name, c in curves.items() if c}
    if not curves:
        return None
    end = max(t for c in curves.values() for t in c)
    crowded = len(curves) > CROWD
    near = _late(list(curves.values()), 0.2 * end)
    level = svg.Panel(
        "level",
        f"Validation, {view.unit}",
        (0, end),
        (min(near), max(near)),
        x_title="tokens trained on",
        y_title=view.unit,
    )
    _draw_curves(view, level, curves, crowded)
    panels = [level.svg(f"Validation {view.unit} against tokens for {', '.join(curves)}")]
    gaps = {a["name"]: view.curve_difference(a) for a in view.rivals}
    gaps = {name: g for name, g in gaps.items() if g}
    if gaps:
        margin = view.matters
        extents = {n: max(map(abs, _late([g], 0.1 * end))) for n, g in gaps.items()}
        reach = focus(list(extents.values()), 2 * margin)
        near = [0.0, margin, -margin, *_late([g for n, g in gaps.items() if extents[n] <= reach], 0.1 * end)]
        off = {n: _mean(g)[-1][1] for n, g in gaps.items() if extents[n] > reach}
        panel = svg.Panel(
            "gap",
            "Difference to the reference, same seed",
            (0, end),
            (min(near), max(near)),
            x_title="tokens trained on",
            y_title=f"\u0394 {view.unit}",
            room=_room(off),
        )
        _draw_curves(view, panel, gaps, crowded, off)
        panel.zero()
        if margin:
            panel.shade(-margin, margin, "tie")
        panel.outside(off, view.decimals)
        last = ", ".join(f"{n} ends at {STYLE.delta(_mean(g)[-1][1], view.decimals)}" for n, g in gaps.items())
        panels.append(panel.svg(f"Difference to the reference against tokens: {last}"))
    shade = "Lines are means over seeds" + ("." if crowded else "; bands run from the lowest to the highest seed.")
    tail = (
        " The first fifth of the budget may leave the frame. Arms can have different seeds, so only the panel of "
        "differences compares like with like."
    )
    return Drawing("Trajectories", tuple(panels), shade + tail + text_scored(view))


def _room(off: dict[str, float]) -> tuple[int, int]:
    return sum(v < 0 for v in off.values()), sum(v >= 0 for v in off.values())


def _draw_curves(
    view: View, panel: svg.Panel, curves: dict[str, Series], crowded: bool, off: Container[str] = ()
) -> None:
    for name, series in curves.items():
        if not crowded and name not in off and any(len(v) > 1 for v in series.values()):
            panel.ribbon(view.index(name), *_ends(series))
    for name, series in reversed(curves.items()):
        panel.curve(view.index(name), _mean(series), name)


def positions(view: View) -> list[Drawing]:
    """Draw nats per token by position in the window, one drawing per stage that has bands."""
    drawings: list[Drawing] = []
    for stage, by_arm in view.bands().items():
        slug = f"band{len(drawings)}"
        edges = next(iter(by_arm.values()))[0]
        last = max(line[0][-1] for line in by_arm.values())
        xs = (max(edges[1] / 2, 1.0) if edges[0] <= 0 else edges[0], last)
        values = [v for _, line in by_arm.values() for v in line if v is not None]
        level = svg.Panel(
            slug,
            f"Loss by position, {stage}",
            xs,
            (min(values), max(values)),
            x_log=True,
            x_title="position in the window, tokens (log)",
            y_title="nats/token",
        )
        apart = view.band_differences(stage)
        gap_values = {n: _middles(by_arm[n][0], g, xs[0]) for n, g in apart.items() if n in by_arm}
        for name in reversed([a["name"] for a in view.arms if a["name"] in by_arm]):
            level.curve(view.index(name), _middles(*by_arm[name], xs[0]), name, marks=True)
        panels = [level.svg(f"Nats per token by position at stage {stage} for {', '.join(map(str, by_arm))}")]
        if gap_values:
            extents = {n: max(abs(v) for _, v in g) for n, g in gap_values.items()}
            reach = focus(list(extents.values()), 2 * (view.matters or 0.005))
            flat = [0.0, *(v for n, g in gap_values.items() if extents[n] <= reach for _, v in g)]
            off = {n: g[-1][1] for n, g in gap_values.items() if extents[n] > reach}
            panel = svg.Panel(
                slug + "d",
                "Difference to the reference",
                xs,
                (min(flat), max(flat)),
                x_log=True,
                x_title="position in the window, tokens (log)",
                y_title="\u0394 nats/token",
                room=_room(off),
            )
            panel.zero()
            for name, points in gap_values.items():
                panel.curve(view.index(name), points, name, marks=True)
            panel.outside(off, view.decimals)
            panels.append(panel.svg(f"Difference to the reference by position at stage {stage}"))
        caption = (
            "Left: means over the seeds that all arms share. Right: over each arm's own pairs with its reference. A point "
            "stands in the middle of its band. Shown, never judged."
        )
        drawings.append(Drawing(f"Loss by position: {stage}", tuple(panels), caption))
    return drawings


def _middles(edges: list[float], values: list[float | None], least: float) -> list[tuple[float, float]]:
    middles = [(max(a, least) * b) ** 0.5 for a, b in zip(edges, edges[1:])]
    return [(m, v) for m, v in zip(middles, values) if v is not None]
