"""Every position x every softmax x window x packing x groups: executor `lift` against the fp64 oracle, gradients too.

Levers come from the slots' tables: a new one is tested unasked.
"""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from tests.attended import attend

from ablab.core.rng import Draw
from ablab.core.rng import stream as named
from ablab.model import positions, softmaxes
from ablab.model.attention import lift as lift_module
from ablab.model.attention import rows as rows_module
from ablab.model.attention.attend import Documents
from ablab.model.parts.columns import Columns
from ablab.model.parts.pairs import Pairwise, across
from ablab.model.positions.composed import Composed
from ablab.model.shape import Shape

B, T, H, K, D = 2, 40, 4, 8, 12
POSITIONS = [[name] for name in positions.slot.names]
POSITIONS += [["grape_m", "grape_a"], ["rope", "fox"], ["grape_a", "fox"], ["grape_m", "t5_buckets"]]
POSITIONS += [["grape_a_gated", "grape_ap", "t5_buckets"]]
READS = {"fox", "grape_m_context", "grape_ap"}  # the hidden state
PACKINGS = {
    "one": [[40], [40]],
    "several": [[11, 22, 7], [29, 11]],
    "short": [[2, 3, 4, 2, 1, 4, 3, 5, 4, 4, 4, 4], [4] * 10],
    "single": [[1] * 40, [1, 38, 1]],
}
WINDOWS = {"one": [None, 1, 5, 17, 33], "several": [None, 1, 5, 17], "short": [None, 3], "single": [None, 5]}
GROUPS = [4, 2, 1]
name = "+".join


def ids(lengths):
    return torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])


def built(part, seed=3):
    for path, module in part.named_modules():
        if hasattr(module, "init"):
            module.init(Draw(seed, path))
    return part


def position(levers, shape, **settings):
    parts = [positions.slot.build({"name": lever, **settings}, shape) for lever in levers]
    return trained(built(Composed(parts) if len(parts) > 1 else parts[0]))


def trained(part):
    """Off the neutral start, where a gate of zeros would hide what it reads."""
    with torch.no_grad():
        for key, parameter in part.named_parameters():
            parameter += 0.1 * torch.from_numpy(named(5, key).standard_normal(tuple(parameter.shape)))
    return part


def tensors(groups, seed=0):
    draw = named(seed, "conformance", groups)
    sizes = {"x": (B, T, D), "q": (B, T, H, K), "k": (B, T, groups, K), "v": (B, T, groups, K), "g": (B, T, H, K)}
    return {key: torch.from_numpy(draw.standard_normal(size)).float() for key, size in sizes.items()}


def shape_of(groups):
    return Shape(D, H, groups, K, T, 100, 4)


def forward(place, soft, given, documents, window, executor, shift=None):
    p, _ = place.place(given["x"], documents.pos_BT)
    if shift is not None:
        p = across(lambda part: part + shift, p)
    q, k = place.rotate(given["q"], given["k"], p)
    columns = place.columns(q, k, p)
    bias = Pairwise(place.bias, p) if place.pairwise else None
    ask = {"window": window, "documents": documents, "columns": columns, "bias": bias, "executor": executor}
    return attend(q, k, given["v"], sink_H=soft.sink(), **ask)


def gradients(place, soft, inputs, documents, window, executor, dtype):
    """The output, and the gradients of inputs, of the position's and of the softmax's parameters."""
    place, soft = place.to(dtype), soft.to(dtype)
    given = {key: value.to(dtype, copy=True).requires_grad_() for key, value in inputs.items()}
    out = forward(place, soft, given, documents, window, executor)
    own = {f"position.{n}": p for n, p in place.named_parameters()}
    own |= {f"softmax.{n}": p for n, p in soft.named_parameters()}
    leaves = {key: given[key] for key in "qkvx"} | own
    grads = torch.autograd.grad((out * given["g"]).sum(), list(leaves.values()), allow_unused=True)
    found = {key: torch.zeros_like(p) if g is None else g for (key, p), g in zip(leaves.items(), grads)}
    return {"out": out.detach()} | found


def apart(found, wanted):
    """Largest error of each tensor, relative to the tensor's size where that is above 1."""
    assert found.keys() == wanted.keys()
    return {
        key: float(
            (found[key].double() - wanted[key].double()).abs().max() / wanted[key].double().abs().max().clamp(min=1)
        )
        for key in wanted
    }


@pytest.mark.parametrize("softmax", softmaxes.slot.names)
@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_lift_equals_the_oracle(levers, softmax, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCKS", ())
    monkeypatch.setattr(rows_module, "LONG", 16)  # several blocks in a row
    cases = list(itertools.product(GROUPS, [(p, w) for p in PACKINGS for w in WINDOWS[p]]))
    names = softmaxes.slot.names
    for groups, (packing, window) in cases[names.index(softmax) :: len(names)]:  # every case with one of the softmaxes
        shape, inputs = shape_of(groups), tensors(groups)
        place, soft = position(levers, shape), built(softmaxes.slot.build({"name": softmax}, shape))
        case = (groups, packing, window, Documents(ids(PACKINGS[packing])))
        oracle = gradients(place, soft, inputs, case[3], window, "reference", torch.float64)
        # The committed choice in fp64 and fp32, and the kernel where short windowed rows would take plain products.
        runs = [(512, torch.float64, 1e-11), (512, torch.float32, 5e-6)]
        if window is not None and not place.pairwise:
            runs += [(0, torch.float64, 1e-11), (0, torch.float32, 5e-6)]
        for short, dtype, bound in runs:
            monkeypatch.setattr(lift_module, "SHORT", short)
            error = apart(gradients(place, soft, inputs, case[3], window, "lift", dtype), oracle)
            # A parameter's gradient sums over all tokens what nearly cancels (a gate's once more along the row): fp32
            # leaves noise there even where the true gradient is 0; the fp64 runs pin the arithmetic.
            loose = {key: value / (200 if "." in key and dtype == torch.float32 else 1) for key, value in error.items()}
            assert max(loose.values()) < bound, (case[:3], short, dtype, error)


@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_lift_in_bf16_stays_near_the_oracle(levers):
    for groups, packing, window in [(4, "one", None), (2, "several", 17), (1, "several", None)]:
        shape, inputs = shape_of(groups), {k: v.bfloat16().float() for k, v in tensors(groups).items()}
        place, soft = position(levers, shape), built(softmaxes.slot.build({"name": "sink"}, shape))
        documents = Documents(ids(PACKINGS[packing]))
        given = {key: value if key == "x" else value.bfloat16() for key, value in inputs.items()}
        out = forward(place, soft, given, documents, window, "lift")
        assert out.dtype == torch.bfloat16
        oracle = forward(
            place.double(), soft.double(), {k: v.double() for k, v in inputs.items()}, documents, window, "reference"
        )
        assert (out.double() - oracle).abs().max() < 3e-2, (groups, packing, window)


@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_causal(levers):
    inputs, documents = tensors(2), Documents(ids(PACKINGS["one"]))
    place, soft = position(levers, shape_of(2)), built(softmaxes.slot.build({"name": "sink"}, shape_of(2)))
    for executor, window, cut in itertools.product(["reference", "lift"], [None, 5], [13, 39]):
        other = {key: value.clone() for key, value in inputs.items()}
        for value in other.values():
            value[:, cut:] += 1.0
        before, after = (forward(place, soft, x, documents, window, executor) for x in (inputs, other))
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.allclose(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_packed_documents_are_separate_documents(levers):
    inputs, lengths = tensors(2), [[11, 22, 7], [29, 11]]
    place, soft = position(levers, shape_of(2)), built(softmaxes.slot.build({"name": "sink"}, shape_of(2)))
    for executor, window in itertools.product(["reference", "lift"], [None, 5, 17]):
        packed = forward(place, soft, inputs, Documents(ids(lengths)), window, executor)
        for row, several in enumerate(lengths):
            start = 0
            for length in several:
                alone = {key: value[row : row + 1, start : start + length] for key, value in inputs.items()}
                out = forward(place, soft, alone, Documents(ids([[length]])), window, executor)
                torch.testing.assert_close(packed[row : row + 1, start : start + length], out, atol=2e-6, rtol=2e-6)
                start += length


@pytest.mark.parametrize("levers", [levers for levers in POSITIONS if "grape_ap" not in levers], ids=name)
def test_scores_depend_on_differences_of_places(levers):
    inputs, documents = {k: v.double() for k, v in tensors(2).items()}, Documents(ids(PACKINGS["several"]))
    place = position(levers, shape_of(2)).double()
    soft = built(softmaxes.slot.build({"name": "sink"}, shape_of(2))).double()
    here, there = (forward(place, soft, inputs, documents, None, "reference", shift) for shift in (0, 1000))
    torch.testing.assert_close(here, there, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("softmax", softmaxes.slot.names)
@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_gradient_reaches_every_parameter(levers, softmax):
    place, soft = position(levers, shape_of(2)), built(softmaxes.slot.build({"name": softmax}, shape_of(2)))
    for executor, window in itertools.product(["reference", "lift"], [None, 5]):
        found = gradients(place, soft, tensors(2), Documents(ids(PACKINGS["several"])), window, executor, torch.float32)
        for key, value in found.items():
            if key == "x" and not READS & set(levers):
                continue
            assert value.isfinite().all() and value.abs().max() > 0, (key, executor, window)


@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_init_fills_everything_and_depends_on_names_alone(levers):
    def filled(seed):
        parts = [positions.slot.build({"name": lever}, shape_of(2)) for lever in levers]
        whole = Composed(parts) if len(parts) > 1 else parts[0]
        for tensor in itertools.chain(whole.parameters(), whole.buffers()):
            torch.nn.init.constant_(tensor, float("nan") if tensor.is_floating_point() else -1)
        return built(whole, seed)

    drawn = {"table_NH", "a_GK", "b_GK", "v_HK", "u_GK", "path.weight"} | (
        {"gate.weight"} if "fox" in levers else set()
    )
    once, again, other = filled(1), filled(1), filled(2)
    for (key, a), (_, b), (_, c) in zip(
        *(itertools.chain(m.named_parameters(), m.named_buffers()) for m in (once, again, other))
    ):
        assert not a.isnan().any() and (a.is_floating_point() or a.min() >= 0) and torch.equal(a, b), key
        assert torch.equal(a, c) == (re.sub(r"^parts\.\d\.", "", key) not in drawn), key


@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_weights_round_trip(levers):
    first, second = position(levers, shape_of(2)), position(levers, shape_of(2))
    with torch.no_grad():
        for p in first.parameters():
            p.add_(0.01)
    second.load_state_dict(first.state_dict())
    inputs, documents = tensors(2), Documents(ids(PACKINGS["several"]))
    soft = softmaxes.slot.build({"name": "vanilla"}, shape_of(2))
    a, b = (forward(m, soft, inputs, documents, None, "reference") for m in (first, second))
    assert torch.equal(a, b)


@pytest.mark.parametrize("levers", POSITIONS, ids=name)
def test_decode_by_carry_and_cached_places_equals_the_whole(levers):
    """Prefill of 14 tokens, then one by one: what a key needs later is in its rotated k, its w and its place."""
    given, place = {k: v.double() for k, v in tensors(2).items()}, position(levers, shape_of(2)).double()
    documents = Documents(ids([[11, 29], [40]]))
    whole, cached, carry = scores(place, given, documents.pos_BT, [], None)[0], [], None
    for start, stop in [(0, 14), *((t, t + 1) for t in range(14, T))]:
        some = {key: value[:, start:stop] for key, value in given.items()}
        found, carry = scores(place, some, documents.pos_BT[:, start:stop], cached, carry)
        seen = documents.visible_BTS(None)[:, None, start:stop, :stop].expand_as(found)
        torch.testing.assert_close(found[seen], whole[:, :, start:stop, :stop][seen], atol=1e-10, rtol=1e-10)


def scores(place, given, pos_BT, cached, carry):
    """q.k + bias of these queries over the cached keys and their own, which are cached."""
    p, carry = place.place(given["x"], pos_BT, carry)
    q, k = place.rotate(given["q"], given["k"], p)
    columns = place.columns(q, k, p)
    w = None if columns is None else columns.w.expand(*k.shape[:3], -1)
    cached.append((k, w, p))
    k, w, keys = across(lambda *parts: torch.cat(parts, 1), *cached)
    z = torch.einsum("bthk,bshk->bhts", q, k.repeat_interleave(H // k.shape[2], 2))
    if columns is not None:
        z = z + Columns(columns.u, w, columns.row).bias(H)
    if place.pairwise:
        z = z + place.bias(p, keys)
    return z, carry
