"""What is refused, with place, fault and cure; logs of others at their edges; plain JSON; a cheap import."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from made_studies import V4, V6, decision, near, study

from ablab.verdict import (
    ArmSpec,
    Decision,
    DocumentScores,
    Factorial,
    RunScore,
    judge,
    record,
    two_by_two,
    unpaired,
    weights,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "loss"}, r"decision.metric: 'loss' is unknown; use nats_per_token or bits_per_byte"),
        ({"stage": "x", "stages": ("y",)}, r"decision.stage: 'x' is not a stage; known: y"),
        ({"matters": 0.0}, r"decision.matters: 0.0 is not above 0"),
        ({"matters": math.nan}, r"decision.matters: nan"),
        ({"confidence": 1.0}, r"decision.confidence: 1.0 is not between 0 and 1"),
        ({"start": 4, "at_most": 3}, r"decision.seeds: start = 4, at_most = 3; needed: 1 <= start <= at_most"),
        ({"probe": -1}, r"decision.seeds.probe: -1"),
        ({"keep": 0}, r"decision.seeds.keep: 0 is neither"),
        ({"keep": True}, r"decision.seeds.keep: True is neither"),
        ({"keep": "2 sigma"}, r'"2 sigma" needs a probe; add probe = 1'),
        ({"tie": ("coin",)}, r"decision.tie: 'coin' is unknown; known: needle, trajectory, prefer X, lowest"),
        ({"tie": ("prefer ",)}, r"decision.tie: 'prefer ' is unknown"),
        ({"budget_tokens": -1.0}, r"budget.tokens: -1.0 is below 0"),
    ],
)
def test_decisions_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Decision(**{"stage": "s", "matters": 0.005, **settings})


@pytest.mark.parametrize(
    ("specs", "seeds", "runs", "message"),
    [
        ([ArmSpec("a"), ArmSpec("a")], range(8), [], "two arms have one name"),
        ([ArmSpec("a", on="z")], range(8), [], r"arm.a.on: 'z' is no arm; known: base, a"),
        ([ArmSpec("a", on="b"), ArmSpec("b", on="a")], range(8), [], "references go round in a circle: a -> b -> a"),
        ([ArmSpec("a")], range(7), [], "8 different seeds are needed"),
        ([ArmSpec("a")], [1] * 8, [], "8 different seeds are needed"),
        ([ArmSpec("a")], range(8), [RunScore("a", 0, "failed")] * 2, "run a, seed 0: two scores for one run; keep one"),
    ],
)
def test_studies_that_are_refused(specs, seeds, runs, message):
    with pytest.raises(ValueError, match=message):
        judge(decision(), specs, seeds, runs)


def test_factorials_that_are_refused():
    specs = [ArmSpec(x) for x in "abc"]
    torn = Factorial("f", two_by_two("base", "a", "b", "c").factors, {(0, 0): "base", (1, 1): "c"})
    for cells, d, message in (
        (two_by_two("base", "a", "b", "z"), decision(), "factorial.factorial: z is no arm"),
        (two_by_two("base", "a", "b", "b"), decision(), "b stands at two places"),
        (two_by_two("a", "base", "b", "c"), decision(), "must have a as its reference"),
        (two_by_two("base", "a", "b", "c"), decision(keep=1), "keep and probe would drop cells"),
        (torn, decision(), "has 2 cells of 4; name an arm for each combination"),
        (Factorial("f", torn.factors[:1], {(0,): "base", (1,): "a"}), decision(), "needs two factors or more"),
    ):
        with pytest.raises(ValueError, match=message):
            judge(d, specs, range(8), [], factorials=[cells])
    with pytest.raises(ValueError, match="must have a as its reference"):
        judge(decision(), [*specs, ArmSpec("d")], range(8), [], factorials=[two_by_two("a", "b", "c", "d")])
    with pytest.raises(ValueError, match="give each factorial its own name"):
        judge(decision(), specs, range(8), [], factorials=[two_by_two("base", "a", "b", "c")] * 2)


def test_documents_and_runs_that_are_refused():
    with pytest.raises(ValueError, match="vectors of one length"):
        DocumentScores([1.0], [1, 2], [1, 2])
    with pytest.raises(ValueError, match="run a, seed 1: status 'ok' is none of done, diverged, failed, absent"):
        RunScore("a", 1, "ok")


def test_strangers_are_named():
    v = study(V4, parts={}, specs=[])
    assert v.notes == ("not declared here, ignored: a",) and v.winner == "base"


def test_logs_of_others_at_the_edges():
    u = unpaired([1.0], [1.1, 1.2], matters=0.01)
    assert (u.word, u.low, u.notes) == ("inconclusive", None, ("unpaired", "fewer than two runs on a side"))
    assert unpaired([1.0, 1.0], [2.0, 2.0], matters=0.01).word == "inconclusive"
    assert unpaired([1.0, 1.0], [2.0, 2.001], matters=0.01).word == "better"
    repeats = unpaired([1.0, 1.2, 1.1, 1.3], [2.0, 2.1], matters=0.01, seeds_x=[1, 1, 2, 3])
    assert (repeats.nx, repeats.delta) == (3, near((1.1 + 1.1 + 1.3) / 3 - 2.05))
    assert not record("golf-frontier", [1.0, 1.001], [2.0, 2.001]).record  # two runs are no record
    assert record("speedrun", [3.0, 3.0]).p is None and not record("speedrun", [3.0, 3.0]).record
    assert record("golf-strict", [1.0] * 3, [2.0] * 3).as_json()["p"] is None
    assert not record("track3", []).record
    for call, message in (
        (lambda: record("marathon", [1.0]), "record rule 'marathon' is unknown; known: golf-strict"),
        (lambda: record("golf-strict", [1.0]), "give y"),
        (lambda: record("golf-strict", [1.0], [1.0], metric="bits_per_byte"), "give bits_per_nat"),
        (lambda: record("speedrun", [1.0], [1.0]), "give no y"),
        (lambda: record("speedrun", [1.0], [1.0], target=2.92), "against 2.92; give no y"),
        (lambda: record("golf-strict", [1.0], [1.0], target=2.92), "holds no target; leave target out"),
        (
            lambda: record("track3", [1.0], target=0.0),
            "target = 0.0 is no loss in nats per token; give a number above 0",
        ),
        (lambda: unpaired([1.0], [1.0], matters=0.0), "matters = 0.0"),
        (lambda: unpaired([1.0], [1.0], matters=1.0, seeds_x=[1, 2]), "1 values and 2 seeds"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_json_is_plain():
    v = study(V6, stages=("trained",))
    plain = json.loads(json.dumps(v.as_json(), allow_nan=False))
    assert [r["name"] for r in plain["rows"]] == ["base", "a", "b", "c"]
    assert plain["rows"][0]["delta"] is None and plain["rows"][1]["price"] is None
    assert plain["weights"] == list(weights(3, 8))


def test_importing_the_package_costs_nothing():
    code = (
        "import sys, ablab.verdict; print('scipy' in sys.modules, 'numpy' in sys.modules); "
        "from ablab.verdict import judge, factorial; "
        "print('torch' in sys.modules, 'scipy.stats' in sys.modules, callable(factorial))"
    )
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert out.split() == ["False", "False", "False", "False", "True"]
