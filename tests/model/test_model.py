"""The decoder: what it computes, how it is born, what it counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import tiny
from torch import nn

from ablab.core.fault import InvalidStudy
from ablab.model import decoder as decoder_module
from ablab.model import mlps
from ablab.model.decoder import build, skeleton
from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.norm import Norm
from ablab.model.parts.part import Part
from ablab.model.size import flops_per_token, parameters


def made(model: dict[str, Any] | None = None, **how: Any) -> decoder_module.Decoder:
    return build(model or tiny.model(), vocab_size=tiny.VOCAB, **{"seed": 0, **how})


def some_rows(rows: int = 3, length: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 32, (rows, length), generator=generator)
    ids = (torch.arange(length) >= 13).long().expand(rows, length) + 10 * torch.arange(rows)[:, None]
    targets = tokens.roll(-1, 1)
    targets[:, [12, -1]] = -1
    return tokens, targets, ids


def by_hand(
    decoder: decoder_module.Decoder, tokens: torch.Tensor, ids: torch.Tensor, eps: float = 1e-5
) -> torch.Tensor:
    """The same decoder (rope, relu2, vanilla softmax) written once more with plain operations and a dense mask."""
    p = dict(decoder.named_parameters())
    length = tokens.shape[1]
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    same = ids[:, :, None] == ids[:, None, :]
    start = torch.stack([torch.tensor([int((row == row[t]).nonzero()[0]) for t in range(length)]) for row in ids])
    place = torch.arange(length) - start

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight

    def rotate(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        freq = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        angle = (place[..., None].to(x.dtype) * freq)[:, :, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    x = p["embed.weight"][tokens]
    for layer, window in enumerate((8, length)):
        at = f"layers.{layer}."
        h = norm(x, p[at + "attn_norm.weight"])
        q, k, v = ((h @ p[f"{at}attn.projection.{n}_proj.weight"].T).unflatten(-1, (-1, 8)) for n in "qkv")
        q, k = rotate(norm(q, p[at + "attn.q_norm.weight"])), rotate(norm(k, p[at + "attn.k_norm.weight"]))
        k, v = k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)
        scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(8)
        scores = scores.masked_fill(~((j <= i) & (i - j < window) & same)[:, None], -math.inf)
        y = torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v).flatten(2)
        x = x + y @ p[at + "attn.o_proj.weight"].T
        h = norm(x, p[at + "mlp_norm.weight"])
        x = x + (h @ p[at + "mlp.up_proj.weight"].T).relu().square() @ p[at + "mlp.down_proj.weight"].T
    return norm(x, p["final_norm.weight"]) @ p["embed.weight"].T


@pytest.mark.parametrize("executor", ["reference", "lift"])
def test_equals_the_decoder_written_by_hand(executor: str) -> None:
    tokens, targets, ids = some_rows()
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        decoder = made(executor=executor, dtype=dtype)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.mul_(3.0)  # init is so small that attention hardly matters
        logits = by_hand(decoder, tokens, ids)
        nll = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="none")
        torch.testing.assert_close(decoder.nll(tokens, targets, ids), nll, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(decoder.logits(decoder(tokens, ids)), logits, atol=tolerance * 10, rtol=tolerance)


def test_nll_is_zero_without_a_target_and_fp32() -> None:
    tokens, targets, ids = some_rows()
    nll = made().nll(tokens, targets, ids)
    assert nll.dtype == torch.float32 and nll.shape == targets.shape
    assert (nll[targets < 0] == 0).all() and (nll[targets >= 0] > 0).all()


def test_nll_in_pieces_equals_nll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, found = some_rows(), {}
    for at_once in (1 << 26, 7 * tiny.VOCAB):
        monkeypatch.setattr(decoder_module, "AT_ONCE", at_once)
        monkeypatch.setattr("ablab.model.cross_entropy.AT_ONCE", at_once)
        decoder = made(dtype=torch.float64)
        decoder.nll(*rows).sum().backward()
        found[at_once] = [p.grad for p in decoder.parameters()]
    for one, other in zip(*found.values()):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_softcap_bounds_the_logits() -> None:
    tokens, _, ids = some_rows()
    plain, capped = made(tied := tiny.model()), made(tied | {"softcap": 0.01})
    logits = plain.logits(plain(tokens, ids))
    torch.testing.assert_close(capped.logits(capped(tokens, ids)), 0.01 * torch.tanh(logits / 0.01))


def test_bf16_autocast_is_near_fp32() -> None:
    rows, decoder = some_rows(), made()
    exact = decoder.nll(*rows)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = decoder.nll(*rows)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=2e-2, rtol=0)
    assert not torch.equal(rounded, exact), "autocast did nothing"
    rounded.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in decoder.parameters())


def test_same_seed_same_weights_and_a_part_more_moves_nothing_else() -> None:
    base = dict(made().named_parameters())
    kinds = {"L": tiny.kind("local", 8, softmax="sink"), "G": tiny.kind("global", None, position="fox", mlp="swiglu")}
    torch.manual_seed(99)  # the global generator must not matter
    other = dict(made(tiny.model(kinds=kinds)).named_parameters())
    shared = [n for n in base if n in other and base[n].shape == other[n].shape]
    assert len(shared) >= len(base) - 2 and "layers.0.attn.softmax.sink_H" in other
    assert all(torch.equal(base[n], other[n]) for n in shared)
    assert not torch.equal(base["embed.weight"], made(seed=1).embed.weight)
    assert not torch.equal(base["embed.weight"], made(salt="again").embed.weight)


def test_init_has_the_stated_spread() -> None:
    weights = dict(made(tiny.model(d_model=256, head_dim=64, init_std=0.1)).named_parameters())
    for name, std in (
        ("embed.weight", 0.1),
        ("layers.0.attn.projection.q_proj.weight", 0.1),
        ("layers.1.attn.o_proj.weight", 0.05),
        ("layers.1.mlp.up_proj.weight", 0.1),
        ("layers.0.mlp.down_proj.weight", 0.05),
    ):
        assert float(weights[name].detach().std()) == pytest.approx(std, rel=0.05), name
    assert all((weights[n] == 1).all() for n in weights if "norm" in n)


def test_a_parameter_that_nobody_initialises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Part):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.empty(3))

    def forgetful(*args: Any, **settings: Any) -> decoder_module.Decoder:
        decoder = skeleton(*args, **settings)
        with torch.device("meta"):
            decoder.layers[1].mlp.extra = Forgetful()  # type: ignore[union-attr]
        return decoder

    monkeypatch.setattr(decoder_module, "skeleton", forgetful)
    with pytest.raises(RuntimeError) as raised:
        made()
    cure = "give class Forgetful an init(draw) that fills it"
    assert str(raised.value) == f"layers.1.mlp.extra.gain was never initialised; {cure}"


class Strange(Mlp):
    """An mlp of torch's own modules, or with a parameter in a plain nn.Module."""

    def __init__(self, shape: Any, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("inner", "fault", "cure"),
    [
        (nn.Linear(4, 4), "weight: is a parameter of torch.nn.modules.linear.Linear",
         "use ablab.model.parts.linear.Linear(d_in, d_out, std=shape.init_std, bias=shape.bias)"),
        (nn.Embedding(4, 4), "weight: is a parameter of torch.nn.modules.sparse.Embedding",
         "use ablab.model.parts.linear.Table(rows, size, std=shape.init_std)"),
        (nn.Sequential(nn.LayerNorm(4)), "0.weight: is a parameter of torch.nn.modules.normalization.LayerNorm",
         "use ablab.model.parts.norms.LayerNorm(size, shape.norm_eps)"),
        (Plain(), f"gain: is a parameter of {__name__}.Plain",
         "let class Plain inherit ablab.model.parts.part.Part and fill it in init(draw)"),
    ],
    ids=["linear", "embedding", "norm", "plain"],
)  # fmt: skip
def test_a_parameter_of_no_part_is_refused_with_ours(
    inner: nn.Module, fault: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have no role, so the wrong optimizer would move it, and numbers from torch's own generator."""
    whole = mlps.slot.build
    monkeypatch.setattr(mlps.slot, "build", lambda choice, *parts: Strange(whole(choice, *parts), inner))
    with pytest.raises(InvalidStudy) as raised:
        made()
    said = f"layers.0.mlp.inner.{fault}, which has no role and draws nothing from the study's streams; {cure}"
    assert str(raised.value) == said


def test_roles_name_every_parameter_once() -> None:
    kinds = {"L": tiny.kind("local", 8, softmax="sink"), "G": tiny.kind("global", None)}
    for tied in (True, False):
        decoder = made(tiny.model(tied=tied, kinds=kinds))
        roles = decoder.roles()
        assert list(roles) == [name for name, _ in decoder.named_parameters()]
        assert roles["embed.weight"] == "embedding" and roles.get("lm_head.weight") == (None if tied else "head")
        assert roles["layers.0.attn.softmax.sink_H"] == roles["layers.1.attn.q_norm.weight"] == "scalar"
        assert {r for n, r in roles.items() if "proj" in n} == {"matrix"}


def test_counts() -> None:
    model = tiny.model(tied=False)
    matrices = 2 * (32 * 32 * 2 + 2 * 16 * 32 + 2 * 32 * 128)
    scalars = 2 * (2 * 32 + 2 * 8) + 32
    sizes = {"body": matrices + scalars, "embedding": 2 * 33 * 32, "total": matrices + scalars + 2 * 33 * 32}
    assert parameters(made(model)) == parameters(skeleton(model, vocab_size=tiny.VOCAB)) == sizes
    keys = sum(min(i + 1, 8) for i in range(32)) / 32 + sum(i + 1 for i in range(32)) / 32
    counted = [flops_per_token(skeleton(one, vocab_size=tiny.VOCAB), one) for one in (model, tiny.model())]
    assert counted[0] == pytest.approx(6 * (matrices + 33 * 32) + 12 * 4 * 8 * keys)
    assert counted[1] == counted[0], "tying costs nothing"


def test_impossible_models_are_refused_with_their_place() -> None:
    for changed, text in (
        ({"n_kv_heads": 3}, "model.local.projection: gqa: n_heads = 4 is no multiple of n_kv_heads = 3; "
                            "choose n_kv_heads among the divisors of n_heads"),
        ({"d_model": 0}, "model.d_model: 0 is no size; give an integer of at least 1"),
        ({"layers": "LX"}, "model.layers: no table for X; add the table or change the letters"),
        ({"layers": ""}, "model.layers: no layer; name at least one"),
    ):  # fmt: skip
        with pytest.raises(InvalidStudy) as raised:
            made(tiny.model(**changed))
        assert str(raised.value) == text
    with pytest.raises(ValueError, match="weights are float32 or float64, not"):
        made(dtype=torch.bfloat16)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 4, 6)])
def test_norm_is_rms_norm_and_its_gradient_is_right(shape: tuple[int, ...]) -> None:
    norm = Norm(shape[-1], 1e-5).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(shape[-1], generator=generator) + 0.5)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norm(x), F.rms_norm(x, norm.weight.shape, norm.weight, 1e-5))
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(norm, {"weight": w}, x), (x, norm.weight))
    skewed = x.detach().transpose(0, 1).requires_grad_()
    (norm(skewed).transpose(0, 1) * 2).sum().backward()
    torch.testing.assert_close(skewed.grad, torch.autograd.grad((norm(x) * 2).sum(), x)[0].transpose(0, 1))
