"""Coefficients against the published tables; orthogonalised stacks against golden matrices; what diverges is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests import tiny

from ablab.training import optimizers, orthogonal
from ablab.training.orthogonal import (
    JORDAN,
    Orthogonaliser,
    Triple,
    check,
    chunk,
    damped,
    newton_schulz,
    orthogonalise,
    polar_express,
    value_at,
)

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = load_file(FOLDER / "polar_express.safetensors")
MATRICES = ["tall", "wide", "square", "lowrank", "batched", "illcond"]
PUBLISHED = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
PAPER = {"lower": 1e-3, "cushion": 0.02407327424182761, "safety": 0.0}


def respond(coefficients: list[Triple], x: Any) -> Any:
    """Apply all steps to a singular value `x` (a number or an array)."""
    for triple in coefficients:
        x = value_at(triple, x)
    return x


def paper(steps: int = 8) -> list[Triple]:
    """The paper's listing: made without safety, all but the eighth divided afterwards, cut to `steps`."""
    raw = polar_express(8, **PAPER)
    return [*(damped(triple, 0.01) for triple in raw[:-1]), raw[-1]][:steps]


def wide_rows(triples: list[Triple], name: str, safety: float) -> int:
    """Compare row by row; returns how many had an interval wide enough to compare coefficients."""
    golden, low, high, wide = GOLDEN[name].tolist(), 1e-3, 1.0, 0
    for i, (mine, theirs) in enumerate(zip(triples, golden, strict=True)):
        if low / high < 0.99:
            assert mine == pytest.approx(theirs, rel=1e-12)
            wide += 1
        points = np.linspace(low, high, 101) * (1 + safety if i < len(golden) - 1 else 1.0)
        assert np.abs(value_at(mine, points) - value_at(tuple(theirs), points)).max() < 1e-12  # type: ignore[arg-type]
        low = float(value_at(mine, low))
        high = 2 - low
    return wide


def test_the_golden_file_is_the_one_described() -> None:
    described = json.loads((FOLDER / "polar_express.json").read_text())
    assert hashlib.sha256((FOLDER / "polar_express.safetensors").read_bytes()).hexdigest() == described["sha256"]


def test_the_published_table_of_five_is_reproduced() -> None:
    assert np.abs(np.array(polar_express()) - np.array(PUBLISHED)).max() < 1e-13
    assert np.abs(np.array(polar_express()) - GOLDEN["coeffs_modded_5"].numpy()).max() < 1e-13


def test_other_safety_factors_change_the_recursion_itself() -> None:
    assert polar_express(safety=0.01)[0] == pytest.approx((8.23731249, -23.157747415, 16.680568411), rel=1e-9)
    assert polar_express(safety=0.05)[0] == pytest.approx((7.92351011, -20.610690266, 13.736345926), rel=1e-9)
    inside, after = polar_express(safety=0.05)[1], damped(polar_express(safety=0.0)[1], 0.05)
    assert abs(inside[0] - after[0]) > 1e-3


def test_the_papers_table_of_eight_is_reproduced() -> None:
    raw = np.array(polar_express(8, **PAPER))
    golden = GOLDEN["coeffs_paper_8_raw"].numpy()
    assert np.abs(raw[:6] - golden[:6]).max() < 1e-13
    assert np.abs(raw - golden).max() < 1e-8, "the last two rows are rounded in print and ill-conditioned"
    assert np.abs(np.array(paper()) - GOLDEN["coeffs_paper_8_safe"].numpy()).max() < 1e-8


def test_long_and_plain_tables_are_reproduced() -> None:
    assert wide_rows(polar_express(10, safety=0.01), "coeffs_repo_10", 0.01) >= 6
    for steps in (5, 8):
        pure = polar_express(steps, cushion=0.0, safety=0.0)
        assert wide_rows(pure, f"coeffs_pure_l1e3_{steps}", 0.0) >= 5


def test_scalars_through_the_five() -> None:
    expected = {0.001: 0.85887264, 0.002: 1.14040691, 0.01: 1.02711018, 0.1: 1.05916114, 0.5: 0.91061088}
    expected |= {1 / 1.02: 0.90353742, 1e-4: 0.0988, 1.0: 0.85913}
    for x, y in expected.items():
        assert respond(polar_express(), x) == pytest.approx(y, abs=1e-8 if x not in (1e-4, 1.0) else 1e-5)
    span = respond(polar_express(), np.geomspace(1e-3, 1, 20001))
    assert np.min(span) > 0.858872 and np.max(span) < 1.141128


@pytest.mark.parametrize(("steps", "error"), [(1, 0.992), (2, 0.965), (3, 0.860), (4, 0.546), (5, 0.113), (6, 9.2e-4)])
def test_exact_minimax_errors_are_the_known_ones(steps: int, error: float) -> None:
    x = np.geomspace(1e-3, 1, 100_001)
    y = respond(polar_express(steps, cushion=0.0, safety=0.0), x)
    assert np.abs(y - 1).max() == pytest.approx(error, rel=6e-3)


def test_a_small_matrix_known_by_hand() -> None:
    found = orthogonalise(torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.float64), polar_express())
    expected = [[-0.55776344, 0.09305344, 0.74387032], [0.63932450, 0.49701054, 0.35469659]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)
    values = torch.linalg.svdvals(found)
    torch.testing.assert_close(values, torch.tensor([0.94476225, 0.87297840], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", MATRICES)
def test_golden_matrices(name: str) -> None:
    matrix = GOLDEN[f"G_{name}"]
    found = {
        "modded5": orthogonalise(matrix, polar_express()),
        "ns5": orthogonalise(matrix, newton_schulz(), safety=0.0, floor=1e-7),
        "paper5": orthogonalise(matrix, paper(5), safety=0.01, floor=1e-7),
        "paper8": orthogonalise(matrix, paper(), safety=0.01, floor=1e-7),
    }
    for kind, out in found.items():
        torch.testing.assert_close(out, GOLDEN[f"{kind}_{name}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MATRICES)
def test_bf16_is_nearer_to_float64_than_the_published_arithmetic(name: str) -> None:
    """The stored outputs round the norm and every term; ours takes the norm in fp32 and adds in the accumulator."""
    exact, theirs = GOLDEN[f"modded5_{name}"], GOLDEN[f"modded5_bf16_{name}"].double()
    mine = orthogonalise(GOLDEN[f"G_{name}"].float(), polar_express(), products=torch.bfloat16)
    assert mine.dtype == torch.float32
    assert (mine.double() - exact).norm() < (theirs - exact).norm()
    if name not in ("lowrank", "illcond"):  # directions of 1e-4 and less are noise in bf16, in theirs as in ours
        assert (mine.double() - exact).norm() < 0.03 * exact.norm()
        low, high = torch.linalg.svdvals(mine.double()).aminmax()
        assert low > 0.84 and high < 1.16


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_a_stack_is_its_matrices_whatever_the_chunk(
    shape: tuple[int, int], kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0)).to(kind)
    kept = stack.clone()
    alone = torch.stack([orthogonalise(matrix, polar_express()) for matrix in stack])
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 0.1, torch.float64: 1e-12}[kind]
    for matrices in (1, 3, 100):
        monkeypatch.setattr(orthogonal, "CHUNK_BYTES", matrices * stack[0].numel() * stack.element_size())
        assert chunk(*shape, stack) == matrices
        found = orthogonalise(stack, polar_express())
        assert found.dtype == kind and torch.equal(stack, kept)
        torch.testing.assert_close(found, alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (16, 32), (4, 128)])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8])
def test_several_steps_on_the_products_alone_are_as_exact_as_one_by_one(shape: tuple[int, int], steps: int) -> None:
    side = min(shape)
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(n, side, generator=generator).double())[0] for n in shape)
    matrix = left @ torch.diag(torch.logspace(0, -7, side).double()) @ right.T  # down to 1e-7: hard in fp32
    x = matrix / (matrix.norm() * 1.02 + 1e-6)
    y = x.float()
    for a, b, c in polar_express(steps):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
        y = a * y + b * (y @ y.T) @ y + c * (y @ y.T) @ (y @ y.T) @ y
    torch.testing.assert_close(orthogonalise(matrix, polar_express(steps)), x, rtol=0, atol=1e-9)
    single = orthogonalise(matrix.float(), polar_express(steps)).double()
    assert (single - x).norm() < 1.5 * (y.double() - x).norm() + 1e-6 * x.norm()


def test_transposing_before_or_after_is_the_same_and_scale_does_not_matter() -> None:
    matrix = GOLDEN["G_tall"]
    there = orthogonalise(matrix, polar_express())
    torch.testing.assert_close(orthogonalise(matrix.T.contiguous(), polar_express()).T, there, rtol=0, atol=1e-12)
    big = orthogonalise(1e6 * matrix, polar_express())
    torch.testing.assert_close(big, there, rtol=0, atol=1e-5)  # but for the 1e-6 beside the norm
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 4), polar_express()), torch.zeros(2, 3, 4))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 12),
    lower=st.floats(1e-4, 0.9),
    cushion=st.floats(0, 0.9),
    safety=st.floats(0.01, 0.5),
)
def test_every_generated_table_passes_the_check(steps: int, lower: float, cushion: float, safety: float) -> None:
    triples = polar_express(steps, lower=lower, cushion=cushion, safety=safety)
    assert check(triples, safety) == triples and len(triples) == steps
    inside = respond(triples, np.linspace(lower, 1, 501) / (1 + safety))
    assert np.min(inside) > 0 and np.max(inside) < 2.01


def test_what_cannot_be_is_refused_in_words() -> None:
    nan = float("nan")
    for call, text in (
        (lambda: polar_express(0), "steps = 0 orthogonalises nothing; choose at least 1"),
        (lambda: newton_schulz(-1), "steps = -1 orthogonalises nothing; choose at least 1"),
        (
            lambda: polar_express(lower=0.0),
            "lower = 0.0 is no share of the interval; choose a number above 0 and below 1",
        ),
        (
            lambda: polar_express(cushion=1.0),
            "cushion = 1.0 is no share of the interval; choose a number from 0 to below 1",
        ),
        (lambda: polar_express(safety=-0.1), "safety = -0.1 is negative; choose 0 or more"),
        (lambda: check([]), "coefficients is empty; give at least one triple, or none for the generated ones"),
        (
            lambda: check([(1.0, 2.0)]),
            "coefficients[0] = [1.0, 2.0] is no triple of numbers; give a, b, c of step 1",
        ),
        (
            lambda: check([JORDAN, (1.0, 2.0, nan)]),
            "coefficients[1] = [1.0, 2.0, nan] is no triple of numbers; give a, b, c of step 2",
        ),
        (
            lambda: check([(8.2, -22.0, 15.0)] * 5),
            "coefficients diverge: a singular value of 0.3869 stands at 348.2 after step 2 of 5; raise safety, or give "
            "triples that hold up to 1 / (1 + safety)",
        ),
        (
            lambda: check([(1e300, 0.0, 0.0)]),
            "coefficients diverge: a singular value of 1 stands at 1e+300 after step 1 of 1; raise safety, or give "
            "triples that hold up to 1 / (1 + safety)",
        ),
        (
            lambda: check([(1.0, -1.5, 0.0)]),
            "coefficients lose directions: a singular value of 1 ends at -0.5, not above zero; give triples whose "
            "composition stays positive, or none",
        ),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        assert str(raised.value) == text


def test_without_safety_rounding_alone_makes_a_low_bound_diverge() -> None:
    """Six steps from 1e-6 multiply an excess of 1e-6 at the top by ten million."""
    with pytest.raises(
        ValueError, match=r"diverge: a singular value of 1 stands at .* after step 6 of 6; raise safety"
    ):
        check(polar_express(6, lower=1e-6, cushion=0.0, safety=0.0))


def asked(name: str, **changed: Any) -> Orthogonaliser:
    made: Orthogonaliser = tiny.lever(optimizers.slot, "muon", orthogonaliser={"name": name, **changed}).orthogonaliser
    return made


def test_a_setting_of_the_orthogonaliser_acts_or_raises() -> None:
    matrix = GOLDEN["G_wide"]
    torch.testing.assert_close(asked("polar_express")(matrix), GOLDEN["modded5_wide"], rtol=0, atol=1e-9)
    torch.testing.assert_close(asked("newton_schulz")(matrix), GOLDEN["ns5_wide"], rtol=0, atol=1e-9)
    given = asked("polar_express", coefficients=PUBLISHED)(matrix)
    torch.testing.assert_close(given, GOLDEN["modded5_wide"], rtol=0, atol=1e-9)
    whole = asked("polar_express")(matrix)
    acts = [
        {"steps": 4},
        {"lower": 1e-2},
        {"cushion": 0.1},
        {"safety": 0.1},
        {"coefficients": PUBLISHED, "safety": 0.1},
    ]
    for changed in acts:
        assert not torch.allclose(asked("polar_express", **changed)(matrix), whole, atol=1e-4)
    assert torch.equal(asked("polar_express", products="bf16")(matrix), whole), "fp64 stays fp64"
    single = matrix.float()
    assert torch.equal(asked("polar_express", products="fp32")(single), asked("polar_express")(single))
    rounded = asked("polar_express", products="bf16")(single)
    assert 1e-4 < (rounded - whole).abs().max() < 0.1
    for name, changed, text in (
        (
            "newton_schulz",
            {"safety": 0.1},
            'safety does nothing for newton_schulz; leave it out or choose orthogonaliser.name = "polar_express"',
        ),
        (
            "newton_schulz",
            {"coefficients": PUBLISHED},
            'coefficients are not newton_schulz\'s; choose orthogonaliser.name = "polar_express"',
        ),
        (
            "polar_express",
            {"coefficients": PUBLISHED, "steps": 4},
            "steps does nothing where coefficients are given; leave one of the two out",
        ),
        ("polar_express", {"coefficients": PUBLISHED, "safety": -0.1}, "safety = -0.1 is negative; choose 0 or more"),
    ):
        with pytest.raises(ValueError) as raised:
            asked(name, **changed)
        assert str(raised.value) == f"orthogonaliser.{text}"
