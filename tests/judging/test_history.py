"""What the record of decisions leaves of the words: the same question asked twice, arms added, and files lost on the way."""

from __future__ import annotations

import json
import math
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from tests import finished_store as made

from ablab.judging import collect, history, judge
from ablab.report import html, markdown
from ablab.runs.plan import Plan

NOPE = '\n[arm.nope]\nmodel.local.position = "nope"\n'
ONE = made.STUDY.replace("\n[arm.int5]\nstage.post_quant.compress.bits = 5\n", "")


@pytest.fixture(autouse=True)
def known_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's writer knows arms by name: these are others of about the same kind."""
    for name in ("nope", "wider", "narrow"):
        monkeypatch.setitem(made.EFFECT, name, dict.fromkeys(made.STAGES, 0.011))
        monkeypatch.setitem(made.BYTES, name, 15_500)


def run(folder: Path, text: str) -> dict[str, Any]:
    """Declare, do what is missing, judge."""
    plan = declare(folder, text)
    for (arm, seed), one in plan.runs.items():
        if plan.store.trained(one.train_key) is None or not all(map(plan.store.scored, one.score_keys.values())):
            made.finish(plan, arm, seed)
    return judge.conclude(plan)


def declare(folder: Path, text: str) -> Plan:
    plan = made.plan(folder, text)
    judge.decisions(plan)
    return plan


def arm(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in answer["arms"] if row["name"] == name)


def moved(first: int, text: str = ONE) -> str:
    return text.replace("seeds = 3", f"seeds = {{ start = 3, at_most = 3, first = {first} }}")


def test_moved_seeds_are_exploratory_and_pooled(tmp_path: Path) -> None:
    before = run(tmp_path, ONE)
    assert before["exploratory"] is False and arm(before, "wide")["record"]["kind"] == "declared"
    after = run(tmp_path, moved(100))
    row = arm(after, "wide")
    assert after["exploratory"] is True
    assert row["record"]["because"] == (
        "study stages decided the same contrast before, on 3 other pairs; changed: decision.seeds.first 0 -> 100"
    )
    plans = made.plan(tmp_path, ONE), made.plan(tmp_path, moved(100))
    value = {
        (name, seed): plan.store.scored(one.score_keys["sliding"])["metrics"]["bits_per_byte"]
        for plan in plans
        for (name, seed), one in plan.runs.items()
    }
    d = [value["wide", seed] - value["baseline", seed] for seed in (0, 1, 2, 100, 101, 102)]
    low, high = stats.ttest_1samp(d, 0).confidence_interval(1 - 0.05 / 2)
    pooled = row["pooled"]
    assert (pooled["seeds"], pooled["decisions"], pooled["word"]) == (6, 2, "worse")
    assert (pooled["delta"], pooled["low"], pooled["high"]) == pytest.approx((sum(d) / 6, low, high), rel=1e-9)
    for page in (html.page(after), markdown.page(after)):
        assert "Over all 6 seeds ever run for wide against baseline, at alpha 0.05 / 2 decisions" in page
    third = arm(run(tmp_path, moved(200)), "wide")["pooled"]
    assert (third["seeds"], third["decisions"]) == (9, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('name = "stages"', 'name = "another"'),
        lambda text: text.replace("arm.wide", "arm.wider"),
        lambda text: text.replace("[train]", '[train]\nsalt = "other draws"'),
        lambda text: text.replace("matters = 0.05", "matters = 0.02"),
        lambda text: text.replace('metric = "bits_per_byte"', 'metric = "nats_per_token"'),
        lambda text: text.replace('stage = "sliding"', 'stage = "post_quant"'),
        lambda text: text.replace("[decision]", "[decision]\nconfidence = 0.9"),
        lambda text: text + '\n[arm.nope]\nmodel.local.position = "nope"\n',
        lambda text: text.replace("[train]", "[train]\nvalidate_every = 1024"),
        lambda text: text.replace('"L[LL]^2L"', '"K[KK]^2K"').replace("local.position", "kay.position"),
        lambda text: text.replace("local.position", "llama.position"),
        lambda text: text.replace('"L[LL]^2L"', '"L[KL]^2L"').replace(
            'local.position = "rope"', 'local.position = "rope"\nkay.position = "rope"'
        ),
        lambda text: text.replace("loop_from = 0.5", "loop_from = 0.5000001"),
    ],
    ids=[
        "study",
        "arm",
        "salt",
        "matters",
        "metric",
        "stage",
        "confidence",
        "one_more_arm",
        "validation",
        "letter",
        "table",
        "kind_twice",
        "seventh_digit",
    ],
)
def test_no_other_change_hides_moved_seeds(tmp_path: Path, change: Any) -> None:
    run(tmp_path, ONE)
    after = run(tmp_path, change(moved(100)))
    name = "wider" if any(row["name"] == "wider" for row in after["arms"]) else "wide"
    assert after["exploratory"] is True and arm(after, name)["record"]["kind"] == "exploratory"


@pytest.mark.parametrize("salt", ["a", "b"])
def test_another_salt_on_the_same_seeds_is_no_fresh_question(tmp_path: Path, salt: str) -> None:
    run(tmp_path, ONE)
    after = run(tmp_path, ONE.replace("[train]", f'[train]\nsalt = "{salt}"'))
    assert after["exploratory"] is True and arm(after, "wide")["pooled"]["seeds"] == 6


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("matters = 0.05", "matters = 0.02", "decision.matters 0.05 -> 0.02"),
        ('metric = "bits_per_byte"', 'metric = "nats_per_token"', "decision.metric bits_per_byte -> nats_per_token"),
        ('stage = "sliding"', 'stage = "ttt"', "decision.stage sliding -> ttt"),
        ("[decision]", "[decision]\nconfidence = 0.9", "decision.confidence 0.95 -> 0.9"),
        ("seeds = 3", "seeds = { start = 3, at_most = 4 }", "decision.seeds.at_most 3 -> 4"),
        ("[decision]", '[decision]\ntie = ["lowest"]', "decision.tie [] -> ['lowest']"),
        ("bytes = 16_000", "bytes = 17_000", "limits.bytes 16000 -> 17000"),
        ("\n[arm.int5]\nstage.post_quant.compress.bits = 5\n", "", "arm.int5 removed"),
    ],
)
def test_a_rule_changed_after_results_is_exploratory_and_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    run(tmp_path, made.STUDY)
    after = run(tmp_path, made.STUDY.replace(old, new, 1))
    assert after["exploratory"] is True
    assert arm(after, "wide")["record"]["because"] == f"3 pairs had ended; changed: {said}"
    assert said in unescape(markdown.page(after)).replace("\\", "")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('name = "stages"', 'name = "another"'),
        lambda text: text.replace("arm.wide", "arm.wider"),
        lambda text: text.replace("What holds", "What remains"),
        lambda text: text.replace("seeds = 3", "seeds = { start = 3, at_most = 3 }"),
        lambda text: text + 'because = "it is wider"\n',
    ],
    ids=["study", "arm", "question", "spelling", "because"],
)
def test_names_and_texts_change_no_word(tmp_path: Path, change: Any) -> None:
    before, after = run(tmp_path, ONE), run(tmp_path, change(ONE))
    assert after["exploratory"] is False
    rows = [next(row for row in one["arms"] if row["on"]) for one in (before, after)]
    assert all(rows[0][key] == rows[1][key] for key in ("word", "delta", "low", "high", "m", "record", "pooled"))


@pytest.mark.parametrize(
    "old, new", [("tokens = 4096", "tokens = 8192"), ("n_heads = 2", "n_heads = 4"), ("lr = 2e-3", "lr = 1e-3")]
)
def test_another_budget_scale_or_recipe_is_another_contrast(tmp_path: Path, old: str, new: str) -> None:
    run(tmp_path, ONE)
    after = run(tmp_path, ONE.replace(old, new, 1))
    assert after["exploratory"] is False and arm(after, "wide")["record"]["kind"] == "declared"
    assert len(after["decisions"]) == 1


def test_another_baseline_under_a_known_arm_is_no_known_contrast(tmp_path: Path) -> None:
    run(tmp_path, ONE)
    after = run(tmp_path, ONE.replace("d_model = 32", "d_model = 48"))  # the runs of `wide` are there already
    assert after["exploratory"] is False and arm(after, "wide")["record"] == {
        "kind": "added", "after": 3, "because": "", "family": 1,
    }  # fmt: skip


def test_a_decision_that_was_edited_before_any_result_is_declared(tmp_path: Path) -> None:
    declare(tmp_path, ONE)
    declare(tmp_path, moved(50))
    after = run(tmp_path, ONE.replace("matters = 0.05", "matters = 0.02"))
    assert after["exploratory"] is False and arm(after, "wide")["pooled"] is None


def test_of_seeds_declared_ahead_the_first_that_gets_results_is_declared(tmp_path: Path) -> None:
    texts = {first: moved(first) for first in (100, 200, 300)}
    for text in texts.values():
        declare(tmp_path, text)
    ended = {first: run(tmp_path, texts[first]) for first in (300, 200, 100)}
    again = {first: run(tmp_path, text) for first, text in texts.items()}
    assert {first: answer["exploratory"] for first, answer in ended.items()} == {300: False, 200: True, 100: True}
    assert arm(ended[200], "wide")["record"]["because"] == (
        "study stages decided the same contrast before, on 3 other pairs; changed: decision.seeds.first 300 -> 200"
    )
    assert all(arm(ended[first], "wide")["record"] == arm(again[first], "wide")["record"] for first in texts)


def test_another_study_that_ends_changes_no_finished_verdict(tmp_path: Path) -> None:
    early, late = ONE.replace('"stages"', '"a"'), moved(100).replace('"stages"', '"b"')
    declare(tmp_path, early)
    declare(tmp_path, late)
    before, second = run(tmp_path, late), run(tmp_path, early)
    assert before["exploratory"] is False and second["exploratory"] is True
    for _ in range(2):
        assert arm(run(tmp_path, late), "wide")["record"] == arm(before, "wide")["record"]
        assert arm(run(tmp_path, early), "wide")["record"] == arm(second, "wide")["record"]
    (tmp_path / "runs/decisions.jsonl").unlink()  # every study's folder holds what it was told
    assert run(tmp_path, late)["exploratory"] is False and run(tmp_path, early)["exploratory"] is True


def test_results_that_nobody_judged_are_seen_by_the_next_study(tmp_path: Path) -> None:
    """A run that is killed before it is judged has been looked at all the same."""
    first, second = declare(tmp_path, moved(100)), declare(tmp_path, ONE)
    for name in ("baseline", "wide"):
        made.finish(second, name, 0)
    made.fill(first)
    assert run(tmp_path, moved(100))["exploratory"] is True
    assert run(tmp_path, ONE)["exploratory"] is False


def test_a_report_in_between_takes_no_words_away(tmp_path: Path) -> None:
    plan = declare(tmp_path, ONE)
    other = ONE.replace("matters = 0.05", "matters = 0.02")
    declare(tmp_path, other)
    history.begin(plan)
    made.fill(plan)
    looked = judge.conclude(made.plan(tmp_path, other))  # before the run's own judging
    assert looked["exploratory"] is True
    assert arm(looked, "wide")["record"]["because"] == (
        "3 pairs had ended first in study stages; changed: decision.matters 0.05 -> 0.02"
    )
    assert judge.conclude(made.plan(tmp_path, ONE))["exploratory"] is False


def test_a_store_without_the_order_of_results_is_read_by_the_times_of_its_files(tmp_path: Path) -> None:
    declare(tmp_path, ONE)
    late = run(tmp_path, moved(100))
    early = run(tmp_path, ONE)
    for file in (tmp_path / "runs").rglob("decisions.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            for entry in row.get("contrasts", ()):
                del entry["trained"], entry["turned"]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows if "first" not in row and "begun" not in row))
    made.stamp(made.plan(tmp_path, moved(100)), 1e9)
    made.stamp(made.plan(tmp_path, ONE), 2e9)
    assert late["exploratory"] is False and early["exploratory"] is True
    assert run(tmp_path, ONE)["exploratory"] is True and run(tmp_path, moved(100))["exploratory"] is False


def test_exchanged_roles_are_the_same_question(tmp_path: Path) -> None:
    before = run(tmp_path, ONE)
    text = moved(100).replace("d_model = 32", "d_model = 40").replace("arm.wide", "arm.narrow")
    text = text.replace("[arm.narrow]\nmodel.d_model = 40", "[arm.narrow]\nmodel.d_model = 32")
    after = run(tmp_path, text.replace('"stages"', '"turned"'))
    row = arm(after, "narrow")
    assert after["exploratory"] is True and row["record"]["because"] == (
        "study stages decided the same contrast before, on 3 other pairs; "
        "changed: decision.seeds.first 0 -> 100, arm.narrow and its reference exchanged"
    )
    own, theirs = row["delta"], arm(before, "wide")["delta"]
    assert row["pooled"]["seeds"] == 6 and row["pooled"]["delta"] == pytest.approx((own - theirs) / 2)
    back = arm(run(tmp_path, ONE), "wide")
    assert back["pooled"]["delta"] == pytest.approx((theirs - own) / 2) and back["record"]["kind"] == "declared"


@pytest.mark.parametrize("lost", ["decisions.jsonl", "studies/stages/decisions.jsonl"])
def test_a_lost_record_hides_nothing_and_accuses_nobody(tmp_path: Path, lost: str) -> None:
    run(tmp_path, ONE)
    (tmp_path / "runs" / lost).unlink()
    assert run(tmp_path, ONE)["exploratory"] is False
    (tmp_path / "runs" / lost).unlink()
    assert run(tmp_path, moved(100))["exploratory"] is True


def test_without_any_record_results_that_exist_are_exploratory(tmp_path: Path) -> None:
    after = run(tmp_path, ONE)
    for file in (tmp_path / "runs").rglob("decisions.jsonl"):
        file.unlink()
    after = run(tmp_path, ONE)
    assert arm(after, "wide")["record"]["because"] == "3 pairs had ended; no decision about it was on record"


def test_an_added_arm_changes_no_earlier_word(tmp_path: Path) -> None:
    before = run(tmp_path, made.STUDY)
    after = run(tmp_path, made.STUDY + NOPE)
    assert after["exploratory"] is False
    told = ("word", "delta", "low", "high", "p", "m", "c", "look", "seeds", "mde", "stages", "record", "pooled")
    for name in ("int5", "wide"):
        assert {k: arm(before, name)[k] for k in told} == {k: arm(after, name)[k] for k in told}
    new = arm(after, "nope")
    assert new["record"]["kind"] == "added" and new["record"]["after"] == 9, "three arms at three seeds"
    c = stats.t.isf(0.05 / 2, 2)  # a family of one: its own alpha
    assert new["c"] == pytest.approx(c) and new["m"] == 1
    assert new["high"] == pytest.approx(new["delta"] + c * new["s"] / math.sqrt(3))
    page = markdown.page(after).replace("\\", "")
    assert "nope: added after 9 results, a family with its own alpha" in page
    assert "3 arms have been judged on this baseline in 2 families, each at alpha 0.05" in page
    assert "at most 0.1" in page and "arm.nope added" in page
    assert "EXPLORATORY" not in page and "added after 9 results" in html.page(after)


def test_a_page_with_an_added_arm_does_not_speak_of_one_family(tmp_path: Path) -> None:
    assert "One family. The chance that any arm without" in markdown.page(run(tmp_path, ONE))
    for page in map(unescape, (markdown.page(run(tmp_path, ONE + NOPE)), html.page(run(tmp_path, ONE + NOPE)))):
        assert "One family" not in page and "2 families of arms on this baseline" in page
        assert "is at most 5%, of all 2 together at most 10%" in page
        assert "is of each of 2 families of variants" in page and "of all 2 together at most 10%." in page


def test_arms_added_together_share_one_alpha_and_each_addition_has_its_own(tmp_path: Path) -> None:
    run(tmp_path, ONE)
    wider = "\n[arm.wider]\nmodel.d_model = 48\n"
    both = run(tmp_path, ONE + NOPE + wider)
    families = {row["name"]: row["record"]["family"] for row in both["arms"] if row["on"]}
    assert families["nope"] == families["wider"] != families["wide"]
    assert both["on_baseline"] == {"arms": 3, "families": 2}


def test_studies_of_one_arm_in_a_row_are_counted(tmp_path: Path) -> None:
    run(tmp_path, ONE)
    text = ONE.replace("[arm.wide]\nmodel.d_model = 40\n", NOPE).replace('name = "stages"', 'name = "second"')
    after = run(tmp_path, text)
    assert after["exploratory"] is False and arm(after, "nope")["record"]["kind"] == "added"
    assert after["on_baseline"] == {"arms": 2, "families": 2}
    assert any("2 arms have been judged on this baseline in 2 families" in note for note in after["notes"])


def test_an_expectation_written_after_results_is_said(tmp_path: Path) -> None:
    run(tmp_path, ONE)
    after = run(tmp_path, ONE + "expect.sliding = 0.12\n")
    assert after["exploratory"] is False
    assert "wide: what was expected of it was written after 3 pairs had ended" in after["notes"]


CELLS = {"qk_norm=false": 0.011, "position=nope": 0.02, "qk_norm=false,position=nope": 0.013}
CROSSED = '[factorial.two]\nmodel.qk_norm = [true, false]\nmodel.local.position = ["rope", "nope"]\n'
ARMS = """
[arm.plain]
model.qk_norm = false
[arm.nope]
model.local.position = "nope"
[arm.both]
model.qk_norm = false
model.local.position = "nope"
together = "cells of a square"
"""


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, gain in {**CELLS, "plain": 0.011, "both": 0.013}.items():
        monkeypatch.setitem(made.EFFECT, name, dict.fromkeys(made.STAGES, gain))
        monkeypatch.setitem(made.BYTES, name, 15_500)


@pytest.mark.usefixtures("cells")
def test_a_factorial_reaches_the_verdict(tmp_path: Path) -> None:
    plan = made.plan(tmp_path, ONE + CROSSED)
    said = (
        "factorial two (model.qk_norm x model.local.position): 4 cells, each an arm but the baseline; beside them its "
        "interaction takes a place in the family"
    )
    assert said in judge.notes(plan), "what `check` prints"
    assert {run.arm for run in collect.wanted(plan)} == {"baseline", "wide", *CELLS}
    assert not any("factorial" in note for note in judge.notes(made.plan(tmp_path, ONE)))
    answer = run(tmp_path, ONE + CROSSED)
    (found,) = answer["factorials"]
    main, other, pair = found["effects"]
    assert [cell["arm"] for cell in found["cells"]] == [
        "baseline", "position=nope", "qk_norm=false", "qk_norm=false,position=nope",
    ]  # fmt: skip
    assert found["factors"][0] == {"name": "qk_norm", "levels": ["true", "false"]}
    own = {name: arm(answer, name)["delta"] for name in CELLS}
    assert pair["delta"] == pytest.approx(
        own["qk_norm=false,position=nope"] - own["qk_norm=false"] - own["position=nope"]
    )
    assert arm(answer, "wide")["m"] is not None and len(answer["arms"]) == 5
    assert pair["share"] == pytest.approx(1 + pair["delta"] / sum(pair["alone"]))
    assert main["order"] == other["order"] == 1 and "exploratory" not in " ".join(pair["notes"])
    assert answer["winner"] is not None


@pytest.mark.usefixtures("cells")
def test_an_interaction_asked_for_after_results_moves_no_word(tmp_path: Path) -> None:
    """Its cells keep the family that they were declared with; it is one by itself, and leaving it out again is no way back."""
    before = run(tmp_path, ONE + ARMS)
    after = run(tmp_path, ONE + ARMS + CROSSED)
    for name in ("wide", "plain", "nope", "both"):
        assert [arm(after, name)[key] for key in ("word", "low", "high", "m")] == [
            arm(before, name)[key] for key in ("word", "low", "high", "m")
        ]
    pair = after["factorials"][0]["effects"][-1]
    assert pair["m"] == 1 and any(note.startswith("exploratory: asked for when") for note in pair["notes"])
    (tmp_path / "second").mkdir()
    again = run(tmp_path / "second", ONE + ARMS + CROSSED)
    assert "exploratory" not in " ".join(again["factorials"][0]["effects"][-1]["notes"])
    without = run(tmp_path / "second", ONE + ARMS)
    assert without["exploratory"] is True
    assert "changed: factorial.two: qk_norm=false x position=nope removed" in arm(without, "wide")["record"]["because"]
