"""Every router: chooses k different experts, weighs them, in fp32 at least, with a gradient; the published numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.core.rng import Draw
from ablab.model import routers
from ablab.model.parts.routing import Routed, balance, load, squared_mass
from ablab.model.shape import Shape

SIZES: dict[str, Any] = {"n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "seq_len": 8, "vocab_size": 9, "n_layers": 2}
SHAPE = Shape(d_model=16, n_experts=8, **SIZES)
# A token's logits, a mixture of 8 (computed with Megatron-LM's router in fp64; 10 digits).
LOGITS = torch.tensor([[2, -1, 0.5, 0, 1, 1.2, -2, 0.3]], dtype=torch.float64)


def made(name: str, shape: Shape = SHAPE, dtype: torch.dtype = torch.float64, **settings: object) -> Any:
    choice, faults = routers.slot.coerce({"name": name, **settings}, "router")
    assert not faults
    router = routers.slot.build(choice, shape)
    router.init(Draw(0, "router"))
    return router.to(dtype)


def of_logits(name: str, logits_NE: Tensor, **settings: object) -> Routed:
    """What the router says of these logits: its matrix is the identity."""
    router = made(name, Shape(d_model=8, n_experts=8, **SIZES), **settings)
    with torch.no_grad():
        router.weight.copy_(torch.eye(8))
    routed: Routed = router(logits_NE)
    return routed


def inputs(n: int = 50) -> Tensor:
    return 30 * torch.randn(n, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", routers.slot.names)
def test_k_different_experts_with_weights_and_gradients(name: str) -> None:
    router, x = made(name, top_k=3), inputs().requires_grad_()
    routed = router(x)
    assert routed.experts_NK.shape == routed.weights_NK.shape == (50, 3) and routed.logits_NE.shape == (50, 8)
    assert all(len(set(row)) == 3 for row in routed.experts_NK.tolist())
    assert (routed.weights_NK > 0).all()
    torch.testing.assert_close(routed.shares_NE.sum(1), torch.ones(50, dtype=torch.float64))
    weighed = routed.weights_NK * torch.arange(1.0, 4.0)
    gradients = torch.autograd.grad(weighed.sum(), (x, *router.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("name", routers.slot.names)
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_drawn_and_built_from_defaults(name: str, bias: bool) -> None:
    router = made(name, Shape(d_model=256, n_experts=8, bias=bias, **SIZES))
    assert router.role == "matrix" and tuple(router.weight.shape) == (8, 256)
    assert float(router.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert (router.bias is not None) == bias and not (bias and router.bias.detach().any())


@pytest.mark.parametrize("name", routers.slot.names)
def test_fp32_under_autocast(name: str) -> None:
    router, x = made(name, dtype=torch.float32), inputs().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        routed = router(x)
    assert routed.logits_NE.dtype == routed.weights_NK.dtype == torch.float32
    torch.testing.assert_close(routed.logits_NE, x.float() @ router.weight.T)
    assert made(name)(inputs()).logits_NE.dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "bias", "experts", "weights"),
    [
        (
            {"top_k": 4, "n_groups": 4, "group_top_k": 2, "group_score": "megatron"},
            None,
            [0, 5, 4, 1],
            [0.8311533328, 0.7252089626, 0.6898544390, 0.2537832655],
        ),
        (
            {"top_k": 2, "n_groups": 4, "group_top_k": 2, "group_score": "megatron"},
            None,
            [0, 5],
            [1.3350897398, 1.1649102602],
        ),
        ({"top_k": 4}, None, [0, 5, 4, 2], [0.7333034270, 0.6398316611, 0.6086393500, 0.5182255620]),
        (
            {"top_k": 4, "n_groups": 4, "group_top_k": 2, "group_score": "megatron"},
            [-0.5, 0, 0, 0, 0, 0, 0, 0.6],
            [7, 5, 4, 6],
            [0.6547909144, 0.8760198470, 0.8333131709, 0.1358760677],
        ),
    ],
)
def test_deepseek_v3_numbers(settings: dict[str, Any], bias: Any, experts: list[int], weights: list[float]) -> None:
    router = made("deepseek_v3", Shape(d_model=8, n_experts=8, **SIZES), scale=2.5, **settings)
    with torch.no_grad():
        router.weight.copy_(torch.eye(8))
        if bias is not None:
            router.expert_bias.copy_(torch.tensor(bias, dtype=torch.float64))
    routed = router(LOGITS)
    assert routed.experts_NK[0].tolist() == experts
    # The sheet has 10 digits: half a unit of the last is the most that they can differ by.
    assert (routed.weights_NK[0] - torch.tensor(weights, dtype=torch.float64)).abs().max() < 1e-10 * 0.51


def test_group_scores_differ_between_the_two_sources() -> None:
    """Top 2 sums per group [1.1497, 1.1225, 1.4996, 0.6936] keep groups 0 and 2; one best keeps the groups of 0 and 5."""
    four = {"n_groups": 4, "group_top_k": 2}
    two = of_logits("deepseek_v3", LOGITS, top_k=3, group_score="top2", **four).experts_NK[0].tolist()
    assert two == [0, 5, 4]
    lone = torch.tensor([[3.0, -3, 1, 0.9, 1, 0.8, -2, -2]], dtype=torch.float64)  # a strong expert with a weak mate
    kept = of_logits("deepseek_v3", lone, top_k=2, group_score="top2", **four).experts_NK[0].tolist()
    assert sorted(kept) == [2, 4] and 0 not in kept
    assert of_logits("deepseek_v3", lone, top_k=2, group_score="megatron", **four).experts_NK[0].tolist()[0] == 0


def test_a_limit_that_limits_nothing_is_equal_to_none_and_says_so() -> None:
    many = torch.randn(2000, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = of_logits("deepseek_v3", many, top_k=2)
    settings: dict[str, Any] = {"top_k": 2, "n_groups": 4, "group_top_k": 2}
    torch.testing.assert_close(
        of_logits("deepseek_v3", many, **settings, group_score="megatron"), plain, rtol=0, atol=0
    )
    assert not torch.equal(of_logits("deepseek_v3", many, **settings).experts_NK, plain.experts_NK)
    (text,) = made("deepseek_v3", **settings, group_score="megatron").notes()
    assert text == (
        'warning: router deepseek_v3: n_groups = 4, group_top_k = 2 with group_score = "megatron" limits nothing: a group\'s '
        "score is its best expert, and the 2 best experts always lie in the 2 groups kept"
    )
    (text,) = made("deepseek_v3", n_groups=4, group_top_k=4).notes()
    assert text == "warning: router deepseek_v3: n_groups = 4, group_top_k = 4 limits nothing: every group stays open"
    assert made("deepseek_v3", **settings).notes() == [] and made("deepseek_v3").notes() == []


def test_the_bias_moves_by_the_sign_of_what_is_missing() -> None:
    router = made("deepseek_v3", Shape(d_model=8, n_experts=4, **SIZES), dtype=torch.float32)
    router.after_step(torch.tensor([10, 2, 4, 0]))
    assert router.expert_bias.tolist() == pytest.approx([-1e-3, 1e-3, 0, 1e-3], abs=1e-9)
    router.after_step(torch.tensor([1, 1, 1, 1]))
    assert router.expert_bias.tolist() == pytest.approx([-1e-3, 1e-3, 0, 1e-3], abs=1e-9)
    state = router.state_dict()
    assert state["expert_bias"].dtype == torch.float32 and "expert_bias" not in dict(router.named_parameters())
    assert not made("deepseek_v3").expert_bias.any()


def test_the_bias_chooses_and_does_not_weigh() -> None:
    router, x = made("deepseek_v3", n_groups=4, group_top_k=2), inputs()
    before = router(x)
    router.expert_bias += 7.0  # of all alike: nothing may change
    after = router(x)
    assert torch.equal(before.experts_NK, after.experts_NK)
    torch.testing.assert_close(before.weights_NK, after.weights_NK, rtol=0, atol=0)


def test_weights_of_deepseek_v3() -> None:
    s = LOGITS.sigmoid()[0]
    one = of_logits("deepseek_v3", LOGITS, top_k=1, scale=2.0)
    torch.testing.assert_close(one.weights_NK[0], 2 * s[[0]])  # alone: its score, not 1
    raw = of_logits("deepseek_v3", LOGITS, top_k=2, normalize=False)
    torch.testing.assert_close(raw.weights_NK[0], s[[0, 5]])


def test_a_lone_expert_by_each_of_its_two_sources() -> None:
    """Its score times scale (Megatron-LM), or scale (DeepSeek's Gate and Hugging Face's, which divide by the sum anyway)."""
    for normalize, weight in ((True, 2.5 * float(LOGITS.sigmoid()[0, 0])), (False, 2.5 * 0.8807970779778823)):
        one = of_logits("deepseek_v3", LOGITS, top_k=1, scale=2.5, normalize=normalize)
        assert one.weights_NK.item() == pytest.approx(weight, rel=1e-15)
    assert float(of_logits("deepseek_v3", LOGITS, top_k=1, scale=2.5, normalize="always").weights_NK) == 2.5
    several = [of_logits("deepseek_v3", LOGITS, top_k=3, normalize=n).weights_NK for n in (True, "always")]
    assert torch.equal(*several)
    (text,) = made("deepseek_v3", top_k=1, normalize="always", scale=2.5).notes()
    assert text == (
        'warning: router deepseek_v3: with top_k = 1 and normalize = "always" every weight is 2.5: the router learns from a '
        "balance loss alone"
    )


@pytest.mark.parametrize("name", routers.slot.names)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [-10.0, -45.0, -50.0, -60.0, -90.0, -200.0, -1e4, 50.0, 1e4])
def test_weights_shares_and_balance_hold_at_any_logits(name: str, shift: float, dtype: torch.dtype) -> None:
    """Far below zero a sigmoid is exp(logit): its shares are a softmax; far above they are even. Gradients stay finite."""
    router = made(name, Shape(d_model=8, n_experts=8, bias=True, **SIZES), dtype=dtype, top_k=2)
    with torch.no_grad():
        router.weight.copy_(torch.eye(8))
        router.bias.fill_(shift)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(2), dtype=dtype).requires_grad_()
    routed = router(x)
    tight = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(routed.shares_NE.sum(1), torch.ones(64, dtype=dtype), rtol=0, atol=tight)
    if name == "deepseek_v3":
        torch.testing.assert_close(routed.weights_NK.sum(1), torch.ones(64, dtype=dtype), rtol=0, atol=tight)
        z = routed.logits_NE.detach()
        known = z.softmax(1) if shift < 0 else torch.full_like(z, 1 / 8)
        torch.testing.assert_close(routed.shares_NE.detach(), known, rtol=0, atol=1e-3 if shift == -10 else 2 * tight)
        chosen = known.gather(1, routed.experts_NK)
        weights = chosen / chosen.sum(1, keepdim=True)
        torch.testing.assert_close(
            routed.weights_NK.detach(), weights, rtol=0, atol=1e-3 if shift == -10 else 2 * tight
        )
    even = balance(routed.shares_NE[None], 2)
    assert 0.9 < float(even.detach()) < 2.5
    (even + routed.weights_NK[:, 0].sum() + squared_mass(routed.logits_NE)).backward()
    assert x.grad is not None and x.grad.isfinite().all() and router.weight.grad.isfinite().all()


def test_softmax_topk_orders() -> None:
    p = LOGITS.softmax(-1)[0]
    pre = of_logits("softmax_topk", LOGITS, top_k=3, order="pre")
    assert pre.experts_NK[0].tolist() == [0, 5, 4]
    torch.testing.assert_close(pre.weights_NK[0], p[[0, 5, 4]])
    post = of_logits("softmax_topk", LOGITS, top_k=3, order="post")
    torch.testing.assert_close(post.weights_NK[0], p[[0, 5, 4]] / p[[0, 5, 4]].sum())
    torch.testing.assert_close(of_logits("softmax_topk", LOGITS, top_k=1).weights_NK[0], p[[0]])


def test_balance_numbers() -> None:
    logits = torch.tensor([[[1, 0, -1, 2], [0.5, 0.2, 0.1, -0.3]]], dtype=torch.float64)
    s = logits.sigmoid()
    loss = 1e-4 * balance(s / s.sum(-1, keepdim=True), 2)
    assert abs(float(loss) - 1.1200108840e-4) < 1e-9 * 1.1200108840e-4  # 11 digits of the sheet
    even = torch.full((3, 8, 4), 0.25, dtype=torch.float64)
    torch.testing.assert_close(balance(even, 2), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-15)
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    wanted = torch.log(torch.tensor(2.0, dtype=torch.float64)) ** 2 + (z[1].exp().sum().log()) ** 2
    torch.testing.assert_close(squared_mass(z), wanted)


def test_health_numbers() -> None:
    health = load(torch.tensor([8, 4, 4, 0]))
    assert health["cv_pct"] == pytest.approx(70.7107, abs=5e-5) and health["entropy"] == pytest.approx(
        1.0397208, abs=5e-8
    )
    assert health["max_load_pct"] == 50.0 and health["dead"] == 1
    assert load(torch.tensor([5, 5])) == {
        "cv_pct": 0.0,
        "entropy": pytest.approx(0.6931471806),
        "max_load_pct": 50.0,
        "dead": 0,
    }
    assert load(torch.tensor([7]))["entropy"] == 0.0


def test_impossible_settings_are_refused() -> None:
    none = Shape(d_model=16, **SIZES)
    for name, shape, settings, text in (
        (
            "deepseek_v3",
            none,
            {},
            'there are no experts to choose from; give the layer mlp = "moe", or remove the router',
        ),
        ("softmax_topk", SHAPE, {"top_k": 9}, "top_k = 9 is more than the 8 experts; choose 1 to 8"),
        ("deepseek_v3", SHAPE, {"top_k": 0}, "top_k = 0 chooses nobody; choose 1 to 8"),
        ("deepseek_v3", SHAPE, {"n_groups": 3}, "n_groups = 3 does not divide 8 experts; choose a divisor of 8"),
        ("deepseek_v3", SHAPE, {"n_groups": 0}, "n_groups = 0 does not divide 8 experts; choose a divisor of 8"),
        (
            "deepseek_v3",
            SHAPE,
            {"n_groups": 4, "group_top_k": 5},
            "group_top_k = 5 of 4 groups cannot be kept; choose 1 to 4",
        ),
        (
            "deepseek_v3",
            SHAPE,
            {"n_groups": 4, "group_top_k": 1, "top_k": 3},
            "top_k = 3 is more than the 2 experts of the 1 groups kept; raise group_top_k or lower top_k",
        ),
        (
            "deepseek_v3",
            SHAPE,
            {"n_groups": 4, "group_top_k": 2, "top_k": 3, "group_score": "megatron"},
            'group_score = "megatron" shares top_k = 3 out over 2 groups unevenly; choose a top_k that group_top_k divides, '
            'or group_score = "top2"',
        ),
        ("deepseek_v3", SHAPE, {"scale": 0.0}, "scale = 0.0 silences the experts; choose a positive number"),
        ("deepseek_v3", SHAPE, {"bias_rate": -1.0}, "bias_rate = -1.0 is negative; choose 0 (a fixed bias) or more"),
        (
            "softmax_topk",
            SHAPE,
            {"top_k": 1, "order": "post"},
            'top_k = 1 with order = "post" weighs always 1, so the router cannot learn; use order = "pre"',
        ),
    ):
        with pytest.raises(ValueError) as raised:
            made(name, shape, **settings)
        assert str(raised.value) == text
