"""Conformance of what runs on a GPU: every executor against the fp64 oracle, the loss, the compiled step.

Collected everywhere; skipped where torch sees no CUDA device, and for no other reason.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from tests import tiny
from tests.attended import attend

from ablab.core.rng import stream
from ablab.model import compiled
from ablab.model.attention import varlen
from ablab.model.attention.attend import EXECUTORS, PAIRWISE, Documents
from ablab.model.cross_entropy import nll
from ablab.model.decoder import build
from ablab.model.parts.columns import Columns
from ablab.model.parts.pairs import Pairwise
from ablab.runtime import capacity
from ablab.training.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"
ON_GPU = [name for name, devices in EXECUTORS.items() if DEVICE in devices]
LAYOUTS = {"whole": [[384], [384]], "packed": [[1, 130, 253], [384]], "odd": [[200], [77, 123]]}
BOUNDS = {torch.float32: 3e-4, torch.bfloat16: 3e-2}


def normal(*sizes, seed=0):
    return torch.from_numpy(stream(seed, "on gpu", *sizes).standard_normal(sizes))


def ids_of(lengths):
    return torch.stack([torch.repeat_interleave(torch.arange(len(r)), torch.tensor(r)) for r in lengths])


def given(ids, heads, groups, width, dtype):
    """Tensors whose numbers `dtype` holds, in fp64."""
    batch, length = ids.shape
    sizes = {
        "q": (batch, length, heads, width),
        "k": (batch, length, groups, width),
        "v": (batch, length, groups, width),
    }
    made = {name: normal(*size, seed=n).to(dtype).double() for n, (name, size) in enumerate(sizes.items())}
    made |= {"u": normal(batch, length, heads, 1, seed=5), "w": normal(batch, length, groups, 1, seed=6).cumsum(1)}
    return made | {"row": normal(batch, length, heads, seed=7), "sink": normal(heads, seed=8)}


def run(made, ids, window, executor, dtype, device, *, columns=True, sink=True, bias=False, slopes=False):
    """Output and gradients of q, k, v, columns and sink, in fp64 on the CPU."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    types = {name: dtype if name in "qkv" else wide for name in made}
    leaves = {name: x.to(device, types[name], copy=True).requires_grad_() for name, x in made.items()}
    documents = Documents(ids.to(device))
    slope = torch.linspace(0.1, 0.4, made["q"].shape[2], device=device, dtype=wide)[None, :, None, None]
    added = Columns(leaves["u"], leaves["w"], leaves["row"]) if columns else None
    if slopes:
        fixed, place = slope.flatten(), documents.pos_BT.to(wide)[..., None]
        added = Columns(fixed[:, None].expand(1, 1, -1, 1), place[..., None], -place * fixed, (3, 2), fixed)
    ask = {
        "window": window,
        "documents": documents,
        "columns": added,
        "sink_H": leaves["sink"] if sink else None,
        "bias": Pairwise(lambda i, j: -slope * (i[:, None, :, None] - j[:, None, None]).abs(), documents.pos_BT)
        if bias
        else None,
    }
    out = attend(leaves["q"], leaves["k"], leaves["v"], executor=executor, **ask)
    loss = (out.to(wide) * normal(*out.shape, seed=77).to(device, wide)).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: x.detach().double().cpu() for name, x in zip(["out", *leaves], [out, *grads], strict=True)}


LOOSE = {"sink": 5}  # sums over all tokens what nearly cancels


def assert_near(found, wanted, bound):
    for name, b in wanted.items():
        error = float((found[name] - b).norm() / b.norm().clamp(min=1e-6))
        limit = bound * LOOSE.get(name, 1)
        assert error < limit or float((found[name] - b).abs().max()) < limit / 10, (name, error)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("executor", "dtype"),
    [(name, dtype) for name in ON_GPU for dtype in BOUNDS if name != "varlen" or dtype in varlen.TYPES],
)
def test_every_executor_equals_the_oracle(executor, dtype, layout):
    ids = ids_of(LAYOUTS[layout])
    for window, (heads, groups), columns, sink in itertools.product(
        [None, 100], [(4, 2), (2, 2)], [False, True], [False, True]
    ):
        made = given(ids, heads, groups, 32, dtype)
        wanted = run(made, ids, window, "reference", torch.float64, "cpu", columns=columns, sink=sink)
        found = run(made, ids, window, executor, dtype, DEVICE, columns=columns, sink=sink)
        assert_near(found, wanted, BOUNDS[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("executor", [name for name in ON_GPU if name != "reference"])
def test_fixed_slopes_equal_the_oracle(executor, layout):
    ids = ids_of(LAYOUTS[layout])
    for window, (heads, groups), dtype in itertools.product([None, 100], [(4, 2), (2, 2)], BOUNDS):
        if executor == "varlen" and dtype not in varlen.TYPES:
            continue
        made = given(ids, heads, groups, 32, dtype)
        wanted = run(made, ids, window, "reference", torch.float64, "cpu", slopes=True)
        assert_near(run(made, ids, window, executor, dtype, DEVICE, slopes=True), wanted, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("executor", [name for name in PAIRWISE if DEVICE in EXECUTORS[name]])
def test_pairwise_biases_equal_the_oracle(executor, dtype):
    for layout, window in itertools.product(LAYOUTS.values(), [None, 100]):
        ids = ids_of(layout)
        made = given(ids, 4, 2, 32, dtype)
        wanted = run(made, ids, window, "reference", torch.float64, "cpu", bias=True)
        assert_near(run(made, ids, window, executor, dtype, DEVICE, bias=True), wanted, BOUNDS[dtype])


@pytest.mark.parametrize("executor", [name for name in ON_GPU if name != "reference"])
def test_a_window_costs_memory_linear_in_length(executor):
    peaks = {}
    for length in (4096, 16384):
        ids = torch.zeros(1, length, dtype=torch.int64, device=DEVICE)
        q, k, v = (
            torch.randn(1, length, 4, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"
        )
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            attend(q, k, v, window=128, documents=Documents(ids), executor=executor).sum().backward()
            peaks[length] = torch.cuda.max_memory_allocated() - before
    assert peaks[16384] < 6 * peaks[4096]


def test_flex_refuses_what_it_has_no_kernel_for():
    q = torch.zeros(1, 3, 2, 8, device=DEVICE)
    with pytest.raises(
        ValueError, match=r"no kernel for heads of 8 channels in torch.float32; use 16 channels or more"
    ):
        attend(q, q, q, window=None, documents=Documents(torch.zeros(1, 3, device=DEVICE).long()), executor="flex")


@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_chunked_loss_equals_the_plain_form(bf16, softcap):
    draws = [normal(300, 64, seed=1), normal(5000, 64, seed=2)]
    targets = torch.arange(300) * 13 % 5000
    targets[::7] = -1

    def both(form):
        leaves = [x.float().to(DEVICE).requires_grad_() for x in draws]
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=bf16):
            if form == "plain":
                z = F.linear(*leaves).float()
                z = softcap * torch.tanh(z / softcap) if softcap else z
                found = F.cross_entropy(z, targets.to(DEVICE), ignore_index=-1, reduction="none")
            else:
                found = nll(*leaves, targets.to(DEVICE), softcap=softcap, rows=64)
        return [found.detach(), *torch.autograd.grad(found.sum(), leaves)]

    for a, b in zip(both("chunked"), both("plain"), strict=True):
        assert float((a - b).norm() / b.norm()) < (1e-2 if bf16 else 1e-5)


def test_the_loss_takes_less_than_a_quarter_of_the_plain_forms_memory():
    hidden = torch.randn(2048, 256, device=DEVICE, requires_grad=True)
    weight = torch.randn(100_000, 256, device=DEVICE, requires_grad=True)
    targets = torch.zeros(2048, dtype=torch.int64, device=DEVICE)
    peaks = []
    for form in (lambda: nll(hidden, weight, targets, rows=128), lambda: F.cross_entropy(hidden @ weight.T, targets)):
        hidden.grad = weight.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        form().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < peaks[1] / 4


def wide_model():
    """Heads of 16 channels: what flex needs."""
    kinds = {"L": tiny.kind("local", 8, softmax="sink"), "G": tiny.kind("global", None, position="grape_a")}
    return tiny.model(layers="LGLG", kinds=kinds, d_model=64, head_dim=16)


def test_the_compiled_model_equals_the_eager_one():
    tokens = (torch.arange(128).view(4, 32) * 7 % tiny.VOCAB).to(DEVICE)
    ids = (torch.arange(128).view(4, 32) // 20).to(DEVICE)
    plain, fast = (build(wide_model(), vocab_size=tiny.VOCAB, seed=1, device=DEVICE) for _ in range(2))
    compiled.compile_layers(fast)
    oracle = build(wide_model(), vocab_size=tiny.VOCAB, seed=1, dtype=torch.float64, executor="reference")
    wanted = oracle.nll(tokens.cpu(), tokens.roll(-1, 1).cpu(), ids.cpu())
    wanted.sum().backward()
    for model in (plain, fast):
        found = model.nll(tokens, tokens.roll(-1, 1), ids)
        found.sum().backward()
        assert float((found.cpu() - wanted).abs().max()) < 1e-4
        for (name, a), (_, b) in zip(model.named_parameters(), oracle.named_parameters(), strict=True):
            assert float((a.grad.cpu() - b.grad).norm() / b.grad.norm().clamp(min=1e-6)) < 1e-3, name


@pytest.mark.parametrize("fast", [False, True])
def test_a_learner_learns_on_a_gpu(fast):
    """bf16, fused AdamW, compiled or not: the loss of twenty steps follows the CPU's."""
    losses = {}
    for device, precision, told in (("cpu", "fp32", False), (DEVICE, capacity.precision(DEVICE), fast)):
        learner = Learner(
            tiny.settings(model=wide_model()), tiny.corpus(), seed=0, precision=precision, micro_rows=2, executor="lift",
            device=device, compiled=told,
        )  # fmt: skip
        losses[device] = [learner.step(learner.stream.batch(n), n + 1, n / 20)[0] for n in range(20)]
        assert all(p.device.type == device for p in learner.parameters.values())
    assert losses[DEVICE][-1] < losses[DEVICE][0]
    assert max(abs(a - b) for a, b in zip(*losses.values(), strict=True)) < 0.1
