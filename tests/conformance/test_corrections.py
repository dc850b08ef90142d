"""Low-rank factors and rotations of rounded matrices."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from ablab.artifact import compressors
from ablab.artifact.arrays import Packed
from ablab.artifact.compressors import hadamard, lqer
from ablab.artifact.compressors.calibration import Calibration
from ablab.artifact.compressors.rtn import Rtn
from ablab.core.rng import stream
from ablab.model.decoder import build

rtn = functools.partial(tiny.lever, compressors.slot, "rtn")
gptq = functools.partial(tiny.lever, compressors.slot, "gptq")
UP, DOWN, O = "layers.0.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight", "layers.0.attn.o_proj.weight"


def drawn(name: str, *size: int) -> torch.Tensor:
    return torch.from_numpy(stream(0, "test", "corrections", name).standard_normal(size))


def spiked(rows: int, columns: int) -> torch.Tensor:
    """Small numbers, and one large one in each row."""
    w = 0.01 * drawn("spiked", rows, columns)
    w[torch.arange(rows), torch.arange(rows) % columns] += 1.0
    return w.float()


def back(packed: Packed) -> dict[str, torch.Tensor]:
    return Rtn.restore(packed.parts, packed.meta)


@pytest.mark.parametrize("n", [2, 8, 64, 512])
def test_the_transform_is_hadamards_matrix(n: int) -> None:
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    x = drawn("x", 5, n)
    assert torch.allclose(hadamard.transform(x), x @ h / n**0.5, atol=1e-12)
    assert torch.allclose(hadamard.transform(hadamard.transform(x)), x, atol=1e-12)
    signs = hadamard.signs(UP, n)
    assert set(signs.tolist()) <= {-1.0, 1.0} and torch.equal(signs, hadamard.signs(UP, n))
    assert torch.allclose(hadamard.unrotated(hadamard.rotated(x, signs), signs), x, atol=1e-12)
    gram = drawn("inputs", 3 * n, n)
    spun = hadamard.transform(gram * signs)  # inputs x turn into H S x
    assert torch.allclose(hadamard.of_inputs(gram.mT @ gram, signs), spun.mT @ spun, atol=1e-9)
    assert torch.allclose(hadamard.rotated(x, signs) @ spun.mT, x @ gram.mT, atol=1e-9)


def test_widths_without_a_rotation() -> None:
    assert [n for n in range(70) if hadamard.fits(n)] == [2, 4, 8, 16, 32, 64]
    made = {UP: spiked(8, 24), O: spiked(8, 32)}
    packed = rtn(bits=4, small=0, hadamard=True).quantise(made)
    assert packed.report["notes"] == [f"hadamard: inputs that are no power of two stay as they are: {UP} (24)"]
    assert packed.meta["rotated"] == [O]


def test_a_rotation_is_kept_where_the_error_falls_and_only_there() -> None:
    flat = torch.sign(drawn("flat", 16, 64)).float() * 0.5  # exact as it is
    made = {UP: spiked(16, 64), O: flat}
    packed = rtn(bits=4, small=0, hadamard=True).quantise(made)
    rows = {row["name"]: row for row in packed.report["hadamard"]}
    assert packed.meta["rotated"] == [UP] and rows[UP]["kept"] and not rows[O]["kept"]
    plain, turned = (back(rtn(bits=4, small=0, hadamard=on).quantise(made)) for on in (False, True))
    assert torch.equal(plain[O], turned[O])
    for name, found in ((UP, turned), (O, plain)):
        key = "error_after" if rows[name]["kept"] else "error_before"
        assert rows[name][key] == pytest.approx(float((found[name] - made[name]).double().square().mean()), rel=1e-5)
    assert (turned[UP] - made[UP]).norm() < 0.7 * (plain[UP] - made[UP]).norm()
    assert rows[UP]["kurtosis_before"] > 20 > rows[UP]["kurtosis_after"] > 1
    for key in ("mse_before", "mse_after"):
        errors = [rows[UP][key][f"int{bits}"] for bits in (5, 6, 7, 8)]
        assert len(rows[UP][key]) == 4 and errors == sorted(errors, reverse=True)
    assert rows[UP]["mse_after"]["int5"] < rows[UP]["mse_before"]["int5"]


def test_gptq_keeps_a_rotation_where_its_layers_error_falls() -> None:
    model = build(tiny.model(), vocab_size=tiny.VOCAB, seed=0)
    with torch.no_grad():
        model.layers[0].attn.o_proj.weight.copy_(spiked(32, 32))
    weights = dict(model.state_dict())
    calibration = Calibration(lambda: model, tiny.corpus(), 32)
    how: dict[str, Any] = {"bits": 4, "sigmas": 2.0, "small": 300, "tokens": 1000}
    packed = gptq(hadamard=True, **how).quantise(weights, calibration)
    hessians, turned = calibration.hessians(1000), back(packed)
    plain = back(gptq(**how).quantise(weights, calibration))
    rows = {row["name"]: row for row in packed.report["hadamard"]}
    assert O in packed.meta["rotated"] and rows[O]["kept"] and len(rows) == len(calibration.roles) - 9
    for name, row in rows.items():
        off = [(found[name] - weights[name]).double() for found in (plain, turned)]
        before, now = (float((e @ hessians[name].double() * e).sum()) for e in off)
        assert row["error_before"] == pytest.approx(before, rel=1e-4)
        assert now == pytest.approx(min(row["error_before"], row["error_after"]), rel=1e-4)
        assert row["kept"] == (name in packed.meta["rotated"])


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 12, 20), (2, 3)])
def test_factors_are_the_best_of_their_rank_then_rounded(shape: tuple[int, ...]) -> None:
    error = drawn(f"error {shape}", *shape)
    found = lqer.factors(error, 4)
    rank = min(4, *shape[-2:])
    assert found.a.shape == (*shape[:-1], rank) and found.b.shape == (*shape[:-2], rank, shape[-1])
    assert found.a.dtype == found.b.dtype == torch.int8 and found.a_scale.dtype == torch.float16
    assert int(found.a.min()) >= -2 and int(found.a.max()) <= 1 and int(found.b.min()) >= -8 and int(found.b.max()) <= 7
    groups = -(-rank * shape[-1] // 64)
    assert found.a_scale.shape == shape[:-2] and found.b_scale.shape == (*shape[:-2], groups)
    u, s, v = torch.linalg.svd(error, full_matrices=False)
    a, b = u[..., :rank] * s[..., None, :rank], v[..., :rank, :]
    largest = a.gather(-2, a.abs().argmax(-2, keepdim=True))
    turn = torch.where(largest > 0, -1.0, 1.0).double()  # a pair's sign is free: the largest of A is negative
    a, b = a * turn, b * turn.mT
    a_step = (a.abs().amax((-1, -2)) / 1.5).half().double()
    flat = torch.nn.functional.pad(b.flatten(-2), (0, groups * 64 - rank * shape[-1])).unflatten(-1, (groups, 64))
    b_step = (flat.abs().amax(-1) / 7.5).half().double()
    a_codes = torch.round(a / a_step[..., None, None]).clamp(-2, 1)
    b_codes = torch.round(flat / b_step[..., None]).clamp(-8, 7)
    assert torch.equal(found.a.double(), a_codes)
    assert torch.equal(found.b.double().flatten(-2), b_codes.flatten(-2)[..., : rank * shape[-1]])
    b_value = (b_codes * b_step[..., None]).flatten(-2)[..., : rank * shape[-1]].unflatten(-1, (rank, shape[-1]))
    whole = (a_codes * a_step[..., None, None]) @ b_value
    assert torch.allclose(lqer.added(torch.zeros(shape), found), whole, atol=1e-12)


def test_the_tensors_of_largest_error_get_factors() -> None:
    made = {
        UP: (0.1 * drawn("a", 64, 32)).float(),
        DOWN: drawn("b", 32, 64).float(),
        O: (3 * drawn("c", 32, 32)).float(),
    }
    packed = rtn(bits=3, sigmas=4.0, small=0, lqer={"tensors": 2, "rank": 3}).quantise(made)
    rows = packed.report["lqer"]
    assert [row["name"] for row in rows] == [O, DOWN]
    found, plain = back(packed), back(rtn(bits=3, sigmas=4.0, small=0).quantise(made))
    assert torch.equal(found[UP], plain[UP])
    for row in rows:
        name = row["name"]
        assert row["rank"] == 3 and row["error_after"] < row["error_before"]
        assert row["error_before"] == pytest.approx(float((plain[name] - made[name]).norm()), rel=1e-5)
        assert row["error_after"] == pytest.approx(float((found[name] - made[name]).norm()), rel=1e-5)
    parts = {part.name: part for part in packed.parts}
    assert (parts[f"{O}:a"].bits, parts[f"{O}:b"].bits, parts[f"{O}:a"].group) == (2, 4, "factor")
    assert f"{UP}:a" not in parts
    scheme = packed.report["schemes"]["lqer rank 3"]
    assert scheme["tensors"] == 2 and scheme["numbers"] == 0
    assert scheme["bytes"] == sum(
        p.array.nbytes for n, p in parts.items() if n.partition(":")[2] in ("a", "a_scale", "b", "b_scale")
    )
    bits = 2 * 3 * (32 + 32) + 4 * 3 * (32 + 64) + 16 * (2 + 2 + 3)  # codes of A and B, scales
    how: dict[str, Any] = {"bits": 5, "sigmas": 8.0, "small": 0}
    factors: tuple[dict[str, Any], ...] = ({"lqer": {"tensors": 2, "rank": 3}}, {})
    with_factors, bare = (rtn(**how, **more).quantise(made).report["predicted_bytes"] for more in factors)
    assert with_factors - bare == pytest.approx(bits / 8)


def test_more_factors_than_tensors_and_no_error_at_all() -> None:
    exact = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    made = {UP: 127 * exact, O: spiked(4, 8)}
    packed = rtn(small=0, lqer={"tensors": 9, "rank": 9}).quantise(made)
    assert [row["name"] for row in packed.report["lqer"]] == [O, UP]
    assert torch.equal(back(packed)[UP], made[UP]) and np.isfinite(packed.report["lqer"][1]["error_after"])


def test_gptq_shows_what_factors_do_to_the_layer() -> None:
    model = build(tiny.model(), vocab_size=tiny.VOCAB, seed=0)
    calibration = Calibration(lambda: model, tiny.corpus(), 32)
    packed = gptq(bits=4, small=300, tokens=500, lqer=2).quantise(dict(model.state_dict()), calibration)
    assert len(packed.report["lqer"]) == 2
    hessians, found = calibration.hessians(500), back(packed)
    for row in packed.report["lqer"]:
        off = (found[row["name"]] - model.state_dict()[row["name"]]).double()
        assert row["layer_after"] == pytest.approx(float((off @ hessians[row["name"]].double() * off).sum()), rel=1e-4)
