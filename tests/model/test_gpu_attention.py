"""What a GPU's executors compute, checked on the CPU as far as that goes.

flex: torch's own dense evaluation of the same formula and mask, forward and backward, against the oracle. Stock kernels:
the sink's arithmetic with the CPU's flash kernel in their place, and the operators' calls on tensors without storage.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from tests.attended import attend

from ablab.core.rng import stream
from ablab.model.attention import choice, flex, lift, stock
from ablab.model.attention.attend import EXECUTORS, Added, Documents, executor_for
from ablab.model.parts.columns import Columns


def normal(*sizes, seed=0):
    return torch.from_numpy(stream(seed, "gpu attention", *sizes).standard_normal(sizes))


@pytest.fixture(scope="module", autouse=True)
def dense_flex():
    """FlexAttention uncompiled and with a backward on the CPU: torch refuses that only because it has no kernel for it."""
    torch_flex = importlib.import_module("torch.nn.attention.flex_attention")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        patch.setattr(torch_flex, "_validate_device", lambda *_: None)
        yield


def documents_of(lengths):
    return Documents(torch.stack([torch.repeat_interleave(torch.arange(len(r)), torch.tensor(r)) for r in lengths]))


def case(documents, heads, groups, width, columns, sink):
    batch, length = documents.shape
    sizes = [(batch, length, heads, width), (batch, length, groups, width), (batch, length, groups, width)]
    given = {name: normal(*size, seed=n) for n, (name, size) in enumerate(zip("qkv", sizes))}
    if columns:
        place = documents.pos_BT.double()[..., None, None]
        given |= {"u": normal(batch, length, heads, 2, seed=4), "row": normal(batch, length, heads, seed=6)}
        given["w"] = normal(batch, length, groups, 2, seed=5) + place
    if sink:
        given["sink"] = normal(heads, seed=7)
    return given


def gradients(loss, leaves):
    """Zeros where nothing depends: without a sink no one sees the columns' row."""
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def by_flex(q, k, v, *, scale, **added):
    return flex.flex(q, k, v, Added(**added), scale)


def compared(run, given, documents, window, dtype, bound):
    """`run`'s output and gradients against the oracle's, relative where they are large."""

    def both(by, dtype):
        leaves = {name: x.to(dtype, copy=True).requires_grad_() for name, x in given.items()}
        columns = Columns(leaves["u"], leaves["w"], leaves["row"]) if "u" in leaves else None
        ask = {"window": window, "documents": documents, "columns": columns, "sink_H": leaves.get("sink")}
        out = by(leaves["q"], leaves["k"], leaves["v"], scale=0.3, **ask)
        weight = normal(*out.shape, seed=77).to(dtype)
        return [out.detach(), *gradients((out * weight).sum(), list(leaves.values()))]

    oracle = both(lambda *a, **ask: attend(*a, executor="reference", **ask), torch.float64)
    for name, a, b in zip(["out", *given], both(run, dtype), oracle, strict=True):
        assert (a.double() - b).abs().max() <= bound * max(1.0, float(b.abs().max())), name


@pytest.mark.parametrize(
    ("lengths", "window", "heads", "columns", "sink"),
    [
        ([150], None, (4, 2), True, True),
        ([70, 1, 79], 20, (2, 2), True, False),
        ([90, 60], None, (3, 1), False, True),
        ([1], 1, (1, 1), True, True),
        ([131, 9], 300, (4, 2), False, False),
    ],
)
def test_flex_in_several_layouts_equals_the_oracle(lengths, window, heads, columns, sink):
    documents = documents_of([lengths, list(reversed(lengths))])
    given = case(documents, *heads, 8, columns, sink)
    compared(by_flex, given, documents, window, torch.float64, 1e-11)


@pytest.mark.parametrize("window", [None, 128])
def test_flex_across_blocks_of_the_mask(window):
    documents = documents_of([[600], [130, 126, 344]])
    given = case(documents, 2, 1, 8, True, True)
    compared(by_flex, given, documents, window, torch.float64, 1e-11)
    compared(by_flex, given, documents, window, torch.float32, 3e-4)  # columns up to 600: 2^-24 of them, summed


@pytest.mark.parametrize("lengths", [[[512]], [[128, 128, 256], [100, 300, 112]], [[1, 510, 1], [511, 1]], [[300]]])
@pytest.mark.parametrize("window", [None, 1, 100, 128, 129, 300])
def test_the_mask_meets_the_blocks_in_sight_and_no_others(lengths, window):
    documents = documents_of(lengths)
    found = flex.mask(documents, window)
    assert flex.mask(documents, window) is found
    length = documents.shape[1]
    edge = -length % flex.BLOCK
    seen = documents.visible_BTS(window)
    tiles = torch.nn.functional.pad(seen, (0, edge, 0, edge)).unfold(1, flex.BLOCK, flex.BLOCK)
    tiles = tiles.unfold(2, flex.BLOCK, flex.BLOCK)
    real = torch.nn.functional.pad(torch.ones_like(seen), (0, edge, 0, edge)).unfold(1, flex.BLOCK, flex.BLOCK)
    real = real.unfold(2, flex.BLOCK, flex.BLOCK)
    some, every = tiles.flatten(3).any(-1), (tiles | ~real).flatten(3).all(-1)

    def blocks(counts, places):
        chosen = torch.zeros_like(some)
        for b, i in torch.cartesian_prod(*(torch.arange(n) for n in some.shape[:2])).tolist():
            chosen[b, i, places[b, 0, i, : counts[b, 0, i]].long()] = True
        return chosen

    partly = blocks(found.kv_num_blocks, found.kv_indices)
    wholly = blocks(found.full_kv_num_blocks, found.full_kv_indices)
    assert torch.equal(partly | wholly, some) and not (partly & wholly).any()
    assert not (wholly & ~every).any(), "a block that is called whole is"
    assert torch.equal(wholly, every & some) or length % flex.BLOCK, "and each whole one is called so"


def test_flex_is_linear_in_blocks_under_a_window():
    counts = {}
    for length in (1024, 4096):
        found = flex.mask(documents_of([[length]]), 128)
        counts[length] = int((found.kv_num_blocks + found.full_kv_num_blocks).sum())
    assert counts == {1024: 15, 4096: 63}  # the block itself and the one before it


def test_flex_has_gradients_through_the_sinks_own_logsumexp():
    documents = documents_of([[40]])
    compared(by_flex, case(documents, 2, 2, 8, False, True), documents, None, torch.float64, 1e-12)


def test_flex_compiles_in_one_graph():
    """Traced whole by torch.compile (whose CPU backend has no training kernel): nothing in it breaks the graph."""
    documents = documents_of([[40, 30]])
    added = Added(16, documents, sink_H=normal(4, seed=3))
    q, k, v = normal(1, 70, 4, 8), normal(1, 70, 2, 8, seed=1), normal(1, 70, 2, 8, seed=2)
    wanted = flex.flex(q, k, v, added, 0.3)
    traced = torch.compile(flex.flex, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(traced(q, k, v, added, 0.3), wanted)


# ---- stock kernels

CPU_FLASH = stock.Stock(
    lambda q, k, v, scale: (
        *torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale),
        [],
    ),
    lambda d, q, k, v, out, lse, kept, scale: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d, q, k, v, out, lse, 0.0, True, scale=scale
    ),
)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (3, 1)])
def test_full_rows_by_a_stock_kernel_equal_the_oracle(columns, sink, heads, groups):
    documents = documents_of([[90], [90]])
    given = case(documents, heads, groups, 12, columns, sink)  # 12: padded to 16, and v is narrower than lifted q

    def run(q, k, v, *, scale, **added):
        return lift.lift_cuda(q, k, v, Added(**added), scale, by=CPU_FLASH)

    compared(run, given, documents, None, torch.float64, 1e-11)
    compared(run, given, documents, 90, torch.float64, 1e-11)  # a window as long as the row


@pytest.mark.parametrize(("by", "dtype"), [(stock.FLASH, torch.bfloat16), (stock.EFFICIENT, torch.float32)])
@pytest.mark.parametrize("length", [64, 70])
def test_the_stock_operators_take_what_they_are_given(by, dtype, length):
    """On the meta device: arguments and shapes are torch's own check, numbers are a GPU's."""
    size = {"device": "meta", "dtype": dtype, "requires_grad": True}
    q, k, v = (torch.empty(2, length, h, 72, **size) for h in (4, 2, 2))
    rival = torch.empty(2, length, 4, device="meta", requires_grad=True)
    out = stock.causal(q, k, v[..., :64], rival, 0.1, by)
    assert out.shape == (2, length, 4, 64) and out.dtype == dtype
    grads = torch.autograd.grad(out.sum(), (q, k, v, rival))
    assert [g.shape for g in grads] == [q.shape, k.shape, v.shape, rival.shape]


def test_stock_kernels_refuse_what_they_have_no_kernel_for():
    q = torch.zeros(1, 3, 2, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no stock kernel of a GPU takes torch\.float64; use bf16, fp16 or fp32"):
        stock.causal(q, q, q, None, 1.0)


# ---- the table


def test_every_case_of_both_devices_has_a_row_and_unmeasured_rows_say_so():
    assert set(choice.TABLE) == {(device, case) for device in ("cpu", "cuda") for case in choice.CASES}
    for (device, case), row in choice.TABLE.items():
        assert device in EXECUTORS[row.executor] and row.because
        assert row.measured == choice.UNMEASURED or row.measured.startswith("bench/results/"), (device, case)
        assert executor_for(device, pairwise=case == "pairwise") == row.executor


def test_the_case_is_that_of_the_shape():
    whole, packed = documents_of([[40]]), documents_of([[30, 10]])
    assert [lift.case_of(w, whole) for w in (None, 40, 100, 39)] == ["full", "full", "full", "window"]
    assert [lift.case_of(w, packed) for w in (None, 40, 5)] == ["documents", "documents", "window"]


def test_flex_is_refused_on_the_cpu_and_takes_no_pairwise_bias():
    q = torch.zeros(1, 3, 2, 8)
    with pytest.raises(ValueError, match="executor 'flex' does not run on 'cpu'; use 'reference'"):
        attend(q, q, q, window=None, documents=documents_of([[3]]), executor="flex")
