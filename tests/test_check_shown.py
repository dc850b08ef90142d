"""What `ablab check` says of a change, and of a mixture's parameters."""

from __future__ import annotations

import pytest
from tests import tiny

from ablab.check import change
from ablab.model import skeleton
from ablab.size import active_parameters, parameters

GATES = [{"name": "xsa"}, {"name": "attn_out_gate", "width": 12}]
WIDER = [{"name": "xsa"}, {"name": "attn_out_gate", "width": 32}]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, 16, "p: none -> 16"),
        ({"name": "gqa", "bias": None}, {"name": "tpa", "rank": 2}, "p: gqa -> tpa"),
        (GATES, WIDER, "p: xsa+attn_out_gate(width=12) -> xsa+attn_out_gate(width=32)"),
    ],
)
def test_both_sides_of_a_change_can_be_told_apart(before: object, after: object, said: str) -> None:
    assert change({"path": "p", "before": before, "after": after}) == said


def test_active_parameters_are_those_one_token_meets() -> None:
    mixture = {"name": "moe", "n_experts": 8, "ratio": 1.0}
    kinds = {
        letter: tiny.kind(letter, None, mlp=mixture, router={"name": "deepseek_v3", "top_k": 2}) for letter in "LG"
    }
    plain, mixed = (skeleton(tiny.model(**own), vocab_size=tiny.VOCAB) for own in ({}, {"kinds": kinds}))
    assert active_parameters(plain) == parameters(plain)["total"]
    assert (
        parameters(mixed)["total"] - active_parameters(mixed) == 2 * 6 * 2 * 32 * 32
    )  # six of eight experts, two layers
