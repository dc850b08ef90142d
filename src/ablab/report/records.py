"""Tables of record: every run, every decision, and nests of facts about data and environment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from ablab.core.plain import plural
from ablab.records.corpus import Manifest
from ablab.report import words
from ablab.report.tables import PageTable
from ablab.report.view import View, mean_of
from ablab.report.words import DASH, Style


def ledger_table(view: View, style: Style) -> PageTable | None:
    """Show every run that was ever started for this study, failed ones too."""
    if not view.runs:
        return None
    rows, kinds = [], []
    for run in view.runs:
        status = run["status"]
        said = "; ".join([*([run["fault"]] if run["fault"] else []), *run.get("violations", ())])
        rows.append(
            [
                style.name(run["arm"]),
                words.significant(run["seed"]),
                style.text(status),
                style.fixed(view.value(run), view.decimals),
                words.whole(run.get("spikes")),
                words.seconds(run.get("seconds")),
                style.text(words.short(run["token_hash"])),
                style.text(words.short(run.get("key"))),
                style.text(said),
            ]
        )
        kinds.append(f"run-{status}" if status in ("done", "failed", "diverged", "unfinished") else "run-other")
    counted = Counter(run["status"] for run in view.runs)
    note = f"{plural(len(view.runs), 'run')}: " + ", ".join(f"{n} {s}" for s, n in counted.items()) + "."
    if not view.of_program:
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
    return PageTable(head, rows, note, kinds)


def routing_table(view: View, style: Style) -> PageTable | None:
    """Show the mixtures at the last step, per arm: means over its runs, and over layers or the worst layer."""
    rows = []
    for arm in view.arms:
        if routings := [health for run in view.runs_of(arm["name"]) if (health := run.get("routing"))]:
            rows.append(
                [
                    style.name(arm["name"]),
                    words.whole(len(routings[0]["layers"])),
                    _percent(mean_of([health["cv_pct"] for health in routings])),
                    style.fixed(mean_of([health["entropy"] for health in routings]), 3),
                    _percent(mean_of([health["max_load_pct"] for health in routings])),
                    words.significant(mean_of([health["dead"] for health in routings])),
                    words.significant(mean_of([health["bias_range"] for health in routings])),
                ]
            )
    note = (
        "Choices of the last training step, means over the arm's runs. cv and entropy are means over layers; largest load and "
        "range of biases are those of the worst layer; dead experts, which got no token in that step, are counted over all."
    )
    fields = ("cv of the load", "entropy, nats", "largest load", "dead experts", "range of biases")
    head = (("arm", "l"), ("mixtures", "r"), *((label, "r") for label in fields))
    return PageTable(head, rows, note) if rows else None


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}%"


def levels_table(view: View, style: Style) -> PageTable | None:
    """Show every metric of every arm at the deciding stage; nothing where there is but one."""
    levels = view.verdict["levels"]
    metrics = list(dict.fromkeys(metric for row in levels.values() for metric in row))
    if len(metrics) < 2:
        return None
    rows = [
        [style.name(name), *(style.fixed(row.get(m), view.decimals) for m in metrics)] for name, row in levels.items()
    ]
    head = (("arm", "l"), *((words.UNITS.get(metric, metric), "r") for metric in metrics))
    return PageTable(
        head,
        rows,
        "Levels, means over the seeds that all arms share. The metric that decides is judged on pairs, not on these.",
    )


def decision_table(view: View, style: Style) -> PageTable | None:
    """Show every decision ever judged on these runs, their contrasts or their baseline."""
    decisions = [_flat(decision) for decision in view.verdict["decisions"]]
    if not decisions:
        return None
    keys = list(dict.fromkeys(k for d in decisions for k in d))[:12]
    rows = [[style.text(words.value_text(d[k])) if d.get(k) is not None else DASH for k in keys] for d in decisions]
    note = "Judged once: no other decision was tried on these runs, their contrasts or their baseline."
    if len(decisions) > 1:
        note = (
            f"{len(rows)} decisions were judged on these runs, on the same contrasts or on the same baseline; what each one "
            "changed stands beside it."
        )
    return PageTable(tuple((k.replace("_", " "), "l") for k in keys), rows, note)


def _flat(decision: Mapping[str, object]) -> dict[str, object]:
    """Return one line of decisions.jsonl with the decision's own settings beside it; settings that are null are left out."""
    flat, rule = {k: v for k, v in decision.items() if k != "decision"}, decision.get("decision")
    if isinstance(rule, dict):
        flat |= rule
    if isinstance(seeds := flat.get("seeds"), dict) and any(seeds.values()):
        flat["seeds"] = ", ".join(f"{k} {words.value_text(v)}" for k, v in seeds.items() if v)
    if "ended" in flat:
        flat["runs ended before"] = flat.pop("ended")
    return {k: v for k, v in flat.items() if v is not None}


def facts(
    value: Mapping[str, object], style: Style, prefix: str = "", *, spelled: bool = False
) -> list[tuple[str, str]]:
    """Write a nest of settings as (dotted key, value) lines; empty parts are left out. spelled: keys as a study writes them."""
    lines: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and "name" not in inner:
            lines += facts(inner, style, f"{name}.", spelled=spelled)
        elif inner is not None and inner != [] and inner != "":
            lines.append((style.text(name if spelled else name.replace("_", " ")), style.text(_fact(inner))))
    return lines


def _fact(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(words.value_text(v) for v in value)
    return words.significant(value) if words.num(value) is not None else words.value_text(value)


def baseline_facts(view: View, style: Style) -> list[tuple[str, str]]:
    """List every setting of the baseline; what is not set is left out."""
    return facts(view.verdict["baseline"], style, spelled=True)


def data_facts(view: View, style: Style) -> list[tuple[str, str]]:
    """List sources, split, duplicates, leak check and bytes per token of every corpus that was read."""
    return [fact for manifest in view.verdict["data"] for fact in _corpus_facts(manifest, style)]


def _corpus_facts(manifest: Manifest, style: Style) -> list[tuple[str, str]]:
    identity, tokenizer, counts = manifest["identity"], manifest["tokenizer"], manifest["counts"]
    sources = [f"{words.clean(i['source'])} (sha256 {words.short(i.get('sha256'))})" for i in manifest["inputs"]]
    each = (words.num(counts.get("valid_bytes")) or 0.0) / (words.num(counts.get("valid_tokens")) or math.inf)
    said = {
        "source": ", ".join(sources[:4]) + (f" and {len(sources) - 4} more" if len(sources) > 4 else ""),
        "tokenizer": words.value_text(tokenizer["choice"]),
        "vocabulary": words.whole(tokenizer["vocab_size"]),
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
        "corpus": words.short(manifest["key"]),
    }
    return [(style.text(k), style.text(v)) for k, v in said.items()]


def _amount(counts: Mapping[str, object], part: str) -> str:
    documents, tokens, size = (counts.get(f"{part}_{k}") for k in ("documents", "tokens", "bytes"))
    return f"{words.whole(documents)} documents, {words.whole(tokens)} tokens, {words.size(size)}"
