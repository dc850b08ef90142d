"""Every compressor with every codec: deterministic, exact names, shapes and types, damage found. `keep`: lossless."""

from __future__ import annotations

import functools
import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tests import tiny

from ablab.artifact import codecs, compressors
from ablab.artifact import pack as artifact
from ablab.artifact.compressors.calibration import Calibration
from ablab.model.decoder import build

LEVERS, CODECS = compressors.slot.names, codecs.slot.names
Weights = dict[str, torch.Tensor]


def weights() -> Weights:
    return {name: tensor.clone() for name, tensor in trained().state_dict().items()}


@functools.cache
def trained() -> torch.nn.Module:
    return build(tiny.model(), vocab_size=tiny.VOCAB, seed=0)


def lever(name: str) -> dict[str, Any]:
    """Its defaults, but for matrices as small as the tiny model's and a little text."""
    known = compressors.slot.settings(name)
    sizes = {key: value for key, value in {"small": 0, "tokens": 512}.items() if key in known}
    made: dict[str, Any] = tiny.choice(compressors.slot, {"name": name, **sizes})
    return made


def pack(name: str, codec: str, given: Weights) -> bytes:
    blob, _ = artifact.pack(
        lever(name), tiny.choice(codecs.slot, codec), given, Calibration(trained, tiny.corpus(), 32, seed=0)
    )
    return blob


@functools.cache
def packed(name: str, codec: str = "brotli") -> bytes:
    return pack(name, codec, weights())


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == other[k].dtype and a.shape == other[k].shape and torch.equal(a, other[k]) for k, a in one.items()
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", LEVERS)
def test_same_weights_same_bytes_in_any_order(name: str, codec: str) -> None:
    made = weights()
    assert pack(name, codec, {k: made[k] for k in reversed(made)}) == packed(name, codec)
    assert same(made, weights()), "packing changed the weights"


@pytest.mark.parametrize("name", LEVERS)
def test_other_weights_other_bytes(name: str) -> None:
    made = weights()
    made["layers.0.attn.o_proj.weight"][0, 0] += 1
    assert pack(name, "raw", made) != packed(name, "raw")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", LEVERS)
def test_unpacking_twice_gives_the_same_and_every_name(name: str, codec: str) -> None:
    one, other, made = artifact.unpack(packed(name, codec)), artifact.unpack(packed(name, codec)), weights()
    assert same(one, other)
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in made.items()}
    assert list(one) == sorted(made)
    one["embed.weight"] += 1  # memory of their own: what is unpacked may be trained on
    assert same(other, artifact.unpack(packed(name, codec)))


@pytest.mark.parametrize("name", LEVERS)
def test_every_codec_carries_the_same_weights(name: str) -> None:
    first, *others = (artifact.unpack(packed(name, codec)) for codec in CODECS)
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", LEVERS)
@pytest.mark.parametrize("cut", [0, 3, 5, 20, 40, 100, -1])
def test_truncated_bytes_are_refused(name: str, codec: str, cut: int) -> None:
    with pytest.raises(ValueError, match=r"^packed weights .*; pack them again$"):
        artifact.unpack(packed(name, codec)[:cut])


@given(data=st.data(), name=st.sampled_from(LEVERS), codec=st.sampled_from(CODECS))
@settings(deadline=None, max_examples=150)
def test_changed_bytes_never_give_other_weights(data: st.DataObject, name: str, codec: str) -> None:
    blob = bytearray(packed(name, codec))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = artifact.unpack(bytes(blob))
    except ValueError as error:
        assert str(error).startswith("packed weights ") and str(error).endswith("; pack them again")
    else:  # a codec may leave some of its bits without meaning
        assert same(found, artifact.unpack(packed(name, codec)))


def test_other_files_are_refused_by_their_looks() -> None:
    made = {"a": torch.zeros(2)}
    saved = io.BytesIO()
    torch.save(made, saved)
    for blob, looks in [
        (pickle.dumps({"a": 1}), "a pickle"),
        (saved.getvalue(), "a zip, as torch.save writes"),
        (save(made), "safetensors"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    ]:
        with pytest.raises(ValueError, match=f"are no ablab artifact .they begin like {looks}.; pack them again"):
            artifact.unpack(blob)
    with pytest.raises(ValueError, match=r"are no ablab artifact \(they are empty\); pack"):
        artifact.unpack(b"")
    with pytest.raises(ValueError, match=r"are no ablab artifact \(they begin with 68 65 6c 6c 6f 20\); pack"):
        artifact.unpack(b"hello world")


KINDS = [
    torch.tensor([float("nan"), -0.0, float("inf")]),
    torch.arange(6, dtype=torch.bfloat16).view(2, 3).t(),
    torch.tensor(3.5, dtype=torch.float64),
    torch.tensor(2.5, dtype=torch.bfloat16),
    torch.zeros(0, 4),
    torch.zeros(3, 0, dtype=torch.bfloat16),
    torch.tensor([1, -1], dtype=torch.int64),
    torch.tensor([True, False]),
    torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
    torch.tensor([1.5, -2.0], dtype=torch.float16).requires_grad_(),
    torch.tensor([[1 + 2j, 3j]]).conj(),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("tensor", KINDS, ids=lambda t: f"{str(t.dtype)[6:]}{list(t.shape)}")
def test_keep_is_lossless(tensor: torch.Tensor, codec: str) -> None:
    back = artifact.unpack(pack("keep", codec, {"x": tensor}))["x"]
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    raw = [t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).tolist() for t in (back, tensor)]
    assert raw[0] == raw[1]


def test_keep_writes_tensors_that_share_memory_apart() -> None:
    one = torch.arange(4.0)
    back = artifact.unpack(pack("keep", "raw", {"a": one, "b": one, "c": one[1:3]}))
    assert torch.equal(back["a"], one) and torch.equal(back["b"], one) and torch.equal(back["c"], one[1:3])
    back["a"] += 1
    assert torch.equal(back["b"], one)


def test_keep_costs_the_weights_and_a_small_header() -> None:
    made = weights()
    numbers = sum(t.numel() * t.element_size() for t in made.values())
    assert numbers < len(packed("keep", "raw")) < numbers + 250 + 60 * len(made)


def test_keep_copies_nothing_before_the_codec() -> None:
    made = weights()
    parts = compressors.slot.build(lever("keep")).quantise(made).parts
    assert {part.name: part.array.ctypes.data for part in parts} == {k: t.data_ptr() for k, t in made.items()}
