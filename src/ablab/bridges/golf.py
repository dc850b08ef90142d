"""An arm as the folder of a non-record submission to parameter-golf: README.md, submission.json and one log per run.

Every number is read from finished runs; what a field claims about rules, the gates of those runs have seen. Shapes of the
files: openai/parameter-golf, the submissions of April 2026.
"""

from __future__ import annotations

import datetime
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab import judge
from ablab import plan as planning
from ablab.bridges import golf_log, golf_page
from ablab.bridges.golf_rules import compliance, evaluation_seconds
from ablab.fault import Fault, GateFailed, InvalidStudy, did_you_mean
from ablab.files import write_atomic
from ablab.shareable import shareable
from ablab.study.settings import decides

if TYPE_CHECKING:
    from ablab.plan import Plan
    from ablab.verdict import Row, Verdict

METRIC = "bits_per_byte"
ROLES = {"pre_quant": "Pre-quant", "quantized": "Post-quant", "sliding": "Sliding", "ttt": "Post-TTT"}


@dataclass(frozen=True)
class Entry:
    """One arm's finished runs: seed -> done.json, and seed -> stage -> result.json; every stage that scores the text."""

    arm: str
    roles: dict[str, str]  # stage -> its name in a submission
    done: dict[int, dict[str, Any]]
    results: dict[int, dict[str, dict[str, Any]]]

    def values(self, stage: str, metric: str = METRIC) -> list[float]:
        """A metric at a stage, seed by seed; a score that is not finite (null on disk) is left out."""
        found = (of_seed.get(stage, {}).get("metrics", {}).get(metric) for of_seed in self.results.values())
        return [value for value in found if value is not None]


def export(
    plan: Plan, arm: str, out: Path, *, author: str, github_id: str, name: str | None = None, today: str | None = None
) -> list[Path]:
    """Write the folder `out` (new or empty) and return its files.

    Raises InvalidStudy for a metric that is not bits per byte or an unknown arm, GateFailed where runs are missing, the arm
    is invalid or diverged, or `out` holds something.
    """
    known = planning.arms(plan.study)
    if arm not in known:
        raise InvalidStudy(Fault("arm", f"no arm is called '{arm}'", did_you_mean(arm, list(known))))
    if plan.study.decision["metric"] != METRIC:
        fault = f"{plan.study.decision['metric']} is not what parameter-golf compares"
        raise InvalidStudy(Fault(f"{plan.study.path.name}: decision.metric", fault, f'set metric = "{METRIC}"'))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GateFailed(Fault(str(out), "is there already", "name a folder that is not"))
    verdict = planning.judged(plan, planning.bank(plan))
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


def entry(plan: Plan, arm: str) -> Entry:
    """Everything finished of an arm; seeds in their order."""
    done, results = {}, {}
    roles = named(plan.runs[arm, plan.seeds[0]].settings["stage"])
    for seed in plan.seeds:
        run = plan.runs[arm, seed]
        found = {stage: plan.store.scored(run.score_keys[stage]) for stage in roles}
        trained = plan.store.trained(run.train_key)
        if trained is not None and trained["status"] == "done" and all(found.values()):
            done[seed] = trained
            results[seed] = {stage: result for stage, result in found.items() if result is not None}
    return Entry(arm, roles, done, results)


def named(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """stage -> pre_quant, quantized, sliding or ttt where it is the first of that kind, else its own name; no probes.

    sliding and ttt are of packed weights, as in the game's own logs. A stage of another kind that has one of these names is
    called NAME_stage.
    """
    found: dict[str, str] = {}
    for stage, chosen in stages.items():
        if not decides(chosen["evaluate"]):
            continue
        root = chosen
        while root["after"] is not None:
            root = stages[root["after"]]
        way = chosen["evaluate"]["name"]
        packed = (root["compress"] or {}).get("name", "keep") != "keep"
        kinds = {"disjoint": "quantized", "sliding": "sliding", "ttt": "ttt"} if packed else {"disjoint": "pre_quant"}
        own = f"{stage}_stage" if stage in ROLES else stage
        role = kinds.get(way, own)
        found[stage] = own if role in found.values() else role
    return found


def _refuse(plan: Plan, verdict: Verdict, one: Entry) -> None:
    row, file = verdict.rows[one.arm], plan.study.path.name
    missing = [f"{run.arm} seed {run.seed}" for run in planning.wanted(plan, planning.bank(plan))]
    if missing:
        listed = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        fault = f"{len(missing)} runs are not finished ({listed})"
        raise GateFailed(Fault(file, fault, "let `ablab run` finish the study"))
    if row.word == "invalid":
        raise GateFailed(Fault(f"{file}: arm {one.arm}", f"is invalid ({'; '.join(row.notes)})", "mend the cause"))
    decider = plan.study.decision["stage"]
    if not one.done:
        raise GateFailed(Fault(f"{file}: arm {one.arm}", "has no finished run", "run it, or name another arm"))
    if len(one.values(decider)) < len(one.done) or not one.values(decider):
        why = next((r[decider]["diverged"] for r in one.results.values() if r[decider].get("diverged")), "no number")
        fault = f"diverged at stage '{decider}' ({why})"
        raise GateFailed(Fault(f"{file}: arm {one.arm}", fault, "decide at a stage that it reaches"))


def submission(
    plan: Plan, one: Entry, row: Row, *, author: str, github_id: str, name: str | None, today: str | None
) -> dict[str, Any]:
    """submission.json: means over seeds, the sample sd, every seed's own numbers, and what the gates have seen."""
    decider, study = plan.study.decision["stage"], plan.study
    bpb, loss = one.values(decider), one.values(decider, "nats_per_token")
    arm = planning.arms(study)[one.arm]
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


def _seed(one: Entry, seed: int, decider: str) -> dict[str, Any]:
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


def spread(values: list[float], decimals: int = 5) -> str:
    """`1.08286 +/- 0.00040` from three values on (sample sd); fewer are listed by their mean and number."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{decimals}f}"
    return f"{mean} +/- {statistics.stdev(values):.{decimals}f}" if len(values) > 2 else f"{mean} (n = {len(values)})"
