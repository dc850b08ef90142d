"""Positions and softmaxes one by one: published numbers, settings, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ablab import positions
from ablab.attend import Documents, attend
from ablab.columns import Columns, joined
from ablab.positions.composed import Composed
from ablab.positions.fox import Fox
from ablab.positions.grape_a import GrapeA, slopes
from ablab.positions.grape_m import GrapeM
from ablab.positions.nope import Nope
from ablab.positions.rope import Rope
from ablab.rng import Draw
from ablab.rotation import turn
from ablab.shape import Shape
from ablab.softmaxes.off_by_one import OffByOne
from ablab.softmaxes.sink import Sink
from ablab.softmaxes.vanilla import Vanilla

GOLDEN = Path(__file__).parent / "golden"


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
        (Sink, {"init_std": -1.0}, "init_std is -1; give init_std >= 0"),
    ],
)
def test_impossible_settings_are_refused(lever, settings, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        lever(shape(), **settings)


def test_odd_head_dim_is_refused():
    with pytest.raises(ValueError, match="head_dim is 7, but a rotation needs pairs of channels; make head_dim even"):
        GrapeM(shape(head_dim=7))
    with pytest.raises(ValueError, match="fraction 1 of head_dim 7 is 7 channels"):
        Rope(shape(head_dim=7))


# ---- biases


def test_alibi_slopes_are_the_published_ones():
    assert slopes(8) == [2.0**-n for n in range(1, 9)]
    assert slopes(6) == [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    assert slopes(12)[8:] == pytest.approx([0.7071067812, 0.3535533906, 0.1767766953, 0.0883883476], abs=1e-10)
    assert slopes(20)[16:] == pytest.approx([0.8408964153, 0.5946035575, 0.4204482076, 0.2973017788], abs=1e-10)
    tensors = golden("grape_a_alibi")
    for n in (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 64):
        torch.testing.assert_close(
            torch.tensor(slopes(n), dtype=torch.float64), tensors[f"slopes_{n}"], atol=1e-12, rtol=0
        )


def test_grape_a_bias_is_minus_slope_times_distance():
    module = made(GrapeA, shape(8), slope_scale=2.0)
    p, _ = module.place(torch.zeros(1, 5, 32), torch.arange(5)[None])
    bias = module.columns(None, None, p).bias(8)
    for h, slope in enumerate(slopes(8)):
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
    slope = torch.tensor(slopes(4), dtype=torch.float64)
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


def test_composed_adds_biases_and_turns_in_order():
    parts = [made(GrapeM, shape(4, 2)), made(GrapeA, shape(4, 2)), made(Fox, shape(4, 2)), made(Nope, shape(4, 2))]
    whole = Composed(parts)
    x, pos = torch.ones(1, 5, 32), torch.arange(5)[None]
    p, _ = whole.place(x, pos)
    q, k = torch.ones(1, 5, 4, 8), torch.ones(1, 5, 2, 8)
    assert torch.equal(whole.rotate(q, k, p)[0], parts[0].rotate(q, k, pos)[0])
    single = [part.columns(q, k, place).bias(4) for part, place in zip(parts[1:3], p[1:3])]
    torch.testing.assert_close(whole.columns(q, k, p).bias(4), single[0] + single[1])
    assert Composed(parts[:1]).columns(q, k, (pos,)) is None and whole.bias(p) is None
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
        for method in ("place", "rotate", "columns", "bias"):
            assert callable(getattr(positions.slot.load(lever), method))
