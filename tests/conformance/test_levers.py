"""Every lever of every slot of the model, in a whole decoder: causal, packed as apart, learnable, deterministic, resumable.

Levers come from the slots' tables: a new one is tested unasked, with its defaults; VARIANTS adds settings that take other
paths. Cached decoding has the same list in tests/model/test_decode.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny

from ablab.check import conformance
from ablab.model.decoder import build
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS

VARIANTS: list[tuple[str, Any]] = [
    ("position", ["grape_m", "grape_a"]),
    ("position", ["rope", "t5_buckets"]),
    ("position", {"name": "rope", "fraction": 0.5}),
    ("position", {"name": "grape_m", "per_head": True}),
    ("position", {"name": "grape_m", "share": "net"}),
    ("gate", ["xsa", "attn_out_gate"]),
    ("gate", {"name": "attn_out_gate", "input": "raw", "width": "all"}),
    ("value", {"name": "residual", "form": "sigmoid"}),
    ("mlp", {"name": "moe", "shared": 1.0, "balance": "sequence", "z_loss": 1e-3}),
    ("mlp", {"name": "moe", "activation": "swiglu", "balance": "switch"}),
    ("block", {"name": "parallel", "from_layer": 1}),
    ("block", {"name": "two_lane", "from_layer": 1}),
    ("residual", ["mix", "depth_scale", "branch_scale"]),
    ("embedding", ["bigram_hash", "smear_gate", "norm"]),
    ("embedding", {"name": "smear_gate", "form": "channel"}),
    ("skips", {"name": "unet", "gated": False}),
    ("projection", {"name": "tpa", "rank": 1, "q_rank": 3, "bias": True}),
    ("projection", {"name": "tpa", "factors": "heads"}),
    ("router", {"name": "deepseek_v3", "n_groups": 2, "group_score": "megatron", "normalize": False}),
    ("router", {"name": "deepseek_v3", "top_k": 1}),
    ("router", {"name": "softmax_topk", "order": "post"}),
    ("loops", "LG"),
    ("position", {"name": "grape_m_context", "gate": "sigmoid"}),
    ("qk_norm", "after"),
    ("norm", "layer"),
    ("norm", "bare"),
    ("bias", True),
    ("init", "orthogonal"),
]
CASES = [(slot, name) for slot in (*IN_MODEL, *OF_MODEL) for name in SLOTS[slot].names] + VARIANTS
# What a lever does at these settings is nothing: bit for bit the baseline.
NEUTRAL: list[tuple[str, Any]] = [
    ("gate", "attn_out_gate"),
    ("gate", {"name": "attn_out_gate", "width": "all", "input": "raw"}),
    ("value", {"name": "residual", "init": 1.0}),
    ("temperature", {"name": "qk_gain", "init": 1.0}),
    ("residual", "mix"),
    ("residual", "branch_scale"),
    ("embedding", "smear_gate"),
    ("embedding", "bigram_hash"),
    ("embedding", ["plain", "plain"]),
    ("position", [{"name": "rope"}, "nope"]),
    ("mlp", {"name": "leaky_relu2", "slope": 0.0}),
]


def called(case: tuple[str, Any]) -> str:
    slot, value = case
    parts = value if isinstance(value, list) else [value]
    names = [p if not isinstance(p, dict) else "-".join(map(str, p.values())) for p in parts]
    return f"{slot}={'+'.join(map(str, names))}"


def settings(case: tuple[str, Any] | None) -> dict[str, Any]:
    """The tiny model (a windowed and a full layer, three for what needs more) with one lever changed."""
    if case is None:
        return tiny.model()
    slot, value = case
    if slot == "loops":
        return tiny.model(layers="LGL", loops=[[1, 3, 2]])
    if slot in OF_MODEL:
        return tiny.model(**{slot: tiny.choice(SLOTS[slot], value)})
    if slot not in IN_MODEL:
        return tiny.model(**{slot: value})
    levers = {slot: value}
    if slot == "router":
        levers["mlp"] = {"name": "moe", "n_experts": 4}
    if slot == "projection" and isinstance(value, dict) and value.get("factors") == "heads":
        return tiny.model(
            n_kv_heads=4, kinds={"L": tiny.kind("local", 8, **levers), "G": tiny.kind("g", None, **levers)}
        )
    return tiny.model(kinds={"L": tiny.kind("local", 8, **levers), "G": tiny.kind("global", None, **levers)})


@pytest.mark.parametrize("case", CASES, ids=called)
def test_a_later_token_changes_nothing_before_it(case: tuple[str, Any]) -> None:
    assert conformance.looks_ahead(conformance.noisy(settings(case))) == ""


@pytest.mark.parametrize("case", CASES, ids=called)
def test_documents_packed_into_a_row_equal_documents_apart(case: tuple[str, Any]) -> None:
    assert conformance.mixes(conformance.noisy(settings(case))) == ""


@pytest.mark.parametrize("case", CASES, ids=called)
def test_every_parameter_learns_and_a_second_model_is_the_same(case: tuple[str, Any]) -> None:
    assert conformance.idle(lambda: conformance.noisy(settings(case))) == ""


@pytest.mark.parametrize("case", CASES, ids=called)
def test_what_is_shared_with_the_baseline_starts_the_same(case: tuple[str, Any]) -> None:
    base = build(tiny.model(), vocab_size=tiny.VOCAB, seed=1).state_dict()
    mine = build(settings(case), vocab_size=tiny.VOCAB, seed=1).state_dict()
    common = [name for name in mine if name in base and mine[name].shape == base[name].shape]
    assert "embed.weight" in common
    same = [torch.equal(mine[name], base[name]) for name in common]
    assert all(same) or case[0] in ("init", "loops")  # another initialisation, another number of layers


@pytest.mark.parametrize("case", NEUTRAL, ids=called)
def test_a_neutral_setting_is_the_baseline_bit_for_bit(case: tuple[str, Any]) -> None:
    tokens, ids = conformance.rows()
    base, mine = (build(settings(one), vocab_size=tiny.VOCAB, seed=1) for one in (None, case))
    with torch.no_grad():
        assert torch.equal(base.nll(tokens, tokens, ids), mine.nll(tokens, tokens, ids))


@pytest.mark.parametrize("case", CASES, ids=called)
def test_a_resumed_run_is_the_uninterrupted_one(case: tuple[str, Any]) -> None:
    asked = tiny.settings(4, model=settings(case), batch_tokens=64)
    assert conformance.forgets(asked, tiny.corpus()) == ""
