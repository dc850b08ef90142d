"""Levers that the reader has never seen: settings, types and refusals come from the class; and files made of anything."""

from __future__ import annotations

import datetime
import sys
import tomllib
import types
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.study.written import BASE, edited, faults, read

from ablab.core.slot import Slot
from ablab.model.positions.position import Position
from ablab.scoring import evaluators
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.study import keys
from ablab.study.assemble import assemble


class Spin(Position):
    """Spins."""

    def __init__(
        self, shape: Any, *, turns: int, way: Literal["left", "right"] = "left", speeds: tuple[float, ...] = (1.0,)
    ) -> None:
        if turns > shape.head_dim:
            raise ValueError(f"turns {turns} of head_dim {shape.head_dim}; turn less")
        super().__init__()


class Glance(Evaluator):
    """Looks once."""

    decides: ClassVar[bool] = False

    def score(self, *_: object) -> dict[str, object]:
        return {}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in (("spin", Spin), ("glance", Glance), ("evaluator", Evaluator), ("position", Position)):
        module = types.ModuleType(f"toys.{name}")
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, f"toys.{name}", module)
    spin: Slot[Position] = Slot("position", "toys", base="position.Position", lists=True, spin="Spin")
    monkeypatch.setitem(keys.SLOTS, "position", spin)
    toy: Slot[Evaluator] = Slot("evaluate", "toys", base="evaluator.Evaluator", glance="Glance")
    monkeypatch.setitem(keys.SLOTS, "evaluate", toy)
    monkeypatch.setattr(evaluators, "slot", toy)
    monkeypatch.setitem(keys.IN_MODEL, "position", "spin")


TOY = """
study.name = "toy"
decision = { matters = 1, stage = "s" }
budget = { tokens = 64, batch_tokens = 8 }
data.source = "mock"
stage.s.evaluate = "glance"
arm.x.model.qk_norm = false
[model]
layers = "A"
d_model = 8
n_heads = 2
seq_len = 8
"""


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("lever", "fault"),
    [
        ('"spin"', ": spin needs the setting 'turns'; add turns = ..."),
        ('{ name = "spin", turns = 5 }', ": spin: turns 5 of head_dim 4; turn less"),
        ('[{ name = "spin", turns = 1 }, { name = "spin", turns = 5 }]', "[1]: spin: turns 5 of head_dim 4; turn less"),
        ('{ name = "spin", turns = true }', ".turns: True is true or false; give an integer"),
        (
            '{ name = "spin", turns = 1, way = "lefd" }',
            ".way: 'lefd' is not one of its words; did you mean 'left'? known: left, right",
        ),
        ('{ name = "spin", turns = 1, speeds = [1, "2"] }', ".speeds[1]: '2' is a string; give a number"),
        (
            '{ name = "spin", turns = 1, trun = 1 }',
            ": spin has no setting 'trun'; did you mean 'turns'? known: speeds, turns, way",
        ),
    ],
)
def test_a_levers_class_is_its_schema(tmp_path: Path, lever: str, fault: str) -> None:
    found = faults(tmp_path, f"{TOY}a.position = {lever}\n")
    assert found[0] == f"study.toml: model.a.position{fault}"
    assert found[1:] == [
        "study.toml: decision.stage: stage 's' (glance) does not score the text and cannot decide; "
        "choose a stage that evaluates disjoint"
    ]


ANYTHING = st.recursive(
    st.one_of(
        st.none().map(lambda _: {}),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["rope", "baseline", "L", "needle", "prefer rope", "x", datetime.date(2000, 1, 1)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "x", "local", "like", "start", "lr", "model", "position"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
PATHS = [
    "study", "study.name", "decision", "decision.seeds", "decision.seeds.keep", "decision.tie", "decision.stage",
    "budget", "budget.tokens", "limits", "limits.bytes", "data", "data.source", "data.tokenizer", "data.span", "model",
    "model.layers", "model.d_model", "model.seq_len", "model.n_heads", "model.head_dim", "model.local",
    "model.local.like", "model.local.window", "model.global", "model.global.position", "model.softmax", "train",
    "train.optimizer", "train.optimizer.lr", "train.validate_every", "stage", "stage.pre_quant",
    "stage.pre_quant.after", "stage.needle.evaluate", "arm", "arm.rope", "arm.rope.on", "arm.rope.model",
    "arm.rope.model.local", "arm.rope.stage", "arm.rope.expect", "arm.x", "factorial", "factorial.f",
    "factorial.f.model", "factorial.f.model.qk_norm", "factorial.f.model.local.window", "scale", "scale.s",
    "scale.s.only", "scale.s.model", "scale.s.decision", "scale.s.arm", "scale.s.arm.rope", "scale.s.factorial", "else",
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PATHS), ANYTHING), min_size=1, max_size=3))
def test_any_tables_are_a_study_or_faults(edits: list[tuple[str, Any]]) -> None:
    raw: dict[str, Any] = tomllib.loads(
        edited(more="[factorial.f]\nmodel.qk_norm = [true, false]\nmodel.softcap = [0, 1]\n[scale.s]\n")
    )
    for path, value in edits:
        table, *rest = raw, *path.split(".")
        for key in rest[:-1]:
            table = table[key] if isinstance(table.get(key), dict) else table.setdefault(key + "_", {})
        table[rest[-1]] = value
    for scale in (None, "s"):
        if scale and not isinstance(raw.get("scale"), dict):
            continue
        study, found = assemble(raw, scale, Path("/nowhere/study.toml"), BASE)
        assert (study is None) == bool(found)
        if study is not None:
            assert len(study.key) == 32


def test_a_real_list_of_positions_composes(tmp_path: Path) -> None:
    study = read(tmp_path, edited(('"rope"', '["rope", "grape_a"]')))
    assert [part["name"] for part in study.arms["rope"].settings["model"]["kinds"]["G"]["position"]] == [
        "rope",
        "grape_a",
    ]
