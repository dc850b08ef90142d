"""The table of parameters in `ablab check`: role, shape, rate and decay, compact and complete."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from tests import tiny

from ablab.check import parameters as rules
from ablab.model.decoder import Decoder, skeleton


def plan(**arms: dict[str, Any]) -> Any:
    """As much of a plan as the table asks for: one run for each arm's settings."""
    runs = {(name, 0): SimpleNamespace(settings=settings) for name, settings in arms.items()}

    def decoder(arm: str) -> Decoder:
        return skeleton(arms[arm]["model"], vocab_size=tiny.VOCAB)

    return SimpleNamespace(runs=runs, seeds=[0], decoder=decoder)


NORMUON = {"name": "normuon", "lr": 0.02, "decay": 0.1, "aux": {"lr": 0.001, "embedding_lr": 0.005}}
EXPERTS = {"name": "moe", "n_experts": 4}


def table(*arms: dict[str, Any]) -> str:
    out = io.StringIO()
    rules.show(list(arms), Console(file=out, width=140))
    return out.getvalue()


def test_every_parameter_is_counted_with_its_rule() -> None:
    both = plan(baseline=tiny.settings(), normuon=tiny.settings(optimizer=NORMUON))
    rows = {row["name"]: row for row in rules.of(both, "normuon")}
    attention = {"count": 2, "role": "matrix", "lr": 0.02, "decay": 0.1}
    projected = rows["layers.*.attn.projection.q_proj.weight"]
    assert projected == {"name": projected["name"], "shape": [32, 32], **attention}
    assert rows["embed.weight"]["lr"] == 0.005 and rows["embed.weight"]["decay"] == 0.0
    assert rows["final_norm.weight"] == {
        "name": "final_norm.weight",
        "count": 1,
        "shape": [32],
        "role": "scalar",
        "lr": 0.001,
        "decay": 0.0,
    }
    assert sum(row["count"] for row in rows.values()) == len(list(rules_model()))
    assert json.loads(json.dumps(rules.of(both, "baseline"))) == rules.of(both, "baseline")


def rules_model() -> Any:
    from ablab.model.decoder import skeleton

    return skeleton(tiny.model(), vocab_size=tiny.VOCAB).parameters()


def test_one_alone_keeps_its_number_and_stacks_keep_their_shape() -> None:
    kinds = {"L": tiny.kind("local", 8, mlp=EXPERTS), "G": tiny.kind("global", None)}
    rows = {row["name"]: row for row in rules.of(plan(moe=tiny.settings(model=tiny.model(kinds=kinds))), "moe")}
    stacks = [row for row in rows.values() if len(row["shape"]) == 3]
    assert stacks and all(row["shape"][0] == 4 and row["role"] == "matrix" for row in stacks)
    assert all(row["name"].startswith("layers.0.") for row in stacks)


def test_the_baseline_is_shown_whole_and_arms_by_what_differs() -> None:
    kinds = {"L": tiny.kind("local", 8), "G": tiny.kind("global", None, mlp="swiglu")}
    three = plan(
        baseline=tiny.settings(),
        swiglu=tiny.settings(model=tiny.model(kinds=kinds)),
        same=tiny.settings(schedule="cosine"),
    )
    base, swiglu, same = ({"name": name, "rules": rules.of(three, name)} for name, _ in three.runs)
    whole = table(base)
    assert all(row["name"] in whole for row in base["rules"])
    assert "layers.*.attn.o_proj.weight (2x)" in whole and "not there" not in whole
    assert table(base, same) == whole, "an arm that trains everything alike adds no line"
    more = table(base, swiglu)[len(whole) :]
    assert "parameters of swiglu that differ" in more and "layers.1.mlp.gate_proj.weight" in more
    assert "attn" not in more and "embed" not in more
    assert "not there" in table(swiglu, base), "what the arm lacks is named"
