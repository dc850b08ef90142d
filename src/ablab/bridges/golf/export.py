"""An arm as the folder of a non-record submission to parameter-golf: README.md, submission.json and one log per run.

Every number is read from finished runs; what a field claims about rules, the checks of those runs have seen. Shapes of the
files: openai/parameter-golf, the submissions of April 2026.
"""

from __future__ import annotations

import datetime
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.bridges.golf import log as golf_log
from ablab.bridges.golf import page as golf_page
from ablab.bridges.golf.entry import METRIC, Entry, entry
from ablab.bridges.golf.rules import compliance, evaluation_seconds
from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, InvalidStudy, did_you_mean
from ablab.core.files import write_atomic
from ablab.judging import collect, judge
from ablab.report.shareable import shareable

if TYPE_CHECKING:
    from ablab.runs.plan import Plan
    from ablab.verdict import Row, Verdict


def export(
    plan: Plan, arm: str, out: Path, *, author: str, github_id: str, name: str | None = None, today: str | None = None
) -> list[Path]:
    """Write the folder `out` (new or empty) and return its files.

    Raises InvalidStudy for a metric that is not bits per byte or an unknown arm, CheckFailed where runs are missing, the arm
    is invalid or diverged, or `out` holds something.
    """
    known = plan.study.with_baseline
    if arm not in known:
        raise InvalidStudy(Fault("arm", f"no arm is called '{arm}'", did_you_mean(arm, list(known))))
    if plan.study.decision["metric"] != METRIC:
        fault = f"{plan.study.decision['metric']} is not what parameter-golf compares"
        raise InvalidStudy(Fault(f"{plan.study.path.name}: decision.metric", fault, f'set metric = "{METRIC}"'))
    places.unused(out)
    plan = plan.look()
    verdict = collect.judged(plan, collect.bank(plan))
    entries = {one: entry(plan, one) for one in known}
    _refuse(plan, verdict, entries[arm])
    made = submission(plan, entries[arm], verdict.rows[arm], author=author, github_id=github_id, name=name, today=today)
    made["exploratory"] = bool(judge.decisions(plan)["exploratory"])
    texts = {
        "README.md": golf_page.page(plan, arm, entries, verdict, made),
        "submission.json": json.dumps(made, indent=2, allow_nan=False) + "\n",
    }
    for seed in entries[arm].done:
        texts[f"logs/train_seed{seed}.log"] = golf_log.log(plan, entries[arm], seed)
    texts = shareable(texts, folder=plan.study.path.parent, root=plan.store.root)
    for path, text in texts.items():
        write_atomic(out / path, text)
    return [out / path for path in texts]


def _refuse(plan: Plan, verdict: Verdict, one: Entry) -> None:
    row, file = verdict.rows[one.arm], plan.study.path.name
    missing = [f"{run.arm} seed {run.seed}" for run in collect.wanted(plan, collect.bank(plan))]
    if missing:
        listed = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        fault = f"{len(missing)} runs are not finished ({listed})"
        raise CheckFailed(Fault(file, fault, "let `ablab run` finish the study"))
    if row.word == "invalid":
        raise CheckFailed(Fault(f"{file}: arm {one.arm}", f"is invalid ({'; '.join(row.notes)})", "mend the cause"))
    decider = plan.study.decision["stage"]
    if not one.done:
        raise CheckFailed(Fault(f"{file}: arm {one.arm}", "has no finished run", "run it, or name another arm"))
    if len(one.values(decider)) < len(one.done) or not one.values(decider):
        why = next((r[decider]["diverged"] for r in one.results.values() if r[decider].get("diverged")), "no number")
        fault = f"diverged at stage '{decider}' ({why})"
        raise CheckFailed(Fault(f"{file}: arm {one.arm}", fault, "decide at a stage that it reaches"))


def submission(
    plan: Plan, one: Entry, row: Row, *, author: str, github_id: str, name: str | None, today: str | None
) -> golf_page.Submission:
    """Return what submission.json says of an arm."""
    decider, study = plan.study.decision["stage"], plan.study
    bpb, loss = one.values(decider), one.values(decider, "nats_per_token")
    arm = study.with_baseline[one.arm]
    sizes = [of_seed[decider]["bytes"] for of_seed in one.results.values()]
    code = [of_seed[decider].get("code_bytes") or 0 for of_seed in one.results.values()]
    return {
        "name": name or f"{study.name}: {one.arm}",
        "author": author,
        "github_id": github_id,
        "date": today or datetime.date.today().isoformat(),
        "track": "non-record",
        "blurb": arm.because or study.question or study.name,
        "val_bpb": statistics.fmean(bpb),
        "val_bpb_std": statistics.stdev(bpb) if len(bpb) > 1 else None,
        "val_loss": statistics.fmean(loss),
        "bytes_total": max(sizes),
        "bytes_code": max(code),
        "stage": decider,
        "seeds": list(one.done),
        "seed_results": {str(seed): _seed(one, seed, decider) for seed in one.done},
        "hardware": "; ".join(sorted({str(done.get("machine", "unknown")) for done in one.done.values()})),
        "verdict": {"against": row.on, "word": row.word, "delta": row.delta, "low": row.low, "high": row.high},
        "compliance": compliance(plan, one, decider),
        "attribution": [],
    }


def _seed(one: Entry, seed: int, decider: str) -> dict[str, float | None]:
    results, done = one.results[seed], one.done[seed]
    last = results[decider]
    values = {
        f"{role}_val_bpb": results[stage]["metrics"].get(METRIC)
        for stage, role in one.roles.items()
        if results[stage].get("metrics")
    }
    return {
        "val_bpb": last["metrics"][METRIC],
        "val_loss": last["metrics"]["nats_per_token"],
        **values,
        "artifact_bytes": last["bytes"],
        "steps": done["steps"] or None,  # none: trained elsewhere
        "train_time_s": done["seconds"] if done["steps"] else None,
        "pack_time_s": max((r.get("timing", {}).get("pack") or 0.0 for r in results.values()), default=0.0),
        "eval_time_s": evaluation_seconds(last),
    }
