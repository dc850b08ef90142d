"""What a GPU's executors compute, checked on the CPU as far as that goes.

flex: torch's own dense evaluation of the same formula and mask, forward and backward, against the oracle. Stock kernels:
the sink's arithmetic with the CPU's flash kernel in their place, and the operators' calls on tensors without storage. varlen:
the same, in its place a kernel written down here.
"""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
from tests.attended import attend

from ablab.core.rng import Draw, stream
from ablab.model.attention import choice, flex, lift, stock, varlen
from ablab.model.attention.attend import EXECUTORS, Added, Documents, executor_for
from ablab.model.parts.columns import Columns
from ablab.model.positions.composed import joined
from ablab.model.positions.grape_a import GrapeA
from ablab.model.shape import Shape


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


def by_definition(*qkv, **ask):
    return attend(*qkv, executor="reference", **ask)


def compared(run, given, documents, window, dtype, bound, oracle=by_definition):
    """`run`'s output and gradients against the oracle's, relative where they are large."""

    def both(by, dtype):
        leaves = {name: x.to(dtype, copy=True).requires_grad_() for name, x in given.items()}
        columns = Columns(leaves["u"], leaves["w"], leaves["row"]) if "u" in leaves else None
        ask = {"window": window, "documents": documents, "columns": columns, "sink_H": leaves.get("sink")}
        out = by(leaves["q"], leaves["k"], leaves["v"], scale=0.3, **ask)
        weight = normal(*out.shape, seed=77).to(dtype)
        return [out.detach(), *gradients((out * weight).sum(), list(leaves.values()))]

    for name, a, b in zip(["out", *given], both(run, dtype), both(oracle, torch.float64), strict=True):
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


def sloped(documents, heads):
    """GRAPE-A's columns in fp64, which say that they are slopes."""
    position = GrapeA(Shape(heads * 8, heads, heads, 8, 100, 256, 1)).double()
    position.init(Draw(0))
    q = torch.zeros(*documents.shape, heads, 8, dtype=torch.float64)
    return position.columns(q, q, documents.pos_BT.double())


@pytest.mark.parametrize("window", [None, 20, 150])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1)])
def test_flex_takes_fixed_slopes_without_columns(monkeypatch, heads, groups, window):
    documents, widths, fused = documents_of([[70, 1, 129], [200]]), [], flex._fused
    monkeypatch.setattr(flex, "_fused", lambda q, *rest: widths.append(q.shape[-1]) or fused(q, *rest))
    columns = sloped(documents, heads)
    assert torch.equal(columns.slope_H, -columns.row[1, 1]), "two tokens apart by one"

    def run(by):
        def slopes(q, k, v, **ask):
            return by(q, k, v, **(ask | {"columns": columns}))

        return slopes

    given = case(documents, heads, groups, 8, False, True)

    compared(run(by_flex), given, documents, window, torch.float64, 1e-11, oracle=run(by_definition))
    assert set(widths) == {8}
    both = joined([columns, columns])
    assert both.slope_H is None, "a sum of several is no slope that a kernel may take for all of them"


def test_slopes_and_documents_make_no_new_graph():
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounter()
    traced = torch.compile(flex._fused, backend=counted, fullgraph=True, dynamic=False)
    q, k = normal(1, 4, 200, 8), normal(1, 2, 200, 8, seed=1)
    for lengths in ([200], [70, 130], [1, 199], [50, 60, 90]):
        documents = documents_of([lengths])
        added = flex._sloped(sloped(documents, 4).slope_H)
        out, _ = traced(q, k, k, flex.mask(documents, 20), 0.3, added)
        wanted, _ = flex._fused(q, k, k, flex.mask(documents, 20), 0.3, added)
        torch.testing.assert_close(out, wanted)
    assert counted.frame_count == 1


# ---- varlen


def seen(launch, tokens):
    """Which keys each query of the flat batch sees, by the kernel's own arguments."""
    place = torch.arange(tokens)
    document = torch.bucketize(place, launch.edges.long(), right=True)
    distance = place[:, None] - place
    near = distance <= launch.left if launch.left >= 0 else distance >= 0
    return (document[:, None] == document) & (distance >= 0) & near


def written(q, k, v, launch):
    """Out and log-sum-exp of (N, H, K), as FlashAttention gives them."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    z = torch.einsum("ihk,jhk->hij", q, k) * launch.scale
    z = z.masked_fill(~seen(launch, len(q)), -torch.inf)
    return torch.einsum("hij,jhk->ihk", z.softmax(-1), v), z.logsumexp(-1), [torch.zeros(2), torch.zeros(0)]


def written_backward(d, q, k, v, out, lse, kept, launch):
    """FlashAttention's backward: the weights are made again from the log-sum-exp, their own sum from out."""
    assert [len(t) for t in kept] == [2, 0]
    groups, each = k.shape[1], q.shape[1] // k.shape[1]
    wide_k, wide_v = (x.repeat_interleave(each, 1) for x in (k, v))
    z = torch.einsum("ihk,jhk->hij", q, wide_k) * launch.scale
    p = (z - lse[:, :, None]).exp().masked_fill(~seen(launch, len(q)), 0)
    dp = torch.einsum("ihk,jhk->hij", d, wide_v)
    dz = p * (dp - (d * out).sum(-1).T[:, :, None]) * launch.scale
    dk, dv = torch.einsum("hij,ihk->jhk", dz, q), torch.einsum("hij,ihk->jhk", p, d)
    dk, dv = (x.unflatten(1, (groups, each)).sum(2) for x in (dk, dv))
    return torch.einsum("hij,jhk->ihk", dz, wide_k), dk, dv


WRITTEN = varlen.Kernel(written, written_backward)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("window", [None, 1, 20, 300])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1)])
def test_varlen_in_several_layouts_equals_the_oracle(columns, sink, window, heads, groups):
    documents = documents_of([[30, 1, 29], [60], [7, 53]])
    given = case(documents, heads, groups, 12, columns, sink)  # 12: padded to 16, and v is narrower than lifted q
    counted = []

    def once(*args):
        counted.append(args[3])
        return written(*args)

    def run(q, k, v, *, scale, **added):
        return varlen.varlen(q, k, v, Added(**added), scale, by=varlen.Kernel(once, written_backward))

    compared(run, given, documents, window, torch.float64, 1e-11)
    (launch,) = counted  # one launch for all documents
    assert launch.edges.tolist() == [0, 30, 31, 60, 120, 127, 180] and launch.edges.dtype == torch.int32
    assert launch.longest == 60 and launch.left == (-1 if window is None else window - 1)


@pytest.mark.parametrize("window", [None, 20])
def test_the_flash_operators_take_what_varlen_gives_them(window):
    """On the meta device: arguments and shapes are torch's own check, numbers are a GPU's."""
    documents = documents_of([[40, 24], [64]])
    left = -1 if window is None else window - 1
    launch = varlen.Launch(documents.edges.to("meta"), documents.longest, left, 0.1)
    size = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    q, k, v = (torch.empty(1, 128, h, 72, **size) for h in (4, 2, 2))
    rival = torch.empty(1, 128, 4, device="meta", requires_grad=True)
    out = stock.causal(q, k, v[..., :64], rival, 0.1, varlen._of(varlen.FLASH, launch))
    assert out.shape == (1, 128, 4, 64) and out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.sum(), (q, k, v, rival))
    assert [g.shape for g in grads] == [q.shape, k.shape, v.shape, rival.shape]


def test_varlen_refuses_what_it_has_no_kernel_for():
    added = Added(None, documents_of([[3]]))
    q = torch.zeros(1, 3, 2, 8)
    with pytest.raises(
        ValueError, match=r"'varlen' has no kernel for torch\.float32; use bf16 or fp16, or executor 'lift'"
    ):
        varlen.varlen(q, q, q, added, 1.0)
    q = torch.zeros(1, 3, 2, 264)
    with pytest.raises(ValueError, match=r"no kernel for heads of 264 channels, columns included; use at most 256"):
        varlen.varlen(q, q, q, added, 1.0, by=WRITTEN)
    odd = varlen.Kernel(lambda *ask: (written(*ask)[0], torch.zeros(1, 2, 3), []), written_backward)
    with pytest.raises(RuntimeError, match=r"gave a log-sum-exp of \(1, 2, 3\) for 2 heads of 3 tokens; use executor"):
        varlen.varlen(q[..., :8], q[..., :8], q[..., :8], added, 1.0, by=odd)


@pytest.mark.parametrize(("named", "case"), [("window", 20), ("documents", 100)])
def test_a_row_of_the_table_chooses_varlen(monkeypatch, named, case):
    row = dataclasses.replace(choice.TABLE["cuda", named], kernel="varlen")
    monkeypatch.setitem(choice.TABLE, ("cuda", named), row)
    asked = []
    monkeypatch.setattr(lift, "varlen", lambda q, k, v, added, scale: asked.append(added.window))
    q = torch.zeros(1, 60, 2, 8)
    lift.lift_cuda(q, q, q, Added(case, documents_of([[30, 30]])), 1.0)
    assert asked == [20 if named == "window" else None]


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
