"""Tables of record: every run, every decision, and nests of facts about data and environment."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ablab.report import words
from ablab.report.tables import Table
from ablab.report.view import View, listing, mapping, mean_of
from ablab.report.words import DASH, Style


def ledger_table(view: View, style: Style) -> Table | None:
    """Every run that was ever started for this study, failed ones too."""
    if not view.runs:
        return None
    rows, kinds = [], []
    for run in view.runs:
        status = words.clean(run.get("status") or "absent")
        said = "; ".join(_said(run[k]) for k in ("fault", "violations", "reason") if run.get(k))
        rows.append(
            [
                style.name(run.get("arm", "?")),
                words.significant(run.get("seed")),
                style.text(status),
                style.fixed(view.value(run), view.decimals),
                words.whole(run.get("spikes")),
                words.seconds(run.get("seconds")),
                style.text(words.short(run.get("token_hash"))),
                style.text(words.short(run.get("key"))),
                style.text(said),
            ]
        )
        kinds.append(
            f"run-{status}" if status in ("done", "failed", "diverged", "absent", "unfinished") else "run-other"
        )
    counted = Counter(words.clean(r.get("status") or "absent") for r in view.runs)
    note = f"{words.plural(len(view.runs), 'run')}: " + ", ".join(f"{n} {s}" for s, n in counted.items()) + "."
    note += " Equal token hashes at one seed prove that arm and baseline read the same tokens."
    head = (
        ("arm", "l"),
        ("seed", "r"),
        ("status", "l"),
        (f"{view.stage}, {view.unit}", "r"),
        ("spikes", "r"),
        ("time", "r"),
        ("tokens", "l"),
        ("key", "l"),
        ("remark", "l"),
    )
    return Table(head, rows, note, kinds)


def routing_table(view: View, style: Style) -> Table | None:
    """Health of the mixtures at the last step, per arm: means over its runs, and over layers or the worst layer."""
    fields = (
        ("cv of the load", "cv_pct", _percent),
        ("entropy, nats", "entropy", lambda v: style.fixed(v, 3)),
        ("largest load", "max_load_pct", _percent),
        ("dead experts", "dead", lambda v: words.significant(v)),
        ("range of biases", "bias_range", lambda v: words.significant(v)),
    )
    rows = []
    for arm in view.arms:
        found = [mapping(run.get("routing")) for run in view.runs_of(arm["name"]) if mapping(run.get("routing"))]
        if found:
            means = {key: mean_of([health.get(key) for health in found]) for _, key, _ in fields}
            layers = words.whole(len(listing(found[0].get("layers"))))
            rows.append([style.name(arm["name"]), layers, *(write(means[key]) for _, key, write in fields)])
    note = (
        "Choices of the last training step, means over the arm's runs. cv and entropy are means over layers; largest load and "
        "range of biases are those of the worst layer; dead experts, which got no token in that step, are counted over all."
    )
    head = (("arm", "l"), ("mixtures", "r"), *((label, "r") for label, _, _ in fields))
    return Table(head, rows, note) if rows else None


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}%"


def levels_table(view: View, style: Style) -> Table | None:
    """Every metric of every arm at the deciding stage; nothing where there is but one."""
    levels = {str(name): mapping(row) for name, row in mapping(view.verdict.get("levels")).items()}
    metrics = list(dict.fromkeys(metric for row in levels.values() for metric in row))
    if len(metrics) < 2:
        return None
    rows = [
        [style.name(name), *(style.fixed(row.get(m), view.decimals) or DASH for m in metrics)]
        for name, row in levels.items()
    ]
    head = (("arm", "l"), *((words.UNITS.get(metric, words.clean(metric)), "r") for metric in metrics))
    return Table(
        head,
        rows,
        "Levels, means over the seeds that all arms share. The metric that decides is judged on pairs, not on these.",
    )


def decision_table(view: View, style: Style) -> Table | None:
    """Every decision ever judged on these runs, their contrasts or their baseline."""
    found = [_flat(d) if isinstance(d, dict) else {"decision": d} for d in listing(view.verdict.get("decisions"))]
    if not found:
        return None
    keys = list(dict.fromkeys(k for d in found for k in d))[:12]
    rows = [[style.text(words.value_text(d[k])) if d.get(k) is not None else DASH for k in keys] for d in found]
    note = "Judged once: no other decision was tried on these runs, their contrasts or their baseline."
    if len(found) > 1:
        note = (
            f"{len(found)} decisions were judged on these runs, on the same contrasts or on the same baseline; what each one "
            "changed stands beside it."
        )
    return Table(tuple((k.replace("_", " "), "l") for k in keys), rows, note)


def _said(value: Any) -> str:
    return "; ".join(words.clean(v) for v in listing(value))


def _flat(decision: dict[str, Any]) -> dict[str, Any]:
    """One line of decisions.jsonl with the decision's own settings beside it; settings that are null are left out."""
    flat = {**{k: v for k, v in decision.items() if k != "decision"}, **mapping(decision.get("decision"))}
    seeds = {k: v for k, v in mapping(flat.get("seeds")).items() if v}
    if seeds:
        flat["seeds"] = ", ".join(f"{k} {words.value_text(v)}" for k, v in seeds.items())
    if "ended" in flat:
        flat["runs ended before"] = flat.pop("ended")
    return {k: v for k, v in flat.items() if v is not None}


def facts(value: Any, style: Style, prefix: str = "", *, spelled: bool = False) -> list[tuple[str, str]]:
    """A nest of settings as (dotted key, value) lines; empty parts are left out. spelled: keys as a study writes them."""
    lines: list[tuple[str, str]] = []
    for key, inner in mapping(value).items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and "name" not in inner:
            lines += facts(inner, style, f"{name}.", spelled=spelled)
        elif inner is not None and inner != [] and inner != "":
            lines.append((style.text(name if spelled else name.replace("_", " ")), style.text(_fact(inner))))
    return lines


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(words.value_text(v) for v in value)
    return words.significant(value) if words.num(value) is not None else words.value_text(value)


def baseline_facts(view: View, style: Style) -> list[tuple[str, str]]:
    """Every setting of the baseline; what is not set is left out."""
    return facts(view.verdict.get("baseline"), style, spelled=True)


def data_facts(view: View, style: Style) -> list[tuple[str, str]]:
    """Sources, split, duplicates, leak check and bytes per token of every corpus that was read."""
    lines: list[tuple[str, str]] = []
    for manifest in view.corpora:
        counts = mapping(manifest.get("counts"))
        lines += _corpus_facts(manifest, counts, style) if counts else facts(manifest, style)
    return lines


def _corpus_facts(manifest: dict[str, Any], counts: dict[str, Any], style: Style) -> list[tuple[str, str]]:
    identity, tokenizer = mapping(manifest.get("identity")), mapping(manifest.get("tokenizer"))
    inputs = [mapping(i) for i in listing(manifest.get("inputs"))]
    sources = [f"{words.clean(i.get('source', '?'))} (sha256 {words.short(i.get('sha256'))})" for i in inputs]
    each = (words.num(counts.get("valid_bytes")) or 0.0) / (words.num(counts.get("valid_tokens")) or math.inf)
    said = {
        "source": ", ".join(sources[:4]) + (f" and {len(sources) - 4} more" if len(sources) > 4 else ""),
        "tokenizer": words.value_text(tokenizer.get("choice", "?")),
        "vocabulary": words.whole(tokenizer.get("vocab_size")),
        "training text": _amount(counts, "train"),
        "validation text": _amount(counts, "valid"),
        "bytes per token, validation": f"{each:.4g}" if each else words.DASH,
        "split": f"by document, fraction {words.significant(identity.get('valid_fraction'))}",
        "duplicates left out": words.whole(counts.get("duplicates")),
        "undecodable, empty": f"{words.whole(counts.get('undecodable'))}, {words.whole(counts.get('empty'))}",
        "leak check": "no validation document in the training text"
        + (
            f"; {words.whole(counts['also_trained_documents'])} left out"
            if counts.get("also_trained_documents")
            else ""
        ),
        "corpus": words.short(manifest.get("key")),
    }
    return [(style.text(k), style.text(v)) for k, v in said.items()]


def _amount(counts: dict[str, Any], part: str) -> str:
    documents, tokens, size = (counts.get(f"{part}_{k}") for k in ("documents", "tokens", "bytes"))
    return f"{words.whole(documents)} documents, {words.whole(tokens)} tokens, {words.size(size)}"
