"""Every gate: neutral where it says so, exact, position-wise, its gradients right and reaching everything."""

from __future__ import annotations

import pytest
import torch
from tests.conformance.made import SHAPE, drawn, made, shaken
from torch import nn

from ablab.model import gates
from ablab.model.gates.composed import Composed
from ablab.model.shape import Shape

B, T, H, G, K, D = 2, 7, 4, 2, 8, 32
NAMES = gates.slot.names


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """y_BTHK, x_BTD, raw_BTD, v_BTGK."""
    sizes = {"y": (B, T, H, K), "x": (B, T, D), "raw": (B, T, D), "v": (B, T, G, K)}
    return [drawn(name, *size, dtype=dtype) for name, size in sizes.items()]


@pytest.mark.parametrize("name", NAMES)
def test_each_place_stands_alone(name: str) -> None:
    gate, given = shaken(made(gates.slot, name)), inputs()
    y = gate(*given)
    assert y.shape == given[0].shape
    for i in range(len(given)):
        changed = [t.clone() for t in given]
        changed[i][1, 3] += 1
        moved = (gate(*changed) != y).flatten(2).any(-1)
        moved[1, 3] = False
        assert not moved.any()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right_and_reach_everything(name: str) -> None:
    gate = made(gates.slot, name)
    gate(*(t.requires_grad_() for t in inputs())).square().sum().backward()
    assert all(p.grad is not None and (p.grad != 0).all() for p in gate.parameters())
    names = [n for n, _ in gate.named_parameters()]
    given = [t[:1, :2].clone().requires_grad_() for t in inputs()]

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(gate, dict(zip(names, tensors[4:])), tensors[:4])

    assert torch.autograd.gradcheck(run, (*given, *shaken(gate).parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_bf16_stays_bf16(name: str) -> None:
    gate, given = shaken(made(gates.slot, name, dtype=torch.float32)), inputs(torch.float32)
    narrow = [given[0].bfloat16(), given[1], given[2], given[3].bfloat16()]  # as attention hands them over
    with torch.autocast("cpu", torch.bfloat16):
        y = gate(*narrow)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), gate(*given), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_is_the_baseline_bit_for_bit(dtype: torch.dtype) -> None:
    given = inputs(dtype)
    for settings in ({}, {"width": "all"}, {"width": 32}, {"input": "raw"}):
        assert torch.equal(made(gates.slot, "attn_out_gate", dtype=dtype, **settings)(*given), given[0])
    assert torch.equal(made(gates.slot, "off", dtype=dtype)(*given), given[0])
    assert torch.equal(made(gates.slot, "xsa", dtype=dtype, last=1)(*given), given[0])  # layer 2 of 4
    half = given[0] / 2
    assert torch.equal(made(gates.slot, "sparse_attn_gate", dtype=dtype)(*given), half)
    assert torch.equal(made(gates.slot, "gated_attn", dtype=dtype, init_std=0.0)(*given), half)


def weight(gate: nn.Module) -> torch.Tensor:
    (found,) = gate.parameters()
    return found.detach()


@pytest.mark.parametrize("width", [12, 1, "all"])
@pytest.mark.parametrize("read", ["normed", "raw"])
def test_attn_out_gate_formula(width: int | str, read: str) -> None:
    y, x, raw, v = inputs()
    gate = shaken(made(gates.slot, "attn_out_gate", width=width, input=read))
    w, u = weight(gate), {"normed": x, "raw": raw}[read]
    n = D if width == "all" else width
    assert w.shape == (H, n)
    got = gate(y, x, raw, v)
    for h in range(H):
        expected = y[:, :, h] * 2 / (1 + torch.exp(-(u[..., :n] @ w[h])))[..., None]
        torch.testing.assert_close(got[:, :, h], expected, rtol=1e-12, atol=1e-13)


def test_sigmoid_gates_formulas() -> None:
    y, x, raw, v = inputs()
    sparse = shaken(made(gates.slot, "sparse_attn_gate", width=5, scale=0.5))
    expected = y * (1 / (1 + torch.exp(-0.5 * (x[..., :5] @ weight(sparse).T))))[..., None]
    torch.testing.assert_close(sparse(y, x, raw, v), expected, rtol=1e-12, atol=1e-13)
    full = made(gates.slot, "gated_attn", Shape(**{**vars(SHAPE), "d_model": 512, "n_heads": 8}))
    assert weight(full).shape == (8, 512) and float(weight(full).std()) == pytest.approx(0.005, rel=0.03)
    full = shaken(made(gates.slot, "gated_attn"))
    expected = y * (1 / (1 + torch.exp(-(x @ weight(full).T))))[..., None]
    torch.testing.assert_close(full(y, x, raw, v), expected, rtol=1e-12, atol=1e-13)


def test_xsa_removes_what_lies_along_the_own_value() -> None:
    _, x, raw, v = inputs()
    y, each = drawn("y8", B, T, 8, K), 4  # query heads of one kv head: another number than kv heads
    v[0, 0] = 0  # no direction: nothing to remove
    v[0, 1] *= 1e-9  # short, but a direction
    got = made(gates.slot, "xsa")(y, x, raw, v)
    for h in range(8):
        own = v[:, :, h // each]
        unit = own / own.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        expected = y[:, :, h] - (y[:, :, h] * unit).sum(-1, keepdim=True) * unit
        torch.testing.assert_close(got[:, :, h], expected, rtol=1e-12, atol=1e-13)
        assert float((got[:, :, h] * own).sum(-1).abs().max()) < 1e-13
    assert torch.equal(got[0, 0], y[0, 0])
    first = v[:, 1:2].repeat_interleave(each, dim=2)  # a document's first token reads its own value alone
    assert float(made(gates.slot, "xsa")(first, x, raw, v[:, 1:2]).abs().max()) < 1e-15


def test_xsa_acts_in_the_last_layers() -> None:
    given = inputs()
    for last, acting in ((None, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (1, [3]), (3, [1, 2, 3])):
        for layer in range(4):
            gate = made(gates.slot, "xsa", Shape(**{**vars(SHAPE), "layer": layer}), last=last)
            assert torch.equal(gate(*given), given[0]) == (layer not in acting)


def test_a_list_acts_in_order() -> None:
    y, x, raw, v = inputs()
    parts = [shaken(made(gates.slot, name)) for name in ("attn_out_gate", "xsa", "gated_attn")]
    expected = y
    for part in parts:
        expected = part(expected, x, raw, v)
    assert torch.equal(Composed(parts)(y, x, raw, v), expected)


@pytest.mark.parametrize("name", NAMES)
def test_gates_are_never_orthogonalised(name: str) -> None:
    gate = made(gates.slot, name)
    owners = {n: m for n, m in gate.named_modules()}
    assert all(getattr(owners[n.rpartition(".")[0]], "role", "scalar") == "scalar" for n, _ in gate.named_parameters())


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("attn_out_gate", {"width": 33}, 'width = 33 is not within d_model = 32; choose 1 to 32 or "all"'),
        ("attn_out_gate", {"width": 0}, 'width = 0 is not within d_model = 32; choose 1 to 32 or "all"'),
        ("sparse_attn_gate", {"width": 33}, "width = 33 is not within d_model = 32; choose 1 to 32"),
        ("sparse_attn_gate", {"scale": 0.0}, "scale = 0 makes a gate that cannot learn; choose scale > 0"),
        ("gated_attn", {"init_std": -0.1}, "init_std is -0.1; give init_std >= 0"),
        ("xsa", {"last": 5}, "last = 5 of 4 layers; choose 1 to 4, or leave it out for all"),
        ("xsa", {"last": 0}, "last = 0 of 4 layers; choose 1 to 4, or leave it out for all"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError) as raised:
        made(gates.slot, name, **settings)
    assert str(raised.value) == text


def test_words_are_checked() -> None:
    _, faults = gates.slot.coerce({"name": "attn_out_gate", "width": "most"}, "model.gate")
    assert [f.fault for f in faults] == ["'most' is not an integer or 'all'"]
    _, faults = gates.slot.coerce({"name": "attn_out_gate", "input": "row"}, "model.gate")
    assert faults and "raw" in faults[0].cure
