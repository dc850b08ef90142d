"""Blocks, skips and loops: what is joined to what, written down; when loops run; what they cost; how they shrink."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests import tiny
from tests.conformance.made import SHAPE, drawn, made, shaken
from torch import Tensor

from ablab.check import miniature
from ablab.check.shrink import shrink
from ablab.core.fault import CheckFailed
from ablab.model import blocks, gates, skips
from ablab.model.decoder import Decoder, build, order, skeleton
from ablab.model.embeddings import slot as embeddings
from ablab.model.positions import slot as positions
from ablab.model.shape import Shape
from ablab.model.size import active_parameters, flops_per_token
from ablab.training import optimizers
from ablab.training.learner import Learner

X, X0 = drawn("x", 2, 5, 32), drawn("x0", 2, 5, 32)


def attn(x: Tensor) -> Tensor:
    return 3 * x.sin()


def mlp(x: Tensor) -> Tensor:
    return x.cos() - 0.2


def enter(x: Tensor) -> Tensor:
    return x + 0.1 * X0


def block(name: str, layer: int = 2, **settings: object) -> Any:
    return shaken(made(blocks.slot, name, Shape(**{**vars(SHAPE), "layer": layer}), **settings))


def sequential(x: Tensor) -> Tensor:
    y = enter(x) + attn(enter(x))
    return y + mlp(y)


def test_one_lane() -> None:
    assert torch.equal(block("sequential")(X, enter, attn, mlp), sequential(X))
    at = enter(X)
    assert torch.equal(block("parallel")(X, enter, attn, mlp), at + attn(at) + mlp(at))
    for name in ("parallel", "two_lane"):
        below = block(name, layer=1, from_layer=2)
        assert below.lanes == 1 and torch.equal(below(X, enter, attn, mlp), sequential(X))
        assert not list(below.parameters())


def test_two_lanes() -> None:
    lever = block("two_lane", from_layer=2)
    assert lever.lanes == 2 and made(blocks.slot, "two_lane").keep_2.tolist() == pytest.approx([1.1, 1.1])
    a, b = X, drawn("other", 2, 5, 32)
    found = lever(torch.stack([a, b]), enter, attn, mlp)
    by_attn, by_mlp = attn(enter(a)), mlp(b)
    for lane, stream in enumerate((a, b)):
        wanted = lever.keep_2[lane] * stream + lever.attn_2[lane] * by_attn + lever.mlp_2[lane] * by_mlp
        torch.testing.assert_close(found[lane], wanted, rtol=1e-13, atol=1e-13)


def of_tiny(**changed: Any) -> Decoder:
    decoder = build(tiny.model(**changed), vocab_size=tiny.VOCAB, seed=1, dtype=torch.float64)
    shaken(decoder, 0.1)
    return decoder


def walked(decoder: Decoder, tokens: Tensor, met: list[int]) -> Tensor:
    """The forward pass, with layers as given functions of the stream: only what lies between them is written here."""
    from ablab.model.attention.attend import Documents
    from ablab.model.layer import Pass

    x = decoder.embed(tokens)
    run, unet, kept = Pass(Documents(torch.zeros_like(tokens)), x), decoder.skips, list[Tensor]()
    half = len(met) // 2
    for step, i in enumerate(met):
        if kept and step >= half and hasattr(unet, "weight_nD"):
            skip, n = kept.pop(), step - half
            share = 1.0 if unet.gate_nD is None else unet.gate_nD[n].sigmoid()
            x = share * x + (1.0 if unet.gate_nD is None else 1 - share) * unet.weight_nD[n] * skip
        x = decoder.layers[i](x, run)
        if step < half:
            kept.append(x)
    return decoder.final_norm(x)


@pytest.mark.parametrize("skip", ["none", "unet", {"name": "unet", "gated": False}])
@pytest.mark.parametrize(("layers", "loops"), [("LGLG", []), ("LGL", []), ("LGLG", [[1, 3, 2]]), ("LG", [[0, 2, 3]])])
def test_the_order_of_layers_and_what_returns(skip: Any, layers: str, loops: list[Any]) -> None:
    decoder = of_tiny(layers=layers, loops=loops, skips=tiny.choice(skips.slot, skip), loop_from=0.5 if loops else None)
    tokens = torch.arange(20).view(1, 20) % tiny.VOCAB
    straight, looped = list(range(len(layers))), order(len(layers), loops)
    with torch.no_grad():
        for spent, met in ((0.0, straight), (0.49, straight), (0.5, looped), (0.9, looped)):
            decoder.at(spent)
            assert decoder.order == met
            found = decoder(tokens, torch.zeros_like(tokens))
            torch.testing.assert_close(found, walked(decoder, tokens, met), rtol=1e-12, atol=1e-12)
    assert (straight == looped) == (not loops)


def test_loops_run_by_the_spent_share_of_training_and_in_every_model_made_for_scoring() -> None:
    asked = tiny.settings(4, model=tiny.model(layers="LGL", loops=[[1, 3, 2]], loop_from=0.5), batch_tokens=64)
    learner = Learner(asked, tiny.corpus(), seed=0, precision="fp32", micro_rows=2, executor="lift", device="cpu")
    seen = []
    for step in range(4):
        learner.step(learner.stream.batch(step), step + 1, learner.spent(step, 0.0))
        seen.append(len(learner.model.order))
    assert seen == [3, 3, 5, 5]
    assert len(build(asked["model"], vocab_size=tiny.VOCAB, seed=0).order) == 5


def flops(model: Any) -> float:
    return flops_per_token(skeleton(model, vocab_size=tiny.VOCAB), model)


def test_a_loop_costs_what_it_passes() -> None:
    def cost(**changed: Any) -> float:
        return flops(tiny.model(layers="LGL", **changed))

    matrices = 32 * 32 * 2 + 2 * 16 * 32 + 2 * 32 * 128
    keys = {"L": sum(min(i + 1, 8) for i in range(32)) / 32, "G": sum(i + 1 for i in range(32)) / 32}
    again = sum(6 * matrices + 12 * 4 * 8 * keys[letter] for letter in "GL")
    loops = [[1, 3, 2]]
    assert cost(loops=loops) - cost() == pytest.approx(again)
    assert cost(loops=loops, loop_from=0.25) - cost() == pytest.approx(0.75 * again)


def test_a_mixture_costs_its_chosen_experts() -> None:
    def of(n_experts: int, top_k: int) -> dict[str, Any]:
        mlp = {"name": "moe", "n_experts": n_experts, "ratio": 1.0, "shared": 2.0}
        kind = tiny.kind("local", 8, mlp=mlp, router={"name": "deepseek_v3", "top_k": top_k})
        return tiny.model(layers="L", kinds={"L": kind})

    expert, router = 2 * 32 * 32, 32
    one, two, more = (flops(of(*sizes)) for sizes in ((8, 1), (8, 2), (16, 2)))
    assert two - one == pytest.approx(6 * expert) and more - two == pytest.approx(6 * 8 * router)
    active = [active_parameters(skeleton(of(*sizes), vocab_size=tiny.VOCAB)) for sizes in ((8, 1), (8, 2), (16, 2))]
    assert active[1] - active[0] == expert and active[2] - active[1] == 8 * router


def test_what_the_whole_net_shares_is_saved_and_averaged_once() -> None:
    share = {"name": "grape_m", "share": "net"}
    kinds = {"L": tiny.kind("local", 8, position=share), "G": tiny.kind("global", None, position=share)}
    asked = tiny.settings(3, model=tiny.model(kinds=kinds), ema=0.9, batch_tokens=64)
    how: dict[str, Any] = {"precision": "fp32", "micro_rows": 2, "executor": "lift", "device": "cpu"}
    learner = Learner(asked, tiny.corpus(), seed=0, **how)
    (name,) = (n for n, _ in learner.model.named_parameters() if "log_freq" in n)
    assert (
        [n for n in learner.model.state_dict() if "log_freq" in n] == [name] == [n for n in learner.mean if "freq" in n]
    )
    assert learner.model.layers[0].attn.position is learner.model.layers[1].attn.position
    before = learner.parameters[name].detach().clone()
    learner.step(learner.stream.batch(0), 1, 0.0)
    moved = learner.model.layers[1].attn.position.log_freq
    assert moved is learner.parameters[name] and not torch.equal(moved, before)
    learner.swap()  # the layers read the mean
    assert learner.model.layers[0].attn.position.log_freq is moved and torch.equal(
        moved.data, learner.weights()[1][name]
    )
    learner.swap()


NARROW = Shape(**{**vars(SHAPE), "n_layers": 16, "d_model": 8})


@pytest.mark.parametrize(
    ("slot", "choice", "wanted"),
    [
        (gates.slot, {"name": "xsa", "last": 20}, {"last": 4}),
        (gates.slot, {"name": "xsa", "last": 1}, {"last": 1}),
        (gates.slot, {"name": "xsa"}, {"last": None}),
        (gates.slot, {"name": "attn_out_gate", "width": 32}, {"width": 8}),
        (gates.slot, {"name": "attn_out_gate", "width": "all"}, {"width": "all"}),
        (gates.slot, {"name": "sparse_attn_gate"}, {"width": 8}),
        (embeddings, {"name": "smear_gate"}, {"width": 8}),
        (embeddings, {"name": "smear_gate", "form": "channel"}, {"width": None}),
        (blocks.slot, {"name": "parallel", "from_layer": 40}, {"from_layer": 8}),
        (blocks.slot, {"name": "two_lane", "from_layer": 79}, {"from_layer": 15}),
        (positions, {"name": "rope", "fraction": 0.375}, {"fraction": 0.5}),
    ],
)
def test_sizes_in_settings_shrink_with_the_model(slot: Any, choice: dict[str, Any], wanted: dict[str, Any]) -> None:
    """80 layers of width 64 become 16 of width 8; the lever can be built there."""
    full = tiny.choice(slot, choice)
    if slot is embeddings:
        model = tiny.model(layers="L" * 80, d_model=64, head_dim=64, n_heads=1, n_kv_heads=1, embedding=full)
    else:
        kind = tiny.kind("local", 8) | {slot.name: full}
        model = tiny.model(layers="L" * 80, d_model=64, head_dim=64, n_heads=1, n_kv_heads=1, kinds={"L": kind})
    asked = tiny.settings(model=model)
    small = shrink(asked, asked, long=1.0, same_layers=False)["model"]
    assert len(small["layers"]) == 16 and small["d_model"] == 8
    found = small["embedding"] if slot is embeddings else small["kinds"]["L"][slot.name]
    assert {key: found[key] for key in wanted} == wanted
    slot.build(found, NARROW)


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_a_miniature_is_not_asked_about_the_type_of_products(name: str) -> None:
    """It runs in fp64, where they do not act: an arm that changes them alone is untested there, not inert."""
    asked = [tiny.settings() for _ in range(2)]
    for settings, products in zip(asked, (None, "bf16")):
        settings["train"]["optimizer"] = tiny.choice(
            optimizers.slot, {"name": name, "orthogonaliser": {"products": products}}
        )
    one, other = (shrink(settings, asked[0], long=1.0, same_layers=False) for settings in asked)
    assert one == other and asked[1]["train"]["optimizer"]["orthogonaliser"]["products"] == "bf16"


def test_a_miniature_that_no_tensor_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> Any:
        raise RuntimeError("Storage size calculation overflowed with sizes=[36028797018963968, 32]")

    baseline = SimpleNamespace(settings=tiny.settings(), on="baseline")
    plan: Any = SimpleNamespace(
        study=SimpleNamespace(path=Path("s.toml"), baseline=baseline, with_baseline={"baseline": baseline}),
        runs={("baseline", 0): None},
        seeds=[0],
        corpus=lambda _: tiny.corpus(),
    )
    monkeypatch.setattr(miniature, "_one", too_large)
    with pytest.raises(CheckFailed, match="baseline: even its miniature does not fit into memory; make it smaller"):
        miniature._outcomes(miniature.Miniatures(plan, tmp_path), lambda _: None)
