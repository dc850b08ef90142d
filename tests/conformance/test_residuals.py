"""Residual levers: neutral bit for bit, exact, gradients reach everything."""

from __future__ import annotations

import pytest
import torch
from tests.conformance.made import SHAPE, drawn, made, shaken

from ablab.model import residuals
from ablab.model.residuals.composed import Composed
from ablab.model.shape import Shape

X, X0 = drawn("x", 2, 5, 32), drawn("x0", 2, 5, 32)
NAMES = residuals.slot.names


def at(layer: int) -> Shape:
    return Shape(**{**vars(SHAPE), "layer": layer})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_neutral_is_the_baseline_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    lever = made(residuals.slot, name, at(0), dtype=torch.float32)
    x, x0 = X.to(dtype), X0.to(dtype)
    for got in (lever.enter(x, x0), lever.into(x), lever.out(x, "attn"), lever.out(x, "mlp")):
        assert torch.equal(got, x) and got.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_everything(name: str) -> None:
    lever = made(residuals.slot, name)
    x = lever.enter(X.clone().requires_grad_(), X0)
    (lever.out(lever.into(x).square(), "attn") + lever.out(lever.into(x) ** 3, "mlp")).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).all() for p in lever.parameters())
    assert lever.role == "scalar"


def test_formulas() -> None:
    mix = shaken(made(residuals.slot, "mix"))
    expected = mix.stream_D * X + mix.first_D * X0
    torch.testing.assert_close(mix.enter(X, X0), expected, rtol=1e-14, atol=1e-15)
    assert mix.into(X) is X and mix.out(X, "attn") is X
    scale = shaken(made(residuals.slot, "branch_scale", init=0.3))
    assert not torch.equal(scale.attn_D, scale.mlp_D)
    torch.testing.assert_close(scale.out(X, "attn"), X * scale.attn_D)
    torch.testing.assert_close(scale.out(X, "mlp"), X * scale.mlp_D)
    assert scale.into(X) is X and scale.enter(X, X0) is X
    started = made(residuals.slot, "branch_scale", init=0.3)
    assert started.attn_D.min().item() == pytest.approx(0.3) == started.mlp_D.max().item()
    for layer in range(4):
        depth = made(residuals.slot, "depth_scale", at(layer))
        torch.testing.assert_close(depth.into(X), X / (layer + 1) ** 0.5, rtol=1e-15, atol=0)
        assert depth.enter(X, X0) is X and depth.out(X, "mlp") is X


def test_a_list_acts_in_order() -> None:
    parts = [shaken(made(residuals.slot, name)) for name in ("mix", "mix", "depth_scale", "branch_scale")]
    both = Composed(parts)
    torch.testing.assert_close(both.enter(X, X0), parts[1].enter(parts[0].enter(X, X0), X0))
    torch.testing.assert_close(both.into(X), parts[2].into(X))
    torch.testing.assert_close(both.out(X, "mlp"), parts[3].out(X, "mlp"))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError) as raised:
        made(residuals.slot, "branch_scale", init=0.0)
    assert str(raised.value) == "init = 0 gives the branch no gradient; choose a small number such as 1e-4"
