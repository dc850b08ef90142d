"""Values and the first layer's: neutral bit for bit, exact, able to learn from every start that is allowed."""

from __future__ import annotations

import pytest
import torch
from tests.conformance.made import SHAPE, drawn, made

from ablab.model import values
from ablab.model.shape import Shape

V, FIRST = drawn("v", 2, 5, 2, 8), drawn("first", 2, 5, 2, 8)
FORMS = ["linear", "sigmoid"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_neutral_is_the_baseline_bit_for_bit(dtype: torch.dtype) -> None:
    v, first = V.to(dtype), FIRST.to(dtype)
    assert torch.equal(made(values.slot, "own", dtype=dtype)(v, first), v)
    assert torch.equal(made(values.slot, "own", dtype=dtype)(v, None), v)
    assert torch.equal(
        made(values.slot, "residual", dtype=torch.float32, init=1.0)(v.float(), first.float()), v.float()
    )
    narrow = made(values.slot, "residual", dtype=torch.float32, init=1.0)(v, first)  # fp32 mix, attention's type
    assert torch.equal(narrow, v) and narrow.dtype == dtype


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("init", [0.01, 0.3, 0.5, 0.99])
def test_formula_and_gradient(form: str, init: float) -> None:
    lever = made(values.slot, "residual", form=form, init=init)
    v, first = V.clone().requires_grad_(), FIRST.clone().requires_grad_()
    got = lever(v, first)
    torch.testing.assert_close(got, init * V + (1 - init) * FIRST, rtol=0, atol=2e-7)  # the mix is drawn in fp32
    (mix,) = lever.parameters()
    assert mix.shape == () and lever.role == "scalar"
    assert torch.autograd.gradcheck(
        lambda v, f, m: torch.func.functional_call(lever, {"mix": m}, (v, f)), (v, first, mix)
    )
    got.backward(drawn("g", 2, 5, 2, 8))
    slope = 1.0 if form == "linear" else init * (1 - init)
    expected = slope * (drawn("g", 2, 5, 2, 8) * (V - FIRST)).sum()
    assert float(mix.grad) == pytest.approx(float(expected), rel=1e-5)


def test_linear_learns_at_full_rate_from_the_baseline() -> None:
    lever = made(values.slot, "residual", init=1.0)
    lever(V, FIRST).backward(drawn("g", 2, 5, 2, 8))
    assert float(lever.mix.grad) == pytest.approx(float((drawn("g", 2, 5, 2, 8) * (V - FIRST)).sum()), rel=1e-12)


def test_the_first_layer_has_none() -> None:
    first = Shape(**{**vars(SHAPE), "layer": 0})
    lever = made(values.slot, "residual", first)
    assert not list(lever.parameters()) and lever(V, None) is V
    with pytest.raises(ValueError, match="the first layer's values are missing; hand over v of layer 0"):
        made(values.slot, "residual")(V, None)


def test_bf16_does_not_round_the_mix_away() -> None:
    lever = made(values.slot, "residual", dtype=torch.float32, init=0.999)
    got = lever(torch.zeros(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16))
    assert got.dtype == torch.bfloat16 and got.item() == pytest.approx(0.001, rel=5e-3)  # 1 - bf16(0.999) is 0


@pytest.mark.parametrize("init", [0.0, 0.009, 0.991, 1.0, -1.0])
def test_a_mix_that_cannot_learn_is_refused(init: float) -> None:
    with pytest.raises(ValueError) as raised:
        made(values.slot, "residual", form="sigmoid", init=init)
    assert str(raised.value) == (
        f'init = {init:g} saturates the sigmoid, so the mix could hardly learn; choose 0.01 to 0.99, or form = "linear"'
    )
