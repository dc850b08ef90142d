"""What a slot's base leaves to each lever: a class that does not have it is refused by name, before anything is built."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablab.core.lever import Lever, Origin
from ablab.core.slot import Slot
from ablab.data.tokenizers.tokenizer import Tokenizer
from ablab.model.positions.position import Position
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.study.keys import SLOTS

ORIGIN = Origin("mine.py", Path("mine.py"), "0" * 64)
# Bases of which a lever must have a method only where it says of itself that it needs one.
ON_DEMAND = {("position", "bias"), ("tokenizer", "shown")}


@pytest.fixture(params=SLOTS, ids=str)
def slot(request: pytest.FixtureRequest) -> Iterator[Slot[Lever]]:
    """Every slot that there is, put back as it was."""
    one = SLOTS[request.param]
    before = dict(one.table), dict(one._outside)
    yield one
    one.table, one._outside = before


def lever(base: type, *methods: str, **more: Any) -> type:
    """A class that has these methods and no others."""
    return type("Mine", (base,), {**{name: lambda *_, **__: None for name in methods}, **more})


def test_a_lever_that_lacks_a_method_is_refused_by_name_and_taken_in_with_it(slot: Slot[Lever]) -> None:
    base, owed = slot.base, slot.base.owed()
    for forgot in owed:
        half = lever(base, *(name for name in owed if name != forgot))
        with pytest.raises(ValueError) as raised:
            slot.add("mine", half, ORIGIN)
        assert str(raised.value) == (
            f"Mine does not have `{forgot}`, which {base.__module__}.{base.__name__} leaves to each lever; write it in class "
            f"Mine, as {base.__name__} describes it, or begin its name with _ where it is no lever"
        )
        assert "mine" not in slot.names
    if len(owed) > 1:
        with pytest.raises(ValueError, match=re.escape(", ".join(f"`{name}`" for name in owed) + ", which")):
            slot.add("mine", lever(base), ORIGIN)
    slot.add("mine", whole := lever(base, *owed), ORIGIN)
    assert slot.load("mine") is whole


def test_no_lever_of_ours_lacks_one_and_no_base_waits_for_the_call_to_say_so(slot: Slot[Lever]) -> None:
    assert [name for name in slot.names if slot.load(name).owed()] == []
    module = __import__(slot.base.__module__, fromlist=["_"])
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    [body] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == slot.base.__name__]
    methods = [node for node in body.body if isinstance(node, ast.FunctionDef)]
    waiting = {(slot.name, node.name) for node in methods if "NotImplementedError" in ast.unparse(node)}
    assert waiting <= ON_DEMAND, "mark it with abc.abstractmethod: a lever without it is then refused when it is loaded"


def test_a_table_that_names_half_a_lever_is_refused() -> None:
    table: Slot[Lever] = Slot("codec", "ablab.artifact.codecs", base="codec.Codec", codec="Codec")
    with pytest.raises(TypeError, match="codec 'codec': Codec does not have `encode`, `expand`, which ablab"):
        table.load("codec")


def test_what_is_needed_on_demand_is_owed_then() -> None:
    assert lever(Position, pairwise=True).owed() == ["bias"]
    assert lever(Position, "bias", pairwise=True).owed() == lever(Position).owed() == []
    hiding = {"hidden": property(lambda _: True)}
    assert "shown" in lever(Tokenizer, **hiding).owed()
    assert "shown" not in lever(Tokenizer, "shown", **hiding).owed() and "shown" not in lever(Tokenizer).owed()
    assert lever(Evaluator).owed() == ["score"] and lever(Evaluator, "__call__").owed() == []
