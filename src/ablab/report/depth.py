"""The positions of training tokens in their rows, and of the scored tokens of each stage: depth or breadth."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ablab.report import svg
from ablab.report.figures import STYLE, Drawing, fitted
from ablab.report.tables import PageTable
from ablab.report.view import View
from ablab.report.words import DASH, Style, clean, count

Counts = tuple[list[float], list[float]]  # edges, tokens per band
RARE = 0.1  # a position is rarely trained where it was met less than this share as often as the most trained one


@dataclass(frozen=True)
class SamePositions:
    """Arms and stages of which the trained and the scored positions are the same: of every arm at every stage named."""

    stages: tuple[str, ...]
    arms: tuple[str, ...]
    scored: Counts
    trained: Counts | None


def groups(view: View) -> list[SamePositions]:
    """Group every distinct pair of trained and scored positions, in the order of stages and arms."""
    trained = view.trained()
    by_positions: dict[str, tuple[Counts, Counts | None, dict[str, list[str]]]] = {}
    for stage, by_arm in view.scored().items():
        for arm in view.arms:
            name = arm["name"]
            if name in by_arm:
                key = repr((_profile(by_arm[name]), _profile(trained.get(name))))
                alike = by_positions.setdefault(key, (by_arm[name], trained.get(name), {}))[2]
                alike.setdefault(name, []).append(stage)
    return [
        SamePositions(stages, arms, scored, known)
        for scored, known, alike in by_positions.values()
        for stages, arms in _blocks(alike).items()
    ]


def _blocks(stages_of: dict[str, list[str]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Group arms that share the very same stages: what is said of a block holds for each pair in it."""
    by_stages: dict[tuple[str, ...], tuple[str, ...]] = {}
    for arm, stages in stages_of.items():
        by_stages[tuple(stages)] = (*by_stages.get(tuple(stages), ()), arm)
    return by_stages


def _profile(counts: Counts | None) -> Counts | None:
    """Return edges and shares: arms with more seeds have more tokens, in the same places."""
    if counts is None:
        return None
    return counts[0], [round(tokens / (sum(counts[1]) or 1), 3) for tokens in counts[1]]


def sentences(view: View) -> list[str]:
    """Write a plain sentence per group: where its scored tokens stand, and how many at positions hardly ever trained."""
    return [_sentence(view, group) for group in groups(view)]


def _sentence(view: View, group: SamePositions) -> str:
    edges, tokens = group.scored
    total = sum(tokens)
    most = max(range(len(tokens)), key=lambda i: tokens[i])
    where = f"{_percent(tokens[most] / total)} of the scored tokens stand at {_span(edges[most], edges[most + 1])}"
    said = f"{', '.join(group.stages)} ({named(group.arms, view)}): {where}"
    if group.trained is None:
        return said + "; how often positions were trained is not known."
    never, rarely = shares(group)
    last = _last_trained(group.trained)
    if never > 0:
        end = f" (nothing beyond {count(last - 1)} was)" if last < edges[-1] else ""
        said += f"; {_percent(never)} at positions that were trained 0 times{end}"
    if rarely > 0:
        said += f"; {_percent(rarely)} at positions trained less than a tenth as often as the most trained"
    return said + (
        "." if never or rarely else "; each at a position trained at least a tenth as often as the most trained."
    )


def shares(group: SamePositions) -> tuple[float, float]:
    """Return the shares of scored tokens at positions never and rarely trained; tokens are spread evenly in bands."""
    if group.trained is None:
        return 0.0, 0.0
    edges, scored, trained = joined(group.scored, group.trained)
    often = [t / (b - a) for t, a, b in zip(trained, edges, edges[1:])]
    total, top = sum(scored), max(often)
    never = sum(s for s, rate in zip(scored, often) if rate == 0) / total
    rarely = sum(s for s, rate in zip(scored, often) if 0 < rate < RARE * top) / total
    return never, rarely


def joined(one: Counts, other: Counts) -> tuple[list[float], list[float], list[float]]:
    """Join both counts over the bands of both; a band that is cut gives each part its share of positions."""
    edges = sorted({*one[0], *other[0]})
    return edges, _cut(one, edges), _cut(other, edges)


def _cut(counts: Counts, edges: list[float]) -> list[float]:
    out = [0.0] * (len(edges) - 1)
    for a, b, tokens in zip(counts[0], counts[0][1:], counts[1]):
        for i, (low, high) in enumerate(zip(edges, edges[1:])):
            if a <= low and high <= b:
                out[i] += tokens * (high - low) / (b - a)
    return out


def _last_trained(trained: Counts) -> float:
    return max((b for b, tokens in zip(trained[0][1:], trained[1]) if tokens > 0), default=0.0)


def _span(a: float, b: float) -> str:
    return f"position {count(a)}" if b - a <= 1 else f"positions {count(a)} to {count(b - 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if 0.0005 <= share <= 0.9995 else "all" if share > 0.5 else "under 0.1%"


def named(arms: tuple[str, ...], view: View) -> str:
    """Write `every arm`, or the first names."""
    if len(arms) == len(view.arms) > 1:
        return "every arm"
    return ", ".join(clean(a, 40) for a in arms[:3]) + (f" and {len(arms) - 3} more" if len(arms) > 3 else "")


def exposure(view: View) -> Drawing | None:
    """Draw one panel per group: the share of training tokens (filled) and of scored tokens (line) by position."""
    several = groups(view)
    if not several:
        return None
    ends = [edges[-1] for g in several for edges in (g.scored[0], *([g.trained[0]] if g.trained else []))]
    panels = [_panel(view, i, group, max(ends)) for i, group in enumerate(several)]
    caption = (
        "Share of tokens by position in the window, in bands that double. Filled: tokens trained on; line: tokens scored. "
        "Where the line stands without a filling, the model is scored at positions that it never met in training."
    )
    return Drawing("Trained and scored positions", tuple(panels), caption, legend=False)


def _panel(view: View, index: int, group: SamePositions, end: float) -> Markup:
    edges, scored, trained = joined(group.scored, group.trained or group.scored)
    shares_scored = [v / sum(scored) for v in scored]
    shares_trained = [v / (sum(trained) or 1.0) for v in trained] if group.trained else []
    title = f"{', '.join(group.stages)}: {named(group.arms, view)}"
    panel = svg.Panel(
        f"depth{index}",
        fitted(title, 62),
        (1.0, max(end, 2.0)),
        (0.0, max([*shares_scored, *shares_trained])),
        x_log=True,
        x_title="position in the window, tokens (log)",
        y_title="share of tokens",
        room=(0, 2),
    )
    colour = svg.colour(view.index(group.arms[0]))
    if shares_trained:
        corners = [
            (panel.x(1.0), panel.y(0.0)),
            *_stairs(panel, edges, shares_trained),
            (panel.x(edges[-1]), panel.y(0.0)),
        ]
        panel.draw(svg.path(corners, "filled", closed=True))
    panel.draw(svg.path(_stairs(panel, edges, shares_scored), f"line {colour}"))
    if group.trained and (last := _last_trained(group.trained)) < end:
        panel.upright(last, "trained to here")
    return panel.svg(_sentence(view, group))


def _stairs(panel: svg.Panel, edges: list[float], values: list[float]) -> list[tuple[float, float]]:
    out = []
    for a, b, value in zip(edges, edges[1:], values):
        if b > 1.0:
            out += [(panel.x(max(a, 1.0)), panel.y(value)), (panel.x(b), panel.y(value))]
    return out


def exposure_table(view: View, style: Style = STYLE) -> PageTable | None:
    """Show per band how often a position of it was trained, by arm, and the share of scored tokens, by stage and arm."""
    several = groups(view)
    if not several:
        return None
    trainings: dict[str, tuple[Counts, list[str]]] = {}
    for name, counts in view.trained().items():
        trainings.setdefault(repr(counts), (counts, []))[1].append(name)
    places: dict[str, tuple[Counts, dict[str, list[str]]]] = {}
    for group in several:
        alike = places.setdefault(repr(_profile(group.scored)), (group.scored, {}))[1]
        for arm in group.arms:
            alike.setdefault(arm, []).extend(group.stages)
    scorings = [(counts, s, a) for counts, alike in places.values() for s, a in _blocks(alike).items()]
    every = [c for c, _ in trainings.values()] + [c for c, _, _ in scorings]
    edges = sorted({e for counts in every for e in counts[0]})
    columns = [
        [_times(v / (b - a)) for v, a, b in zip(_cut(c, edges), edges, edges[1:])] for c, _ in trainings.values()
    ]
    for counts, _, _ in scorings:
        columns.append([_share(v / sum(counts[1])) for v in _cut(counts, edges)])
    rows = [[_span(a, b).split(" ", 1)[1], *cells] for a, b, *cells in zip(edges, edges[1:], *columns)]
    head = [("position", "r")]
    head += [(f"times trained: {named(tuple(names), view)}", "r") for _, names in trainings.values()]
    head += [(f"scored, {', '.join(s)}: {named(a, view)}", "r") for _, s, a in scorings]
    note = (
        "Times trained: training tokens at these positions, per position. Scored: share of the stage's scored tokens."
    )
    return PageTable(tuple(head), rows, note)


def _times(value: float) -> str:
    return "0" if value == 0 else count(round(value)) if value >= 1 else f"{value:.2g}"


def _share(value: float) -> str:
    return DASH if value == 0 else f"{100 * value:.1f}%" if value >= 0.0005 else "< 0.1%"
