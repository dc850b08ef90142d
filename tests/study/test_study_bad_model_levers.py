"""Impossible settings of the model's and the optimizer's levers: one clear fault each, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.written import edited, faults

from ablab.study.keys import SLOTS

BAD = [
    ('model.projection={name="tpa",rank=0}', "tpa: rank"),
    ('model.projection={name="tpa",q_rank=0}', "tpa: "),
    ('model.projection={name="tpa",factors="heads"}', "tpa: "),
    ('model.mlp={name="moe",n_experts=0}', "moe: "),
    ('model.mlp={name="moe",balance_weight=0.1}', "moe: "),
    ('model.mlp="moe"\nmodel.router={name="deepseek_v3",top_k=9}', "deepseek_v3: top_k"),
    ('model.mlp="moe"\nmodel.router={name="softmax_topk",top_k=9}', "softmax_topk: top_k"),
    ('model.mlp="moe"\nmodel.router={name="deepseek_v3",n_groups=3}', "deepseek_v3: n_groups"),
    ('model.mlp="moe"\nmodel.router={name="deepseek_v3",n_groups=2,group_top_k=3}', "deepseek_v3: "),
    ('model.gate={name="attn_out_gate",width=65}', "attn_out_gate: width"),
    ('model.gate={name="attn_out_gate",width=0}', "attn_out_gate: width"),
    ('model.gate={name="sparse_attn_gate",width=65}', "sparse_attn_gate: width"),
    ('model.embedding={name="bigram_hash",size=0}', "bigram_hash: size"),
    ('model.embedding={name="bigram_hash",dim=0}', "bigram_hash: dim"),
    ('model.embedding={name="smear_gate",form="channel",width=12}', "smear_gate: "),
    ('model.gate=["off","xsa"]', "model.gate[0]: off does nothing beside others; remove it"),
    ('model.gate=["xsa","xsa"]', "model.gate[1]: xsa stands in the list twice; remove one"),
    ('model.embedding=["plain","norm"]', "model.embedding[0]: plain does nothing beside others; remove it"),
    ('model.residual=["mix","plain"]', "model.residual[1]: plain does nothing beside others; remove it"),
    ('model.global.position=["rope","nope"]', "model.global.position[1]: nope does nothing beside others; remove it"),
    ('model.value={name="residual",form="sigmoid",init=1.0}', "residual: "),
    ('model.block={name="parallel",from_layer=4}', "parallel: from_layer"),
    ('model.block={name="two_lane",from_layer=-1}', "two_lane: from_layer"),
    ('model.global.position={name="t5_buckets",n_buckets=1}', "t5_buckets: n_buckets"),
    ('train.optimizer={name="normuon",orthogonaliser={coefficients=[[8.0,-1.0,3.0]]}}', "normuon: "),
    ('train.optimizer={name="normuon",orthogonaliser={steps=0}}', "normuon: "),
    ('train.optimizer={name="normuon",orthogonaliser={coefficients=[[8.0,-1.0]]}}', "normuon: "),
    ('train.optimizer={name="muon",momentum=1.0}', "muon: "),
    (
        'train.optimizer={name="muon",orthogonaliser={steps=1_000_000}}',
        "muon: orthogonaliser.steps = 1000000 is more than any matrix needs",
    ),
    (
        'train.optimizer={name="normuon",orthogonaliser={steps=101}}',
        "normuon: orthogonaliser.steps = 101 is more than any matrix needs",
    ),
    (
        f'train.optimizer={{name="normuon",orthogonaliser={{coefficients=[{",".join(["[1.5,-0.5,0.0]"] * 101)}]}}}}',
        "normuon: orthogonaliser.coefficients has 101 triples; give at most 100",
    ),
    ("model.mlp.ratio=1e30", "relu2: a size is beyond what a tensor can have; give smaller numbers"),
    ('model.router="softmax_topk"', "changes nothing: no layer uses it"),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[text for text, _ in BAD])
def test_one_clear_fault_with_a_cure(tmp_path: Path, text: str, said: str) -> None:
    lines = "".join(f"{line}\n" for line in text.split("\n"))
    together = 'together = "two"\n' if "\n" in text else ""
    found = faults(tmp_path, edited(more=f"[arm.bad]\n{together}{lines}"))
    assert len(found) == 1, found
    assert "arm.bad: " in found[0] and said in found[0] and "; " in found[0]


def test_a_router_of_nothing_and_two_tables_with_one_initial(tmp_path: Path) -> None:
    found = faults(tmp_path, edited(("[train]", 'router = "deepseek_v3"\n[train]')))
    assert found == ['study.toml: model.router: no layer kind routes anything; remove it, or use mlp = "moe"']
    found = faults(tmp_path, edited(("[train]", "[model.long]\nwindow = 8\n[train]")))
    assert any("have one initial, L" in fault for fault in found)


def test_a_loop_start_without_a_loop(tmp_path: Path) -> None:
    found = faults(tmp_path, edited(("[train]", "loop_from = 0.5\n[train]")))
    assert len(found) == 1 and "0.5 acts on nothing: layers has no loop" in found[0]


def test_a_loop_that_no_step_would_run(tmp_path: Path) -> None:
    looped = (("[train]", "loop_from = 0.99\n[train]"), ("(LG)*2", "LL[LG]^2"))
    few = (("tokens = 200_000", "tokens = 20_480"),)
    found = faults(tmp_path, edited(*looped, *few))
    assert any(
        "model.loop_from: 0.99 is beyond the last of 40 steps: scores would loop, and no step; "
        "lower it, or remove the loop" in fault
        for fault in found
    ), found


@pytest.mark.parametrize("place", ["head_lr", "aux.head_lr"])
def test_a_rate_of_a_head_that_is_the_embedding(place: str, tmp_path: Path) -> None:
    arm = (
        "train.optimizer.head_lr = 0.1"
        if place == "head_lr"
        else 'train.optimizer = { name = "muon", aux.head_lr = 0.1 }'
    )
    (found,) = faults(tmp_path, edited(more=f"[arm.bad]\n{arm}\n"))
    assert found.endswith(
        f"arm.bad: train.optimizer.{place}: acts on nothing: the head is the embedding (model.tied); "
        "use embedding_lr, or tied = false"
    )


@pytest.mark.parametrize("slot", SLOTS)
def test_every_lever_says_what_it_does_and_where_it_comes_from(slot: str) -> None:
    for name in SLOTS[slot].names:
        assert SLOTS[slot].summary(name).rstrip(".") and SLOTS[slot].source(name), f"{slot}.{name}"
