"""Every lever of every slot of the model, in a whole decoder: causal, packed as apart, learnable, deterministic, resumable.

Levers come from the slots' tables: a new one is tested unasked, with its defaults; VARIANTS adds settings that take other
paths. Cached decoding has the same list in tests/model/test_decode.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny

from ablab.core.rng import Draw, stream
from ablab.model.decoder import Decoder, build
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS
from ablab.training.learner import Learner

LENGTHS = [[32], [5, 1, 17, 9]]  # documents of the two rows
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


def made(case: tuple[str, Any] | None, dtype: torch.dtype = torch.float64, *, noise: float = 0.0) -> Decoder:
    """The model; with noise on every parameter, so that gates and mixes that start at nothing act."""
    model = build(settings(case), vocab_size=tiny.VOCAB, seed=1, dtype=dtype)
    if noise:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                draw = torch.empty(parameter.shape)
                Draw(2, name).normal_(draw, "noise", noise)
                parameter += draw.to(dtype)
    return model


def rows(lengths: list[list[int]] = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = stream(3, "rows").integers(0, tiny.VOCAB, (len(lengths), 32))
    ids = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.from_numpy(tokens), torch.stack(ids)


@pytest.mark.parametrize("case", CASES, ids=called)
def test_a_later_token_changes_nothing_before_it(case: tuple[str, Any]) -> None:
    model, (tokens, ids) = made(case, noise=0.1), rows()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 7) % tiny.VOCAB
    with torch.no_grad():
        one, other = model(tokens, ids), model(changed, ids)
    assert torch.equal(one[:, :20], other[:, :20]) or (one[:, :20] - other[:, :20]).abs().max() < 1e-12
    assert (one[:, 20:] - other[:, 20:]).abs().max() > 1e-3


@pytest.mark.parametrize("case", CASES, ids=called)
def test_documents_packed_into_a_row_equal_documents_apart(case: tuple[str, Any]) -> None:
    model, (tokens, ids) = made(case, noise=0.1), rows()
    with torch.no_grad():
        packed, at = model(tokens, ids)[1], 0
        for length in LENGTHS[1]:
            alone = model(tokens[1:2, at : at + length], torch.zeros(1, length, dtype=torch.int64))[0]
            torch.testing.assert_close(packed[at : at + length], alone, rtol=0, atol=1e-11)
            at += length


@pytest.mark.parametrize("case", CASES, ids=called)
def test_every_parameter_learns_and_a_second_model_is_the_same(case: tuple[str, Any]) -> None:
    gradients = []
    for _ in range(2):
        model, (tokens, ids) = made(case, noise=0.1), rows()
        nll = model.nll(tokens, tokens.roll(-1, 1), ids)
        nll.sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | {"nll": nll.detach()})
    for name, one in gradients[0].items():
        assert one is not None and bool(one.abs().max() > 0) and bool(one.isfinite().all()), f"{name} learns nothing"
        assert torch.equal(one, gradients[1][name]), name


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
    tokens, ids = rows()
    base, mine = made(None, torch.float32), made(case, torch.float32)
    with torch.no_grad():
        assert torch.equal(base.nll(tokens, tokens, ids), mine.nll(tokens, tokens, ids))


@pytest.mark.parametrize("case", CASES, ids=called)
def test_a_resumed_run_is_the_uninterrupted_one(case: tuple[str, Any], tmp_path: Path) -> None:
    asked = tiny.settings(4, model=settings(case), batch_tokens=64)
    corpus, how = tiny.corpus(), {"precision": "fp32", "micro_rows": 2, "executor": "lift", "device": "cpu"}
    whole, first, second = (Learner(asked, corpus, seed=0, **how) for _ in range(3))
    for step in range(4):
        whole.step(whole.stream.batch(step), step + 1, step / 4)
    for step in range(2):
        first.step(first.stream.batch(step), step + 1, step / 4)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for step in range(2, 4):
        second.step(second.stream.batch(step), step + 1, step / 4)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name
