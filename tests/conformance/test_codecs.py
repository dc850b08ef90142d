"""Every codec and every setting: lossless for arrays of any type, the same bytes each time, bounded, and what each is for."""

from __future__ import annotations

import hashlib
import re
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests import tiny

from ablab.artifact import codecs, container
from ablab.artifact import codes as coding
from ablab.artifact import pack as artifact
from ablab.artifact.arrays import Array
from ablab.artifact.codecs import lzma
from ablab.core.fault import CheckFailed, to_install
from ablab.core.rng import stream

LEVERS = codecs.slot.names
FLAGS = ["shuffle", "transpose", "pack_bits", "group", "sort_rows"]
TYPES = ["?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u8", "<f2", "<f4", "<f8", "<c8", ">f4", ">i2"]


def build(name: str, **given: Any) -> Any:
    return codecs.slot.build(tiny.choice(codecs.slot, {"name": name, **given}))


def same(one: list[Array], other: list[Array]) -> bool:
    return len(one) == len(other) and all(
        (a.name, a.bits, a.group, a.array.dtype, a.array.shape)
        == (b.name, b.bits, b.group, b.array.dtype, b.array.shape)
        and a.array.tobytes() == b.array.tobytes()
        for a, b in zip(one, other)
    )


def back(codec: Any, parts: list[Array], meta: dict[str, Any]) -> bytes:
    """The bytes, once it is shown that they give the parts and meta back without the settings."""
    blob: bytes = codec.encode(parts, meta)
    assert codec.encode(parts, meta) == blob
    found, told = container.read(blob, codecs.slot.load(container.codec_of(blob)).expand)
    assert same(found, parts) and told == meta
    assert all(part.array.flags.writeable for part in found)
    return blob


@st.composite
def part(draw: st.DrawFn, name: str) -> Array:
    """An array of any type and shape, or codes of 2 to 16 bits."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    group = draw(st.sampled_from(["attn", "scale", "other"]))
    if draw(st.booleans()):
        return Array(name, draw(hnp.arrays(draw(st.sampled_from(TYPES)), shape)), None, group)
    n_bits = draw(st.integers(2, 16))
    most = 2 ** (n_bits - 1) - 1
    kind = np.int8 if n_bits <= 8 else np.int16
    return Array(name, draw(hnp.arrays(kind, shape, elements=st.integers(-most, most))), n_bits, group)


@st.composite
def artifacts(draw: st.DrawFn) -> list[Array]:
    return [draw(part(f"layers.{i}.weight")) for i in range(draw(st.integers(0, 4)))]


@given(
    parts=artifacts(),
    on=st.sets(st.sampled_from(FLAGS)),
    name=st.sampled_from(LEVERS),
    meta=st.dictionaries(st.text(max_size=3), st.integers() | st.text() | st.none(), max_size=2),
)
@example(parts=[], on=set(), name="raw", meta={})
@settings(deadline=None, max_examples=100)
def test_anything_comes_back_bit_for_bit(parts: list[Array], on: set[str], name: str, meta: dict[str, Any]) -> None:
    known = codecs.slot.settings(name)
    cheap = {key: value for key, value in {"quality": 3, "window": 16, "level": 2}.items() if key in known}
    back(build(name, **cheap, **{key: key in on for key in FLAGS if key in known}), parts, meta)


def codes(rows: int = 256, width: int = 128, most: int = 31, name: str = "w") -> Array:
    """Normal numbers in int6 as parameter-golf clips them."""
    drawn = stream(0, name).standard_normal((rows, width)) * most / 12.85
    return Array(name, np.clip(np.round(drawn), -most, most).astype(np.int8), 6, "attn")


def alike(rows: int = 512, width: int = 128) -> Array:
    """Rows around 16 centres, in no order."""
    draws = stream(0, "alike")
    centres = draws.standard_normal((16, width))[draws.integers(0, 16, rows)]
    near = centres + 0.3 * draws.standard_normal((rows, width))
    return Array("w", np.clip(np.round(near * 3), -31, 31).astype(np.int8), 6, "embedding")


@pytest.mark.parametrize("name", [name for name in LEVERS if name != "raw"])
def test_every_codec_comes_near_the_entropy(name: str) -> None:
    part = codes()
    count = np.unique(part.array, return_counts=True)[1] / part.array.size
    entropy = -(count * np.log2(count)).sum() * part.array.size / 8
    assert entropy < len(back(build(name), [part], {})) < 1.10 * entropy + 150


@pytest.mark.parametrize("name", LEVERS)
def test_packed_bits_take_k_bits_and_cost_after_a_codec(name: str) -> None:
    part = codes()
    plain, packed = len(back(build(name), [part], {})), len(back(build(name, pack_bits=True), [part], {}))
    if name == "raw":
        assert plain - packed == part.array.size * 2 // 8
    else:  # facts of parameter-golf: codes that straddle bytes compress worse
        assert packed > 1.1 * plain


@pytest.mark.parametrize("name", [name for name in LEVERS if name != "raw"])
def test_planes_of_bytes_make_wide_numbers_smaller(name: str) -> None:
    wide = [Array("s", (1 + stream(0, "s").random(4096)).astype(np.float32), None, "scale")]
    assert len(back(build(name), wide, {})) < 0.99 * len(back(build(name, shuffle=False), wide, {}))


@pytest.mark.parametrize("name", [name for name in LEVERS if name != "raw"])
def test_sorted_rows_pay_where_rows_are_alike_and_only_there(name: str) -> None:
    plain = len(back(build(name), [alike()], {}))
    assert len(back(build(name, sort_rows=True), [alike()], {})) < 0.9 * plain
    noise = [codes()]  # no order brings rows of noise nearer: nothing is sorted, and no order is stored
    assert build(name, sort_rows=True).encode(noise, {}) == build(name).encode(noise, {})


@pytest.mark.parametrize("name", [name for name in LEVERS if name != "raw"])
def test_columns_that_are_alike_pay_when_transposed(name: str) -> None:
    part = alike()
    turned = Array("w", np.ascontiguousarray(part.array[coding.row_order(part.array)]), 6, "embedding")
    assert len(back(build(name, transpose=True), [turned], {})) < 0.9 * len(back(build(name), [turned], {}))


@pytest.mark.parametrize("name", ["zstd", "lzma"])
def test_groups_of_other_numbers_are_better_off_apart(name: str) -> None:
    """Codes of few and of many bits, by turns, with their scales between them."""
    parts = []
    for i in range(8):
        parts.append(codes(64, 128, 5, f"{i}.few"))
        parts.append(Array(f"{i}.many", codes(64, 128, 127, f"{i}").array, 8, "embedding"))
        parts.append(Array(f"{i}.scale", (1 + stream(i, "s").random(64)).astype(np.float16), None, "scale"))
    assert len(back(build(name), parts, {})) < len(back(build(name, group=False), parts, {}))


@pytest.mark.parametrize("n_bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_packed_bits_are_those_of_one_large_number(n_bits: int, count: int) -> None:
    low = -(2 ** (n_bits - 1))
    drawn = stream(n_bits, "bits").integers(low, -low, count)
    found = coding.pack(drawn.astype(np.int32), n_bits)
    number = sum((int(code) - low) << (i * n_bits) for i, code in enumerate(drawn))
    assert found.tobytes() == number.to_bytes(coding.n_bytes(count, n_bits), "little")
    assert np.array_equal(coding.unpack(found, n_bits, count, np.dtype(np.int32)), drawn)


def test_packed_bits_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = stream(0, "pieces").integers(-16, 16, 1003).astype(np.int8)
    whole = coding.pack(drawn, 5)
    monkeypatch.setattr(coding, "PIECE", 64)
    assert np.array_equal(coding.pack(drawn, 5), whole)
    assert np.array_equal(coding.unpack(whole, 5, 1003, np.dtype(np.int8)), drawn)


def test_bits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="codes from -9 to 3 do not fit into 4 bits; give them more bits"):
        coding.pack(np.array([-9, 3]), 4)
    with pytest.raises(ValueError, match="float32 cannot be packed into 4 bits; pack integers"):
        coding.pack(np.zeros(2, np.float32), 4)
    with pytest.raises(ValueError, match="3 bytes do not hold 4 codes of 4 bits"):
        coding.unpack(np.zeros(3, np.uint8), 4, 4, np.dtype(np.int8))
    with pytest.raises(ValueError, match="w: codes from 0 to 40 do not fit into 6 bits; give them more bits"):
        build("raw", pack_bits=True).encode([Array("w", np.array([0, 40], np.int8), 6)], {})


def nearest_first(rows: np.ndarray) -> list[int]:
    """The greedy order, said plainly."""
    wide, order = rows.astype(int), [0]
    while len(order) < len(rows):
        left = [i for i in range(len(rows)) if i not in order]
        order.append(min(left, key=lambda i: (abs(wide[i] - wide[order[-1]]).sum(), i)))
    return order


@given(rows=hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(1, 4))))
@settings(deadline=None, max_examples=100)
def test_row_order_is_the_greedy_one(rows: np.ndarray) -> None:
    assert coding.row_order(rows).tolist() == nearest_first(rows)
    narrow = coding.row_order(rows, work=0)  # sixteen rows are always compared
    assert sorted(narrow) == list(range(len(rows)))
    assert coding.between(rows) == sum(int(abs(a - b).sum()) for a, b in pairwise(rows.astype(int)))


def test_row_order_of_a_large_matrix_is_bounded_and_still_an_order() -> None:
    part = alike(2048, 64)
    order = coding.row_order(part.array, work=2048 * 64 * 100)
    assert sorted(order) == list(range(2048)) and coding.order_pays(part.array)


def test_settings_out_of_range_are_refused() -> None:
    for name, asked, said in [
        ("brotli", {"quality": 12}, "quality = 12 is unknown to brotli; choose 0 to 11"),
        ("brotli", {"window": 9}, "window = 9 is unknown to brotli; choose 10 to 24"),
        ("zstd", {"level": 0}, "level = 0 is unknown to zstd; choose 1 to 22"),
        ("lzma", {"level": 10}, "level = 10 is unknown to lzma; choose 0 to 6, or 9"),
        ("lzma", {"level": 8}, "level = 8 searches as level 6, .*; choose 0 to 6, or 9"),
    ]:
        with pytest.raises(ValueError, match=said):
            build(name, **asked)
    assert [str(fault) for fault in codecs.slot.coerce({"name": "raw", "shuffle": True}, "codec")[1]] == [
        "codec: raw has no setting 'shuffle'; known: pack_bits"
    ]


# Neighbours among the levels of zstd are alike in so small a text: they differ in the window.
LEVELS = {"lzma": ("level", lzma.LEVELS), "brotli": ("quality", range(12)), "zstd": ("level", (1, 2, 4, 7, 11, 16, 22))}


@pytest.mark.parametrize("name", LEVELS)
def test_every_level_is_another_search(name: str) -> None:
    """Of text with matches near and far, of all lengths. A level that gives the bytes of another would be a word for it."""
    draw = np.random.default_rng(0)
    words = [draw.integers(0, 40, n, dtype=np.int8) for n in draw.integers(2, 300, 300)]
    text = np.concatenate([words[at] for at in draw.zipf(1.3, 4000) % 300])[:400_000]
    setting, levels = LEVELS[name]
    made = [back(build(name, **{setting: level}), [Array("text", text, None, "text")], {}) for level in levels]
    alike = [(a, b) for (a, one), (b, other) in pairwise(zip(levels, made)) if one == other]
    assert alike == []


@pytest.mark.parametrize(("name", "library"), [("brotli", "brotli"), ("zstd", "zstandard")])
def test_a_missing_library_is_named_with_its_cure(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = build(name).encode([codes(4, 4)], {})
    monkeypatch.setitem(sys.modules, library, None)
    said = f"^codec {library}: the library {library} is not installed; {re.escape(to_install(library))}$"
    with pytest.raises(CheckFailed, match=said):
        build(name).encode([codes(4, 4)], {})
    with pytest.raises(CheckFailed, match=said):
        artifact.unpack(blob)


def test_parts_that_cannot_be_written_are_refused() -> None:
    raw, one = build("raw"), Array("a", np.zeros(2))
    with pytest.raises(ValueError, match="two parts have one name; name them apart"):
        raw.encode([one, one], {})
    with pytest.raises(ValueError, match="a holds object; give plain numbers"):
        raw.encode([Array("a", np.array([None]))], {})
    for meta in ({"x": float("nan")}, {"x": {1, 2}}):
        with pytest.raises(
            ValueError, match=r"what belongs to the packed weights is no JSON \(.*\); give plain values"
        ):
            raw.encode([one], meta)


@pytest.mark.parametrize("name", LEVERS)
def test_every_changed_byte_of_a_small_artifact_is_found(name: str) -> None:
    part = Array("w", np.arange(-3, 4, dtype=np.int16).reshape(1, 7), 9, "attn")
    blob = build(name).encode([part], {"compress": "keep", "meta": {}})
    whole = artifact.unpack(blob)["w"].tolist()
    for at in range(len(blob)):
        for flip in (1, 16, 128, 255):
            damaged = bytearray(blob)
            damaged[at] ^= flip
            try:
                found = artifact.unpack(bytes(damaged))["w"].tolist()
            except ValueError as error:
                assert str(error).startswith("packed weights ") and str(error).endswith("; pack them again")
            else:
                assert found == whole and name != "raw", f"byte {at}: only bits that mean nothing may change"
    for cut in range(len(blob)):
        with pytest.raises(ValueError, match=r"^packed weights .*; pack them again$"):
            artifact.unpack(blob[:cut])
    with pytest.raises(ValueError, match="their length is not what the header says"):
        artifact.unpack(blob + b"\0")


@pytest.mark.parametrize("name", [name for name in LEVERS if name != "raw"])
def test_a_stream_that_expands_to_more_than_it_says_is_not_expanded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = build(name)
    blob = codec.encode([Array("z", np.zeros(1 << 20, np.int8))], {})
    lengths: list[int] = []

    def watched(encoded: memoryview, size: int) -> bytes:
        """As if the header had declared a hundred bytes."""
        if size < 1 << 20:
            return bytes(codec.expand(encoded, size))
        try:
            lengths.append(len(codec.expand(encoded, 100)))
        except ValueError as error:
            assert "does not end where it should" in str(error)
        raise ValueError("bounded")

    with pytest.raises(ValueError, match="bounded"):
        container.read(blob, watched)
    assert not lengths
    monkeypatch.setattr(container, "FREE", 1 << 10)
    monkeypatch.setattr(container, "MOST_RATIO", 10)
    with pytest.raises(ValueError, match=r"are damaged or cut short \(\d+ bytes claim to hold 1048576\)"):
        container.read(blob, codec.expand)


def test_the_front_of_an_artifact_is_as_documented() -> None:
    """Read by hand: magic, version, sha256 over codec, lengths, header and content."""
    array = np.arange(5, dtype=np.int8)
    blob = build("raw").encode([Array("w", array, 4, "attn")], {"x": 1})
    assert blob[:6] == b"ablab\x01" and blob[38:42] == b"\x03raw"
    n_header = len(blob) - 5 - 46  # two lengths of two bytes
    assert blob[42:44] == blob[44:46] == bytes([n_header & 127 | 128, n_header >> 7])
    assert blob[6:38] == hashlib.sha256(blob[38:]).digest()
    assert blob[-5:] == array.tobytes()
