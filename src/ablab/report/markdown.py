"""report.md: the same report for a pull request or a terminal pager."""

from __future__ import annotations

from ablab.records.answer import Answer
from ablab.report import costs, crossed, depth, gaps, prose, records, tables, words
from ablab.report.html import arm_notes, terms, terms_of
from ablab.report.tables import PageTable
from ablab.report.view import Bands, View, grid_of, mean_of

STYLE = words.Markdown()


def page(verdict: Answer) -> str:
    """Write the whole file as text; the same verdict gives the same bytes."""
    view = View(verdict)
    raw = view.verdict
    out = [f"# {STYLE.text(raw['question'] or raw['study'])}", ""]
    for _, head, text in prose.warnings(view):
        out += [f"> **{head.upper()}.** {STYLE.text(text)}", ""]
    out += [f"**{STYLE.text(raw['sentence'])}**", "", "; ".join(STYLE.text(t) for t in terms(view)) + ".", ""]
    out += [f"Study {STYLE.name('/'.join(one for one in (raw['study'], raw['scale']) if one))}.", ""]
    out += _section("Verdict", tables.verdict_table(view, STYLE))
    notes = arm_notes(view)
    out += [f"- {STYLE.text(n)}" for n in notes] + ([""] if notes else [])
    for one in crossed.shown(view, STYLE):
        out += _section(f"Factorial {one.name}", one.effects)
        out += [f"**{STYLE.text(one.sentence)}**", "", *_section(f"Cells of {one.name}", one.cells)]
    out += _section("In the other unit", tables.other_unit_table(view, STYLE))
    out += ["## What would change the verdict", ""]
    out += [f"- {name} ({word}): {said}" for name, word, said in prose.what_would_change(view, STYLE)]
    out += ["", "Limits of the claim:", "", *(f"- {STYLE.text(limit)}" for limit in prose.limits(view)), ""]
    out += _section("Stages", gaps.stage_table(view, STYLE))
    out += _section("Gaps between stages", gaps.gap_table(view, STYLE))
    out += _section("Every metric", records.levels_table(view, STYLE))
    out += _section("Trajectories", _trajectory_table(view))
    out += _section("Trained and scored positions", depth.exposure_table(view, STYLE))
    out += [*(f"- {STYLE.text(said)}" for said in depth.sentences(view)), ""] if depth.groups(view) else []
    for stage, by_arm in view.bands().items():
        out += _section(f"Loss by position: {STYLE.text(stage)}", _band_table(view, stage, by_arm))
    out += _section("Needle", _needle_table(view))
    out += _section("Cost", costs.cost_table(view, STYLE))
    out += _section("Limits", costs.limit_table(view, STYLE))
    out += _section("Beside the reference", costs.beside_table(view, STYLE))
    out += _section("Stages' time and memory", costs.stage_cost_table(view, STYLE))
    out += _section("Artifacts", costs.artifact_table(view, STYLE))
    out += _section("Routing health", records.routing_table(view, STYLE))
    out += _section("Evidence, and what common random numbers bought", tables.evidence_table(view, STYLE))
    out += _section("Decisions judged on these runs", records.decision_table(view, STYLE))
    for title, lines in (
        ("Data", records.data_facts(view, STYLE)),
        ("Environment", records.facts(raw["environment"], STYLE)),
        ("Budget and limits", records.facts(terms_of(view), STYLE)),
        ("The baseline's settings", records.baseline_facts(view, STYLE)),
    ):
        out += [f"## {title}", "", *(f"- {k}: {v}" for k, v in lines), ""] if lines else []
    out += _section("Ledger of every run", records.ledger_table(view, STYLE))
    out += ["## Methods, to paste", "", STYLE.text(prose.methods(view)), ""]
    return "\n".join(out).rstrip("\n") + "\n"


def _section(title: str, table: PageTable | None) -> list[str]:
    if table is None:
        return []
    head = "| " + " | ".join(STYLE.text(label) for label, _ in table.head) + " |"
    rule = "|" + "|".join(" ---: " if side == "r" else " --- " for _, side in table.head) + "|"
    rows = ["| " + " | ".join(cell or " " for cell in row) + " |" for row in table.rows]
    return [f"## {title}", "", head, rule, *rows, "", *([STYLE.text(table.note), ""] if table.note else [])]


def _trajectory_table(view: View) -> PageTable | None:
    """Show the mean difference to the reference at about eight evaluations."""
    gaps = {a["name"]: view.curve_difference(a) for a in view.rivals}
    gaps = {name: g for name, g in gaps.items() if g}
    if not gaps:
        return None
    points = sorted(set().union(*gaps.values()))
    stride = max(1, len(points) // 8)
    chosen = points[::-1][::stride][::-1]
    head = (("tokens", "r"), *((name, "r") for name in gaps))
    rows = []
    for t in chosen:
        means = [sum(g[t].values()) / len(g[t]) if t in g else None for g in gaps.values()]
        rows.append([words.count(t), *(STYLE.delta(m, view.decimals) for m in means)])
    return PageTable(
        head, rows, f"Mean difference to the reference in {view.unit} over common seeds.{tables.text_scored(view)}"
    )


def _band_table(view: View, stage: str, by_arm: dict[str, Bands]) -> PageTable | None:
    edges = next(iter(by_arm.values()))[0]
    names = [a["name"] for a in view.arms if a["name"] in by_arm and by_arm[a["name"]][0] == edges]
    rows = [
        [f"{words.count(a)} to {words.count(b)}", *(STYLE.fixed(by_arm[n][1][i], view.decimals) for n in names)]
        for i, (a, b) in enumerate(zip(edges, edges[1:]))
    ]
    return PageTable(
        (("position", "l"), *((n, "r") for n in names)),
        rows,
        f"nats/token at {stage}, means over the seeds that all arms share.",
    )


def _needle_table(view: View) -> PageTable | None:
    rows = []
    for name, probe in view.needles().items():
        cells: list[float | None] = [None, None]
        if passkey := probe.get("passkey"):
            shape = len(passkey["lengths"]), len(passkey["depths"])
            grids = [grid_of(grid, *shape) if grid else [] for grid in (passkey["score"], passkey.get("acc"))]
            cells = [mean_of([value for row in grid for value in row]) for grid in grids]
        gains = [v for v in probe["induction"]["values"] if v is not None] if "induction" in probe else []
        rows.append(
            [
                STYLE.name(name),
                STYLE.delta(cells[0], 3),
                STYLE.fixed(cells[1], 3),
                STYLE.delta(max(gains) if gains else None, 3),
            ]
        )
    message = view.probe_message()
    note = (
        f"Probe uninformative at this scale ({message})."
        if message
        else "Log-odds of the true key against the distractors; 0 is chance."
    )
    head = (("arm", "l"), ("passkey score, mean", "r"), ("accuracy, mean", "r"), ("best induction gain, nats", "r"))
    return PageTable(head, rows, note) if rows else None
