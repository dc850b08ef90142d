"""Every projection: position-wise, exact, right at init; tensor products against the official code's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.conformance.made import SHAPE, drawn, made, shaken
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model import projections
from ablab.model.parts.rotation import frequencies, turn
from ablab.model.shape import Shape

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tpa_qkv"
B, T, H, G, K, D = 2, 5, 4, 2, 8, 32
X = drawn("x", B, T, D)
WIDE = Shape(d_model=1024, n_heads=8, n_kv_heads=2, head_dim=128, seq_len=32, vocab_size=50, n_layers=4)
CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in projections.slot.names},
    "gqa_bias": ("gqa", {"bias": True}),
    "tpa_bias": ("tpa", {"bias": True}),
    "tpa_official": ("tpa", {"init": "official", "rank": 3, "q_rank": 1}),
}


def sized(shape: Shape = SHAPE, **sizes: object) -> Shape:
    return Shape(**{**vars(shape), **sizes})


def projection(case: str) -> nn.Module:
    name, settings = CASES[case]
    return made(projections.slot, name, **settings)


@pytest.mark.parametrize("case", CASES)
def test_each_place_stands_alone(case: str) -> None:
    part = projection(case)
    parts = part(X)
    assert [t.shape for t in parts] == [(B, T, H, K), (B, T, G, K), (B, T, G, K)]
    changed = X.clone()
    changed[1, 3] += 1
    for before, after in zip(parts, part(changed)):
        moved = (before != after).flatten(2).any(-1)
        assert moved[1, 3] and int(moved.sum()) == 1


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_right_and_reach_everything(case: str) -> None:
    part = projection(case)
    sum(t.square().sum() + t.sum() for t in part(X)).backward()
    assert all(p.grad is not None and (p.grad != 0).all() for p in part.parameters())
    small = sized(d_model=3, head_dim=2, n_heads=2, n_kv_heads=1)
    name, settings = CASES[case]
    part = shaken(made(projections.slot, name, small, **settings))
    names = [n for n, _ in part.named_parameters()]

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        got: tuple[Tensor, ...] = torch.func.functional_call(part, dict(zip(names, tensors)), x)
        return got

    assert torch.autograd.gradcheck(run, (drawn("s", 1, 2, 3).requires_grad_(), *part.parameters()))


@pytest.mark.parametrize("case", CASES)
def test_roles(case: str) -> None:
    """Every matrix is one of its own, so the optimizer sees factors, not their product; biases are vectors."""
    part = projection(case)
    owners = dict(part.named_modules())
    for name, p in part.named_parameters():
        if name.endswith("bias"):
            assert p.ndim == 1 and not p.any()
        else:
            assert p.ndim == 2 and owners[name.rpartition(".")[0]].role == "matrix"


@pytest.mark.parametrize("name", projections.slot.names)
def test_the_model_decides_on_biases_where_unset(name: str) -> None:
    for of_model in (False, True):
        for given in (None, False, True):
            part = made(projections.slot, name, sized(bias=of_model), bias=given)
            found = sum(p.numel() for n, p in part.named_parameters() if n.endswith("bias"))
            assert found == ((H + 2 * G) * K if (of_model if given is None else given) else 0)


@pytest.mark.parametrize("name", projections.slot.names)
def test_a_bias_at_its_start_is_none_bit_for_bit(name: str) -> None:
    plain, biased = (made(projections.slot, name, dtype=torch.float32, bias=bias) for bias in (False, True))
    for a, b in zip(plain(X.float()), biased(X.float())):
        assert torch.equal(a, b)


def test_gqa_formula() -> None:
    part = shaken(made(projections.slot, "gqa", bias=True))
    for got, of in zip(part(X), (part.q_proj, part.k_proj, part.v_proj)):
        torch.testing.assert_close(got.flatten(2), X @ of.weight.T + of.bias, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("rank", "q_rank"), [(1, 1), (2, 6), (3, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_tpa_formula(rank: int, q_rank: int, bias: bool) -> None:
    """Entry by entry from the flat layouts: A's channel head R + r, B's r K + k, the sum over r divided by R."""
    part = shaken(made(projections.slot, "tpa", rank=rank, q_rank=q_rank, bias=bias))
    parts = part(X)
    starts = (0, H * K, (H + G) * K)
    for got, which, heads, r, start in zip(parts, "qkv", (H, G, G), (q_rank, rank, rank), starts):
        a = X @ getattr(part, f"a_{which}").weight.T
        b = X @ getattr(part, f"b_{which}").weight.T
        assert a.shape[-1] == heads * r and b.shape[-1] == r * K
        for head in range(heads):
            for k in range(K):
                expected = sum(a[..., head * r + i] * b[..., i * K + k] for i in range(r)) / r
                if bias:
                    expected = expected + part.bias[start + head * K + k]
                torch.testing.assert_close(got[..., head, k], expected, rtol=1e-11, atol=1e-12)


def test_tpa_toy() -> None:
    part = made(
        projections.slot, "tpa", sized(d_model=2, n_heads=2, n_kv_heads=1, head_dim=2), rank=1, q_rank=2, bias=False
    )
    with torch.no_grad():
        part.a_q.weight.copy_(torch.tensor([[1, 0], [0, 1], [1, 1], [2, 0]]))
        part.b_q.weight.copy_(torch.tensor([[1, 0], [0, 1], [1, -1], [0, 2]]))
        part.a_k.weight.copy_(torch.tensor([[1, 1]]))
        part.b_k.weight.copy_(torch.tensor([[1, 0], [1, 1]]))
    q, k, _ = part(torch.tensor([[[1.0, 2.0]]], dtype=torch.float64))
    assert q.tolist() == [[[[-0.5, 5.0], [0.5, 7.0]]]]
    assert k.tolist() == [[[[3.0, 9.0]]]]


def test_tpa_sizes() -> None:
    """vpMoE's local layer: parameters, and what a cache of factors would hold against one of k and v."""
    count = {
        bias: sum(p.numel() for p in made(projections.slot, "tpa", WIDE, rank=2, q_rank=4, bias=bias).parameters())
        for bias in (False, True)
    }
    assert count == {False: 1_089_536, True: 1_089_536 + 1_536}
    x = drawn("wide", 1, 1, 1024)
    for rank, cached in ((2, 520), (1, 260)):
        part = made(projections.slot, "tpa", WIDE, rank=rank)
        assert sum(t.numel() for t in part.factors(x)) == cached
        assert sum(t.numel() for t in part(x)[1:]) == 512


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_factors_multiply_to_keys_and_values(rank: int) -> None:
    part = shaken(made(projections.slot, "tpa", rank=rank))
    a_k, b_k, a_v, b_v = part.factors(X)
    assert a_k.shape == a_v.shape == (B, T, G, rank) and b_k.shape == b_v.shape == (B, T, rank, K)
    _, k, v = part(X)
    assert torch.equal(a_k @ b_k, k) and torch.equal(a_v @ b_v, v)
    assert made(projections.slot, "tpa", bias=True).factors(X) is None


def test_tpa_official() -> None:
    """q, k, v and the attention output of the official code; its rotation turns by the negative angle."""
    record, golden = json.loads(GOLDEN.with_suffix(".json").read_text()), load_file(GOLDEN.with_suffix(".safetensors"))
    shape = sized(n_heads=4, n_kv_heads=4, head_dim=16, seq_len=16)
    part = made(projections.slot, "tpa", shape, rank=2, q_rank=6, factors="heads")
    with torch.no_grad():
        for which in "qkv":
            getattr(part, f"a_{which}").weight.copy_(golden[f"W_A_{which}"])
            getattr(part, f"b_{which}").weight.copy_(golden[f"W_B_{which}"])
    q, k, v = part(golden["x"])
    q, k = turn(q, k, -frequencies(16, 10000.0), torch.arange(16)[None])
    y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
    found = {"q": q, "k": k, "v": v, "y": y.transpose(1, 2).flatten(2) @ golden["W_proj"].T}
    for name, got in found.items():
        torch.testing.assert_close(got, golden[name], rtol=0, atol=record["tolerance"])


def test_tpa_starts() -> None:
    """Normal factors make q at 0.205 and k at 0.290 of unit-RMS inputs; official ones start within the T6 code's bounds."""
    x = F.rms_norm(drawn("start", 1, 400, 1024, dtype=torch.float32), (1024,))
    q, k, v = made(projections.slot, "tpa", WIDE, dtype=torch.float32, rank=2, q_rank=4)(x)
    assert q.std().item() == pytest.approx(0.205, rel=0.03)
    assert k.std().item() == pytest.approx(0.290, rel=0.04) and v.std().item() == pytest.approx(0.290, rel=0.04)
    medium = Shape(d_model=1024, n_heads=47, n_kv_heads=47, head_dim=64, seq_len=32, vocab_size=50, n_layers=4)
    part = made(projections.slot, "tpa", medium, dtype=torch.float32, factors="heads", init="official")
    for which, r in (("q", 6), ("k", 2), ("v", 2)):
        for side, bound in (("a", (6 / (r * 1071)) ** 0.5), ("b", (6 / (64 * (1024 + r))) ** 0.5)):
            weight = getattr(part, f"{side}_{which}").weight
            assert bound * 0.999 < weight.abs().max().item() <= bound
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
            assert abs(weight.mean().item()) < 0.01 * bound
    assert part.a_k.bound == pytest.approx(0.053, abs=5e-4) and part.b_k.bound == pytest.approx(0.0096, abs=5e-5)


def test_official_start_holds_in_an_orthogonal_model() -> None:
    for start, expected in (("normal", False), ("official", True)):
        drawn_as = []
        for orthogonal in (False, True):
            part = projections.slot.build(projections.slot.coerce({"name": "tpa", "init": start}, "p")[0], SHAPE)
            for path, module in part.named_modules():
                if hasattr(module, "init"):
                    module.init(Draw(0, path, orthogonal=orthogonal))
            drawn_as.append(part.b_k.weight.detach().double())
        assert torch.equal(*drawn_as) == expected
        if start == "normal":
            torch.testing.assert_close(
                drawn_as[1] @ drawn_as[1].T, torch.eye(16, dtype=torch.float64), atol=1e-6, rtol=0
            )


def test_tpa_under_autocast() -> None:
    part = made(projections.slot, "tpa", dtype=torch.float32, bias=True)
    with torch.no_grad():
        part.bias += drawn("b", part.bias.numel(), dtype=torch.float32)
    x = X.float()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = part(x)
    for a, b in zip(narrow, part(x)):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("settings", "shape", "text"),
    [
        ({"rank": 0}, SHAPE, "rank = 0 leaves no factor; choose 1 or more"),
        ({"q_rank": -1}, SHAPE, "q_rank = -1 leaves no factor; choose 1 or more"),
        (
            {"factors": "heads"},
            SHAPE,
            'factors = "heads" makes 4 keys and values, n_kv_heads is 2; set n_kv_heads = 4, or factors = "groups"',
        ),
        (
            {},
            sized(n_kv_heads=3),
            "n_heads = 4 is no multiple of n_kv_heads = 3; choose n_kv_heads among the divisors of n_heads",
        ),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], shape: Shape, text: str) -> None:
    with pytest.raises(ValueError) as raised:
        made(projections.slot, "tpa", shape, **settings)
    assert str(raised.value) == text
