"""Every MLP: position-wise, right at init, its settings act, its gradient reaches every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablab import mlps
from ablab.rng import Draw
from ablab.shape import Shape

SHAPE = Shape(d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, seq_len=8, vocab_size=9, n_layers=2)


def made(name: str, dtype: torch.dtype = torch.float64, **settings: object) -> nn.Module:
    choice, faults = mlps.slot.coerce({"name": name, **settings}, "mlp")
    assert not faults
    module: nn.Module = mlps.slot.build(choice, SHAPE)
    for path, part in module.named_modules():
        if hasattr(part, "init"):
            part.init(Draw(0, path))
    return module.to(dtype)


def inputs(*shape: int) -> torch.Tensor:
    return 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", mlps.slot.names)
def test_each_place_stands_alone(name: str) -> None:
    mlp, x = made(name), inputs(2, 5, 16)
    y = mlp(x)
    assert y.shape == x.shape
    changed = x.clone()
    changed[1, 3] += 1
    moved = (mlp(changed) != y).any(-1)
    assert moved[1, 3] and int(moved.sum()) == 1


@pytest.mark.parametrize("name", mlps.slot.names)
def test_gradients_are_right_and_reach_everything(name: str) -> None:
    mlp, x = made(name), inputs(3, 16).requires_grad_()
    names = [n for n, _ in mlp.named_parameters()]

    def by_parameters(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(mlp, dict(zip(names, values)), x)

    assert torch.autograd.gradcheck(by_parameters, (x, *mlp.parameters()))
    mlp(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mlp.parameters())


@pytest.mark.parametrize("name", mlps.slot.names)
def test_what_writes_into_the_residual_is_small_at_init(name: str) -> None:
    mlp = made(name)
    wide = {n: float(p.detach().std()) for n, p in mlp.named_parameters()}
    for n, std in wide.items():
        assert std == pytest.approx(SHAPE.out_std if "down_proj" in n else SHAPE.init_std, rel=0.15), n


def test_formulas() -> None:
    x = inputs(4, 16)
    relu2, leaky, swiglu = made("relu2"), made("leaky_relu2", slope=0.25), made("swiglu")
    up, down = relu2.up_proj.weight, relu2.down_proj.weight
    torch.testing.assert_close(relu2(x), (x @ up.T).clamp(min=0).square() @ down.T)
    h = x @ leaky.up_proj.weight.T
    torch.testing.assert_close(leaky(x), torch.where(h > 0, h, 0.25 * h).square() @ leaky.down_proj.weight.T)
    gate, up = x @ swiglu.gate_proj.weight.T, x @ swiglu.up_proj.weight.T
    torch.testing.assert_close(swiglu(x), (gate * gate.sigmoid() * up) @ swiglu.down_proj.weight.T)
    torch.testing.assert_close(made("leaky_relu2", slope=0.0)(x), relu2(x))


def test_the_gated_one_has_the_parameters_of_the_others() -> None:
    shape = Shape(d_model=384, n_heads=2, n_kv_heads=2, head_dim=8, seq_len=8, vocab_size=9, n_layers=2)
    sizes = {}
    for name in mlps.slot.names:
        sizes[name] = sum(p.numel() for p in mlps.slot.build(mlps.slot.coerce(name, "mlp")[0], shape).parameters())
    assert len(set(sizes.values())) == 1, sizes


def test_impossible_settings_are_refused() -> None:
    for name, settings, text in (
        ("relu2", {"ratio": 0.01}, "ratio = 0.01 leaves no hidden unit; choose a ratio above 0.0625"),
        ("leaky_relu2", {"ratio": -1.0}, "ratio = -1.0 leaves no hidden unit; choose a ratio above 0.0625"),
        ("leaky_relu2", {"slope": -0.1}, "slope = -0.1 is negative; choose 0 (which is relu2) or more"),
        ("swiglu", {"ratio": 0.1}, "ratio = 0.1 with multiple = 8 leaves no hidden unit; raise ratio"),
        ("swiglu", {"multiple": 0}, "multiple = 0 is no width; choose 1 or more"),
    ):
        with pytest.raises(ValueError) as raised:
            made(name, **settings)
        assert str(raised.value) == text


def test_relu2_keeps_bf16() -> None:
    mlp = made("relu2", torch.float32)
    x = inputs(4, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = mlp(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), mlp(x), atol=1e-3, rtol=5e-2)
