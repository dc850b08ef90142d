"""What is read of a study for an entry: the arm, its runs, and the seeds that decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablab.core.lever import value_of
from ablab.records.result import Result
from ablab.records.run import Trained
from ablab.records.settings import StageSettings
from ablab.study.settings import decides

if TYPE_CHECKING:
    from ablab.runs.plan import Plan


METRIC = "bits_per_byte"


ROLES = {"pre_quant": "Pre-quant", "quantized": "Post-quant", "sliding": "Sliding", "ttt": "Post-TTT"}


@dataclass(frozen=True)
class Entry:
    """One arm's finished runs: seed -> done.json, and seed -> stage -> result.json; every stage that scores the text."""

    arm: str
    roles: dict[str, str]  # stage -> its name in a submission
    done: dict[int, Trained]
    results: dict[int, dict[str, Result]]

    def values(self, stage: str, metric: str = METRIC) -> list[float]:
        """List the values of a metric at a stage, seed by seed; a score that is not finite (null on disk) is left out."""
        values = (of_seed[stage]["metrics"].get(metric) for of_seed in self.results.values() if stage in of_seed)
        return [value for value in values if value is not None]


def entry(plan: Plan, arm: str) -> Entry:
    """Collect everything finished of an arm; seeds in their order."""
    done, results = {}, {}
    roles = named(plan.runs[arm, plan.seeds[0]].settings["stage"])
    for seed in plan.seeds:
        run = plan.runs[arm, seed]
        results_of = {stage: plan.store.scored(run.score_keys[stage]) for stage in roles}
        trained = plan.store.trained(run.train_key)
        if trained is not None and trained["status"] == "done" and all(results_of.values()):
            done[seed] = trained
            results[seed] = {stage: result for stage, result in results_of.items() if result is not None}
    return Entry(arm, roles, done, results)


def named(stages: Mapping[str, StageSettings]) -> dict[str, str]:
    """Name each stage pre_quant, quantized, sliding or ttt where it is the first of that kind, else as it is; no probes.

    sliding and ttt are of packed weights, as in the game's own logs. A stage of another kind that has one of these names is
    called NAME_stage.
    """
    names: dict[str, str] = {}
    for stage, chosen in stages.items():
        if not decides(chosen["evaluate"]):
            continue
        root = chosen
        while root["after"] is not None:
            root = stages[root["after"]]
        way = value_of(chosen["evaluate"], "name", str)
        packed = root["compress"]["name"] != "keep"
        kinds = {"disjoint": "quantized", "sliding": "sliding", "ttt_sgd": "ttt", "ttt_lora": "ttt"}
        kinds = kinds if packed else {"disjoint": "pre_quant"}
        own = f"{stage}_stage" if stage in ROLES else stage
        role = kinds.get(way, own)
        names[stage] = own if role in names.values() else role
    return names


def spread(values: list[float], decimals: int = 5) -> str:
    """Spell `1.08286 +/- 0.00040` from three values on (sample sd); fewer are listed by their mean and number."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{decimals}f}"
    return f"{mean} +/- {statistics.stdev(values):.{decimals}f}" if len(values) > 2 else f"{mean} (n = {len(values)})"
