"""Numbers that were worked out elsewhere and that no other test asks for: Megatron-LM's and the vpMoE fork's, in fp64."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests import tiny
from tests.attended import attend
from tests.conformance.made import SHAPE, drawn, made
from torch import Tensor

from ablab.bridges.megatron.export import export
from ablab.core.rng import stream
from ablab.model import positions, projections, routers, softmaxes
from ablab.model.attention.attend import Documents
from ablab.model.decoder import Decoder, build
from ablab.model.parts.columns import alibi_slopes
from ablab.model.parts.rotation import turned
from ablab.model.parts.turns import exchanged, in_heads
from ablab.model.shape import Shape
from ablab.study import load
from ablab.training import optimizers
from ablab.training.learner import Learner
from ablab.training.orthogonal import orthogonalise, polar_express

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def whole(length: int, batch: int = 1) -> Documents:
    return Documents(torch.zeros(batch, length, dtype=torch.int64))


# ---- positions and windows


def test_twelve_heads_begin_with_the_slopes_of_eight() -> None:
    assert (
        alibi_slopes(12)[:8] == alibi_slopes(8) == [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    )


def test_the_distance_bias_is_2_slopes_at_3_and_1_and_nothing_of_the_future() -> None:
    lever, documents = made(positions.slot, "grape_a", Shape(**{**vars(SHAPE), "n_heads": 8})), whole(4)
    p, _ = lever.place(torch.zeros(1, 4, 32), documents.pos_BT)
    columns = lever.columns(None, None, p)
    assert columns.bias(8)[0, :, 3, 1].tolist() == [-2 * slope for slope in alibi_slopes(8)]
    nothing, eye = torch.zeros(1, 4, 8, 4).double(), torch.eye(4).double()[None, :, None].expand(1, 4, 8, 4)
    weights = attend(nothing, nothing, eye, window=None, documents=documents, columns=columns, executor="reference")
    assert torch.equal(weights[0, 0, :, 3], torch.zeros(8).double())
    torch.testing.assert_close(
        weights[0, 3], (-torch.tensor(alibi_slopes(8)).double()[:, None] * torch.tensor([3, 2, 1, 0])).softmax(-1)
    )


def test_pairs_of_4096_tokens() -> None:
    documents = whole(4096)
    for window, wanted in ((None, 8_390_656), (128, 516_160), (129, 520_128)):
        assert int(documents.visible_BTS(window).sum()) == wanted
    share = (20 * 8_390_656 + 60 * 516_160) / (80 * 8_390_656)
    assert share == pytest.approx(0.296137, abs=5e-7)


@pytest.mark.parametrize(("batch_tokens", "steps"), [(32_768, 6104), (16_384, 12_208)])
def test_a_budget_of_2e8_tokens_is_rounded_up_to_steps(batch_tokens: int, steps: int) -> None:
    asked = tiny.settings() | {"budget": {"tokens": 200_000_000, "seconds": None, "batch_tokens": batch_tokens}}
    learner = Learner(asked, tiny.corpus(), seed=0, precision="fp32", micro_rows=1, executor="lift", device="cpu")
    assert learner.steps == steps


# ---- the sink


def mass(sink: float | None, logits: list[float]) -> Tensor:
    """The weights of the last of so many keys, read off values that are the identity."""
    n = len(logits)
    eye = torch.eye(n, dtype=torch.float64)[None, :, None]
    k = F.pad(torch.tensor(logits, dtype=torch.float64)[None, :, None, None], (0, n - 1))
    q = F.pad(torch.ones(1, n, 1, 1, dtype=torch.float64), (0, n - 1))
    given = None if sink is None else torch.tensor([sink], dtype=torch.float64)
    return attend(q, k, eye, window=None, documents=whole(n), sink_H=given, scale=1.0, executor="lift")[0, -1, 0]


def test_what_a_sink_leaves_is_the_sigmoid_of_what_rivals_it() -> None:
    lse = float(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).logsumexp(0))
    assert lse == pytest.approx(3.4076059644, abs=5e-11)
    assert float(mass(0.5, [1.0, 2.0, 3.0]).sum()) == pytest.approx(0.9482211487, abs=6e-11)
    assert float(mass(0.5, [1.0, 2.0, 3.0]).sum()) == pytest.approx(1 / (1 + math.exp(0.5 - lse)), abs=1e-14)
    fixed = float(made(softmaxes.slot, "off_by_one").sink()[0])
    assert fixed == 0
    assert mass(fixed, [1.0, 2.0, 3.0]).tolist() == pytest.approx([0.0871443187, 0.2368828181, 0.6439142599], abs=6e-11)


# ---- routing


def test_scores_of_groups() -> None:
    sizes = Shape(**{**vars(SHAPE), "d_model": 8, "n_experts": 8})
    logits = torch.tensor([[2, -1, 0.5, 0, 1, 1.2, -2, 0.3]], dtype=torch.float64)
    wanted = [1.1497384993, 1.1224593312, 1.4995833621, 0.6936454388]
    for score in ("megatron", "top2"):
        router: Any = made(routers.slot, "deepseek_v3", sizes, top_k=4, n_groups=4, group_top_k=2, group_score=score)
        assert router.group_scores(logits.sigmoid())[0].tolist() == pytest.approx(wanted, abs=6e-11)


# ---- optimizers


def test_the_published_table_to_the_last_digits() -> None:
    made_of = torch.tensor(polar_express(5, lower=1e-3, cushion=0.02, safety=0.02), dtype=torch.float64)
    assert float((made_of - torch.tensor(PUBLISHED, dtype=torch.float64)).abs().max()) < 2e-14


def test_bf16_keeps_singular_values_within_the_band() -> None:
    draw = stream(0, "facts", "bf16")
    for shape in ((24, 16), (12, 20), (16, 16)):
        left, _ = torch.linalg.qr(torch.from_numpy(draw.standard_normal((shape[0], min(shape)))))
        right, _ = torch.linalg.qr(torch.from_numpy(draw.standard_normal((shape[1], min(shape)))))
        spread = torch.logspace(-2, 0, min(shape), dtype=torch.float64)
        matrix = (left * spread) @ right.T
        found = torch.linalg.svdvals(orthogonalise(matrix.float(), polar_express(), products=torch.bfloat16).double())
        assert float(found.min()) > 0.85 and float(found.max()) < 1.15


@pytest.mark.parametrize("name", ["muon", "normuon"])
@pytest.mark.parametrize(("rows", "cols", "factor"), [(1024, 128, 2.828427), (128, 1024, 1.0), (1536, 1024, 1.224745)])
def test_the_factor_of_a_shape(name: str, rows: int, cols: int, factor: float) -> None:
    """The step's norm over that of what the orthogonaliser gave, which here is its input."""
    lever: Any = optimizers.slot.load(name)()
    given: list[Tensor] = []
    lever.orthogonaliser = lambda u: given.append(u.clone()) or u
    state = {key: torch.zeros(1, *size, dtype=torch.float64) for key, size in lever.state(rows, cols).items()}
    step = lever(drawn("factor", 1, rows, cols), state, 0.0)
    assert float(step.norm() / given[0].norm()) == pytest.approx(factor, abs=6e-7)


# ---- Megatron's flags


def test_the_locked_models_flags(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "locked"\n[decision]\nmatters = 0.01\n[budget]\ntokens = 40_960_000\nbatch_tokens = 409_600\n'
        '[data]\nsource = "mock"\ntokenizer = { name = "sentencepiece", vocab_size = 8192 }\n[model]\npreset = "vpmoe"\n'
        'value = { name = "residual", form = "sigmoid", init = 0.9 }\n[arm.again]\ntrain.salt = "b"\n'
    )
    line = shlex.join(export(load(tmp_path / "study.toml").baseline.settings, "baseline").argv)
    for part in ("--window-size '(127,0)'", "--window-attn-skip-freq 4", "--no-rope-freq 4", "--grape-a"):
        assert part in line
    assert "--no-rope-fusion" in line and not any(
        " " in word for word in shlex.split(line) if word.startswith(("(", "["))
    )


# ---- golden vectors


def test_megatrons_window_of_128_and_0_is_one_of_129_tokens() -> None:
    golden = load_file(GOLDEN / "sliding_window_mask.safetensors")
    found = whole(300).visible_BTS(129)[0].sum(1).int()
    assert torch.equal(found, golden["megatron_128_0_row_counts"].int())


@pytest.mark.parametrize("executor", ["reference", "lift"])
def test_attention_weights_under_a_distance_bias(executor: str) -> None:
    g = load_file(GOLDEN / "grape_a_alibi.safetensors")
    lever, documents = made(positions.slot, "grape_a"), whole(24)
    q, k = (F.rms_norm((g["x"] @ g[f"W_{n}"].T).unflatten(-1, (4, 8)), (8,), eps=1e-5) for n in "qk")
    columns = lever.columns(q, k, documents.pos_BT)
    eye = torch.eye(24, dtype=torch.float64)[None, :, None].expand(1, 24, 4, 24)
    # values as wide as the row: queries and keys are filled up with channels that say nothing
    wide_q, wide_k = (F.pad(x, (0, 16)) for x in (q, k))
    found = attend(
        wide_q, wide_k, eye, window=None, documents=documents, columns=columns, scale=8**-0.5, executor=executor
    )
    torch.testing.assert_close(found.transpose(1, 2), g["probs"], atol=1e-6, rtol=0)  # their norm is fp32


def test_tensor_products_turned_by_a_rounded_table() -> None:
    """The official code keeps cosines and sines in bf16: with such a table ours makes its numbers."""
    g = load_file(GOLDEN / "tpa_qkv.safetensors")
    shape = Shape(**{**vars(SHAPE), "n_heads": 4, "n_kv_heads": 4, "head_dim": 16, "seq_len": 16})
    part: Any = made(projections.slot, "tpa", shape, rank=2, q_rank=6, factors="heads")
    with torch.no_grad():
        for which in "qkv":
            getattr(part, f"a_{which}").weight.copy_(g[f"W_A_{which}"])
            getattr(part, f"b_{which}").weight.copy_(g[f"W_B_{which}"])
        q, k, v = part(g["x"])
    angle = torch.arange(16.0)[:, None] * (1.0 / 10000 ** (torch.arange(0, 16, 2).float() / 16))
    cos, sin = (table.bfloat16().double()[None, :, None] for table in (angle.cos(), angle.sin()))
    q, k = turned(q, cos, -sin), turned(k, cos, -sin)
    y = attend(q, k, v, window=None, documents=whole(16), executor="lift").flatten(2) @ g["W_proj"].T
    for name, found in (("q", q), ("k", k), ("y", y)):
        torch.testing.assert_close(found, g[f"{name}_bf16trig"], rtol=0, atol=1e-11)


def test_a_tpa_checkpoint_fits_once_the_halves_of_its_factors_are_exchanged() -> None:
    """Its own code turns by the negative angle: so the rows of B_q and B_k, a head's channels for each rank, change places."""
    g = load_file(GOLDEN / "tpa_qkv.safetensors")
    shape = Shape(**{**vars(SHAPE), "n_heads": 4, "n_kv_heads": 4, "head_dim": 16, "seq_len": 16})
    part: Any = made(projections.slot, "tpa", shape, rank=2, q_rank=6, factors="heads")
    rope: Any = made(positions.slot, "rope", shape).double()
    rope.init(None)
    with torch.no_grad():
        for which in "qkv":
            factor = g[f"W_B_{which}"]
            getattr(part, f"a_{which}").weight.copy_(g[f"W_A_{which}"])
            getattr(part, f"b_{which}").weight.copy_(factor if which == "v" else in_heads(factor, exchanged(16)))
        q, k, v = part(g["x"])
        q, k = rope.rotate(q, k, torch.arange(16)[None])
        y = attend(q, k, v, window=None, documents=whole(16), executor="lift").flatten(2) @ g["W_proj"].T
    for name, found in (("q", q[..., exchanged(16)]), ("k", k[..., exchanged(16)]), ("y", y)):
        torch.testing.assert_close(found, g[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["tall", "wide", "square", "batched", "lowrank", "illcond"])
def test_enough_steps_give_the_polar_factor(name: str) -> None:
    g = load_file(GOLDEN / "polar_express.safetensors")
    triples = polar_express(14, lower=1e-5, cushion=0.0, safety=0.0)
    found = orthogonalise(g[f"G_{name}"], triples, safety=0.0, floor=0.0)
    torch.testing.assert_close(found, g[f"polar_{name}"], rtol=0, atol=1e-9)


# ---- the layers of the locked configuration, written once more


LOCAL = {
    "projection": {"name": "tpa", "rank": 2, "q_rank": 4},
    "position": {"name": "grape_m", "share": "net"},
    "softmax": "sink",
    "value": {"name": "residual", "form": "sigmoid", "init": 0.9},
}
MIXTURE = {
    "mlp": {"name": "moe", "n_experts": 8, "ratio": 0.5, "shared": 1.0, "balance": "sequence"},
    "router": {
        "name": "deepseek_v3", "top_k": 4, "n_groups": 4, "group_top_k": 2, "group_score": "megatron", "scale": 2.5,
    },
}  # fmt: skip


def locked() -> Decoder:
    """Four layers of it, small: a dense local one, two local ones with experts, a global one with experts."""
    model = tiny.model(
        layers="DLLG",
        tied=False,
        bias=True,
        kinds={
            "D": tiny.kind("dense", 8, **LOCAL, mlp={"name": "relu2", "ratio": 1.0}),
            "L": tiny.kind("local", 8, **LOCAL, **MIXTURE),
            "G": tiny.kind("global", None, **{**LOCAL, "projection": "gqa", "position": "grape_a"}, **MIXTURE),
        },
    )
    decoder = build(model, vocab_size=tiny.VOCAB, seed=5, dtype=torch.float64)
    draw = stream(6, "facts", "locked")
    with torch.no_grad():
        for tensor in (*decoder.parameters(), *decoder.buffers()):
            if tensor.is_floating_point() and tensor.numel():
                tensor += 0.2 * torch.from_numpy(draw.standard_normal(tuple(tensor.shape)))
    return decoder


def by_hand(p: dict[str, Tensor], tokens: list[int], slopes: list[float]) -> Tensor:
    """Hidden states (T, D) of one document by the equations, a token at a time; p has parameters and buffers by name."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def linear(x: Tensor, name: str) -> Tensor:
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    def turned_by(x: Tensor, t: int) -> Tensor:
        angle = t * torch.exp(p["log_freq"] / 16)
        a, b = x[..., :4], x[..., 4:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def expert(x: Tensor, at: str, e: int) -> Tensor:
        up, down = f"{at}mlp.experts.up_proj", f"{at}mlp.experts.down_proj"
        hidden = (p[f"{up}.weight"][e] @ x + p[f"{up}.bias"][e]).relu().square()
        return p[f"{down}.weight"][e] @ hidden + p[f"{down}.bias"][e]

    def mlp(x: Tensor, at: str, layer: int) -> Tensor:
        if layer == 0:
            return linear(linear(x, f"{at}mlp.up_proj").relu().square(), f"{at}mlp.down_proj")
        out = linear(linear(x, f"{at}mlp.shared.up_proj").relu().square(), f"{at}mlp.shared.down_proj")
        s = linear(x, f"{at}mlp.router").sigmoid()
        by = s + p[f"{at}mlp.router.expert_bias"]
        groups = sorted(range(4), key=lambda g: -float(by[2 * g : 2 * g + 2].sum()))[:2]
        open_to = [e for g in groups for e in (2 * g, 2 * g + 1)]
        chosen = sorted(open_to, key=lambda e: -float(by[e]))[:4]
        return out + sum(2.5 * s[e] / s[chosen].sum() * expert(x, at, e) for e in chosen)

    x = [p["embed.weight"][token] for token in tokens]
    first: list[Tensor] = []
    for layer, kind in enumerate("DLLG"):
        at, local = f"layers.{layer}.", kind != "G"
        q, k, v = list[Tensor](), list[Tensor](), list[Tensor]()
        for t, x_D in enumerate(x):
            h, own = norm(x_D, p[f"{at}attn_norm.weight"]), f"{at}attn.projection."
            if local:
                bias = p[f"{own}bias"].split([32, 16, 16])
                made_of = []
                for n, heads, rank, extra in zip("qkv", (4, 2, 2), (4, 2, 2), bias):
                    a = (p[f"{own}a_{n}.weight"] @ h).view(heads, rank)
                    b = (p[f"{own}b_{n}.weight"] @ h).view(rank, 8)
                    made_of.append(a @ b / rank + extra.view(heads, 8))
            else:
                made_of = [linear(h, f"{own}{n}_proj").view(-1, 8) for n in "qkv"]
            qs = norm(made_of[0], p[f"{at}attn.q_norm.weight"])
            ks = norm(made_of[1], p[f"{at}attn.k_norm.weight"])
            q.append(turned_by(qs, t) if local else qs)
            k.append(turned_by(ks, t) if local else ks)
            v.append(made_of[2])
        if layer == 0:
            first = v
        else:
            lam = p[f"{at}attn.value.mix"].sigmoid()
            v = [lam * mine + (1 - lam) * theirs for mine, theirs in zip(v, first)]
        after = []
        for i, x_D in enumerate(x):
            seen = range(max(0, i - 7) if local else 0, i + 1)
            heads_out = []
            for head in range(4):
                z = torch.stack([
                    q[i][head] @ k[j][head // 2] / 8**0.5 - (0.0 if local else slopes[head] * (i - j)) for j in seen
                ])  # fmt: skip
                share = torch.cat([z, p[f"{at}attn.softmax.sink_H"][head][None]]).softmax(0)[:-1]
                heads_out.append(sum(s * v[j][head // 2] for s, j in zip(share, seen)))
            after.append(x_D + linear(torch.cat(heads_out), f"{at}attn.o_proj"))
        x = [x_D + mlp(norm(x_D, p[f"{at}mlp_norm.weight"]), at, layer) for x_D in after]
    return norm(torch.stack(x), p["final_norm.weight"]) @ p["lm_head.weight"].T


def test_the_layers_of_the_locked_configuration_are_their_equations() -> None:
    decoder = locked()
    tensors = {name: t.detach() for name, t in (*decoder.named_parameters(), *decoder.named_buffers())}
    (shared,) = (name for name in tensors if "log_freq" in name)  # one for the whole net
    tensors["log_freq"] = tensors[shared]
    assert "layers.0.attn.value.mix" not in tensors
    tokens = stream(7, "facts", "tokens").integers(0, tiny.VOCAB, 14).tolist()
    # GRAPE-A's slopes have a buffer, which the noise moved: the layer's own
    slopes = decoder.layers[3].attn.position.slope_H.tolist()  # type: ignore[union-attr]
    with torch.no_grad():
        found = decoder.logits(decoder(torch.tensor([tokens]), torch.zeros(1, 14, dtype=torch.int64)))[0]
        torch.testing.assert_close(found, by_hand(tensors, tokens, slopes), rtol=1e-10, atol=1e-10)
