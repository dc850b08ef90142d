"""Every MLP: position-wise, right at init, its settings act, its gradient reaches every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablab.core.rng import Draw
from ablab.model import mlps
from ablab.model.shape import Shape

SHAPE = Shape(d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, seq_len=8, vocab_size=9, n_layers=2)
BIASED = Shape(**{**vars(SHAPE), "bias": True})
DENSE = [n for n in mlps.slot.names if not mlps.slot.load(n).routed]  # mixtures: test_routers, test_moe


def made(name: str, dtype: torch.dtype = torch.float64, shape: Shape = SHAPE, **settings: object) -> nn.Module:
    choice, faults = mlps.slot.coerce({"name": name, **settings}, "mlp")
    assert not faults
    module: nn.Module = mlps.slot.build(choice, shape)
    for path, part in module.named_modules():
        if hasattr(part, "init"):
            part.init(Draw(0, path))
    return module.to(dtype)


def inputs(*shape: int) -> torch.Tensor:
    return 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", DENSE)
def test_each_place_stands_alone(name: str) -> None:
    mlp, x = made(name), inputs(2, 5, 16)
    y = mlp(x)
    assert y.shape == x.shape
    changed = x.clone()
    changed[1, 3] += 1
    moved = (mlp(changed) != y).any(-1)
    assert moved[1, 3] and int(moved.sum()) == 1


@pytest.mark.parametrize("name", DENSE)
def test_gradients_are_right_and_reach_everything(name: str) -> None:
    mlp, x = made(name), inputs(3, 16).requires_grad_()
    names = [n for n, _ in mlp.named_parameters()]

    def by_parameters(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(mlp, dict(zip(names, values)), x)

    assert torch.autograd.gradcheck(by_parameters, (x, *mlp.parameters()))
    mlp(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mlp.parameters())


@pytest.mark.parametrize("name", DENSE)
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
    for approximate in ("tanh", "none"):
        gelu = made("gelu", approximate=approximate)
        h = x @ gelu.up_proj.weight.T
        tanh, exact = ((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)).tanh(), torch.erf(h / 2**0.5)
        phi = (1 + (tanh if approximate == "tanh" else exact)) / 2
        torch.testing.assert_close(gelu(x), (h * phi) @ gelu.down_proj.weight.T)


@pytest.mark.parametrize(("alpha", "limit"), [(1.702, 7.0), (0.7, 0.2)])
def test_gptoss_swiglu_formula(alpha: float, limit: float) -> None:
    """From one interleaved matrix, as gpt-oss has it: even rows are the gate's, odd ones the linear part's."""
    mlp = made("gptoss_swiglu", alpha=alpha, limit=limit, shape=BIASED)
    with torch.no_grad():
        for p in mlp.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    both = torch.stack([mlp.gate_proj.weight, mlp.up_proj.weight], 1).flatten(0, 1)
    biases = torch.stack([mlp.gate_proj.bias, mlp.up_proj.bias], 1).flatten()
    x = inputs(4, 16)
    h = x @ both.T + biases
    glu, lin = h[:, ::2].clamp(max=limit), h[:, 1::2].clamp(-limit, limit)
    assert (h[:, ::2] > limit).any() and (h[:, 1::2].abs() > limit).any()  # the clamps act
    expected = (glu / (1 + torch.exp(-alpha * glu)) * (lin + 1)) @ mlp.down_proj.weight.T + mlp.down_proj.bias
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize("name", DENSE)
def test_biases_come_with_the_model(name: str) -> None:
    plain, biased, x = made(name), made(name, shape=BIASED), inputs(2, 5, 16)
    linears = [n for n, _ in plain.named_parameters()]
    assert [n for n, _ in biased.named_parameters() if n.endswith("bias")] == [
        n.replace("weight", "bias") for n in linears
    ]
    assert torch.equal(plain(x), biased(x))  # they start at zero
    biased(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in biased.parameters())


def test_the_gated_one_has_the_parameters_of_the_others() -> None:
    shape = Shape(d_model=384, n_heads=2, n_kv_heads=2, head_dim=8, seq_len=8, vocab_size=9, n_layers=2)
    sizes = {}
    for name in DENSE:
        sizes[name] = sum(p.numel() for p in mlps.slot.build(mlps.slot.coerce(name, "mlp")[0], shape).parameters())
    assert len(set(sizes.values())) == 1, sizes


def test_impossible_settings_are_refused() -> None:
    for name, settings, text in (
        ("relu2", {"ratio": 0.01}, "ratio = 0.01 leaves no hidden unit; choose a ratio above 0.0625"),
        ("leaky_relu2", {"ratio": -1.0}, "ratio = -1.0 leaves no hidden unit; choose a ratio above 0.0625"),
        ("leaky_relu2", {"slope": -0.1}, "slope = -0.1 is negative; choose 0 (which is relu2) or more"),
        ("swiglu", {"ratio": 0.1}, "ratio = 0.1 with multiple = 8 leaves no hidden unit; raise ratio"),
        ("swiglu", {"multiple": 0}, "multiple = 0 is no width; choose 1 or more"),
        ("gelu", {"ratio": 0.0}, "ratio = 0.0 leaves no hidden unit; choose a ratio above 0.0625"),
        ("gptoss_swiglu", {"ratio": 0.1}, "ratio = 0.1 with multiple = 8 leaves no hidden unit; raise ratio"),
        ("gptoss_swiglu", {"multiple": -1}, "multiple = -1 is no width; choose 1 or more"),
        (
            "gptoss_swiglu",
            {"alpha": 0.0},
            "alpha = 0 is no slope of a gate; choose alpha > 0 (1.702 makes it GELU-like)",
        ),
        ("gptoss_swiglu", {"limit": -7.0}, "limit = -7 leaves nothing between its clamps; choose limit > 0"),
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
