"""Every embedding lever: causal, blind across documents, in pieces as in one, exact, all of it learning after a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.conformance.made import SHAPE, drawn, made, shaken
from torch import nn

from ablab.model import embeddings
from ablab.model.attention.attend import Documents
from ablab.model.embeddings.composed import Composed
from ablab.model.shape import Shape

B, T, D = 2, 13, 32
LENGTHS = [[5, 1, 7], [12, 1]]
IDS = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in LENGTHS])
POS = Documents(IDS).pos_BT
TOKENS = (drawn("tokens", B, T) * 1e4).long().abs() % 50
X = drawn("x", B, T, D)
CASES: dict[str, list[tuple[str, dict[str, object]]]] = {
    **{name: [(name, {})] for name in embeddings.slot.names},
    "bigram_hash": [("bigram_hash", {"size": 11, "dim": 3})],
    "channel": [("smear_gate", {"form": "channel"})],
    "list": [("bigram_hash", {"size": 11, "dim": 3}), ("smear_gate", {}), ("norm", {}), ("learned", {})],
}


def lever(case: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    parts = [made(embeddings.slot, name, dtype=dtype, **settings) for name, settings in CASES[case]]
    return parts[0] if len(parts) == 1 else Composed(parts)


@pytest.mark.parametrize("case", CASES)
def test_causal(case: str) -> None:
    part = shaken(lever(case))
    y, _ = part(X, TOKENS, POS)
    assert y.shape == X.shape
    changed, tokens = X.clone(), TOKENS.clone()
    changed[0, 8] += 1
    tokens[0, 8] = (tokens[0, 8] + 1) % 50
    moved = (part(changed, tokens, POS)[0] != y).any(-1)
    assert moved[0, 8] and not moved[0, :8].any() and not moved[1].any()


@pytest.mark.parametrize("case", CASES)
def test_packed_is_separate(case: str) -> None:
    part = shaken(lever(case))
    y, _ = part(X, TOKENS, POS)
    for b, row in enumerate(LENGTHS):
        for start, length in zip(np.cumsum([0, *row]), row):
            here = (slice(b, b + 1), slice(start, start + length))
            alone, _ = part(X[here], TOKENS[here], POS[here])
            torch.testing.assert_close(y[here], alone, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cuts", [[1] * T, [4, 1, 8], [5, 8], [6, 7]])
def test_pieces_are_the_whole(case: str, cuts: list[int]) -> None:
    part = shaken(lever(case))
    whole, _ = part(X, TOKENS, POS)
    carry, pieces = None, []
    for x, tokens, pos in zip(X.split(cuts, 1), TOKENS.split(cuts, 1), POS.split(cuts, 1)):
        y, carry = part(x, tokens, pos, carry)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_all_of_it_learns_after_one_step(case: str) -> None:
    part = lever(case)
    x = X.clone().requires_grad_()
    for step in range(2):
        part.zero_grad()
        (part(x, TOKENS, POS)[0] * drawn("g", B, T, D)).sum().backward()
        if step == 0:
            with torch.no_grad():
                for p in part.parameters():
                    p -= 0.01 * p.grad
    assert x.grad is not None and (x.grad != 0).any()
    for name, p in part.named_parameters():
        assert p.grad is not None and (p.grad != 0).any(), name


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_right(case: str) -> None:
    part = shaken(lever(case))
    names = [n for n, _ in part.named_parameters() if "table" not in n]
    kept = dict(part.named_parameters())

    def run(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        got: torch.Tensor = torch.func.functional_call(
            part, dict(zip(names, tensors)), (x, TOKENS[:1, :6], POS[:1, :6])
        )[0]
        return got

    assert torch.autograd.gradcheck(run, (X[:1, :6].clone().requires_grad_(), *(kept[n] for n in names)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_is_the_baseline_bit_for_bit(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    neutral: list[tuple[str, dict[str, object]]] = [
        ("plain", {}),
        ("bigram_hash", {}),
        ("smear_gate", {}),
        ("smear_gate", {"form": "channel", "init": -200.0}),
    ]
    for name, settings in neutral:
        part = made(embeddings.slot, name, dtype=torch.float32, **settings)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, _ = part(x, TOKENS, POS)
        assert torch.equal(y, x) and y.dtype == dtype, name


@pytest.mark.parametrize("case", CASES)
def test_roles(case: str) -> None:
    part = lever(case)
    owners = dict(part.named_modules())
    for name, _ in part.named_parameters():
        role = owners[name.rpartition(".")[0]].role
        assert role == ("embedding" if "table" in name else "matrix" if "proj" in name else "scalar"), name


@pytest.mark.parametrize("size", [2, 3, 4096, 16384])
@pytest.mark.parametrize("vocab", [50, 8192, 201088])
def test_bigram_ids(size: int, vocab: int) -> None:
    part = made(embeddings.slot, "bigram_hash", size=size, dim=1)
    tokens = (drawn("ids", 3, 400) * 1e6).long().abs() % vocab
    tokens[0, :2] = vocab - 1
    pos = torch.arange(400).repeat(3, 1) % 90
    t = tokens.numpy().astype(np.int32)
    with np.errstate(over="ignore"):
        mixed = np.int32(36313) * t[:, 1:] ^ np.int32(27191) * t[:, :-1]
    if vocab == 201088:
        assert (mixed < 0).any()  # int32 did wrap
    expected = np.full((3, 400), size - 1)
    expected[:, 1:] = mixed % np.int32(size - 1)
    expected[pos.numpy() == 0] = size - 1
    got = part.ids(tokens, pos)
    assert np.array_equal(got.numpy(), expected)
    assert int(got.min()) >= 0 and int(got.max()) == size - 1
    known = part.ids(tokens[:, 100:], pos[:, 100:], tokens[:, 99])
    assert torch.equal(known, got[:, 100:])


def test_bigram_formula() -> None:
    part = made(embeddings.slot, "bigram_hash", size=7, dim=3)
    assert (part.scale).item() == pytest.approx(0.05) and not part.table.weight.any()
    assert part.proj.weight.std().item() == pytest.approx(0.02, rel=0.2)
    shaken(part)
    y, carry = part(X, TOKENS, POS)
    for b in range(B):
        for t in range(T):
            x, before = int(TOKENS[b, t]), int(TOKENS[b, t - 1])
            row = 6 if POS[b, t] == 0 else (36313 * x ^ 27191 * before) % 6  # no wrap below 2^31
            expected = X[b, t] + part.scale * (part.proj.weight @ part.table.weight[row])
            torch.testing.assert_close(y[b, t], expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(carry, TOKENS[:, -1])
    sizes = [p.numel() for p in made(embeddings.slot, "bigram_hash").parameters()]
    assert sum(sizes) == 4096 * 128 + 128 * D + 1


@pytest.mark.parametrize("form", ["token", "channel"])
def test_smear_formula(form: str) -> None:
    part = shaken(made(embeddings.slot, "smear_gate", form=form))
    before = torch.zeros_like(X)
    before[:, 1:] = X[:, :-1]
    before[POS == 0] = 0
    if form == "token":
        assert sum(p.numel() for p in part.parameters()) == 13
        w = part.gate.weight[0]
        expected = X + part.mix * (1 / (1 + torch.exp(-(X[..., :12] @ w))))[..., None] * before
    else:
        g = 1 / (1 + torch.exp(-part.mix))
        assert g.shape == (D,)
        expected = (1 - g) * X + g * before
    torch.testing.assert_close(part(X, TOKENS, POS)[0], expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(part(X, TOKENS, POS)[1], X[:, -1])


def test_smear_starts() -> None:
    halves, _ = made(embeddings.slot, "smear_gate", form="channel")(X, TOKENS, POS)
    torch.testing.assert_close(halves[0, 1:5], (X[0, 1:5] + X[0, :4]) / 2)
    torch.testing.assert_close(halves[0, 5], X[0, 5] / 2)
    little = made(embeddings.slot, "smear_gate", form="channel", init=-3.0)
    assert (1 - little.mix.sigmoid()[0]).item() == pytest.approx(0.9526, abs=1e-4)
    assert made(embeddings.slot, "smear_gate", width=32).gate.weight.shape == (1, 32)


def test_smear_token_first_moves_the_mix_then_the_gate() -> None:
    part = made(embeddings.slot, "smear_gate")
    part(X, TOKENS, POS)[0].square().sum().backward()
    assert (part.mix.grad).item() != 0 and not part.gate.weight.grad.any()
    part = made(embeddings.slot, "smear_gate", init=0.1)
    part(X, TOKENS, POS)[0].square().sum().backward()
    assert part.gate.weight.grad.all()


def test_norm_and_learned() -> None:
    y, _ = made(embeddings.slot, "norm")(X, TOKENS, POS)
    torch.testing.assert_close(y, X / (X.square().mean(-1, keepdim=True) + 1e-5).sqrt(), rtol=1e-13, atol=1e-14)
    part = made(embeddings.slot, "learned")
    assert part.table.weight.shape == (32, D) and part.table.weight.std().item() == pytest.approx(0.02, rel=0.1)
    torch.testing.assert_close(part(X, TOKENS, POS)[0], X + part.table.weight[POS])
    part(X, TOKENS, POS + 19)
    with pytest.raises(ValueError) as raised:
        part(X, TOKENS, POS + 21)
    assert str(raised.value) == (
        "place 32 is beyond the 32 learned places; raise model.seq_len, or use a position lever that reaches further"
    )


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("bigram_hash", {"size": 1}, "size = 1 leaves no row for a pair; choose 2 or more"),
        ("bigram_hash", {"size": 0}, "size = 0 leaves no row for a pair; choose 2 or more"),
        ("bigram_hash", {"dim": 0}, "dim = 0 is no width; choose 1 or more"),
        ("smear_gate", {"width": 33}, "width = 33 is not within d_model = 32; choose 1 to 32"),
        ("smear_gate", {"width": 0}, "width = 0 is not within d_model = 32; choose 1 to 32"),
        (
            "smear_gate",
            {"form": "channel", "width": 12},
            'form "channel" reads no width (given: 12); leave width out or use form = "token"',
        ),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError) as raised:
        made(embeddings.slot, name, **settings)
    assert str(raised.value) == text


def test_a_model_narrower_than_the_default_width() -> None:
    narrow = Shape(**{**vars(SHAPE), "d_model": 8})
    with pytest.raises(ValueError, match="width = 12 is not within d_model = 8; choose 1 to 8"):
        made(embeddings.slot, "smear_gate", narrow)
    made(embeddings.slot, "smear_gate", narrow, form="channel")
