"""From everything a study has produced to `verdict.json`: words, numbers, costs, and every run in the ledger."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from ablab.core.files import write_atomic, write_json
from ablab.core.forms import fits, misfit
from ablab.judging import collect, cost, crossings, guarded, history, panels, program, shelf, sources
from ablab.judging.bank import fingerprint
from ablab.records.answer import (
    Answer,
    ArmAnswer,
    Crossed,
    Declared,
    Left,
    OnBaseline,
    Recorded,
    Row,
    RunAnswer,
    Said,
)
from ablab.records.cost import Cost, Paid
from ablab.records.run import Trained
from ablab.records.settings import Settings
from ablab.report.shareable import shareable
from ablab.runs.plan import Plan, Run
from ablab.runtime import provenance
from ablab.study.record import BASELINE
from ablab.verdict.evidence import Bank


class Judgement(Said):
    """What the verdict says of everything that exists now."""

    rows: list[Row]


class OnRecord(TypedDict):
    """The record of decisions, as it bears on a study. exploratory: whether results of any arm's contrast existed when it was
    declared (see `ablab.judging.history`); decisions: every one on its contrasts or runs."""

    exploratory: bool
    decisions: list[dict[str, object]]
    arms: dict[str, Left]
    on_baseline: OnBaseline


def judgement(plan: Plan, bank: Bank | None) -> Judgement:
    """Return what the verdict says, as JSON has it."""
    said = collect.judged(plan, bank).as_json()
    assert fits(said, Judgement), misfit(said, Judgement)  # the verdict's room knows no record
    return said


def conclude(plan: Plan, to: Path | None = None) -> Answer:
    """Judge what exists now, write `verdict.json` into the study's directory, and return it.

    to: another folder for it; nothing in the store is then written, nor is the decision put on record.
    """
    plan = plan.look()
    record = decisions(plan, keep=to is None)  # first: what other studies' results leave of the words is then settled
    answer = _answer(plan, record)
    if to is None:
        shelf.make_room(plan)
    answer["earlier"] = shelf.earlier(plan)
    answer["notes"] += [f"another study of this name, judged {one['judged']}: {one['at']}" for one in answer["earlier"]]
    answer = shareable(answer, folder=plan.study.path.parent, root=plan.store.root)
    folder = to or plan.directory
    write_atomic(folder / "study.toml", plan.study.source)
    write_json(folder / "verdict.json", answer)
    return answer


def _answer(plan: Plan, record: OnRecord) -> Answer:
    study, bank = plan.study, collect.bank(plan)
    verdict = judgement(plan, bank)
    paired, alike = panels.pairs(plan, verdict["rows"]), panels.shared(plan)
    costs = {name: cost.of(plan, name, alike) for name in study.with_baseline}
    correlation = cost.median([row["correlation"] for row in verdict["rows"] if row["name"] != BASELINE])
    changed, chains = guarded.changed(plan)
    return {
        "study": study.name,
        "scale": study.scale,
        "question": study.question,
        "metric": study.decision["metric"],
        "stage": study.decision["stage"],
        "stages": plan.stages,
        "matters": study.decision["matters"],
        "confidence": study.decision["confidence"],
        "decided_by": verdict["decided_by"],
        "winner": verdict["winner"],
        "sentence": verdict["sentence"],
        "warnings": verdict["warnings"],
        "arms": [_arm(plan, row, costs, paired.get(row["name"], []), record) for row in verdict["rows"]],
        "runs": ledger(plan),
        "correlation": correlation,
        "looks": verdict["looks"],
        "weights": verdict["weights"],
        "bits_per_nat": verdict["bits_per_nat"],
        "factorials": _factorials(plan, verdict),
        "levels": panels.levels(plan),
        "bands": panels.bands(plan, paired),
        "positions": panels.positions(plan),
        "validated": panels.validated(plan),
        "artifacts": panels.artifacts(plan),
        "needle": panels.needles(plan, paired),
        "on_baseline": record["on_baseline"],
        "notes": [
            *(*verdict["notes"], *on_record(plan, record), *notes(plan)),
            *(program.notes(plan, study.runner, correlation) if study.runner else ()),
        ],
        "data": [corpus.manifest for corpus in plan.corpora.values()],
        "budget": study.baseline.settings["budget"],
        "baseline": baseline(study.baseline.settings),
        "limits": study.limits,
        "exploratory": record["exploratory"],
        "decisions": record["decisions"],
        "bank": None if bank is None else {"sd": bank.sd, "df": bank.df},
        "fingerprint": fingerprint(plan),
        "environment": environment(plan),
        "changed": changed,
        "chains": chains,
        "version": shelf.version(plan),
        "earlier": [],
    }


def _factorials(plan: Plan, verdict: Judgement) -> list[Crossed]:
    """Return what the verdict says of each; of an interaction that was asked for late, that it was."""
    crossed = verdict.get("factorials", [])
    for one, asked in zip(crossed, collect.asked(plan).factorials if crossed else (), strict=True):
        for effect in one["effects"]:
            if asked.families.get(effect["label"], 0) < 0:
                effect["notes"].append("exploratory: asked for when its cells had results; a family of its own")
    return crossed


def baseline(settings: Settings) -> dict[str, object]:
    """Return every setting of the baseline with its default, layer kinds under the names that the file gives them."""
    if "runner" in settings:
        return {"runner": program.baseline(settings["runner"])}
    model: dict[str, object] = {key: value for key, value in settings["model"].items() if key != "kinds"}
    for kind in settings["model"]["kinds"].values():
        window = "all tokens" if kind["window"] is None else kind["window"]
        model[kind["table"]] = {**{k: v for k, v in kind.items() if k != "table"}, "window": window}
    parts = ("train", "data", "stage", "budget")
    plain: Mapping[str, object] = settings
    return {"model": model, **{part: plain[part] for part in parts}}


def _arm(plan: Plan, row: Row, costs: dict[str, Cost], pairs: list[int], record: OnRecord) -> ArmAnswer:
    left = record["arms"].get(row["name"], Left())
    return {**row, **_declared(plan, row["name"]), **_paid(plan, row, costs, pairs), **left}


def _declared(plan: Plan, name: str) -> Declared:
    arm = plan.study.with_baseline[name]
    return {
        "changes": [{"path": c.path, "before": c.before, "after": c.after} for c in arm.changes],
        "because": arm.because,
        "contrast": None if arm.name == BASELINE else history.contrast(plan, name, plan.study.decision["stage"]),
        "together": arm.together,
        "expect": arm.expect,
    }


def _paid(plan: Plan, row: Row, costs: dict[str, Cost], pairs: list[int]) -> Paid:
    """Return what an arm costs, by itself and (over its pairs) beside its reference, and its excess over the limits."""
    name, on, timed = row["name"], row["on"], _timed(plan)
    beside, over = None, cost.over_limits(plan, name, costs[name]["limits"])
    if on is not None:
        mine, theirs = (cost.spent(plan, arm, pairs) for arm in (name, on))
        stage = plan.study.decision["stage"]
        beside = cost.against(mine, theirs, stage, timed=timed, same_weights=row["shares_weights"])
    # One run's clock tells no price from noise.
    if beside is not None and (over or row["seeds"] < 2 or row["word"] in ("invalid", "unstable")):
        beside["free"] = None
    return {"cost": costs[name], "cost_against": beside, "over_limits": over}


def _timed(plan: Plan) -> bool:
    """Tell whether the budget is wall clock."""
    return plan.study.runner is None and plan.study.baseline.settings["budget"]["tokens"] is None


def ledger(plan: Plan) -> list[RunAnswer]:
    """List every run of which something exists, as the report shows it."""
    failed = {(row["arm"], row["seed"]): row["fault"] for row in plan.failures()}
    return [row for key, run in plan.runs.items() if (row := _ledger_row(plan, run, failed.get(key)))]


def _ledger_row(plan: Plan, run: Run, fault: str | None) -> RunAnswer | None:
    """Make the row of one run; None where nothing of it exists yet. fault: why it was given up."""
    done = plan.store.trained(run.train_key)
    if done is None:
        if fault is None:
            return None
        nothing: RunAnswer = {
            "arm": run.arm, "seed": run.seed, "status": "failed", "token_hash": None, "metrics": {}, "fault": fault,
            "violations": [],
        }  # fmt: skip
        return nothing
    results = {stage: plan.store.scored(key) for stage, key in run.score_keys.items()}
    metric = plan.study.decision["metric"]
    complete = done["status"] == "diverged" or all(results.values())
    lost = next((str(r["diverged"]) for r in results.values() if r and r["diverged"]), None) if run.program else None
    return {
        "arm": run.arm,
        "seed": run.seed,
        "status": ("diverged" if lost else done["status"]) if complete else "unfinished",
        "token_hash": done["token_hash"] or None,
        "metrics": {stage: r["metrics"][metric] for stage, r in results.items() if r and r["metrics"]},
        "trajectory": [[row["tokens"], row[metric]] for row in done["trajectory"]],
        "spikes": done["spikes"],
        "fault": lost or done.get("fault"),
        "tokens": done["tokens"],
        "seconds": done["seconds"],
        "tokens_per_second": done["tokens_per_second"],
        "violations": [f"{stage}: {violation}" for stage, r in results.items() if r for violation in r["violations"]],
        "routing": done.get("routing") or None,
        "key": run.train_key,
    }


def decisions(plan: Plan, *, keep: bool = True) -> OnRecord:
    """Put the decision on record, once. What the record leaves of every arm, and every decision on its contrasts or runs.

    keep: without it nothing is written, and the decision is as if it were recorded now.
    """
    decisions_made = history.record(plan) if keep else history.rows(plan)
    left, base = history.statuses(plan, decisions_made), history.on_baseline(plan, decisions_made)
    sizes = Counter(status.family for status in left.values())
    arms: dict[str, Left] = {}
    for name, status in left.items():
        own: Recorded = {"kind": status.kind, "after": status.after, "because": status.because, "family": status.family}
        arms[name] = {"record": own, "pooled": history.pooled(plan, decisions_made, name, sizes[status.family])}
    return {
        "exploratory": any(status.kind == "exploratory" for status in left.values()),
        "decisions": history.listed(plan, decisions_made),
        "arms": arms,
        "on_baseline": base,
    }


def on_record(plan: Plan, record: OnRecord) -> list[str]:
    """Say which arms came later than results, and what all decisions on this baseline together may get wrong."""
    texts, base = [], record["on_baseline"]
    added: dict[int, list[str]] = {}
    for name, row in record["arms"].items():
        if row["record"]["kind"] == "added":
            added.setdefault(row["record"]["after"], []).append(name)
        elif row["record"]["because"] and row["record"]["kind"] == "declared":
            texts.append(f"{name}: {row['record']['because']}")
    for after, names in added.items():
        texts.append(
            f"{', '.join(names)}: added after {after} results, a family with its own alpha; words of earlier arms stand"
        )
    if base["families"] > 1:
        alpha = 1 - plan.study.decision["confidence"]
        texts.append(
            f"{base['arms']} arms have been judged on this baseline in {base['families']} families, each at alpha "
            f"{alpha:.3g}: the chance of any false word among them is at most {min(1.0, base['families'] * alpha):.3g}"
        )
    return texts


def notes(plan: Plan) -> list[str]:
    """Say what a reader must know besides the words: epochs over the corpus, precision, budget in seconds, mixed machines."""
    texts = list[str]()
    ended = [done for run in plan.runs.values() if (done := plan.store.trained(run.train_key))]
    texts += _of_training(plan, ended) if plan.study.runner is None else []
    for name, crossed in plan.study.factorials.items():
        paths = " x ".join(factor["path"] for factor in crossed["factors"])
        pairs = sum(asked["name"].startswith(f"{name}: ") for asked in crossings.asked(plan))
        beside = "its interaction" if pairs == 1 else f"{pairs} interactions of two"
        texts.append(
            f"factorial {name} ({paths}): {len(crossed['cells'])} cells, each an arm but the baseline; beside them {beside} "
            f"{'takes a place' if pairs == 1 else 'take places'} in the family"
        )
    machines = sorted({done["machine"] for done in ended})
    if len(machines) > 1:
        texts.append("runs come from more than one machine type: " + "; ".join(machines))
    commits = sorted({code for done in ended if (code := done.get("code"))})
    if len(commits) > 1:
        texts.append("runs come from more than one commit of ablab: " + "; ".join(commits))
    texts += sources.notes(plan)
    threads = sorted({done["threads"] for done in ended if "threads" in done})
    if len(threads) > 1:
        texts.append(f"runs used {' and '.join(map(str, threads))} threads: equal up to rounding, not bit for bit")
    return texts


def _of_training(plan: Plan, ended: list[Trained]) -> list[str]:
    """Say what a reader must know of data, weights and budget, where ablab trains."""
    texts, passes = list[str](), dict[str, list[str]]()
    for name, arm in plan.study.with_baseline.items():
        budget, corpus = arm.settings["budget"], plan.corpus(plan.runs[name, plan.seeds[0]])
        if arm.settings["train"]["weights"]:
            continue
        if budget["tokens"]:
            epochs = budget["tokens"] / corpus.n_train
        else:
            own = [plan.store.trained(plan.runs[name, seed].train_key) for seed in plan.seeds]
            epochs = max((done["epochs"] for done in own if done), default=0.0)
        if epochs > 1:
            warning = "warning: above 4, " if epochs > 4 else ""
            passes.setdefault(f"{warning}{epochs:.1f} epochs over the training tokens, each in a new order", []).append(
                name
            )
    texts += [f"{text} ({', '.join(names)})" for text, names in passes.items()]
    files = {name: arm.settings["train"]["weights"] for name, arm in plan.study.with_baseline.items()}
    texts += _elsewhere(files, ended) + said_by_levers(plan) + before_training(plan)
    base = plan.study.baseline.settings["budget"]
    if base["tokens"] is None:
        text = f"budget of {base['seconds']:g} s of wall clock: arms saw different numbers of tokens"
        texts.append(text + ", and trajectories are not compared")
    if any(rounds["tensors"] and not rounds["steps"] for one in ended if (rounds := one.get("rounded"))):
        texts.append("warning: a run ended before train.qat.start: no step of it saw rounded weights")
    return texts


def _elsewhere(files: Mapping[str, Sequence[str] | None], done: Iterable[Trained]) -> list[str]:
    """Say what a reader must know: which arms use which files (arm -> paths), and what was said when they were read."""
    users: dict[str, list[str]] = {}
    for arm, named in files.items():
        if named:
            users.setdefault(", ".join(Path(file).name for file in named), []).append(arm)
    text = "weights trained elsewhere, so their tokens and their time are not known and no budget was spent"
    said = dict.fromkeys(note for one in done for note in one.get("adopted", {}).get("notes", []))
    texts = [f"{text}: {listed} ({', '.join(arms)})" for listed, arms in users.items()]
    return texts + [f"of weights trained elsewhere: {note}" for note in said]


def before_training(plan: Plan) -> list[str]:
    """Say of every corpus what an untrained model scored beside ln V; of several, how many tokens a byte of text takes."""
    users: dict[str, list[str]] = {}
    said: dict[str, str] = {}
    for name in plan.study.with_baseline:
        corpus = plan.corpus(plan.runs[name, plan.seeds[0]])
        users.setdefault(corpus.key, []).append(name)
        done = [plan.store.trained(plan.runs[name, seed].train_key) for seed in plan.seeds]
        first = next((one["untrained"] for one in done if one and one["untrained"].get("tokens")), None)
        if first is not None and corpus.key not in said:
            said[corpus.key] = (
                f"before training {first['nats_per_token']:.3f} nats/token (ln V = {first['ln_vocab']:.3f}) and "
                f"{first['bits_per_byte']:.3f} bits/byte over {first['tokens']:,} tokens of {first['bytes']:,} bytes"
            )
    if len(users) == 1:
        return list(said.values())
    texts = [plan.corpora[key].valid for key in users]
    rates = [f"{v.n_targets / v.n_scored_bytes:.4f}" if v.n_scored_bytes else "none counted" for v in texts]
    listed = "; ".join(f"{rate} ({', '.join(names)})" for rate, names in zip(rates, users.values()))
    return [f"{said[key]} ({', '.join(users[key])})" for key in said] + [f"tokens per byte of held-out text: {listed}"]


def said_by_levers(plan: Plan) -> list[str]:
    """List what the parts of the models themselves have to say: their `notes`."""
    said: dict[str, list[str]] = {}
    for name in plan.study.with_baseline:
        parts = plan.decoder(name).parts().values()
        for text in dict.fromkeys(text for part in parts for text in part.notes()):
            said.setdefault(text, []).append(name)
    return [f"{text} ({', '.join(names)})" for text, names in said.items()]


def environment(plan: Plan) -> dict[str, object]:
    """Say where the runs were made: machine, versions, precision, executor."""
    from ablab import __version__
    from ablab.runtime import machine

    return {
        "ablab": __version__,
        "commit": provenance.of_ablab(),
        "study_commit": provenance.of_study(plan.study.path),
        **machine.describe(),
        **(plan.where.as_json() if plan.study.runner is None else {}),
        "judged": datetime.datetime.now().isoformat(timespec="seconds"),
    }
