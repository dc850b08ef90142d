"""What a study still costs: every step once, at the time that its like took, less what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests import finished_store as made

from ablab.check import facts as check
from ablab.check import quote, timing
from ablab.core.sealed import sealed
from ablab.data import ValidRows
from ablab.judging import judge, price
from ablab.report import tables
from ablab.runs.plan import Plan
from ablab.verdict.evidence import Work
from ablab.verdict.price import total

VALIDATED = 100.0
TRAINED = {"baseline": 576.0 + VALIDATED, "wide": 640.0 + VALIDATED}
STAGES = 5  # of every arm; pre_quant of int5 is the baseline's in a real store, here each has its own key


def finished(folder: Path) -> Plan:
    """Every run of every seed: a training has VALIDATED seconds of validations, a stage takes 20, the needle its own."""
    plan = made.fill(made.plan(folder))
    for key in {run.train_key for run in plan.runs.values()}:
        path = plan.store.train(key) / "done.json"
        path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "validate_seconds": VALIDATED})))
    return plan


def forget(plan: Plan, seed: int) -> None:
    """Take away all that was made at a seed."""
    for (_, other), run in plan.runs.items():
        if other == seed:
            shutil.rmtree(plan.store.train(run.train_key), ignore_errors=True)
            for key in run.score_keys.values():
                shutil.rmtree(plan.store.score(key), ignore_errors=True)


def stage_seconds(plan: Plan, arm: str) -> float:
    found = quote.of_run(plan, arm)["stage_seconds"]
    assert set(found) == set(plan.stages) and found["sliding"] == 20.0
    return float(sum(found.values()))


def test_steps_are_counted_once_and_only_where_they_are_missing() -> None:
    steps = [Work("t", 5e6, 100.0), Work("t", 5e6, 100.0), Work("s", None, 7.0), Work("u", 5e6, 90.0, done=True)]
    found = total(steps)
    assert (found.runs, found.evaluations, found.tokens, found.seconds) == (1, 1, 5e6, 107.0)
    assert total([*steps, Work("x", None, None)]).seconds is None, "one step that nobody timed"
    assert total([Work("x", float("nan"), 3.0)]).tokens is None, "a budget in seconds"
    assert (total([]).runs, total([]).seconds, total([]).tokens) == (0, 0.0, 0.0)


def test_a_price_is_training_validation_and_stages_less_what_exists(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    nothing = quote.bounds(plan)["start"]
    assert (nothing["runs"], nothing["evaluations"], nothing["seconds"], nothing["tokens"]) == (0, 0, 0.0, 0.0)
    last = plan.seeds[2]
    forget(plan, last)
    bound = quote.bounds(plan)["at_most"]
    alike = 3 * stage_seconds(plan, "baseline")  # each arm's stages take the same here
    assert bound["runs"] == 2, "int5 has the baseline's weights"
    assert bound["evaluations"] == 3 * len(plan.stages)
    assert bound["seconds"] == pytest.approx(sum(TRAINED.values()) + alike)
    assert bound["wall_seconds"] == pytest.approx(bound["seconds"] / bound["jobs"])
    found = quote.of_run(plan, "int5")
    assert found["train_seconds"] == TRAINED["baseline"] and found["seconds_per_run"] == stage_seconds(plan, "int5")
    text = check._price_text(bound)
    assert text.startswith("2 runs, ") and "one after another" in text


def test_verdict_report_and_check_say_one_price(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    forget(plan, plan.seeds[2])
    arm, both = judge.conclude(plan)["arms"][2], ("wide", "baseline")
    assert (arm["name"], arm["word"]) == ("wide", "inconclusive")
    steps = price.work(plan)
    wanted = total(step for name in both for step in steps[name, plan.seeds[2]])
    assert arm["price"] == {
        "runs": 2, "evaluations": 2 * len(plan.stages), "tokens": wanted.tokens,
        "seconds": pytest.approx(sum(TRAINED.values()) + 2 * stage_seconds(plan, "wide")),
    }  # fmt: skip
    assert tables.price_text(arm["price"]) in tables.cost_of_more(arm)


def test_evaluations_have_a_price_of_their_own(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    last = plan.seeds[2]
    shutil.rmtree(plan.store.score(plan.runs["int5", last].score_keys["sliding"]))
    bound = quote.bounds(plan)["at_most"]
    assert (bound["runs"], bound["evaluations"], bound["seconds"]) == (0, 1, 20.0)
    assert check._price_text(bound) == "1 evaluation, about 20 s one after another"
    arm = next(arm for arm in judge.conclude(plan)["arms"] if arm["name"] == "int5")
    assert (arm["price"]["runs"], arm["price"]["evaluations"], arm["price"]["seconds"]) == (0, 1, 20.0)
    assert tables.price_text(arm["price"]) == "1 evaluation, 20 s"


def test_what_diverged_has_no_stages_to_come(tmp_path: Path) -> None:
    plan = finished(tmp_path)
    last = plan.seeds[2]
    forget(plan, last)
    where = plan.store.train(plan.runs["wide", last].train_key)
    where.mkdir(parents=True)
    lost = {
        **json.loads((plan.store.train(plan.runs["wide", 0].train_key) / "done.json").read_text()),
        "status": "diverged",
    }
    (where / "done.json").write_text(json.dumps(sealed(lost)))
    bound = quote.bounds(plan)["at_most"]
    assert (bound["runs"], bound["evaluations"]) == (1, 2 * len(plan.stages))


def test_what_check_timed_holds_until_something_has_run(tmp_path: Path) -> None:
    plan = made.plan(tmp_path)
    assert quote.bounds(plan)["start"]["seconds"] is None
    recipes = {arm: price.recipes(plan, arm) for arm in plan.study.with_baseline}
    timing.keep(
        plan, {key: [2.5, 9.0, 3.0] for training, stages in recipes.values() for key in (training, *stages.values())}
    )
    bound = quote.bounds(plan)["start"]
    steps = bound["runs"] + bound["evaluations"]
    assert (bound["seconds"], bound["fastest"], bound["slowest"]) == (3.0 * steps, 2.5 * steps, 9.0 * steps)
    said = check._price_text(
        {**bound, "runs": 6, "tokens": 0.0, "jobs": 1, "seconds": 390.0, "fastest": 300.0, "slowest": 780.0}
    )
    assert said == "6 runs, about 6.5 min (5 min to 13 min) one after another"
    alone = quote.of_run(plan, "wide")
    n = 1 + len(plan.stages)
    assert (alone["seconds_per_run"], alone["spread_per_run"]) == (3.0 * n, [2.5 * n, 9.0 * n])
    made.fill(plan)
    forget(plan, plan.seeds[2])
    alone = quote.of_run(plan, "wide")
    assert alone["train_seconds"] == 640.0, "finished runs tell, not the sample"
    assert alone["spread_per_run"] == [alone["seconds_per_run"]] * 2 and "min (" not in check._price_text(
        quote.bounds(plan)["at_most"]
    ), "runs that took the same have no spread"
    for damaged in ("{", '{"seconds": [1]}', '{"seconds": {"a": "soon", "b": -1}}'):
        price.timed_in(plan).write_text(damaged)
        assert price.timings(plan) == {}


@pytest.mark.parametrize("warm", [0.0, 0.3])
def test_what_is_long_is_reckoned_from_samples_that_grow(warm: float) -> None:
    asked: list[int] = []

    def took(size: int) -> float:
        asked.append(size)
        return 0.2 + 1e-5 * size + (warm if len(asked) == 1 else 0.0)

    assert timing._grown(took, 2048, 5_000_000) == pytest.approx(0.2 + 1e-5 * 5_000_000, rel=1e-6)
    assert max(asked) < 300_000 and asked == sorted(asked)
    assert timing._grown(took, 2048, 1000) == pytest.approx(0.2 + 1e-5 * 1000)


def test_text_that_is_too_short_for_an_evaluator_is_no_sample() -> None:
    def took(size: int) -> float:
        if size < 30_000:
            raise ValueError("one chunk")
        return 1e-4 * size

    assert timing._grown(took, 2048, 1_000_000) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="one chunk"):
        timing._grown(took, 2048, 20_000)


def test_steps_are_weighed_over_what_begins_on_the_way() -> None:
    settings: dict[str, Any] = {"model": {"loop_from": 0.4}, "train": {"qat": {"name": "fake_quant", "start": 0.8}}}
    wanted = [(0.4, 0.2), (0.4, 0.6), (0.2, 0.9)]
    assert timing._phases(settings) == [pytest.approx(one) for one in wanted]
    assert timing._phases({"model": {}, "train": {"qat": {"name": "off"}}}) == [(1.0, 0.5)]


class _Busy:
    """A machine whose work takes three times as long for the first seconds, and a training of it: a second a row."""

    def __init__(self, until: float) -> None:
        self.now, self.until = 0.0, until

    def spend(self, seconds: float) -> None:
        self.now += seconds * (3.0 if self.now < self.until else 1.0)

    def learner(self, settings: Any, corpus: Any, **_: Any) -> Any:
        batch = SimpleNamespace(batch=lambda at: Batch(torch.zeros(512)))
        rows = ValidRows(**{name: np.zeros((4, 8)) for name in ValidRows.__dataclass_fields__})
        return SimpleNamespace(
            stream=batch, device="cpu", steps=100, valid=rows,
            step=lambda part, at, spent: self.spend(0.01 * len(part.rows)), validate=lambda: self.spend(0.5),
        )  # fmt: skip


class Batch(NamedTuple):
    rows: torch.Tensor


def test_arms_of_equal_work_are_priced_alike_on_a_machine_that_is_busy_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed one after another the first arm got the other work's time, and the others none of it."""
    plan = made.plan(tmp_path)
    monkeypatch.setattr(timing, "staged", lambda *_: {})
    quiet, busy = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
    for until, found in ((0.0, quiet), (4.0, busy)):
        machine = _Busy(until)
        monkeypatch.setattr(timing, "Learner", machine.learner)
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda machine=machine: machine.now))
        found.update(timing.study(plan))
    assert len(busy) == len(quiet) > 1
    for recipe, one in busy.items():
        assert one["seconds_per_run"] == pytest.approx(quiet[recipe]["seconds_per_run"]), "the median turn was quiet"
        fastest, slowest = one["spread"]
        assert fastest == pytest.approx(one["seconds_per_run"]) and slowest > 2 * fastest, "and the spread tells of it"
    assert len({round(one["seconds_per_run"], 6) for one in busy.values()}) == 1
