"""report.html: one file that loads nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

import jinja2
from markupsafe import Markup

from ablab.core.plain import plural
from ablab.records.answer import Answer
from ablab.report import costs, crossed, curves, depth, figures, gaps, probes, prose, records, tables, words
from ablab.report.view import View

STYLE = words.Html()
SECTIONS = (
    ("verdict", "Verdict"), ("factorials", "Factorials"),
    ("forest", "Differences"), ("change", "What would change"), ("trajectories", "Trajectories"),
    ("positions", "Loss by position"), ("probes", "Needle"), ("stages", "Stages"), ("cost", "Cost"),
    ("artifacts", "Artifacts"),
    ("routing", "Routing health"), ("evidence", "Evidence"),
    ("decisions", "Decisions"), ("provenance", "Provenance"), ("ledger", "Ledger"), ("methods", "Methods"),
)  # fmt: skip
ALWAYS = ("verdict", "change", "provenance", "ledger", "methods")

COSTS = (
    ("Under the limits", costs.limit_table),
    ("Beside the reference", costs.beside_table),
    ("Time and memory of every stage", costs.stage_cost_table),
)


def page(verdict: Answer) -> str:
    """Write the whole page as text; the same verdict gives the same bytes."""
    view = View(verdict)
    parts = _parts(view)
    contents = [(slug, label) for slug, label in SECTIONS if slug in ALWAYS or parts.get(slug)]
    return template("page.jinja").render({**parts, "contents": contents}) + "\n"


def template(name: str) -> jinja2.Template:
    """Load a template of the package, everything that it is given escaped and nothing of it missing."""
    return _environment().get_template(name)


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(resource)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def resource(name: str) -> str:
    """Read a file beside this one."""
    return resources.files("ablab.report").joinpath(name).read_text(encoding="utf-8")


def _parts(view: View) -> dict[str, object]:
    verdict = view.verdict
    shown = (probes.induction(view), probes.needle_maps(view), probes.recall(view))
    drawn = [d for d in shown if d is not None]
    study, scale = verdict["study"], verdict["scale"]
    return {
        "css": Markup(resource("style.css")),
        "title": f"{study}{f'.{scale}' if scale else ''}: ablab verdict",
        "study": study,
        "scale": scale or "",
        "question": verdict["question"] or study,
        "exploratory": verdict["exploratory"],
        "warnings": prose.warnings(view),
        "answer": verdict["sentence"],
        "factorials": crossed.shown(view, STYLE),
        "terms": terms(view),
        "verdict": tables.verdict_table(view, STYLE),
        "notes": arm_notes(view),
        "forest": figures.forest(view),
        "confidence": f"{100 * view.confidence:.4g}% confidence",
        "chips": {word: STYLE.chip(word) for word in words.SIGNS},
        "other": tables.other_unit_table(view, STYLE),
        "change": prose.what_would_change(view, STYLE),
        "limits": prose.limits(view),
        "legend": figures.legend(view),
        "trajectories": curves.trajectories(view),
        "positions": curves.positions(view),
        "exposure": depth.exposure(view),
        "exposures": depth.sentences(view),
        "exposed": depth.exposure_table(view, STYLE),
        "probes": drawn,
        "probe_message": view.probe_message() if drawn else None,
        "stages": gaps.stage_table(view, STYLE),
        "gaps": gaps.gap_table(view, STYLE),
        "levels": records.levels_table(view, STYLE),
        "cost": costs.cost_table(view, STYLE),
        "costs": [(title, t) for title, f in COSTS if (t := f(view, STYLE)) is not None],
        "artifacts": costs.artifact_table(view, STYLE),
        "rotations": costs.rotation_tables(view, STYLE),
        "routing": records.routing_table(view, STYLE),
        "evidence": tables.evidence_table(view, STYLE),
        "decisions": records.decision_table(view, STYLE),
        "data": records.data_facts(view, STYLE),
        "environment": records.facts(verdict["environment"], STYLE),
        "budget": records.facts(terms_of(view), STYLE),
        "baseline": records.baseline_facts(view, STYLE),
        "ledger": records.ledger_table(view, STYLE),
        "methods": prose.methods(view),
        "version": words.clean(verdict["environment"].get("ablab") or ""),
    }


def terms(view: View) -> list[str]:
    """Write the terms of the decision, in one line under the answer. Plain text."""
    facts = [f"judged by {view.unit} at {view.stage}, lower is better"]
    facts.append(f"a tie within \u00b1{words.Style().fixed(view.matters, view.decimals)}")
    if view.looks:
        facts.append(f"looks at {', '.join(map(str, view.looks))} seeds")
    facts.append(f"decided by: {view.verdict['decided_by']}")
    done = sum(run["status"] == "done" for run in view.runs)
    facts.append(f"{done} of {plural(len(view.runs), 'run')} done")
    return facts


def terms_of(view: View) -> dict[str, object]:
    """Return budget, limits and the bank of earlier noise, as one nest of facts."""
    budget: Mapping[str, object] = {} if view.of_program else view.verdict["budget"]
    return {**budget, "limits": view.verdict["limits"], "bank": view.verdict["bank"]}


def arm_notes(view: View) -> list[str]:
    """List notes of the study and of each arm, plain text."""
    notes = [*view.notes, *([] if view.verdict["exploratory"] else prose.pooled(view))]
    for arm in view.arms:
        notes += [f"{words.clean(arm['name'], words.NAME)}: {note}" for note in arm["notes"] if note != "waiting"]
    return notes
