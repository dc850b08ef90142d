"""Every compressor: deterministic, the same weights from its bytes each time, damage found. `keep`: lossless."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tests import tiny

from ablab import compressors
from ablab.compressors.keep import Keep
from ablab.model import build

LEVERS = compressors.slot.names


def weights() -> dict[str, torch.Tensor]:
    return dict(build(tiny.model(), vocab_size=tiny.VOCAB, seed=0).state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == other[k].dtype and a.shape == other[k].shape and torch.equal(a, other[k]) for k, a in one.items()
    )


@pytest.mark.parametrize("name", LEVERS)
def test_same_weights_same_bytes_in_any_order(name: str) -> None:
    lever, made = compressors.slot.build(tiny.choice(compressors.slot, name)), weights()
    backwards = {k: made[k].clone() for k in reversed(made)}
    assert lever.pack(made) == lever.pack(backwards)
    made["layers.0.attn.o_proj.weight"][0, 0] += 1
    assert lever.pack(made) != lever.pack(backwards)


@pytest.mark.parametrize("name", LEVERS)
def test_unpacking_twice_gives_the_same_and_every_name(name: str) -> None:
    lever, made = compressors.slot.build(tiny.choice(compressors.slot, name)), weights()
    blob = lever.pack(made)
    assert same(lever.unpack(blob), lever.unpack(blob))
    assert {k: v.shape for k, v in lever.unpack(blob).items()} == {k: v.shape for k, v in made.items()}


@pytest.mark.parametrize("name", LEVERS)
@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_truncated_bytes_are_refused(name: str, cut: int) -> None:
    lever = compressors.slot.build(tiny.choice(compressors.slot, name))
    with pytest.raises(ValueError, match=r"packed weights .*; pack them again"):
        lever.unpack(lever.pack(weights())[:cut])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([float("nan"), -0.0, float("inf")]),
        torch.arange(6, dtype=torch.bfloat16).view(2, 3).t(),
        torch.tensor(3.5, dtype=torch.float64),
        torch.zeros(0, 4),
        torch.tensor([1, -1], dtype=torch.int64),
        torch.tensor([True, False]),
    ],
    ids=["special values", "bf16, not contiguous", "scalar", "empty", "int64", "bool"],
)
def test_keep_is_lossless(tensor: torch.Tensor) -> None:
    back = Keep().unpack(Keep().pack({"x": tensor}))["x"]
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    raw = [t.contiguous().reshape(-1).view(torch.uint8).tolist() for t in (back, tensor)]
    assert raw[0] == raw[1]


def test_keep_writes_tensors_that_share_memory_apart() -> None:
    one = torch.arange(4.0)
    back = Keep().unpack(Keep().pack({"a": one, "b": one, "c": one[1:3]}))
    assert torch.equal(back["a"], one) and torch.equal(back["b"], one) and torch.equal(back["c"], one[1:3])


def test_keep_costs_the_weights_and_a_header() -> None:
    made = weights()
    numbers = sum(t.numel() * t.element_size() for t in made.values())
    assert numbers < len(Keep().pack(made)) < numbers + 200 * (len(made) + 1)


BLOB = Keep().pack({"a": torch.arange(5.0), "b": torch.arange(3, dtype=torch.int64)})


@given(at=st.integers(0, len(BLOB) - 1), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=200)
def test_keep_never_loads_changed_weights(at: int, flip: int) -> None:
    damaged = bytearray(BLOB)
    damaged[at] ^= flip
    try:
        found = Keep().unpack(bytes(damaged))
    except ValueError as error:
        assert str(error).startswith("packed weights ")
    else:  # blanks of the header may change without changing what it says
        assert same(found, Keep().unpack(BLOB))


def test_keep_says_what_is_wrong() -> None:
    damaged = bytearray(BLOB)
    damaged[-1] ^= 1
    with pytest.raises(ValueError, match=r"damaged \(their sha256 differs from the one in the header\)"):
        Keep().unpack(bytes(damaged))
    foreign = save({"a": torch.from_numpy(np.zeros(2))})
    with pytest.raises(ValueError, match=r"cannot be read .*__metadata__"):
        Keep().unpack(foreign)
