"""README.md of a submission: one table of every arm, units and seeds said, and what was checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ablab.judging import cost
from ablab.report.prose import EXPLORATORY
from ablab.report.tables import change_text
from ablab.report.words import Markdown

if TYPE_CHECKING:
    from ablab.bridges.golf.entry import Entry
    from ablab.bridges.golf.rules import Measured
    from ablab.runs.plan import Plan
    from ablab.verdict import Row, Verdict

STYLE = Markdown()


class Submission(TypedDict):
    """submission.json: means over seeds, the sample sd, every seed's own numbers, and what the checks have seen."""

    name: str
    author: str
    github_id: str
    date: str
    track: str
    blurb: str
    val_bpb: float
    val_bpb_std: float | None
    val_loss: float
    bytes_total: int
    bytes_code: int
    stage: str
    seeds: list[int]
    seed_results: dict[str, dict[str, float | None]]
    hardware: str
    verdict: dict[str, object]
    compliance: dict[str, bool | Measured]
    attribution: list[str]
    exploratory: NotRequired[bool]


def page(plan: Plan, arm: str, entries: Mapping[str, Entry], verdict: Verdict, made: Submission) -> str:
    """Write the whole page about `arm`; `made` is submission.json."""
    from ablab import __version__

    seeds = ", ".join(map(str, made["seeds"]))
    sd = made["val_bpb_std"]
    spread = f", sample sd {sd:.5f} over {len(made['seeds'])} seeds" if sd is not None else ", one seed"
    study = plan.study
    lines = [f"# {STYLE.text(made['name'])} (non-record)", ""]
    lines += [STYLE.text(study.question), ""] if study.question else []
    lines += [
        f"Arm {STYLE.name(arm)} of the study {STYLE.name(study.name)}: **{made['val_bpb']:.5f} bits per byte** at stage "
        f"{STYLE.name(made['stage'])}{spread} ({seeds}). {_said(verdict.rows[arm])}",
        "",
        *([f"**Exploratory.** {EXPLORATORY}", ""] if made["exploratory"] else []),
        *_table(plan, entries, verdict, arm),
        "",
        "Scores are bits per byte on the held-out text, ratios of sums, lower is better: mean +/- sample standard deviation "
        "over seeds from three seeds on, else the mean and the number of seeds. Artifact: bytes (decimal) of model and code, "
        "the largest seed. Delta: mean difference to the reference paired by seed, bits per byte, with the interval from "
        f"which the verdict is read ({100 * study.decision['confidence']:.4g}% over all arms and looks; a tie is within "
        f"{study.decision['matters']:g}).",
        "",
        "## Rules",
        "",
        *_rules(made["compliance"]),
        "",
        f"Measured on {STYLE.text(made['hardware'])}; the limits of the track are about 8xH100 SXM.",
        "",
        "## Changes",
        "",
        *(f"- {change}" for change in _changes(plan, arm)),
        "",
        f"Made with ablab {__version__}; study key {plan.study.key}. Logs of every run: `logs/`.",
    ]
    return "\n".join(lines) + "\n"


def _said(row: Row) -> str:
    if row.on is None:
        return "It is the baseline of its study."
    return f"Against {STYLE.name(row.on)}: {row.word}."


def _table(plan: Plan, entries: Mapping[str, Entry], verdict: Verdict, arm: str) -> list[str]:
    from ablab.bridges.golf.entry import ROLES, spread

    decider = plan.study.decision["stage"]
    columns = {stage: ROLES.get(role, stage) for stage, role in entries[arm].roles.items()}
    head = ["Arm", *columns.values(), "Artifact (bytes)", "Delta", "Verdict"]
    rows = []
    for name, one in entries.items():
        if not one.done:
            continue
        row = verdict.rows[name]
        cells = [STYLE.name(name) if name != arm else f"**{STYLE.name(name)}**"]
        for stage in columns:
            values = one.values(stage)
            cells.append(spread(values) if len(values) == len(one.done) else "unstable")
        cells.append(f"{max(of_seed[decider]['bytes'] for of_seed in one.results.values()):,}")
        rows.append([*cells, _delta(row, plan.study.baseline.name), _word(plan, row)])
    rule = ["---", *["---:"] * (len(head) - 2), "---"]
    return ["| " + " | ".join(cells) + " |" for cells in ([STYLE.text(h) for h in head], rule, *rows)]


def _delta(row: Row, baseline: str) -> str:
    """Write the difference and its interval; said beside it where the reference is not the baseline."""
    if row.delta is None:
        return "-"
    to = "" if row.on == baseline else f" to {STYLE.name(str(row.on))}"
    between = f" [{row.low:+.5f}, {row.high:+.5f}]" if row.low is not None and row.high is not None else ""
    return f"{row.delta:+.5f}{between}{to}"


def _word(plan: Plan, row: Row) -> str:
    said = row.word or "-"
    if row.shares_weights:
        said += ", for these weights" if row.seeds == 1 else ", same weights"
    over = cost.over_limits(plan, row.name)
    return said + (f" (cannot win: {STYLE.text(over)})" if over else "")


def _rules(compliance: Mapping[str, bool | Measured]) -> list[str]:
    measured = compliance["measured"]
    assert isinstance(measured, dict)
    lines = ["| rule | kept | measured |", "| --- | --- | --- |"]
    for rule, held in compliance.items():
        if rule != "measured":
            numbers = ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in measured[rule].items())
            lines.append(f"| {rule} | {'yes' if held else 'not shown'} | {STYLE.text(numbers)} |")
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _changes(plan: Plan, arm: str) -> list[str]:
    changes = plan.study.with_baseline[arm].changes
    texts = [change_text({"path": c.path, "before": c.before, "after": c.after}, STYLE) for c in changes]
    return texts or ["none: this is the baseline"]
