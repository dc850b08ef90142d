"""Tables of the stages: every arm at every stage, and the gaps between a stage and the one it is based on."""

from __future__ import annotations

from ablab.records.answer import ArmAnswer, Step
from ablab.report.tables import PageTable
from ablab.report.view import View
from ablab.report.words import DASH, Style


def stage_table(view: View, style: Style) -> PageTable | None:
    """Show one row per arm, one column per stage: difference, interval, level; the baseline's level; `unstable` where it is."""
    stages = view.stages
    if not stages:
        return None
    rows = [[style.name(arm["name"]), *(_stage_cell(view, arm, stage, style) for stage in stages)] for arm in view.arms]
    head = (("arm", "l"), *((f"{stage} (decides)" if stage == view.stage else stage, "r") for stage in stages))
    note = (
        f"Difference to the reference in {view.unit}, its interval, and the arm's own level below. Only {view.stage} gives "
        "the word. A level is a mean over the arm's own pairs, so levels of arms with other seeds do not compare; "
        "differences do."
    )
    return PageTable(head, rows, note)


def _stage_cell(view: View, arm: ArmAnswer, stage: str, style: Style) -> str:
    d, level = view.decimals, view.level(arm, stage)
    if why := arm["unstable"].get(stage):
        return style.chip("unstable") + style.sub(style.text(why), "wrap")
    cell = arm["stages"].get(stage)
    said = f"level {style.fixed(level, d)}" if level is not None else ""
    if cell is None or cell["delta"] is None:
        return style.literal(said) if said else DASH
    between = style.interval(cell["low"], cell["high"], d)
    return style.strong(style.delta(cell["delta"], d)) + style.sub(between) + style.sub(said)


def gap_table(view: View, style: Style) -> PageTable | None:
    """Show one row per arm, one column per step: the arm's own gap, and what it is against the reference's."""
    steps = view.steps()
    columns = list(dict.fromkeys((step["before"], stage) for by in steps.values() for stage, step in by.items()))
    if not columns:
        return None
    order = {stage: i for i, stage in enumerate(view.stages)}
    columns.sort(key=lambda c: order.get(c[1], len(order)))
    rows = []
    for arm in view.arms:
        own = steps.get(arm["name"], {})
        cells = [
            _gap_cell(view, own[stage], style) if stage in own and own[stage]["before"] == before else DASH
            for before, stage in columns
        ]
        rows.append([style.name(arm["name"]), *cells])
    head = (("arm", "l"), *((f"{stage}: gap to {before}", "r") for before, stage in columns))
    return PageTable(head, rows, _note(view, steps))


def _gap_cell(view: View, step: Step, style: Style) -> str:
    d = view.decimals
    own = style.interval(step["gap_low"], step["gap_high"], d)
    cell = style.strong(style.delta(step["gap"], d)) + style.sub(own)
    if step["delta"] is None:
        return cell
    between = style.interval(step["low"], step["high"], d)
    apart = f"against the reference {style.delta(step['delta'], d)}"
    return cell + style.sub(apart) + style.sub(between)


def _note(view: View, steps: dict[str, dict[str, Step]]) -> str:
    over = {step["over"] for by in steps.values() for step in by.values()}
    said = f"A gap is a stage's {view.unit} minus that of the stage it builds on, paired within the runs; positive is a loss."
    if over - {"documents"}:
        said += " An arm's intervals are those of its own look; the baseline's is a plain t interval over its seeds."
    if "documents" in over:
        rests = dict.fromkeys(step["said"] for by in steps.values() for step in by.values())
        resting = "; ".join(one for one in rests if one)
        said += " With one run the intervals are over documents: they speak for these weights."
        said += f" {resting[0].upper()}{resting[1:]}." if resting else ""
    return said
