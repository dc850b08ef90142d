"""The chunked loss equals the plain form: values, gradients, soft cap, autocast, ignored targets, refusals, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ablab.core.rng import stream
from ablab.model.cross_entropy import AT_ONCE, chunk_rows, nll

N, D, V = 37, 16, 101


def given(dtype=torch.float64, scale=1.0):
    draw = stream(0, "cross entropy")
    hidden, weight, d = (torch.from_numpy(draw.standard_normal(s)).to(dtype) for s in ((N, D), (V, D), (N,)))
    targets = torch.from_numpy(draw.integers(-1, V, N))
    targets[:3] = torch.tensor([-1, 0, V - 1])
    return hidden * scale, weight, targets, d


def plain(hidden, weight, targets, softcap):
    z = F.linear(hidden, weight)
    z = z if z.dtype == torch.float64 else z.float()
    z = softcap * torch.tanh(z / softcap) if softcap else z
    return F.cross_entropy(z, targets, ignore_index=-1, reduction="none")


def differentiated(loss, hidden, weight, targets, d, softcap, bf16=False):
    leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        nll_N = loss(*leaves, targets, softcap)
    return [nll_N.detach(), *torch.autograd.grad((nll_N * d).sum(), leaves)]


def chunked(rows):
    return lambda hidden, weight, targets, softcap: nll(hidden, weight, targets, softcap=softcap, rows=rows)


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("rows", [1, 8, N, 1000, None])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_values_and_gradients_equal_the_plain_form(rows, softcap, dtype, bound):
    hidden, weight, targets, d = given(dtype)
    wanted = differentiated(plain, hidden, weight, targets, d, softcap)
    found = differentiated(chunked(rows), hidden, weight, targets, d, softcap)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype == dtype and a.shape == b.shape
        assert (a - b).abs().max() <= bound * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_rows_without_a_target_are_left_out_and_change_nothing(share, softcap):
    hidden, weight, targets, d = given()
    gone = torch.from_numpy(stream(0, "masked").random(N)) < share
    targets = torch.where(gone, -1, targets)
    wanted = differentiated(plain, hidden, weight, targets, d, softcap)
    for a, b in zip(differentiated(chunked(8), hidden, weight, targets, d, softcap), wanted, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-12 * max(1.0, float(b.abs().max()))


def test_ignored_targets_are_zero_and_give_nothing():
    hidden, weight, targets, d = given()
    value, dh, dw = differentiated(chunked(8), hidden, weight, torch.full_like(targets, -1), d, 0.0)
    assert not value.any() and not dh.any() and not dw.any()
    value, dh, _ = differentiated(chunked(8), hidden, weight, targets, d, 0.0)
    assert (value[targets == -1] == 0).all() and (dh[targets == -1] == 0).all() and (value[targets >= 0] > 0).all()


def test_autocast_takes_products_in_bf16_and_softmax_in_fp32():
    hidden, weight, targets, d = given(torch.float32)
    for softcap in (0.0, 3.0):
        wanted = differentiated(plain, hidden, weight, targets, d, softcap, bf16=True)
        found = differentiated(chunked(8), hidden, weight, targets, d, softcap, bf16=True)
        exact = differentiated(plain, hidden.double(), weight.double(), targets, d.double(), softcap)
        # The same bf16 products, so the same logits; sums of fp32 in another order.
        assert (found[0] - wanted[0]).abs().max() <= 2e-6 * wanted[0].abs().max()
        assert (found[0] - exact[0]).abs().max() > 1e-4  # bf16 indeed
        for a, b, c in zip(found[1:], wanted[1:], exact[1:], strict=True):
            assert a.dtype == torch.float32
            assert (a - c).norm() <= 1.2 * (b - c).norm(), "as near the truth as the plain form"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nll(hidden.double(), weight.double(), targets).dtype == torch.float64


def test_bf16_hidden_states_over_an_fp32_weight_keep_their_types():
    """What a decoder under autocast hands over: the final norm may already be bf16, the master weight is fp32."""
    hidden, weight, targets, d = given(torch.float32)
    low = hidden.bfloat16()
    value, dh, dw = differentiated(chunked(8), low, weight, targets, d, 0.0, bf16=True)
    assert (value.dtype, dh.dtype, dw.dtype) == (torch.float32, torch.bfloat16, torch.float32)


def test_large_logits_do_not_overflow():
    hidden, weight, targets, d = given(torch.float32, scale=1e3)
    wanted = differentiated(plain, hidden, weight, targets, d, 0.0)
    found = differentiated(chunked(8), hidden, weight, targets, d, 0.0)
    for a, b in zip(found, wanted, strict=True):
        assert a.isfinite().all() and (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_only_what_is_asked_for_is_differentiated_and_nothing_without_gradients():
    hidden, weight, targets, _ = given()
    leaf = hidden.clone().requires_grad_()
    nll(leaf, weight, targets, rows=8).sum().backward()
    other = weight.clone().requires_grad_()
    nll(hidden, other, targets, rows=8).sum().backward()
    both = differentiated(chunked(8), hidden, weight, targets, torch.ones(N, dtype=torch.float64), 0.0)
    assert torch.equal(leaf.grad, both[1]) and torch.equal(other.grad, both[2])
    with torch.no_grad():
        assert torch.equal(nll(hidden, weight, targets, rows=8), both[0])


def test_the_same_twice():
    first, second = (differentiated(chunked(8), *given(torch.float32), 2.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_chunk_is_a_fixed_number_of_logits():
    assert chunk_rows(201_088) == AT_ONCE // 201_088 and chunk_rows(1 << 40) == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight_VD": torch.zeros(5, 3)}, r"hidden \(4, 2\), weight \(5, 3\) do not fit; give \(N, D\) and \(V, D\)"),
        ({"targets_N": torch.zeros(3, dtype=torch.int64)}, "give one integer for each of 4 rows"),
        ({"targets_N": torch.zeros(4)}, "give one integer for each of 4 rows"),
        ({"weight_VD": torch.zeros(5, 2).double()}, "hidden is torch.float32, weight torch.float64; cast them to one"),
        ({"rows": 0}, "a chunk of 0 rows; give 1 or more, or none for the committed size"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    ask = {
        "hidden_ND": torch.zeros(4, 2),
        "weight_VD": torch.zeros(5, 2),
        "targets_N": torch.zeros(4, dtype=torch.int64),
    }
    assert nll(**ask).shape == (4,)
    with pytest.raises(ValueError, match=text):
        nll(**(ask | change))


def test_peak_memory_is_below_a_quarter_of_the_plain_form_and_does_not_grow_with_rows():
    """In processes of their own, by the bench's own measure, at a size that takes a second."""
    bench = Path(__file__).resolve().parents[2] / "bench" / "loss.py"

    def peak(form: str, rows: int) -> float:
        command = [
            sys.executable,
            str(bench),
            "--one",
            form,
            "--rows",
            str(rows),
            "--vocab",
            "50000",
            "--width",
            "32",
            "--chunk",
            "64",
        ]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])

    large, small, rival = peak("chunked", 1024), peak("chunked", 512), peak("plain", 512)
    assert large < rival / 4 and large < 1.1 * small + 8, (large, small, rival)
