"""Positions and softmaxes one by one: published numbers, settings, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.attended import attend

from ablab.core.rng import Draw, stream
from ablab.model import positions
from ablab.model.attention.attend import Documents
from ablab.model.decoder import build
from ablab.model.layer import Pass
from ablab.model.parts.columns import Columns, alibi_slopes
from ablab.model.parts.rotation import turn
from ablab.model.parts.turns import exchanged, in_heads, interleaved
from ablab.model.positions.composed import Composed, joined
from ablab.model.positions.fox import Fox
from ablab.model.positions.grape_a import GrapeA
from ablab.model.positions.grape_a_gated import GrapeAGated
from ablab.model.positions.grape_ap import GrapeAP
from ablab.model.positions.grape_m import GrapeM
from ablab.model.positions.grape_m_basis import GrapeMBasis
from ablab.model.positions.grape_m_context import GrapeMContext
from ablab.model.positions.grape_m_rank2 import GrapeMRank2, rodrigues
from ablab.model.positions.nope import Nope
from ablab.model.positions.rope import Rope
from ablab.model.positions.t5_buckets import T5Buckets, buckets
from ablab.model.positions.yarn import Yarn
from ablab.model.shape import Shape
from ablab.model.softmaxes.off_by_one import OffByOne
from ablab.model.softmaxes.sink import Sink
from ablab.model.softmaxes.vanilla import Vanilla

GOLDEN = Path(__file__).parents[1] / "golden"


def shape(n_heads=4, n_kv_heads=None, head_dim=8, seq_len=64, d_model=32):
    return Shape(d_model, n_heads, n_kv_heads or n_heads, head_dim, seq_len, 100, 2)


def made(lever, *args, **settings):
    module = lever(*args, **settings)
    for path, part in module.named_modules():
        if hasattr(part, "init"):
            part.init(Draw(0, path))
    return module


def golden(name):
    assert json.loads((GOLDEN / f"{name}.json").read_text())["recipe"]
    return load_file(GOLDEN / f"{name}.safetensors")


def turned(module, x, places):
    x = torch.as_tensor(x, dtype=torch.float64).reshape(1, 1, 1, -1).expand(1, len(places), 1, -1)
    return module.rotate(x, x, torch.tensor([places]))[0][0, :, 0]


# ---- rotations


def test_grape_m_starts_at_rope_with_the_published_numbers():
    module = made(GrapeM, shape(1, head_dim=128))
    assert module.log_freq.dtype == torch.float32
    wanted = {0: 0.0, 1: -2.3025846, 63: -145.0628662}
    for at, value in wanted.items():
        assert module.log_freq[at].item() == pytest.approx(value, abs=2e-5 if at == 63 else 1e-6)
    freq, rope = torch.exp(module.log_freq / 16), made(Rope, shape(1, head_dim=128)).freq
    assert ((freq - rope) / rope).abs().max() < 5e-7


def two_planes(**settings):
    module = made(GrapeM, shape(1, head_dim=4), **settings).double()
    with torch.no_grad():
        module.log_freq.copy_(module.scale * torch.tensor([1.0, 0.01], dtype=torch.float64).log())
    return module


def test_grape_m_rotates_by_plus_theta_in_halves():
    module = two_planes()
    y = turned(module, [1.0, 2.0, 3.0, 4.0], [3])
    assert y[0].tolist() == pytest.approx([-1.4133525208, 1.8791180667, -2.8288574817, 4.0581911354], abs=2e-10)
    y.sum().backward()
    assert module.log_freq.grad.tolist() == pytest.approx([0.2654071802, -0.0040857620], abs=2e-10)


def test_rotated_scores_obey_the_relative_law():
    module, q, k = two_planes(), [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]
    for i, j, wanted in [(5, 2, -1.6155797111), (105, 102, -1.6155797111), (2, 5, 1.8067304541), (7, 7, 20.0)]:
        score = turned(module, q, [i])[0] @ turned(module, k, [j])[0]
        assert score.item() == pytest.approx(wanted, abs=2e-10)


@pytest.mark.parametrize("rows", [(4,), (2, 4)])
def test_gradients_of_the_rotation_are_exact(rows):
    x = torch.arange(96, dtype=torch.float64).reshape(2, 3, 2, 8).sin().requires_grad_()
    freq = torch.linspace(0.1, 1.0, math.prod(rows), dtype=torch.float64).reshape(rows).requires_grad_()
    pos = torch.tensor([[0, 1, 5], [0, 0, 1]])
    assert torch.autograd.gradcheck(lambda x, freq: turn(x, x.flip(3), freq, pos), (x, freq))


def test_grape_m_per_head_shares_frequencies_within_a_kv_group():
    module = made(GrapeM, shape(4, 2), per_head=True)
    assert module.log_freq.shape == (2, 4)
    with torch.no_grad():
        module.log_freq[1] += 8.0
    q, pos = torch.ones(1, 3, 4, 8), torch.tensor([[0, 1, 2]])
    q, k = module.rotate(q, torch.ones(1, 3, 2, 8), pos)
    assert torch.equal(q[:, :, 0], q[:, :, 1]) and torch.equal(q[:, :, 2], q[:, :, 3])
    assert torch.equal(q[:, :, 0], k[:, :, 0]) and torch.equal(q[:, :, 2], k[:, :, 1])
    assert not torch.allclose(q[:, 1:, 0], q[:, 1:, 2])


def test_grape_m_not_learnable_has_no_parameter_and_nothing_in_the_checkpoint():
    module = made(GrapeM, shape(), learnable=False)
    assert not list(module.parameters()) and not module.state_dict()
    learned = made(GrapeM, shape())
    assert torch.equal(module.log_freq, learned.log_freq) and learned.log_freq.requires_grad


def test_grape_m_refuses_coarse_frequencies():
    module = made(GrapeM, shape()).bfloat16()
    with pytest.raises(
        ValueError, match=r"log_freq is torch\.bfloat16, too coarse for phases; keep it fp32 and use autocast"
    ):
        module.rotate(torch.ones(1, 1, 4, 8), torch.ones(1, 1, 4, 8), torch.tensor([[0]]))


def test_partial_rope_turns_the_first_channels_only():
    module = made(Rope, shape(head_dim=8), fraction=0.5)
    assert torch.allclose(module.freq, torch.tensor([1.0, 0.01]))
    x = torch.arange(8.0).reshape(1, 1, 1, 8)
    y, _ = module.rotate(x, x, torch.tensor([[3]]))
    assert torch.equal(y[..., 4:], x[..., 4:])
    assert torch.allclose(y[..., :4].double(), turned(two_planes(), x[0, 0, 0, :4], [3]).float().double(), atol=1e-6)


def test_ntk_follows_the_declared_length_never_the_current_one():
    plain, ntk = made(Rope, shape(seq_len=64)), made(Rope, shape(seq_len=64), ntk=True)
    assert torch.equal(plain.freq, ntk.freq)
    x = torch.ones(1, 200, 4, 8)
    pos = torch.arange(200)[None]
    assert torch.equal(plain.rotate(x, x, pos)[0], ntk.rotate(x, x, pos)[0])
    plain.declare(256), ntk.declare(256)
    base = 10000.0 * 4 ** (8 / 6)
    assert torch.allclose(ntk.freq.double(), base ** (-2 * torch.arange(4).double() / 8), rtol=1e-6)
    assert ntk.freq[-1].item() == pytest.approx(
        plain.freq[-1].item() / 4, rel=1e-6
    )  # the slowest plane is interpolated
    assert torch.equal(plain.freq, made(Rope, shape()).freq)
    ntk.declare(32)
    assert torch.equal(plain.freq, ntk.freq)  # shorter than trained: nothing to stretch


@pytest.mark.parametrize(
    ("lever", "settings", "text"),
    [
        (
            Rope,
            {"fraction": 0.3},
            "fraction 0.3 of head_dim 8 is 2.4 channels, but an even number from 2 to 8 can be rotated; "
            "choose fraction = 0.25",
        ),
        (Rope, {"fraction": 1.5}, "fraction 1.5 of head_dim 8 is 12 channels"),
        (Rope, {"theta": 0.0}, "theta is 0, but a base is positive; give theta > 0"),
        (Rope, {"fraction": 0.25, "ntk": True}, "R is 2; rotate 4 channels or more"),
        (GrapeM, {"scale": 0.0}, "scale is 0; give scale > 0"),
        (GrapeM, {"theta": -1.0}, "theta is -1; give theta > 0"),
        (GrapeA, {"slope_scale": 0.0}, "slope_scale is 0, but a slope is positive; use nope for no bias"),
        (GrapeM, {"share": "all"}, "share is 'all'; give 'layer' or 'net'"),
        (GrapeMBasis, {"theta": 0.0}, "theta is 0; give theta > 0"),
        (GrapeMContext, {"step": 0.0}, "step is 0; give step > 0"),
        (
            GrapeMContext,
            {"gate": "sigmoid", "step": 1.0},
            "step is 1, but a sigmoid stays below 1; give step < 1, or gate",
        ),
        (GrapeAP, {"eps": 0.0}, "eps is 0, which would divide nothing by zero; give eps > 0, or leave it out"),
        (Yarn, {"theta": 1.0}, "theta is 1, but slower planes need a base above 1; give theta > 1"),
        (Yarn, {"factor": 0.5}, "factor is 0.5, but a context is stretched by 1 or more; give factor >= 1"),
        (Yarn, {"fast": 1.0}, "fast is 1 and slow 1, which leaves no ramp; give fast > slow"),
        (Yarn, {"original": 0}, "original is 0; give original > 0"),
        (GrapeMRank2, {"omega": -1.0}, "omega is -1; give omega > 0"),
        (GrapeAGated, {"by": "v"}, "by is 'v'; give 'q', 'k' or 'qk'"),
        (
            GrapeAP,
            {"p_head_dim": 3},
            "p_head_dim is 3, but its channels turn in pairs; give an even number from 2 on",
        ),
        (GrapeAP, {"p_head_dim": 0}, "p_head_dim is 0"),
        (T5Buckets, {"n_buckets": 1}, "n_buckets is 1, but near and far need one each; give 2 or more"),
        (
            T5Buckets,
            {"max_distance": 16},
            "max_distance is 16, but 16 of the 32 buckets hold the distances below 16; give max_distance > 16",
        ),
        (T5Buckets, {"n_buckets": 513}, "n_buckets is 513, too many to learn one by one; give at most 512"),
        (
            T5Buckets,
            {"max_distance": 10**9},
            "max_distance is 1000000000, but the bucket of every distance is looked up in a table; give at most 1048576",
        ),
        (Sink, {"init_std": -1.0}, "init_std is -1; give init_std >= 0"),
    ],
)
def test_impossible_settings_are_refused(lever, settings, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        lever(shape(), **settings)


def test_odd_head_dim_is_refused():
    for lever in (GrapeM, GrapeMBasis, GrapeMContext):
        with pytest.raises(
            ValueError, match="head_dim is 7, but a rotation needs pairs of channels; make head_dim even"
        ):
            lever(shape(head_dim=7))
    with pytest.raises(ValueError, match="head_dim is 1, but a plane needs two channels; make head_dim 2 or more"):
        GrapeMRank2(shape(head_dim=1))
    with pytest.raises(ValueError, match="fraction 1 of head_dim 7 is 7 channels"):
        Rope(shape(head_dim=7))


def test_interleaved_channels_are_halves_permuted():
    order = interleaved(4)
    assert order.tolist() == [0, 2, 1, 3] and interleaved(8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    y = turned(two_planes(), x[order], [3])[0][order.argsort()]
    assert y.tolist() == pytest.approx([-1.2722325127, -1.8388649851, 2.8786681004, 4.0881866356], abs=2e-10)


def test_one_grape_m_can_serve_two_layers():
    module = two_planes(share="net")
    assert module.share == "net" and made(GrapeM, shape()).share == "layer"
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (turned(module, x, [3]).sum() + turned(module, x, [3]).sum()).backward()
    assert module.log_freq.grad.tolist() == pytest.approx([2 * 0.2654071802, -2 * 0.0040857620], abs=4e-10)


def test_a_checkpoint_for_the_negative_angle_fits_once_halves_are_exchanged():
    """y = R(-angle) x is y = R(angle) x with the halves of every head's channels exchanged, before and after."""
    module, x, pos = made(GrapeM, shape(2)).double(), normal(1, 9, 4, 8), torch.arange(9)
    order = exchanged(8)
    assert order.tolist() == [4, 5, 6, 7, 0, 1, 2, 3] and torch.equal(order[order], torch.arange(8))
    angle = pos[:, None, None] * torch.exp(module.log_freq.detach() / 16)
    one, two = x.chunk(2, -1)
    turned_back = torch.cat([one * angle.cos() + two * angle.sin(), two * angle.cos() - one * angle.sin()], -1)
    found, _ = module.rotate(x[..., order], x[..., order], pos[None])
    torch.testing.assert_close(found[..., order], turned_back)
    weight = torch.arange(16 * 3).view(16, 3)
    assert in_heads(weight, order)[:, 0].div(3, rounding_mode="floor").tolist() == [
        *[4, 5, 6, 7, 0, 1, 2, 3],
        *[12, 13, 14, 15, 8, 9, 10, 11],
    ]
    assert torch.equal(in_heads(in_heads(weight, interleaved(8)), interleaved(8).argsort()), weight)
    with pytest.raises(ValueError, match="12 rows are no whole heads of 8; give the tensor of q or of k alone"):
        in_heads(weight[:12], order)


@pytest.mark.parametrize(
    ("name", "asked", "head_dim"),
    [
        ("gptoss", {}, 64),
        ("other", {"theta": 5e5, "original": 8192, "factor": 4.0, "slow": 2.0, "fast": 16.0}, 32),
    ],
)
def test_yarn_equals_gpt_oss(name, asked, head_dim):
    g, module = golden("gptoss_yarn"), made(Yarn, shape(2, 1, head_dim=head_dim), **asked)
    torch.testing.assert_close(module.freq.double(), g[f"{name}_inv_freq"], rtol=2e-7, atol=0)
    assert module.length == pytest.approx(g[f"{name}_concentration"].item(), rel=1e-15)
    module = module.double()
    module.init(Draw(0, ""))
    torch.testing.assert_close(module.freq, g[f"{name}_inv_freq"], rtol=1e-13, atol=0)
    found = module.rotate(g[f"{name}_q"][None], g[f"{name}_k"][None], torch.arange(40)[None])
    for part, x in zip("qk", found):
        torch.testing.assert_close(x[0], g[f"{name}_{part}_turned"], rtol=0, atol=1e-10)
    plain = made(Yarn, shape(2, 1, head_dim=head_dim), **asked | {"factor": 1.0})
    assert torch.equal(plain.freq, made(Rope, shape(2, 1, head_dim=head_dim), theta=plain.theta).freq)
    assert plain.length == 1


# ---- GRAPE's own code


OFFICIAL = {
    "m": ("grape_m", {}),
    "ctx": ("grape_m_context", {"gate": "sigmoid", "scale": 1.0}),
    "ap": ("grape_ap", {}),
    "qk": ("grape_a_gated", {}),
    "rope": ("rope", {}),
}


def official(tag, **asked):
    """An attention layer with the parameters of GRAPE's own: halves of q and k exchanged where it turns by -angle."""
    g, (name, settings) = golden("grape_official"), OFFICIAL[tag]
    position = {"name": name, **settings, **asked}
    kinds = {"G": tiny.kind("global", None, position=position)}
    after = "after" if tag in ("m", "ctx", "rope") else True
    whole = tiny.model(layers="G", kinds=kinds, n_kv_heads=4, qk_norm=after)
    attn = build(whole, vocab_size=9, seed=0, dtype=torch.float64, executor="reference").layers[0].attn
    order = exchanged(8) if after == "after" else torch.arange(8)
    renamed = {
        "q_norm.weight": in_heads(g[f"{tag}_q_rms.weight"], order),
        "k_norm.weight": in_heads(g[f"{tag}_k_rms.weight"], order),
        "projection.q_proj.weight": in_heads(g[f"{tag}_c_q.weight"], order),
        "projection.k_proj.weight": in_heads(g[f"{tag}_c_k.weight"], order),
        "projection.v_proj.weight": g[f"{tag}_c_v.weight"],
        "o_proj.weight": g[f"{tag}_c_proj.weight"],
    }
    renamed |= {
        "m": lambda: {"position.log_freq": g["m_grape.log_freq"]},
        "ctx": lambda: {
            "position.log_freq": g["ctx_grape.log_freq"],
            "position.gate.weight": g["ctx_omega_proj.weight"],
            "position.offset": g["ctx_omega_proj.bias"],
        },
        "ap": lambda: {"position.path.weight": in_heads(g["ap_c_p.weight"], exchanged(8))},
        "qk": lambda: {
            "position.omega_H": g["qk_querykeygated_bias.omega"],
            "position.u_GK": g["qk_querykeygated_bias.u"],
            "position.v_HK": g["qk_querykeygated_bias.v"],
        },
        "rope": lambda: {},
    }[tag]()
    attn.load_state_dict(renamed)
    for buffer in ("freq", "slope_H"):  # what is no parameter was made in fp32
        if hasattr(attn.position, buffer):
            attn.position.init(Draw(0, ""))
    attn.load_state_dict(renamed)
    return attn, g


@pytest.mark.parametrize("tag", OFFICIAL)
def test_a_layer_equals_grapes_own_code(tag):
    attn, g = official(tag)
    run = Pass(Documents(torch.zeros(2, 20, dtype=torch.int64)), g["x"])
    torch.testing.assert_close(attn(g["x"], g["x"], run), g[f"{tag}_y"], rtol=0, atol=1e-10)
    if tag == "ctx":
        phase, _ = attn.position.place(g["x"], run.documents.pos_BT)
        torch.testing.assert_close(phase, g["ctx_phase"], rtol=0, atol=1e-12)
        fresh = made(GrapeMContext, shape(), gate="sigmoid").double()
        fresh.init(Draw(0, ""))
        start, _ = fresh.place(torch.zeros(1, 3, 32, dtype=torch.float64), torch.arange(3)[None])
        assert start[0, 1].item() == pytest.approx(g["ctx_step_at_start"].item(), rel=1e-12)


def test_the_eps_of_the_path_integral_is_that_of_its_type():
    """torch's rms_norm adds the eps of the type it computes in: fp32's for bf16 too."""
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        module = made(GrapeAP, shape(4)).to(dtype)
        with torch.no_grad():
            module.path.weight.mul_(1e-3)
        x, pos = normal(1, 9, 32).to(dtype), torch.zeros(1, 9, dtype=torch.int64)
        (p, r, _), _ = module.place(x, pos)
        wanted = torch.nn.functional.rms_norm(p.to(dtype), (8,)).to(r.dtype)
        torch.testing.assert_close(r, wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)
    module = made(GrapeAP, shape(4), eps=0.0078125)
    (p, r, _), _ = module.place(normal(1, 9, 32).float(), torch.zeros(1, 9, dtype=torch.int64))
    torch.testing.assert_close(r, p / (p.square().mean(-1, keepdim=True) + 0.0078125).sqrt(), rtol=1e-6, atol=0)


# ---- learned planes


def normal(*sizes, name="levers"):
    return torch.from_numpy(stream(0, name, *sizes).standard_normal(sizes))


def placed(module, x, places):
    """Every row of x (R, K) at every place: (places, R, K)."""
    q = x[None, None].expand(1, len(places), *x.shape)
    return module.rotate(q, q, places[None])[0][0]


def test_rank_2_rotation_equals_the_exponential():
    g = golden("grape_m_rank2")
    module = made(GrapeMRank2, shape(4, head_dim=12), omega=float(g["omega"])).double()
    with torch.no_grad():
        module.a_GK.copy_(g["a"]), module.b_GK.copy_(g["b"])
    torch.testing.assert_close(placed(module, g["X"], g["n"]), g["Y_rank2"], atol=1e-10, rtol=0)


def test_rank_2_starts_as_an_orthonormal_pair_and_keeps_lengths():
    module = made(GrapeMRank2, shape(4, 2), per_head=True).double()
    a, b = module.a_GK, module.b_GK
    assert a.shape == (2, 8) and not torch.allclose(a[0], a[1])
    for one, two, wanted in [(a, a, 1.0), (b, b, 1.0), (a, b, 0.0)]:
        assert (one * two).sum(-1).tolist() == pytest.approx([wanted] * 2, abs=1e-6)
    with torch.no_grad():
        a *= 1.7
    x, places = normal(4, 8), torch.arange(3000)
    y = placed(module, x, places)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1).expand(3000, 4))
    q, k = module.rotate(x[None, None], x[None, None, 1::2], torch.tensor([[5]]))
    assert torch.equal(q[0, 0, 1::2], k[0, 0])  # the last head of a group turns as its keys do


def test_rank_2_of_a_nearly_parallel_pair_stays_finite():
    g = golden("grape_m_rank2")
    module = made(GrapeMRank2, shape(4, head_dim=12)).double()
    for near in (0.0, 1e-9, 1e-4):
        with torch.no_grad():
            module.a_GK.copy_(g["a"]), module.b_GK.copy_(g["a"] + near * g["b"])
        y = placed(module, g["X"], torch.tensor([0, 1, 3]))
        exponent = g["a"][:, None] * module.b_GK[0] - module.b_GK[0][:, None] * g["a"]
        for n, found in zip((0, 1, 3), y):
            torch.testing.assert_close(found, g["X"] @ torch.linalg.matrix_exp(n * exponent).t(), atol=1e-8, rtol=0)
        grads = torch.autograd.grad(y.square().sum() + y.sum(), list(module.parameters()))
        assert all(grad.isfinite().all() for grad in grads)


def test_rodrigues_series_meets_the_closed_form():
    t = torch.ones(1, dtype=torch.float64)
    below, above = (rodrigues(t, torch.tensor([z])) for z in (1e-2 - 1e-13, 1e-2 + 1e-13))
    for a, b in zip(below, above):
        assert abs(float(a - b)) < 1e-13
    assert [float(f) for f in rodrigues(3 * t, torch.zeros(1, dtype=torch.float64))] == [3.0, 4.5]


def test_a_rotation_in_a_basis_equals_the_exponential():
    g = golden("grape_m_rank2")
    module = made(GrapeMBasis, shape(4, head_dim=12)).double()
    with torch.no_grad():
        module.log_freq.copy_(module.scale * g["freq"].log())
    module.basis = lambda: torch.cat([g["Q"][:, 1::2], g["Q"][:, ::2]], 1)  # axes j, then their partners j + K/2
    forward = g["n"] >= 0
    found = placed(module, g["X"], g["n"][forward].long())
    torch.testing.assert_close(found, g["Y_learned_basis"][forward], atol=1e-10, rtol=0)
    for n, y in zip(g["n"][~forward], g["Y_learned_basis"][~forward]):  # a place below 0 is the way back
        torch.testing.assert_close(placed(module, y, -n.long()[None])[0], g["X"], atol=1e-10, rtol=0)


def test_a_basis_is_orthogonal_by_construction_and_starts_at_grape_m():
    module, plain = made(GrapeMBasis, shape()), made(GrapeM, shape())
    x, pos = normal(1, 40, 4, 8).float(), torch.arange(40)[None]
    assert torch.equal(module.rotate(x, x, pos)[0], plain.rotate(x, x, pos)[0])
    rotation = torch.linalg.qr(normal(8, 8))[0]
    rotation = rotation * torch.linalg.det(rotation).sign()[None] ** (torch.arange(8) == 0)  # determinant 1
    skew = torch.linalg.solve(rotation + torch.eye(8), rotation - torch.eye(8))
    module.double()
    with torch.no_grad():
        module.skew.copy_(skew[torch.ones(8, 8).triu(1).bool()])
    torch.testing.assert_close(module.basis(), rotation, atol=1e-10, rtol=0)
    with torch.no_grad():
        module.skew.normal_(generator=torch.Generator().manual_seed(1)).mul_(5)
    torch.testing.assert_close(module.basis() @ module.basis().t(), torch.eye(8).double(), atol=1e-12, rtol=0)


def test_a_basis_is_not_rounded_under_autocast():
    module, x, pos = made(GrapeMBasis, shape()), normal(1, 40, 4, 8).bfloat16(), torch.arange(40)[None]
    with torch.no_grad():
        module.skew.copy_(normal(28))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module.rotate(x, x, pos)[0]
    assert inside.dtype == torch.bfloat16 and torch.equal(
        inside, module.rotate(x.float(), x.float(), pos)[0].bfloat16()
    )


# ---- written phases


def test_a_written_phase_starts_at_the_index_and_at_rope():
    module, plain = made(GrapeMContext, shape()), made(GrapeM, shape())
    x, pos = normal(1, 300, 32).float(), torch.cat([torch.arange(200), torch.arange(100)])[None]
    p, carry = module.place(x, pos)
    torch.testing.assert_close(p, pos.double(), atol=1e-4, rtol=0)  # log(e - 1) is kept in fp32
    assert carry.shape == (1, 1) and carry.item() == pytest.approx(100, abs=1e-4)
    q = normal(1, 300, 4, 8).float()
    torch.testing.assert_close(module.rotate(q, q, p)[0], plain.rotate(q, q, pos)[0], atol=1e-4, rtol=0)
    slow = made(GrapeMContext, shape(), step=1e-3).place(x, pos)[0]
    assert slow[0, 199].item() == pytest.approx(0.199, rel=1e-5)


def test_a_written_phase_is_the_sum_of_earlier_steps_only():
    module = made(GrapeMContext, shape()).double()
    with torch.no_grad():
        module.gate.weight.copy_(normal(1, 32))
    x, pos = normal(1, 9, 32), torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    step = torch.nn.functional.softplus(x @ module.gate.weight[0] + module.offset)[0]
    wanted = torch.cat([step[:5].cumsum(0), step[:0], step[6:8].cumsum(0)])
    p, end = module.place(x, pos)
    torch.testing.assert_close(p[0, [1, 2, 3, 4, 5, 7, 8]], wanted)
    assert p[0, [0, 6]].tolist() == pytest.approx([0.0, 0.0], abs=1e-14)
    torch.testing.assert_close(end[0, 0], step[6:].sum())
    first, carry = module.place(x[:, :4], pos[:, :4])
    second, last = module.place(x[:, 4:], pos[:, 4:], carry)
    torch.testing.assert_close(torch.cat([first, second], 1), p)
    torch.testing.assert_close(last, end)


# ---- biases


def test_alibi_slopes_are_the_published_ones():
    assert alibi_slopes(8) == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(6) == [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    assert alibi_slopes(12)[8:] == pytest.approx([0.7071067812, 0.3535533906, 0.1767766953, 0.0883883476], abs=1e-10)
    assert alibi_slopes(20)[16:] == pytest.approx([0.8408964153, 0.5946035575, 0.4204482076, 0.2973017788], abs=1e-10)
    tensors = golden("grape_a_alibi")
    for n in (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 64):
        torch.testing.assert_close(
            torch.tensor(alibi_slopes(n), dtype=torch.float64), tensors[f"slopes_{n}"], atol=1e-12, rtol=0
        )


def test_grape_a_bias_is_minus_slope_times_distance():
    module = made(GrapeA, shape(8), slope_scale=2.0)
    p, _ = module.place(torch.zeros(1, 5, 32), torch.arange(5)[None])
    bias = module.columns(None, None, p).bias(8)
    for h, slope in enumerate(alibi_slopes(8)):
        assert bias[0, h, 3, 1].item() == -2 * slope * 2.0
    assert bias[0, :, 3, 3].tolist() == [0.0] * 8


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("executor", ["reference", "lift"])
def test_grape_a_layer_equals_the_official_code(executor):
    g = golden("grape_a_alibi")
    module = made(GrapeA, shape(4)).double()
    q, k, v = ((g["x"] @ g[f"W_{n}"].T).unflatten(-1, (4, 8)) for n in "qkv")
    documents = Documents(torch.zeros(1, 24, dtype=torch.int64))
    columns = module.columns(q, k, documents.pos_BT)
    seen = documents.visible_BTS(None)[:, None]
    torch.testing.assert_close(columns.bias(4).masked_fill(~seen, -torch.inf), g["bias"], atol=1e-12, rtol=0)
    out = attend(rms(q), rms(k), v, window=None, documents=documents, columns=columns, executor=executor)
    torch.testing.assert_close(out.flatten(2) @ g["W_proj"].T, g["y"], atol=1e-6, rtol=0)


class Logits(torch.nn.Module):
    """A gate whose logits are given."""

    def __init__(self, logits_BTH):
        super().__init__()
        self.logits_BTH = logits_BTH

    def forward(self, x):
        return self.logits_BTH


@pytest.mark.parametrize("executor", ["reference", "lift"])
def test_fox_equals_the_golden_bias_and_output(executor):
    g = golden("fox_bias")
    module = made(Fox, shape(4)).double()
    module.gate = Logits(g["fgate_logit"].transpose(1, 2))
    documents = Documents(torch.zeros(1, 20, dtype=torch.int64))
    p, _ = module.place(torch.zeros(1, 20, 32, dtype=torch.float64), documents.pos_BT)
    q, k, v = (g[n].transpose(1, 2) for n in "qkv")
    columns = module.columns(q, k, p)
    seen = documents.visible_BTS(None)[:, None]
    torch.testing.assert_close(columns.bias(4).masked_fill(~seen, -torch.inf), g["D"], atol=1e-10, rtol=0)
    out = attend(q, k, v, window=None, documents=documents, columns=columns, executor=executor)
    torch.testing.assert_close(out.transpose(1, 2), g["o"], atol=1e-10, rtol=0)


def test_fox_with_a_constant_gate_is_alibi():
    fox, alibi = made(Fox, shape(4, 2)).double(), made(GrapeA, shape(4)).double()
    slope = torch.tensor(alibi_slopes(4), dtype=torch.float64)
    fox.gate = Logits(-torch.log(torch.expm1(slope)).expand(1, 9, 4))  # sigmoid = exp(-slope)
    pos = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])
    p, _ = fox.place(torch.zeros(1, 9, 32, dtype=torch.float64), pos)
    seen = Documents(torch.tensor([[0] * 4 + [1] * 3 + [2] * 2])).visible_BTS(None)[:, None].expand(1, 4, 9, 9)
    ours, theirs = fox.columns(None, None, p).bias(4), alibi.columns(None, None, pos).bias(4)
    torch.testing.assert_close(ours[seen], theirs[seen], atol=1e-12, rtol=0)


def test_fox_goes_on_from_its_carry():
    fox = made(Fox, shape(4))
    x = torch.from_numpy(np.random.Generator(np.random.Philox(1)).standard_normal((1, 9, 32))).float()
    pos = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    whole, last = fox.place(x, pos)
    first, carry = fox.place(x[:, :4], pos[:, :4])
    second, end = fox.place(x[:, 4:], pos[:, 4:], carry)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(end, last, atol=1e-6, rtol=0)


def test_fox_gate_starts_unbiased():
    fox = made(Fox, shape(4))
    assert torch.equal(fox.bias_H, torch.zeros(4)) and fox.gate.weight.shape == (4, 32)
    assert fox.gate.weight.std().item() == pytest.approx(0.02, rel=0.3)
    p, _ = fox.place(torch.zeros(1, 3, 32), torch.arange(3)[None])
    assert p[0, :, 0].tolist() == pytest.approx([-math.log(2) * n for n in (1, 2, 3)])


def t5_formula(distance, n_buckets, max_distance):
    """The causal bucket as published: fp32 logarithms, rounded down."""
    exact = n_buckets // 2
    far = torch.log(distance.float().clamp(min=1) / exact) / math.log(max_distance / exact) * (n_buckets - exact)
    return torch.where(distance < exact, distance, (exact + far.long()).clamp(max=n_buckets - 1))


@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (32, 100), (16, 50), (7, 30), (2, 9)])
def test_t5_buckets_are_the_published_ones(n_buckets, max_distance):
    module = made(T5Buckets, shape(4), n_buckets=n_buckets, max_distance=max_distance)
    pos = torch.arange(400)[None]
    with torch.no_grad():
        module.table_NH.copy_(torch.arange(n_buckets * 4).view(n_buckets, 4))
    found = module.bias(pos, pos)
    distance = (pos[0][:, None] - pos[0]).clamp(min=0)
    wanted = module.table_NH[t5_formula(distance, n_buckets, max_distance)].permute(2, 0, 1)
    assert torch.equal(found[0], wanted)


def test_t5_buckets_have_exact_edges():
    """Four doublings from 16 to 256 hold four buckets each: a logarithm that rounds down would miss edges."""
    table = buckets(32, 256)
    assert [table[d] for d in (15, 16, 31, 32, 63, 64, 127, 128, 255, 256)] == [15, 16, 19, 20, 23, 24, 27, 28, 31, 31]
    assert table == sorted(table) and set(table) == set(range(32))


@pytest.mark.parametrize("by", ["q", "k", "qk"])
def test_gated_slopes_equal_the_formula(by):
    module = made(GrapeAGated, shape(4, 2), by=by).double()
    q, k, pos = normal(2, 9, 4, 8), normal(2, 9, 2, 8), torch.tensor([list(range(9)), [0, 1, 2, 3, 0, 1, 2, 0, 1]])
    columns = module.columns(q, k, pos)
    assert columns.u.shape[-1] == {"q": 1, "k": 2, "qk": 3}[by]
    wanted = torch.zeros(2, 4, 9, 9, dtype=torch.float64)
    for h, slope in enumerate(alibi_slopes(4)):
        gate = torch.zeros(2, 9, 9, dtype=torch.float64)
        if "q" in by:
            v = module.v_HK[h] / module.v_HK[h].norm()
            gate = gate + torch.log1p(torch.exp(q[:, :, h] @ v / 8**0.5))[:, :, None]
        if "k" in by:
            u = module.u_GK[h // 2] / module.u_GK[h // 2].norm()
            gate = gate + torch.log1p(torch.exp(k[:, :, h // 2] @ u / 8**0.5))[:, None]
        wanted[:, h] = -(pos[:, :, None] - pos[:, None]) * slope * gate
    torch.testing.assert_close(columns.bias(4), wanted, atol=1e-7, rtol=1e-7)  # omega is kept in fp32


def path_by_hand(module, x, t, j):
    """The sum over edges l = j+1..t, every one written down."""
    p = (x @ module.path.weight.t()).unflatten(-1, (4, 8))
    total = torch.zeros(4, dtype=torch.float64)
    for at in range(j + 1, t + 1):
        unit = p[at] / p[at].square().mean(-1, keepdim=True).sqrt()
        c, s = math.cos(at), math.sin(at)
        r = torch.cat([c * unit[:, :4] - s * unit[:, 4:], c * unit[:, 4:] + s * unit[:, :4]], -1)
        total += torch.tensor(alibi_slopes(4)) * torch.nn.functional.logsigmoid((p[t] * r).sum(-1) / 8)
    return total


def test_the_path_integral_equals_the_formula():
    module = made(GrapeAP, shape(4, 2)).double()
    with torch.no_grad():
        module.path.weight.mul_(20)
    x, pos = normal(9, 32), torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    p, carry = module.place(x[None], pos)
    bias = module.bias(p, p)
    for start, t, j in [(0, 5, 0), (0, 5, 4), (0, 3, 1), (6, 2, 0), (0, 4, 4)]:
        wanted = path_by_hand(module, x[start:], t, j)
        torch.testing.assert_close(bias[0, :, start + t, start + j], wanted, atol=1e-6, rtol=1e-6)
    assert carry.tolist() == [9] and module.place(x[None], pos, carry)[0][2][0, 0] == 10
    # a ring of keys: out of order, and with slots that are not written yet
    ring = [torch.cat([part[:, [4, 5, 0, 1, 2, 3]], torch.zeros_like(part[:, :2])], 1) for part in p]
    found = module.bias([part[:, 5:6] for part in p], ring)
    torch.testing.assert_close(found[..., :6], bias[:, :, 5:6, [4, 5, 0, 1, 2, 3]], atol=1e-12, rtol=0)


def test_the_path_integral_depends_on_the_place_too():
    module = made(GrapeAP, shape(4)).double()
    x = normal(1, 32).expand(1, 9, 32)
    early, late = (module.place(x, torch.arange(start, start + 9)[None])[0] for start in (0, 2))
    assert not torch.allclose(module.bias(early, early), module.bias(late, late))


def test_a_gated_slope_beside_a_rotation_is_refused():
    gated = made(GrapeAGated, shape())
    for turning in (Rope, Yarn, GrapeM, GrapeMBasis, GrapeMContext, GrapeMRank2):
        with pytest.raises(
            ValueError, match=r"reads queries and keys that another part turns.*; use grape_a or fox beside"
        ):
            Composed([made(turning, shape()), gated])
    assert not Composed([made(Nope, shape()), gated]).pairwise


def test_composed_adds_pairwise_biases_of_those_that_have_one():
    parts = [made(T5Buckets, shape(4)), made(GrapeA, shape(4)), made(GrapeAP, shape(4))]
    whole, pos = Composed(parts), torch.arange(6)[None]
    p, _ = whole.place(normal(1, 6, 32).float(), pos)
    assert whole.pairwise
    torch.testing.assert_close(whole.bias(p, p), parts[0].bias(p[0], p[0]) + parts[2].bias(p[2], p[2]))


def test_composed_adds_biases_and_turns_in_order():
    parts = [made(GrapeM, shape(4, 2)), made(GrapeA, shape(4, 2)), made(Fox, shape(4, 2)), made(Nope, shape(4, 2))]
    whole = Composed(parts)
    x, pos = torch.ones(1, 5, 32), torch.arange(5)[None]
    p, _ = whole.place(x, pos)
    q, k = torch.ones(1, 5, 4, 8), torch.ones(1, 5, 2, 8)
    assert torch.equal(whole.rotate(q, k, p)[0], parts[0].rotate(q, k, pos)[0])
    single = [part.columns(q, k, place).bias(4) for part, place in zip(parts[1:3], p[1:3])]
    torch.testing.assert_close(whole.columns(q, k, p).bias(4), single[0] + single[1])
    assert Composed(parts[:1]).columns(q, k, (pos,)) is None and not whole.pairwise
    with pytest.raises(ValueError, match="a composed position has no parts; name at least one"):
        Composed([])


def test_joined_columns_of_one_are_themselves():
    one = Columns(torch.ones(1, 1, 2, 1), torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 2))
    assert joined([one]) is one


# ---- softmaxes and the slot


def test_softmaxes_give_their_logits():
    assert Vanilla(shape()).sink() is None
    assert torch.equal(made(OffByOne, shape()).sink(), torch.zeros(4))
    sink = made(Sink, shape(512))
    assert sink.sink().shape == (512,) and sink.sink().std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(sink.sink(), made(Sink, shape(512)).sink())
    assert torch.equal(made(Sink, shape(), init_std=0.0).sink(), torch.zeros(4))


def test_every_position_says_what_it_is_and_where_from():
    for lever in positions.slot.names:
        assert positions.slot.load(lever).__doc__
        for method in ("place", "rotate", "columns"):
            assert callable(getattr(positions.slot.load(lever), method))
        cls = positions.slot.load(lever)
        assert ("bias" in vars(cls)) == cls.pairwise
