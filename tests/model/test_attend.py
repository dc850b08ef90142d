"""The attention core by itself: published numbers, windows, documents, sinks, accuracy, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.attended import attend

from ablab.core.rng import stream
from ablab.model.attention import blocked as blocked_module
from ablab.model.attention import lift as lift_module
from ablab.model.attention import rows as rows_module
from ablab.model.attention.attend import EXECUTORS, PAIRWISE, Documents, executor_for
from ablab.model.attention.kernel import flash
from ablab.model.parts.columns import Columns
from ablab.model.parts.pairs import Pairwise

GOLDEN = Path(__file__).parents[1] / "golden"
BOTH = pytest.mark.parametrize("executor", [name for name, devices in EXECUTORS.items() if "cpu" in devices])


def whole(batch, length):
    return Documents(torch.zeros(batch, length, dtype=torch.int64))


def normal(*sizes, seed=0, dtype=torch.float64):
    return torch.from_numpy(stream(seed, "attend", *sizes).standard_normal(sizes)).to(dtype)


def alibi(documents, slope_H):
    slope_H = torch.as_tensor(slope_H, dtype=torch.float64)
    place = documents.pos_BT.double()
    return Columns(slope_H[None, None, :, None], place[..., None, None], -place[..., None] * slope_H, parts=(3, 2))


def one_head(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, :, None]


# ---- published numbers


@BOTH
@pytest.mark.parametrize(
    ("slope", "sink", "wanted"),
    [
        (None, None, [1.0, 1.0]),
        (0.5, None, [1.1992845053, 1.3201566678]),
        (0.5, 0.0, [1.0678019330, 1.1754223751]),
        (0.5, 0.7, [0.9609950707, 1.0578507808]),
    ],
)
def test_three_tokens_by_hand(executor, slope, sink, wanted):
    documents = whole(1, 3)
    out = attend(
        one_head([[1, 0], [0, 1], [1, 1]]),
        one_head([[1, 1], [0, 2], [2, 0]]),
        one_head([[1, 0], [0, 1], [2, 2]]),
        window=None,
        documents=documents,
        columns=None if slope is None else alibi(documents, [slope]),
        sink_H=None if sink is None else torch.tensor([sink], dtype=torch.float64),
        executor=executor,
    )
    assert out[0, 2, 0].tolist() == pytest.approx(wanted, abs=2e-10)


@BOTH
@pytest.mark.parametrize("short", [0, 512])
@pytest.mark.parametrize("window", [None, 3])
def test_sink_takes_mass_and_its_gradient_is_minus_its_share(executor, window, short, monkeypatch):
    monkeypatch.setattr(lift_module, "SHORT", short)
    # Five tokens; the last sees logits 1, 2, 3 (behind two keys that count for nothing).
    logits = [[-1e4], [-1e4], [1.0], [2.0], [3.0]]
    sink = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)

    def run(v):
        q = one_head([[1.0]] * 5).expand(1, 5, 1, v.shape[-1])
        k = torch.nn.functional.pad(one_head(logits), (0, v.shape[-1] - 1))
        return attend(q, k, v, window=window, documents=whole(1, 5), sink_H=sink, scale=1.0, executor=executor)[0, 4, 0]

    p = run(torch.nn.functional.pad(torch.eye(3, dtype=torch.float64), (0, 0, 2, 0))[None, :, None])
    assert p.tolist() == pytest.approx([0.0853688935, 0.2320567119, 0.6307955432], abs=2e-10)
    out = run(one_head([[9.0], [9.0], [1.0], [0.0], [2.0]]))
    assert out.item() == pytest.approx(1.3469599800, abs=2e-10)
    (slope,) = torch.autograd.grad(out.sum(), sink)
    assert slope.item() == pytest.approx(-0.0697440405, abs=2e-10)


def seen_by(executor, length, window, documents=None):
    """Which keys have weight, read off the values: v is the identity."""
    eye = torch.eye(length, dtype=torch.float64)[None, :, None]
    return attend(
        torch.zeros_like(eye),
        torch.zeros_like(eye),
        eye,
        window=window,
        documents=documents or whole(1, length),
        executor=executor,
    )[0, :, 0]


@BOTH
def test_window_128_is_128_tokens_the_current_one_included(executor):
    weight = seen_by(executor, 300, 128)
    golden = load_file(GOLDEN / "sliding_window_mask.safetensors")
    mask = np.unpackbits(golden["mask_packed"].numpy(), axis=1)[:, :300].astype(bool)
    assert torch.equal(weight > 0, torch.from_numpy(mask))
    assert torch.equal((weight > 0).sum(1).int(), golden["row_counts"])
    assert (weight[299] > 0).nonzero().flatten().tolist() == list(range(172, 300))
    assert (weight[128] > 0).nonzero()[0].item() == 1


def test_pairs_under_a_window_of_128_are_the_published_counts():
    for length, full, narrow, wide in [
        (1024, 524800, 122944, 123840),
        (2048, 2098176, 254016, 255936),
    ]:
        documents = whole(1, length)
        # Megatron's (127, 0) is a window of 128 tokens, its (128, 0) one of 129.
        for window, wanted in [(None, full), (128, narrow), (129, wide)]:
            assert int(documents.visible_BTS(window).sum()) == wanted
    assert int(whole(1, 4096).visible_BTS(128).sum()) == 516160
    seen = whole(1, 300).visible_BTS(129)[0]
    assert seen[299].nonzero().flatten().tolist() == list(range(171, 300)) and seen[128].nonzero()[0].item() == 0


# ---- documents


def test_documents_know_places_segments_and_plans():
    documents = Documents(torch.tensor([[7, 7, 3, 3, 3, 7], [7, 5, 5, 5, 5, 5]]))
    assert documents.pos_BT.tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4]]
    assert documents.segment_BT.tolist() == [[0, 0, 1, 1, 1, 2], [3, 4, 4, 4, 4, 4]]
    assert documents.lengths.tolist() == [2, 3, 1, 1, 5] and documents.longest == 5 and not documents.whole
    laid = torch.cat([s.index.flatten() for s in documents.stretches])
    assert torch.equal(laid[documents.back], torch.arange(12))
    assert whole(3, 4).whole


def test_like_documents_share_a_kernel_call():
    lengths = [1] * 20 + [60, 64, 100, 128]
    ids = torch.repeat_interleave(torch.arange(24), torch.tensor(lengths))[None]
    sizes = [tuple(s.index.shape) for s in Documents(ids).stretches]
    assert sizes == [(20, 1), (2, 64), (2, 128)]


@pytest.mark.parametrize(
    "bad", [torch.zeros(4, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.int64)]
)
def test_documents_refuse_what_is_no_batch_of_ids(bad):
    with pytest.raises(ValueError, match=r"but ids are \(B, T\) integers"):
        Documents(bad)


@BOTH
def test_only_the_own_document_is_seen(executor):
    ids = torch.tensor([[4, 4, 4, 1, 1, 4, 4, 4, 4]])
    for window in (None, 2, 3):
        weight = seen_by(executor, 9, window, Documents(ids)) > 0
        assert torch.equal(weight, Documents(ids).visible_BTS(window)[0])
        assert not weight[5:, :5].any()  # the same id further left is another document


# ---- agreement


def case(lengths, heads, groups, width, seed=0):
    ids = torch.stack([torch.repeat_interleave(torch.arange(len(r)), torch.tensor(r)) for r in lengths])
    batch, length = ids.shape
    shapes = [(batch, length, heads, width), (batch, length, groups, width), (batch, length, groups, width)]
    q, k, v = (normal(*s, seed=seed + n) for n, s in enumerate(shapes))
    return Documents(ids), q, k, v, normal(heads, seed=seed + 9)


def both(documents, q, k, v, sink, window, slopes, dtype, executor):
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in (q, k, v, sink)]
    columns = None if slopes is None else alibi(documents, slopes)
    out = attend(*leaves[:3], window=window, documents=documents, columns=columns, sink_H=leaves[3], executor=executor)
    weight = normal(*out.shape, seed=77).to(dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def check(args, dtype, bound):
    wanted, found = both(*args, torch.float64, "reference"), both(*args, dtype, "lift")
    for a, b in zip(found, wanted):
        assert (a - b).abs().max() <= bound * max(1.0, float(b.abs().max()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(1, 120)),
    st.sampled_from([(1, 1), (3, 1), (4, 2), (2, 2)]),
    st.booleans(),
    st.sampled_from([0, 512]),
)
def test_any_layout_equals_the_oracle(lengths, window, heads, biased, short):
    rows = [lengths, list(reversed(lengths))]
    args = (*case(rows, *heads, 4), window, [0.3 * (h + 1) for h in range(heads[0])] if biased else None)
    before, lift_module.SHORT = lift_module.SHORT, short
    try:
        check(args, torch.float64, 1e-11)
    finally:
        lift_module.SHORT = before


@pytest.mark.parametrize("window", [None, 130, 600])
def test_long_rows_with_windows_beyond_one_tile_of_the_kernel(window):
    """Keys by the hundred, of which a document sees few: whole tiles of the mask are empty."""
    args = (*case([[1300], [50, 1, 700, 549]], 2, 1, 8), window, [0.5, 0.01])
    check(args, torch.float64, 1e-11)
    check(args, torch.float32, 4 * (1e-6 + 2**-24 * 0.5 * (window or 1300)))


def test_fp32_error_is_bounded_by_the_largest_column():
    documents, q, k, v, sink = case([[2048]], 1, 1, 64)
    for window, slope in itertools.product([None, 128], [2**-0.25, 2**-8]):
        columns = alibi(documents, [slope])
        ask = {"window": window, "documents": documents, "columns": columns}
        rounded = [t.float() for t in (q, k, v, sink)]
        exact = [t.double() for t in rounded]
        wanted = attend(*exact[:3], sink_H=exact[3], executor="reference", **ask)
        found = attend(*rounded[:3], sink_H=rounded[3], executor="lift", **ask)
        largest = slope * (blocked_module.BLOCK if window is None else 128)
        assert (found - wanted).abs().max() <= float(v.abs().max()) * (1e-6 + 2**-24 * largest)


def test_grouped_keys_are_read_where_they_lie():
    """The kernel takes fewer key heads than query heads: nothing is repeated on the way, and gradients come back
    summed.
    """
    q, k, v = normal(2, 9, 6, 8), normal(2, 9, 2, 8, seed=1), normal(2, 9, 2, 8, seed=2)
    wide = [t.repeat_interleave(3, 2) for t in (k, v)]
    assert torch.equal(flash(q, k, v, None, None, 0.3), flash(q, *wide, None, None, 0.3))


# ---- sinks


@pytest.mark.parametrize("short", [0, 512])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("slopes", [None, [0.5, 0.1]])
def test_a_sink_of_minus_ten_thousand_is_no_sink_bit_for_bit(window, slopes, short, monkeypatch):
    monkeypatch.setattr(lift_module, "SHORT", short)
    documents, q, k, v, _ = case([[90], [40, 50]], 2, 1, 8)

    def run(sink):
        leaves = [t.float().requires_grad_() for t in (q, k, v)]
        columns = None if slopes is None else alibi(documents, slopes)
        out = attend(*leaves, window=window, documents=documents, columns=columns, sink_H=sink, executor="lift")
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    for a, b in zip(run(None), run(torch.full((2,), -1e4))):
        assert torch.equal(a, b)


@BOTH
def test_a_sink_is_not_shifted_by_the_bias(executor):
    """A document far into its row: dropping the bias's row constant without repair would drown the sink."""
    documents = whole(1, 400)
    q = k = torch.zeros(1, 400, 1, 4)
    v = torch.ones(1, 400, 1, 4)
    out = attend(
        q,
        k,
        v,
        window=None,
        documents=documents,
        columns=alibi(documents, [0.5]),
        sink_H=torch.zeros(1),
        executor=executor,
    )
    mass = 1 / (1 - np.exp(-0.5))  # of the keys: 1 + e^-0.5 + e^-1 + ...
    assert out[0, 399, 0, 0].item() == pytest.approx(mass / (1 + mass), abs=1e-5)


def test_bf16_columns_lose_nothing():
    """In bf16 places beyond 256 have no neighbours; split in parts they have."""
    documents = whole(1, 3000)
    q = k = torch.zeros(1, 3000, 1, 8, dtype=torch.bfloat16)
    v = torch.arange(3000, dtype=torch.float32).remainder(2)[None, :, None, None].expand(1, 3000, 1, 8)
    slope = 2**-0.5
    for window in (None, 700):
        out = attend(
            q, k, v.bfloat16(), window=window, documents=documents, columns=alibi(documents, [slope]), executor="lift"
        )
        assert out[0, 2999, 0, 0].item() == pytest.approx(1 / (1 + np.exp(-slope)), abs=4e-3)


@pytest.mark.parametrize("window", [None, 20])
def test_bf16_columns_pass_gradients_on(window):
    documents, q, k, v, sink = case([[60]], 4, 2, 8)
    q, k, v = (t.bfloat16() for t in (q, k, v))
    columns = normal(1, 60, 4, 1, seed=5), normal(1, 60, 2, 1, seed=6), normal(1, 60, 4, seed=7)

    def run(dtype, executor):
        leaves = [t.to(dtype if n < 3 else torch.float64, copy=True) for n, t in enumerate((q, k, v, sink, *columns))]
        leaves = [t.requires_grad_() for t in leaves]
        ask = {"window": window, "documents": documents, "columns": Columns(*leaves[4:]), "sink_H": leaves[3]}
        out = attend(*leaves[:3], executor=executor, **ask)
        return torch.autograd.grad(out.double().square().sum(), leaves)

    for a, b in zip(run(torch.bfloat16, "lift"), run(torch.float64, "reference")):
        assert (a.double() - b).abs().max() < 2e-2 * b.abs().max()


# ---- choice and refusals


def test_executors_come_from_the_table():
    assert executor_for("cpu") == "lift" and executor_for("cuda:1") == "lift"
    assert executor_for("cpu", pairwise=True) == "lift" and executor_for("cuda", pairwise=True) == "lift"
    with pytest.raises(ValueError, match="no attention executor runs on 'meta'; known: cpu, cuda"):
        executor_for("meta")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"executor": "fast"}, "no attention executor is called 'fast'; known: lift, flex, varlen, reference"),
        ({"window": 0}, "window is 0, but a token sees itself; give 1 or more, or none for full attention"),
        (
            {"documents": whole(2, 5)},
            r"documents describe \(2, 5\) tokens, but q has \(2, 6\); build them from this batch",
        ),
        ({"sink_H": torch.zeros(3)}, r"sink is \(3,\), but there are 4 heads; give one logit for each"),
        (
            {"k_BSGK": torch.zeros(2, 6, 3, 8)},
            r"k \(2, 6, 3, 8\), .* do not fit; give q \(B, T, H, K\) and k, v \(B, T, G, K\)",
        ),
        (
            {"q_BTHK": torch.zeros(2, 6, 4, 8, dtype=torch.bfloat16)},
            "q is torch.bfloat16, k torch.float32, .*; cast them to one dtype",
        ),
        (
            {"columns": alibi(whole(2, 5), [1.0] * 4)},
            r"columns have row \(2, 5, 4\), but q has \(2, 6, 4\); give one for each head",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(change, text):
    kv = torch.zeros(2, 6, 2, 8)
    ask = {
        "q_BTHK": torch.zeros(2, 6, 4, 8),
        "k_BSGK": kv,
        "v_BSGK": kv,
        "window": None,
        "documents": whole(2, 6),
        "executor": "lift",
    }
    assert attend(**ask).shape == (2, 6, 4, 8)
    with pytest.raises(ValueError, match=text):
        attend(**(ask | change))


def test_lift_refuses_other_devices():
    q = torch.zeros(1, 3, 2, 8, device="meta")
    with pytest.raises(ValueError, match="executor 'lift' does not run on 'meta'; use 'reference'"):
        attend(q, q, q, window=None, documents=whole(1, 3), executor="lift")


def test_what_the_kernel_cannot_do_raises_instead_of_falling_back():
    q = torch.zeros(1, 3, 2, 8, dtype=torch.complex64)
    with pytest.raises(RuntimeError, match="flash_attention"):
        attend(q, q, q, window=None, documents=whole(1, 3), executor="lift")


@BOTH
@pytest.mark.parametrize("window", [None, 5])
def test_autocast_does_not_reach_inside(executor, window):
    documents, q, k, v, sink = case([[40]], 2, 1, 8)
    q, k, v, sink = (t.float() for t in (q, k, v, sink))
    ask = {"window": window, "documents": documents, "sink_H": sink, "executor": executor}
    plain = attend(q, k, v, **ask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(q, k, v, **ask), plain)


# ---- pairwise biases


def test_a_pairwise_bias_that_is_columns_adds_what_the_columns_add():
    documents, q, k, v, _ = case([[12]], 2, 1, 4)
    columns = alibi(documents, [0.5, 0.1])
    slope = torch.tensor([0.5, 0.1], dtype=torch.float64)[None, :, None, None]
    pairwise = Pairwise(lambda i, j: -slope * (i[:, None, :, None] - j[:, None, None]), documents.pos_BT)
    ask = {"window": None, "documents": documents}
    wanted = attend(q, k, v, columns=columns, executor="reference", **ask)
    for executor in PAIRWISE:
        torch.testing.assert_close(attend(q, k, v, bias=pairwise, executor=executor, **ask), wanted)


def paired(documents, q, k, v, sink, window, slopes, dtype, executor):
    """Output and gradients, of a bias that reads places (a learned tensor and integers) and a parameter."""
    batch, length, heads = q.shape[:3]
    place, table = normal(batch, length, heads, 3, seed=5), normal(heads, 7, seed=6)
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in (q, k, v, sink, place, table)]

    def of(query, key):
        content = torch.einsum("bthp,bshp->bhts", query[0], key[0]).tanh()
        distance = query[1][:, None, :, None] - key[1][:, None, None, :]
        return content + leaves[5][torch.arange(heads)[:, None, None], distance.clamp(0, 6)]

    columns = None if slopes is None else alibi(documents, slopes)
    ask = {"window": window, "documents": documents, "columns": columns, "sink_H": leaves[3], "executor": executor}
    out = attend(*leaves[:3], bias=Pairwise(of, (leaves[4], documents.pos_BT)), **ask)
    weight = normal(*out.shape, seed=77).to(dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(1, 120)),
    st.sampled_from([(1, 1), (3, 1), (4, 2), (2, 2)]),
    st.booleans(),
    st.sampled_from([3, 16, 64]),
    st.sampled_from([1, 1 << 22]),
)
def test_pairwise_in_any_layout_equals_the_oracle(lengths, window, heads, biased, block, many):
    rows = [lengths, list(reversed(lengths))]
    args = (*case(rows, *heads, 4), window, [0.3 * (h + 1) for h in range(heads[0])] if biased else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCKS", ())
        patch.setattr(rows_module, "LONG", block)
        patch.setattr(rows_module, "SCORES", many)
        for dtype, bound in [(torch.float64, 1e-11), (torch.float32, 1e-5)]:
            found, wanted = paired(*args, dtype, "lift"), paired(*args, torch.float64, "reference")
            for a, b in zip(found, wanted):
                assert (a - b).abs().max() <= bound * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize(("window", "most"), [(None, 16), (65, 2), (66, 3)])
def test_pairwise_touches_the_keys_in_reach_only(window, most, monkeypatch):
    """One document of 1024 tokens, and 16 of 64 whose blocks never look back."""
    monkeypatch.setattr(rows_module, "LONG", 64)
    for lengths, widest in [([1024], most), ([64] * 16, 1)]:
        documents, q, k, v, _ = case([lengths], 1, 1, 4)
        seen = []

        def of(query, key, seen=seen):
            seen.append(key.shape[1] // 64)
            return torch.zeros(1, 1, query.shape[1], key.shape[1])

        attend(q, k, v, window=window, documents=documents, bias=Pairwise(of, documents.pos_BT), executor="lift")
        assert max(seen) == widest and len(seen) == 16


def test_pairwise_in_bf16_keeps_its_bias():
    documents, q, k, v, _ = case([[60]], 2, 1, 8)
    of = Pairwise(lambda i, j: -(2**-8) * (i[:, None, :, None] - j[:, None, None]) + 300.0, documents.pos_BT)
    ask = {"window": None, "documents": documents, "bias": of}
    out = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), executor="lift", **ask)
    wanted = attend(*(t.bfloat16().double() for t in (q, k, v)), executor="reference", **ask)
    assert out.dtype == torch.bfloat16 and (out.double() - wanted).abs().max() < 1e-2


def test_pairwise_keeps_no_scores_for_backward():
    """Blocks are made once in forward and again in backward, none larger than a block of queries by all keys."""
    documents, q, k, v, _ = case([[600]], 1, 1, 4)
    sizes, q = [], q.requires_grad_()

    def of(query, key):
        sizes.append(query.shape[1] * key.shape[1])
        return (query[:, None, :, None] - key[:, None, None, :]).double()

    out = attend(q, k, v, window=None, documents=documents, bias=Pairwise(of, documents.pos_BT), executor="lift")
    blocks = -(-600 // rows_module.LONG)
    assert len(sizes) == blocks
    out.sum().backward()
    assert sizes == [*sizes[:blocks], *sizes[blocks - 1 :: -1]] and max(sizes) <= rows_module.LONG * 600
    with torch.no_grad():
        attend(q, k, v, window=None, documents=documents, bias=Pairwise(of, documents.pos_BT), executor="lift")
    assert len(sizes) == 3 * blocks


# ---- long biases


def running_bias(length, heads, seed=0):
    """FoX's columns of gates about one half, and the running sums (length, heads) they come from; fp64."""
    sums = torch.nn.functional.logsigmoid(normal(1, length, heads, seed=seed)).cumsum(1)
    u = torch.eye(heads, dtype=torch.float64).expand(1, 1, heads, heads)
    return Columns(u, -sums[:, :, None], sums, parts=(1, 3)), sums[0]


@pytest.mark.parametrize("sink", [False, True])
def test_late_rows_of_a_long_bias_are_exact_too(sink):
    """fp32 holds a bias of -2,400 to 1e-4: near keys must not be measured from the row's first token."""
    length, heads = 3000, 2
    columns, sums = running_bias(length, heads)
    q, k, v = (normal(1, length, heads, 16, seed=seed) for seed in (1, 2, 3))
    k = k[:, :, :1]  # one kv head for both
    sink_H = torch.tensor([0.5, -1.0], dtype=torch.float64) if sink else None
    out = attend(
        q.float(),
        k.float(),
        v[:, :, :1].float(),
        window=None,
        documents=whole(1, length),
        columns=columns,
        sink_H=None if sink_H is None else sink_H.float(),
        executor="lift",
    )
    assert float(sums[-1].max()) < -2000
    for first in (0, 1400, length - 64):
        rows = slice(first, first + 64)
        z = torch.einsum("thk,sk->hts", q[0, rows].float().double(), k[0, :, 0].float().double()) / 4
        z = z + (sums[rows, None] - sums[None]).permute(2, 0, 1)
        z = z.masked_fill(torch.arange(length) > torch.arange(first, first + 64)[:, None], -torch.inf)
        rival = torch.full_like(z[..., :1], -torch.inf) if sink_H is None else sink_H[:, None, None].expand(2, 64, 1)
        p = torch.cat([z, rival], -1).softmax(-1)[..., :-1]
        wanted = torch.einsum("hts,sk->thk", p, v[0, :, 0].float().double())
        assert float((out[0, rows].double() - wanted).abs().max()) < 3e-5, first


@pytest.mark.parametrize("block", [1, 8, 24, 39])
@pytest.mark.parametrize("lengths", [[40], [1, 25, 14]])
def test_blocks_of_a_full_row_are_the_row(block, lengths, monkeypatch):
    """Outputs, gradients of everything, and no bit of an earlier row from a later token; u of every row or one for all."""
    monkeypatch.setattr(blocked_module, "BLOCK", block)
    documents = Documents(torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(2, -1))
    given = [normal(2, 40, 4, 8, seed=1), *(normal(2, 40, 2, 8, seed=seed) for seed in (2, 3))]
    u, w = normal(2, 40, 4, 3, seed=4), normal(2, 40, 2, 3, seed=5).cumsum(1)
    row = -torch.einsum("bthr,bthr->bth", u, w.repeat_interleave(2, 2))
    for columns in ((u, w, row), (u[:1, :1], w[:, :, :1], row)):
        leaves = [x.clone().requires_grad_() for x in (*given, *columns, normal(4, seed=6))]
        found = {}
        for executor in ("reference", "lift"):
            q, k, v, *lifts, sink = leaves
            out = attend(
                q,
                k,
                v,
                window=None,
                documents=documents,
                columns=Columns(*lifts),
                sink_H=sink,
                executor=executor,
            )
            found[executor] = [out, *torch.autograd.grad((out * normal(*out.shape, seed=7)).sum(), leaves)]
        for mine, theirs in zip(found["lift"], found["reference"], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)
        with torch.no_grad():
            later = [torch.cat([x[:, :30], x[:, 30:] + 1], 1) if x.ndim > 1 and x.shape[1] > 1 else x for x in leaves]
            q, k, v, *lifts, sink = later
            ask = {"window": None, "documents": documents, "sink_H": sink, "executor": "lift"}
            out = attend(q, k, v, columns=Columns(*lifts), **ask)
        assert torch.equal(out[:, :30], found["lift"][0][:, :30])
