"""The chunked loss equals the plain form: values, gradients, soft cap, autocast, ignored targets, refusals, memory."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.core.rng import stream
from ablab.model import cross_entropy
from ablab.model.cross_entropy import AT_ONCE, Fused, _Nll, chunk_rows, nll

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


# ---- what a GPU does, on the CPU


@pytest.fixture
def on_gpu(monkeypatch):
    """The loss with a GPU's elementwise part, by the given maker of kernels."""
    return lambda compile: monkeypatch.setattr(cross_entropy, "elementwise", lambda device: Fused(compile))


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_the_fused_elementwise_part_equals_the_one_in_place(on_gpu, dtype, bound, softcap):
    ask = (*given(dtype), softcap)
    wanted = differentiated(chunked(8), *ask)
    used = []
    on_gpu(lambda function: used.append(function) or function)
    for a, b in zip(differentiated(chunked(8), *ask), wanted, strict=True):
        assert a.dtype == dtype and (a - b).abs().max() <= bound * max(1.0, float(b.abs().max()))
    assert used


def test_the_fused_elementwise_part_under_autocast_keeps_types_and_is_as_near_the_truth(on_gpu):
    hidden, weight, targets, d = given(torch.float32)
    eager = differentiated(chunked(8), hidden, weight, targets, d, 3.0, bf16=True)
    exact = differentiated(plain, hidden.double(), weight.double(), targets, d.double(), 3.0)
    on_gpu(lambda function: function)
    for a, b, c in zip(differentiated(chunked(8), hidden, weight, targets, d, 3.0, bf16=True), eager, exact):
        assert a.dtype == b.dtype == torch.float32 and (a - c).norm() <= 1.2 * (b - c).norm()


def test_numbers_of_rows_make_no_new_graph(on_gpu):
    """Of one row one graph, of more another, whatever was masked; forward and backward each."""
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")
    on_gpu(functools.cache(lambda function: torch.compile(function, backend=counted, fullgraph=True)))
    hidden, weight, _, _ = given(torch.float32)
    for rows in (2, 5, 7, 11, 36, N):
        leaf = hidden[:rows].clone().requires_grad_()
        found = nll(leaf, weight, torch.arange(rows), rows=10)
        assert found.isfinite().all() and torch.autograd.grad(found.sum(), leaf)[0].any()
    assert counted.frame_count == 4


class Calls(TorchDispatchMode):
    """Names of the operators called."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "chunks"), [("cpu", 99), ("cuda", 13)])
def test_how_often_a_large_vocabularys_gradient_is_read_is_a_matter_of_the_device(monkeypatch, device, chunks):
    """32,768 rows over 201,088 words, on tensors without storage: each chunk is four products and one pass over dW."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    elementwise = cross_entropy.elementwise if device == "cpu" else lambda _: Fused(lambda function: function)
    monkeypatch.setattr(cross_entropy, "elementwise", elementwise)
    rows, vocab, width = 32_768, 201_088, 768
    hidden, weight = (torch.empty(n, width, device="meta", requires_grad=True) for n in (rows, vocab))
    targets = torch.empty(rows, device="meta", dtype=torch.long)
    with Calls() as called:
        size = chunk_rows(vocab, device)
        _Nll.apply(hidden, weight, targets, 0.0, size, torch.bfloat16).sum().backward()
    assert sum(name.startswith("aten.mm") for name in called.names) == 4 * chunks
    assert -(-rows // size) == chunks
