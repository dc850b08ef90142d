"""Every optimizer: each parameter once, by role; a bad gradient moves nothing; resumed means unchanged. Schedules too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.training import optimizers, schedules
from ablab.training.checkpoint import save_tensors
from ablab.training.snapshot import optimizer_tensors, restore_optimizer

GOLDEN = Path(__file__).parents[1] / "golden"
ROLES = {
    "embed.weight": "embedding",
    "w": "matrix",
    "v": "matrix",
    "again": "matrix",
    "experts": "matrix",
    "lm_head.weight": "head",
    "norm.weight": "scalar",
    "gate": "scalar",
    "scale": "scalar",
}
SHAPES = {
    "embed.weight": (9, 4),
    "w": (6, 4),
    "v": (4, 6),
    "again": (6, 4),
    "experts": (3, 6, 4),
    "lm_head.weight": (9, 4),
    "norm.weight": (4,),
    "gate": (2, 4),
    "scale": (),
}


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def gradients() -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def made(name: str, **settings: Any) -> Any:
    choice, faults = optimizers.slot.coerce({"name": name, **settings}, "optimizer")
    assert not faults
    return optimizers.slot.build(choice)


def turn(
    optimizer: Any, weights: dict[str, nn.Parameter], source: Iterator[dict[str, torch.Tensor]], steps: int
) -> None:
    for _ in range(steps):
        for name, gradient in next(source).items():
            weights[name].grad = gradient
        optimizer.step()


@pytest.mark.parametrize("name", optimizers.slot.names)
def test_every_parameter_moves_and_is_there_once(name: str) -> None:
    weights = parameters()
    before = {n: p.detach().clone() for n, p in weights.items()}
    optimizer = made(name).build(weights, ROLES)
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in weights.values())
    turn(optimizer, weights, gradients(), 1)
    assert all(not torch.equal(before[n], weights[n]) for n in weights)
    for odd in ({n: r for n, r in ROLES.items() if n != "v"}, {**ROLES, "x": "matrix"}):
        with pytest.raises(ValueError, match=r"has a parameter or a role, not both"):
            made(name).build(weights, odd)


@pytest.mark.parametrize("name", optimizers.slot.names)
def test_the_peak_rate_of_every_group_is_its_roles(name: str) -> None:
    lever = made(name)
    for role in set(ROLES.values()):
        rule = lever.rule(role)
        assert rule["lr"] > 0 and (rule["decay"] == 0 or role != "scalar")
    weights = parameters()
    listed = lever.rules(weights, ROLES)
    assert list(listed) == list(ROLES) and listed["v"] == {"role": "matrix", **lever.rule("matrix")}
    names = {id(p): name for name, p in weights.items()}
    for group in lever.build(weights, ROLES).param_groups:
        assert group["peak"] == group["lr"]
        assert all(listed[names[id(p)]]["lr"] == group["peak"] for p in group["params"])


@pytest.mark.parametrize("name", optimizers.slot.names)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, bad: float) -> None:
    weights, source = parameters(), gradients()
    optimizer = made(name).build(weights, ROLES)
    turn(optimizer, weights, source, 2)
    before = {n: p.detach().clone() for n, p in weights.items()}
    state = {n: t.clone() for n, t in optimizer_tensors(optimizer, weights).items()}
    for n, gradient in next(source).items():
        weights[n].grad = gradient
    weights["v"].grad[1, 2] = bad  # type: ignore[index]
    with pytest.raises(FloatingPointError, match="a gradient is not finite; nothing was changed"):
        optimizer.step()
    assert all(torch.equal(before[n], weights[n]) for n in weights)
    after = optimizer_tensors(optimizer, weights)
    assert state.keys() == after.keys() and all(torch.equal(state[n], after[n]) for n in state)


@pytest.mark.parametrize("name", optimizers.slot.names)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_resumed_equals_uninterrupted(name: str, steps: int) -> None:
    whole, source = parameters(), gradients()
    turn(made(name).build(whole, ROLES), whole, source, 6)
    weights, source = parameters(), gradients()
    optimizer = made(name).build(weights, ROLES)
    turn(optimizer, weights, source, steps)
    kept = {n: t.clone() for n, t in optimizer_tensors(optimizer, weights).items()}
    again = {n: nn.Parameter(p.detach().clone()) for n, p in weights.items()}
    resumed = made(name).build(again, ROLES)
    restore_optimizer(resumed, again, kept)
    turn(resumed, again, source, 6 - steps)
    assert all(torch.equal(whole[n], again[n]) for n in whole)


def test_adamw_is_the_published_rule() -> None:
    weights, source = {n: nn.Parameter(p.double()) for n, p in parameters().items()}, gradients()
    mine = {n: p.detach().clone() for n, p in weights.items()}
    lever = made("adamw", lr=0.01, betas=[0.8, 0.9], decay=0.2, embedding_lr=0.02, head_lr=0.005, scalar_lr=0.03)
    rates = {"matrix": 0.01, "embedding": 0.02, "head": 0.005, "scalar": 0.03}
    optimizer = lever.build(weights, ROLES)
    m, v = ({n: torch.zeros_like(p) for n, p in mine.items()} for _ in range(2))
    for t in range(1, 5):
        found = {n: g.double() for n, g in next(source).items()}
        for n, gradient in found.items():
            weights[n].grad = gradient.clone()
            rate, decay = rates[ROLES[n]], 0.0 if ROLES[n] == "scalar" else 0.2
            m[n] = 0.8 * m[n] + 0.2 * gradient
            v[n] = 0.9 * v[n] + 0.1 * gradient**2
            step = (m[n] / (1 - 0.8**t)) / ((v[n] / (1 - 0.9**t)).sqrt() + 1e-8)
            mine[n] = mine[n] * (1 - rate * decay) - rate * step
        optimizer.step()
    for n in mine:
        torch.testing.assert_close(weights[n].detach(), mine[n], rtol=1e-9, atol=1e-12)


def test_adamw_refuses_what_cannot_be() -> None:
    for settings, text in (
        ({"lr": -1.0}, "lr = -1.0 is negative; choose 0 or more"),
        ({"head_lr": -1.0}, "head_lr = -1.0 is negative; choose 0 or more"),
        ({"betas": [0.9, 1.0]}, "betas = [0.9, 1.0] are no two decays; choose two numbers from 0 to below 1"),
        ({"betas": [0.9]}, "betas = [0.9] are no two decays; choose two numbers from 0 to below 1"),
        ({"eps": 0.0}, "eps = 0.0 divides by zero; choose a small positive number"),
        ({"decay": -0.1}, "decay = -0.1 is negative; choose 0 or more"),
    ):
        with pytest.raises(ValueError) as raised:
            made("adamw", **settings)
        assert str(raised.value) == text


@pytest.mark.parametrize("name", optimizers.slot.names)
def test_embedding_lr_governs_the_head_too_and_nothing_flat_decays(name: str) -> None:
    def by_role(**rates: float) -> Any:
        own = {"embedding_lr": 0.25, **rates}
        return made(name, lr=0.5, decay=0.1, **(own if name == "adamw" else {"aux": {**own, "decay": 0.2}}))

    lever, other = by_role(), 0.1 if name == "adamw" else 0.2
    assert lever.rule("matrix") == {"lr": 0.5, "decay": 0.1}
    assert lever.rule("embedding") == lever.rule("head") == {"lr": 0.25, "decay": other}
    assert lever.rule("scalar") == {"lr": 0.5, "decay": 0.0}
    assert by_role(head_lr=0.125).rule("head")["lr"] == 0.125
    assert made(name, lr=0.5).rule("head")["lr"] == 0.5
    for role in ("matrix", "embedding", "head", "scalar"):
        assert [lever.rule(role, ndim)["decay"] for ndim in (0, 1)] == [0.0, 0.0]
    flat = {"a": nn.Parameter(torch.ones(3)), "b": nn.Parameter(torch.ones(()))}
    optimizer = lever.build(flat, {"a": "matrix", "b": "embedding"})
    for p in flat.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(bool((p == 1).all()) for p in flat.values()), "decay alone would have moved them"


def test_aux_lr_is_all_the_rest_and_lr_where_it_is_unset() -> None:
    for name in ("muon", "normuon"):
        lever = made(name, lr=0.5, aux=0.1)
        assert [lever.rule(role)["lr"] for role in ("matrix", "embedding", "head", "scalar")] == [0.5, 0.1, 0.1, 0.1]
        assert lever.rule("matrix", 1)["lr"] == 0.1, "what is below two dimensions is no matrix"
        lever = made(name, lr=0.5, aux={"lr": 0.1, "embedding_lr": 0.2})
        assert [lever.rule(role)["lr"] for role in ("matrix", "embedding", "head", "scalar")] == [0.5, 0.2, 0.2, 0.1]
        assert made(name, lr=0.5).rule("scalar")["lr"] == 0.5


def test_normuon_has_the_known_first_steps() -> None:
    """Two steps from zero worked out elsewhere: momentum, row moments, norms, decay; and AdamW beside it."""
    weights = {"w": torch.zeros(2, 3), "table": torch.ones(1, 1), "scale": torch.ones(())}
    named = {name: nn.Parameter(tensor.double()) for name, tensor in weights.items()}
    lever = made("normuon", lr=0.02, decay=0.01, aux={"lr": 1e-3, "decay": 0.01})
    optimizer = lever.build(named, {"w": "matrix", "table": "embedding", "scale": "scalar"})
    g = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    w1 = [[0.0108589465, -0.0018112416, -0.0144814297], [-0.0131554260, -0.0102266612, -0.0072978963]]
    w2 = [[0.0207338704, 0.0103051843, -0.0001235017], [-0.0286366940, -0.0122824157, 0.0040718625]]
    known = [(w1, [0.0145515302, 0.0130242300]), (w2, [0.0354807916, 0.0250347994])]
    for grad, (expected, second) in zip((g, -g.flip(0)), known, strict=True):
        named["w"].grad = grad
        for name in ("table", "scale"):
            named[name].grad = torch.full_like(named[name], 0.5)
        optimizer.step()
        torch.testing.assert_close(named["w"].data, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
        found = optimizer.state[named["w"]]["second"].flatten()
        torch.testing.assert_close(found, torch.tensor(second, dtype=torch.float64), rtol=0, atol=1e-9)
        if expected is w1:
            assert float(named["w"].data.norm() / 0.02) == pytest.approx(1.2862914, abs=1e-7)
            assert float(named["table"].detach()) == pytest.approx(0.99899, abs=1e-9)
            assert float(named["scale"].detach()) == pytest.approx(0.999, abs=1e-9)


@pytest.mark.parametrize("side", ["tall", "wide"])
@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ("repository", {"orthogonaliser": "newton_schulz", "decay": 0.3}),
        ("paper", {"orthogonaliser": "newton_schulz", "decay": 0.3, "nesterov": False, "rescale": "rms"}),
        (
            "modded",
            {
                "second_moment": {"over": "long_side", "beta2": 0.9, "eps_form": "floor"},
                "decay": {"rate": 1.2, "form": "modded"},
            },
        ),
    ],
)
def test_normuon_has_the_numbers_of_its_sources(form: str, asked: dict[str, Any], side: str) -> None:
    """Five steps on matrices with rows whose gradient is a million times smaller, where the form of eps is felt."""
    golden = load_file(GOLDEN / "normuon.safetensors")
    if form == "modded":
        asked = asked | {"orthogonaliser": {"coefficients": golden["modded_coefficients"].tolist()}}
    w = nn.Parameter(golden[f"{side}_W0"].clone())
    optimizer = made("normuon", lr=0.02, **asked).build({"w": w}, {"w": "matrix"})
    for grad, expected in zip(golden[f"{side}_G"], golden[f"{side}_{form}_W"], strict=True):
        w.grad = grad.clone()
        optimizer.step()
        torch.testing.assert_close(w.data, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(optimizer.state[w]["second"], golden[f"{side}_{form}_V"], rtol=1e-9, atol=0)


def test_where_eps_stands_decides_what_a_row_of_small_gradients_gets() -> None:
    """A row of V far below eps: whole as published, held back by sqrt(V / (V + eps)) with eps inside the root."""
    grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grad[3] *= 1e-6
    moved, seconds = {}, {}
    for form in ("added", "inside", "floor"):
        w = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
        optimizer = made("normuon", lr=1.0, second_moment={"eps_form": form}).build({"w": w}, {"w": "matrix"})
        w.grad = grad.clone()
        optimizer.step()
        moved[form], seconds[form] = w.data.norm(dim=1), optimizer.state[w]["second"][:, 0]
    others = torch.arange(8) != 3
    for form, share in (
        ("added", 1.0),
        ("inside", (seconds["inside"][3] / (seconds["inside"][3] + 1e-10)).sqrt()),
        ("floor", (seconds["floor"][3] / 1e-10).clamp(max=1.0).sqrt()),
    ):
        assert float(moved[form][3] / moved[form][others].mean()) == pytest.approx(float(share), rel=1e-3)
    assert moved["inside"][3] < 0.9 * moved["added"][3] and moved["floor"][3] > moved["inside"][3]


def test_muons_rows_are_whole_down_to_the_least_norm() -> None:
    """norm / max(norm, 1e-7): a row of norm 1e-7 counts as much as any other; one of 1e-9 a hundredth of that."""
    lever = made("muon", row_normalise=True)
    given: list[torch.Tensor] = []
    lever.orthogonaliser = lambda u: given.append(u.clone()) or u
    grad = torch.eye(4, dtype=torch.float64)[None] * torch.tensor([1.0, 1e-3, 1e-7, 1e-9])[:, None] / 1.95
    lever(grad, {"momentum": torch.zeros(1, 4, 4, dtype=torch.float64)}, 0.0)
    assert given[0][0].norm(dim=1).tolist() == pytest.approx([1.0, 1.0, 1.0, 1e-2], rel=1e-6)


def test_adams_eps_is_outside_the_root() -> None:
    """sqrt(v) + eps with both corrected for their start (Kingma and Ba 2015, algorithm 1), where gradients are eps's size."""
    for name in optimizers.slot.names:
        weights = {"scale": nn.Parameter(torch.zeros(4, dtype=torch.float64))}
        lever = made(name, lr=1.0, **({"eps": 1e-6} if name == "adamw" else {"aux": {"eps": 1e-6}}))
        optimizer = lever.build(weights, {"scale": "scalar"})
        weights["scale"].grad = torch.tensor([1e-8, 1e-6, 1e-4, 1.0], dtype=torch.float64)
        optimizer.step()
        g = weights["scale"].grad
        torch.testing.assert_close(weights["scale"].data, -g / (g + 1e-6), rtol=1e-12, atol=0)


def one_matrix(name: str, grad: torch.Tensor, memory: dict[str, torch.Tensor], **asked: Any) -> torch.Tensor:
    """The step of one matrix, by the formulas, with what is remembered of it in `memory`."""
    from ablab.training.orthogonal import newton_schulz, orthogonalise, polar_express

    rows, cols = grad.shape
    before = memory.get("m", torch.zeros_like(grad))
    if name == "muon":
        memory["m"] = 0.95 * before + grad
        u = grad + 0.95 * memory["m"]
        if asked.get("row_normalise"):
            u = u / u.norm(dim=1, keepdim=True).clamp(min=1e-7)
        return orthogonalise(u, newton_schulz(), safety=0.0, floor=1e-7) * max(1, rows / cols) ** 0.5
    memory["m"] = 0.95 * before + 0.05 * grad
    u = 0.05 * grad + 0.95 * memory["m"] if asked.get("nesterov", True) else memory["m"]
    o = orthogonalise(u, polar_express())
    moment = asked["second_moment"]
    along = 0 if moment.get("over") == "long_side" and rows < cols else 1
    memory["v"] = 0.95 * memory.get("v", 0.0) + 0.05 * (o * o).mean(along, keepdim=True)
    root = {"inside": (memory["v"] + 1e-4).sqrt(), "floor": memory["v"].clamp(min=1e-4).sqrt()}
    out = o / root.get(moment.get("eps_form", "added"), memory["v"].sqrt() + 1e-4)
    if asked.get("rescale") == "rms":
        return 0.2 * (rows * cols) ** 0.5 * out / out.norm()
    return out * (o.norm() / out.norm()) * max(1, rows / cols) ** 0.5


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("muon", {}),
        ("muon", {"row_normalise": True}),
        ("normuon", {}),
        ("normuon", {"second_moment": {"over": "long_side"}}),
        ("normuon", {"rescale": "rms"}),
        ("normuon", {"nesterov": False}),
        ("normuon", {"second_moment": {"eps_form": "inside"}}),
        ("normuon", {"second_moment": {"eps_form": "floor"}}),
        ("normuon", {"decay": {"form": "cautious"}}),
        ("normuon", {"decay": {"form": "modded"}}),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 400, 1 << 21])
def test_batched_by_shape_is_the_formula_matrix_by_matrix(
    name: str, asked: dict[str, Any], chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablab.training import orthogonal

    monkeypatch.setattr(orthogonal, "CHUNK_BYTES", chunk_bytes)  # 1: one matrix; 400: stacks are cut in the middle
    weights, source = {n: nn.Parameter(p.double()) for n, p in parameters().items()}, gradients()
    matrices, form = [n for n in ROLES if ROLES[n] == "matrix"], asked.get("decay", {}).get("form", "plain")
    if name == "normuon":
        asked = {**asked, "second_moment": {"eps": 1e-4, **asked.get("second_moment", {})}}
    settings = {**asked, "decay": {"rate": 0.1, **asked.get("decay", {})}}
    optimizer = made(name, lr=0.01, **settings).build(weights, ROLES)
    mine = {n: [m.clone() for m in weights[n].data.reshape(-1, *weights[n].shape[-2:])] for n in matrices}
    memory: dict[str, list[dict[str, torch.Tensor]]] = {n: [{} for _ in mine[n]] for n in matrices}
    for step in range(3):
        found = {n: g.double() for n, g in next(source).items()}
        if step == 1:
            del found["again"]  # without a gradient neither weight nor state moves
            found["experts"][1] = 0.0
        for n in weights:
            weights[n].grad = found[n].clone() if n in found else None
        kept = {n: g.clone() for n, g in found.items()}
        optimizer.step()
        assert all(torch.equal(weights[n].grad, kept[n]) for n in found), "gradients are left alone"
        for n in matrices:
            for i, grad in enumerate(found[n].reshape(-1, *weights[n].shape[-2:]) if n in found else ()):
                step, w = one_matrix(name, grad, memory[n][i], **asked), mine[n][i]
                share = 0.001 * (0.01 * max(1, w.shape[0] / w.shape[1]) ** 0.5 if form == "modded" else 1)
                mine[n][i] = w - share * w * (w * step >= 0 if form != "plain" else 1) - 0.01 * step
    for n in matrices:
        stacked = torch.stack(mine[n]).view(weights[n].shape)
        torch.testing.assert_close(weights[n].data, stacked, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("muon", {}),
        *[
            ("normuon", {"rescale": r, "second_moment": {"eps_form": e, "eps": 1e-16}})
            for r in ("norm", "rms")
            for e in ("added", "floor")
        ],
    ],
)
def test_a_stack_that_never_had_a_gradient_stays_finite(name: str, asked: dict[str, Any]) -> None:
    weights = {"experts": nn.Parameter(torch.ones(2, 3, 4))}
    optimizer = made(name, orthogonaliser={"products": "bf16"}, **asked).build(weights, {"experts": "matrix"})
    weights["experts"].grad = torch.zeros(2, 3, 4)
    optimizer.step()
    assert torch.equal(weights["experts"].data, torch.ones(2, 3, 4))


@pytest.mark.parametrize(("rows", "cols", "factor"), [(1024, 128, 2.828427), (128, 1024, 1.0), (96, 64, 1.224745)])
def test_tall_matrices_take_longer_steps(rows: int, cols: int, factor: float) -> None:
    grad = torch.randn(rows, cols, generator=torch.Generator().manual_seed(3))
    weights = {"w": nn.Parameter(torch.zeros(rows, cols))}
    weights["w"].grad = grad
    made("muon", lr=1.0).build(weights, {"w": "matrix"}).step()
    from ablab.training.orthogonal import newton_schulz, orthogonalise

    u = 1.95 * grad
    plain = orthogonalise(u, newton_schulz(), safety=0.0, floor=1e-7)
    assert float(weights["w"].data.norm() / plain.norm()) == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_decay_tapers_in_every_group(name: str) -> None:
    weights = {n: nn.Parameter(torch.ones(SHAPES[n])) for n in ("w", "embed.weight")}
    optimizer = made(name, lr=0.5, decay={"rate": 0.1, "taper": [0.7, 0.5]}, aux={"decay": 0.2}).build(
        weights, {n: ROLES[n] for n in weights}
    )
    left = 1.0
    for spent, share in ((0.0, 1.0), (0.7, 1.0), (0.85, 0.75), (1.0, 0.5)):
        for group in optimizer.param_groups:
            group["spent"] = spent
        for p in weights.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        left *= 1 - 0.5 * 0.1 * share
        torch.testing.assert_close(weights["w"].data, torch.full((6, 4), left))
        for group, decay in zip(optimizer.param_groups, (0.1, 0.2), strict=True):
            assert group["weight_decay"] == pytest.approx(decay * share)


def test_momentum_warms_up_over_a_fraction_of_training() -> None:
    weights = {"w": nn.Parameter(torch.zeros(2, 2))}
    optimizer = made("muon", momentum=0.9, momentum_warmup=[0.5, 0.4]).build(weights, {"w": "matrix"})
    buffer = torch.zeros(2, 2)
    for spent, momentum in ((0.0, 0.5), (0.2, 0.7), (0.4, 0.9), (1.0, 0.9)):
        optimizer.param_groups[0]["spent"] = spent
        weights["w"].grad = torch.eye(2)
        optimizer.step()
        buffer = momentum * buffer + torch.eye(2)
        torch.testing.assert_close(optimizer.state[weights["w"]]["momentum"], buffer)


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_state_is_saved_whole_and_in_fp32(name: str, tmp_path: Path) -> None:
    weights, source = parameters(), gradients()
    optimizer = made(name).build(weights, ROLES)
    turn(optimizer, weights, source, 2)
    state = optimizer_tensors(optimizer, weights)
    assert all(t.dtype == torch.float32 for t in state.values())
    assert state["experts:momentum"].shape == (3, 6, 4) and state["w:momentum"].shape == (6, 4)
    save_tensors(tmp_path / "state.safetensors", state)
    read = load_file(tmp_path / "state.safetensors")
    assert read.keys() == state.keys() and all(torch.equal(read[n], state[n]) for n in state)


@pytest.mark.parametrize(
    ("name", "asked"), [("muon", {}), ("normuon", {}), ("normuon", {"decay": {"rate": 0.1, "form": "cautious"}})]
)
def test_the_work_of_a_step_does_not_grow_with_the_number_of_matrices(name: str, asked: dict[str, Any]) -> None:
    """Operations that are sent out, gathering and scattering included, with every shape in one chunk."""

    def sent(layers: int, experts: int) -> int:
        named = {f"{i}.w": nn.Parameter(torch.zeros(8, 6)) for i in range(layers)}
        named |= {"experts": nn.Parameter(torch.zeros(experts, 4, 6))}
        optimizer = made(name, **asked).build(named, dict.fromkeys(named, "matrix"))
        for _ in range(2):
            for p in named.values():
                p.grad = torch.ones_like(p)
            with Counted() as counted:
                optimizer.step()
        return counted.kernels

    assert sent(2, 4) == sent(40, 400) < (100 if not asked else 120)


class Counted(TorchDispatchMode):
    """Counts what would be a kernel: views and empty tensors are none, a foreach is one."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        free = ("empty", "view", "slice", "select", "split", "detach", "transpose", "diagonal", "alias", "unsafe_view")
        self.kernels += not func.overloadpacket.__name__.removeprefix("_").startswith(free)
        return func(*args, **(kwargs or {}))


def test_matrix_optimizers_refuse_what_cannot_be() -> None:
    for name, settings, text in (
        ("normuon", {"lr": -1.0}, "lr = -1.0 is negative; choose 0 or more"),
        ("normuon", {"aux": {"decay": -1.0}}, "aux.decay = -1.0 is negative; choose 0 or more"),
        ("normuon", {"momentum": 1.0}, "momentum = 1.0 is no decay; choose a number from 0 to below 1"),
        (
            "normuon",
            {"second_moment": {"beta2": -0.5}},
            "second_moment.beta2 = -0.5 is no decay; choose a number from 0 to below 1",
        ),
        (
            "normuon",
            {"second_moment": {"eps": 0.0}},
            "second_moment.eps = 0.0 divides by zero; choose a small positive number",
        ),
        (
            "normuon",
            {"second_moment": {"eps": 1e-30}},
            "second_moment.eps = 1e-30 is lost in fp32; choose 1e-16 or more",
        ),
        ("muon", {"aux": {"eps": 0.0}}, "aux.eps = 0.0 divides by zero; choose a small positive number"),
        (
            "muon",
            {"aux": {"betas": [0.9]}},
            "aux.betas = [0.9] are no two decays; choose two numbers from 0 to below 1",
        ),
        (
            "muon",
            {"decay": {"taper": [1.0, 0.5]}},
            "decay.taper = [1.0, 0.5] is no taper; give [fraction it starts at, share left at the end]",
        ),
        (
            "muon",
            {"momentum_warmup": [0.9, 0.0]},
            "momentum_warmup = [0.9, 0.0] is no warm-up; give [momentum it starts at, fraction of training it ends at]",
        ),
        (
            "normuon",
            {"orthogonaliser": {"coefficients": [[3.0, -4.0, 2.0]] * 5}},
            "orthogonaliser.coefficients diverge: a singular value of 0.5959 stands at 6.115 after step 4 of 5; raise safety, "
            "or give triples that hold up to 1 / (1 + safety)",
        ),
    ):
        with pytest.raises(ValueError) as raised:
            made(name, **settings)
        assert str(raised.value) == text
    four = {"w": nn.Parameter(torch.zeros(2, 2, 2, 2))}
    with pytest.raises(ValueError) as raised:
        made("muon").build(four, {"w": "matrix"})
    assert str(raised.value) == "w has 4 dimensions; give it as (d_out, d_in) or as a stack (n, d_out, d_in)"


@pytest.mark.parametrize("name", schedules.slot.names)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.5), min_lr=st.floats(0, 1))
def test_schedules_stay_between_zero_and_the_peak(name: str, progress: float, warmup: float, min_lr: float) -> None:
    settings = {"warmup": warmup, "min_lr": min_lr} | ({"warmdown": 0.5} if name == "wsd" else {})
    schedule = schedules.slot.load(name)(**settings)
    assert 0 <= schedule.factor(progress) <= 1
    assert schedule.factor(1.0) == pytest.approx(min_lr)
    assert schedule.factor(warmup) == pytest.approx(1.0)
    later = min(1.0, progress + 0.01)
    if progress >= warmup:
        assert schedule.factor(later) <= schedule.factor(progress) + 1e-12, "after the warm-up no rate rises"
    for outside in (-0.01, 1.01):
        with pytest.raises(ValueError, match=r"is outside \[0, 1\]"):
            schedule.factor(outside)


def test_schedules_at_known_points() -> None:
    wsd = schedules.slot.load("wsd")
    assert [wsd(warmup=0.1, warmdown=0.5, min_lr=0.2).factor(p) for p in (0, 0.05, 0.1, 0.5, 0.75, 1)] == pytest.approx(
        [0, 0.5, 1, 1, 0.6, 0.2]
    )
    assert wsd(warmup=0.0, warmdown=1.0, shape="sqrt").factor(0.25) == pytest.approx(0.5)
    cosine = schedules.slot.load("cosine")(warmup=0.0, min_lr=0.1)
    # Megatron's example: peak 1e-3, floor 1e-4, half way down 5.5e-4
    assert [cosine.factor(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.55, 0.1])


def test_schedules_refuse_what_cannot_be() -> None:
    for name, settings, text in (
        ("wsd", {"warmup": 1.5}, "warmup = 1.5 is no fraction; choose a number from 0 to 1"),
        ("wsd", {"min_lr": -0.1}, "min_lr = -0.1 is no fraction; choose a number from 0 to 1"),
        (
            "wsd",
            {"warmup": 0.5, "warmdown": 0.75},
            "warmup + warmdown = 1.25 is more than the run; make their sum at most 1",
        ),
        ("cosine", {"warmup": 1.0}, "warmup = 1.0 leaves no run; choose a number from 0 to below 1"),
        ("cosine", {"min_lr": 2.0}, "min_lr = 2.0 is no fraction; choose a number from 0 to 1"),
    ):
        with pytest.raises(ValueError) as raised:
            schedules.slot.load(name)(**settings)
        assert str(raised.value) == text
