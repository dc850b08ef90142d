"""Every optimizer: each parameter once, by role; a bad gradient moves nothing; resumed means unchanged. Schedules too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ablab import optimizers, schedules
from ablab.checkpoint import optimizer_tensors, restore_optimizer

ROLES = {"embed.weight": "embedding", "w": "matrix", "v": "matrix", "lm_head.weight": "head", "norm.weight": "scalar"}
SHAPES = {"embed.weight": (9, 4), "w": (6, 4), "v": (4, 6), "lm_head.weight": (9, 4), "norm.weight": (4,)}


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
    weights, listed = parameters(), lever.rules(ROLES)
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
