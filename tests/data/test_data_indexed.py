"""Megatron's .bin/.idx: bytes as its builder writes them, and every lie of a file named."""

from __future__ import annotations

import hashlib
import json
import resource
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.core.fault import CheckFailed
from ablab.data.formats import index_file
from ablab.data.formats.indexed import (
    Indexed,
    IndexedWriter,
    best_dtype,
    check_sidecars,
    open_indexed,
    open_sidecars,
    sidecars,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "synth_lengths.json").read_text())


def write(prefix: Path, documents: list[list[list[int]]], dtype: object = np.int32) -> Indexed:
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            for sequence in document:
                writer.add(sequence)
            writer.end_document()
    return open_indexed(prefix)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Lengths 3, 2 | 4; int32."""
    prefix = tmp_path / "a_tokens"
    write(prefix, [[[1, 2, 199999], [7, 199999]], [[9, 8, 7, 199999]]])
    return prefix


def said(prefix: Path) -> str:
    with pytest.raises(CheckFailed) as caught:
        open_indexed(prefix)
    (fault,) = caught.value.faults
    assert Path(fault.place).parent == prefix.parent and fault.cure
    return str(fault).removeprefix(f"{prefix.parent}/")


def lie(prefix: Path, offset: int, raw: bytes) -> None:
    idx = Path(f"{prefix}.idx")
    data = bytearray(idx.read_bytes())
    data[offset : offset + len(raw)] = raw
    idx.write_bytes(data)


def test_bytes_are_those_of_megatrons_builder(example: Path) -> None:
    idx, tokens = Path(f"{example}.idx").read_bytes(), Path(f"{example}.bin").read_bytes()
    assert len(idx) == 94 and len(tokens) == 36
    assert idx.hex().startswith("4d4d4944494458000001000000000000000403000000000000000300000000000000")
    assert hashlib.sha256(idx).hexdigest() == "f9c64d45df78dc344dc6bfeba69b67a49564f6daa010d95801ce6d23f3151258"
    assert hashlib.sha256(tokens).hexdigest() == "cb555f8daca255a289e6486cc06107fc23164d78cc1086791fd1e1c3253bff72"
    assert sorted(p.name for p in example.parent.iterdir()) == ["a_tokens.bin", "a_tokens.idx"]


def test_an_index_of_219_documents_is_the_published_one(tmp_path: Path) -> None:
    lengths = np.array(GOLDEN["lengths"]["shard_00"])
    with IndexedWriter(tmp_path / "s", best_dtype(201088)) as writer:
        writer.add_documents(np.zeros(lengths.sum(), np.int32), lengths)
    raw = (tmp_path / "s.idx").read_bytes()
    assert len(raw) == 4422 and hashlib.sha256(raw).hexdigest() == GOLDEN["idx_sha256"]
    found = open_indexed(tmp_path / "s.idx")
    assert (len(found), len(found.documents), len(found.tokens)) == (219, 220, 189817)
    assert found.lengths[:5].tolist() == [1114, 931, 714, 1074, 832]


def test_reading_sequences_and_documents(example: Path) -> None:
    data = open_indexed(example)
    assert isinstance(data.tokens, np.memmap) and data.dtype == np.int32 and data.modes is None
    assert [data[i].tolist() for i in range(3)] == [[1, 2, 199999], [7, 199999], [9, 8, 7, 199999]]
    assert data[-1].tolist() == data[2].tolist()
    assert [data.document(i).tolist() for i in (0, 1)] == [[1, 2, 199999, 7, 199999], [9, 8, 7, 199999]]
    assert data.document_starts().tolist() == [0, 5, 9] and data.n_documents == 2
    assert data.lengths.tolist() == [3, 2, 4] and data.pointers.tolist() == [0, 12, 20]
    assert data.read(1, 4).tolist() == [2, 199999, 7]
    with pytest.raises(IndexError, match="there are 3 sequences"):
        data[3]
    with pytest.raises(IndexError, match="there are 2 documents"):
        data.document(-3)


def test_documents_without_sequences_and_files_without_tokens(tmp_path: Path) -> None:
    data = write(tmp_path / "a", [[], [[5], [], [6, 7]], [], []], np.uint16)
    assert [data.document(i).tolist() for i in range(4)] == [[], [5, 6, 7], [], []]
    assert data.document_starts().tolist() == [0, 0, 3, 3, 3]
    empty = write(tmp_path / "b", [], np.uint16)
    assert len(empty) == 0 and empty.n_documents == 0 and empty.document_starts().tolist() == [0]


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 127), max_size=4), max_size=3), max_size=5),
    dtype=st.sampled_from(["uint8", "int8", "int16", "int32", "int64", "uint16"]),
)
@settings(max_examples=25, deadline=None)
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], dtype: str
) -> None:
    data = write(tmp_path_factory.mktemp("round") / "a", documents, dtype)
    assert data.dtype == np.dtype(dtype)
    flat = [sequence for document in documents for sequence in document]
    assert [data[i].tolist() for i in range(len(data))] == flat
    assert [data.document(i).tolist() for i in range(data.n_documents)] == [list(chain(*d)) for d in documents]


def test_adding_many_documents_at_once_writes_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one", [[[1, 2, 3]], [[]], [[4]], [[5, 6]]])
    with IndexedWriter(tmp_path / "many", np.int32) as writer:
        writer.add_documents(np.array([1, 2, 3]), np.array([3, 0]))
        writer.add_documents(np.array([4, 5, 6], np.uint16), np.array([1, 2]))
        with pytest.raises(ValueError, match="lengths sum to 3, there are 2 ids"):
            writer.add_documents(np.array([4, 5]), np.array([1, 2]))
        assert writer.n_tokens == 6
    for end in ("bin", "idx"):
        assert (tmp_path / f"one.{end}").read_bytes() == (tmp_path / f"many.{end}").read_bytes()


LIES = [
    (0, b"MMIDIDY", "a_tokens.idx: is no Megatron index: it begins with b'MMIDIDY\\x00\\x00'"),
    (9, struct.pack("<Q", 2), "a_tokens.idx: has version 2; only version 1 is known"),
    (17, b"\x09", "a_tokens.idx: has dtype code 9; known: 1 uint8, 2 int8"),
    (17, b"\x06", "a_tokens.idx: has dtype code 6, float64, which holds no token ids"),
    (17, b"\x08", "a_tokens.idx: points to byte 12 for sequence 1; the lengths give 6"),
    (18, struct.pack("<Q", 9), "a_tokens.idx: is truncated: 94 bytes, its 9 sequences and 3 starts need 166"),
    (18, struct.pack("<Q", 1 << 62), "a_tokens.idx: is truncated: 94 bytes, its 4,611,686,018,427,387,904 sequences"),
    (26, struct.pack("<Q", 1), "a_tokens.idx: is too long: 94 bytes, its 3 sequences and 1 starts need 78"),
    (34, struct.pack("<i", 4), "a_tokens.idx: points to byte 12 for sequence 1; the lengths give 16"),
    (34, struct.pack("<i", -3), "a_tokens.idx: gives sequence 0 the length -3"),
    (42, struct.pack("<i", 5), "a_tokens.bin: has 36 bytes, too short: a_tokens.idx counts 10 int32 tokens, 40 bytes"),
    (42, struct.pack("<i", 3), "a_tokens.bin: has 36 bytes, too long: a_tokens.idx counts 8 int32 tokens, 32 bytes"),
    (54, struct.pack("<q", 8), "a_tokens.idx: points to byte 8 for sequence 1; the lengths give 12"),
    (46, struct.pack("<q", 4), "a_tokens.idx: points to byte 4 for sequence 0; the lengths give 0"),
    (70, struct.pack("<q", 1), "a_tokens.idx: has documents from 1 to 3, not from 0 to the 3 sequences; end the last"),
    (86, struct.pack("<q", 2), "a_tokens.idx: has documents from 0 to 2, not from 0 to the 3 sequences; end the last"),
    (78, struct.pack("<q", 4), "a_tokens.idx: has documents that go back: 1 at 4, then 3"),
]


@pytest.mark.parametrize(("offset", "raw", "fault"), LIES, ids=[f"{o}-{r.hex()}" for o, r, _ in LIES])
def test_an_index_that_lies_is_named(example: Path, offset: int, raw: bytes, fault: str) -> None:
    lie(example, offset, raw)
    assert said(example).startswith(fault)


def test_the_place_of_a_lie_is_named_behind_what_is_empty(tmp_path: Path) -> None:
    prefix = tmp_path / "a"
    write(prefix, [[[1], []], [], [[2]]])
    index = Path(f"{prefix}.idx").read_bytes()
    lie(prefix, 34 + 8, struct.pack("<i", -1))
    assert said(prefix).startswith("a.idx: gives sequence 2 the length -1")
    Path(f"{prefix}.idx").write_bytes(index)
    lie(prefix, 34 + 36, struct.pack("<4q", 0, 0, 5, 3))
    assert said(prefix).startswith("a.idx: has documents that go back: 2 at 5, then 3")
    lie(prefix, 26, struct.pack("<Q", 0))
    Path(f"{prefix}.idx").write_bytes(Path(f"{prefix}.idx").read_bytes()[: 34 + 36])
    assert said(prefix).startswith("a.idx: has no document starts; there is at least one, 0")


@pytest.mark.parametrize("piece", [1, 2])
def test_lies_are_found_in_every_piece(example: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """The checks go piece by piece; what a piece hands to the next one must be right, at its edges too."""
    monkeypatch.setattr(index_file, "PIECE", piece)
    assert open_indexed(example)[2].tolist() == [9, 8, 7, 199999]
    lie(example, 62, struct.pack("<q", 24))
    assert said(example).startswith("a_tokens.idx: points to byte 24 for sequence 2; the lengths give 20")
    lie(example, 62, struct.pack("<q", 20))
    lie(example, 78, struct.pack("<q", 7))
    assert "documents that go back: 1 at 7, then 3" in said(example)


def test_files_that_are_cut_or_missing(example: Path) -> None:
    tokens, idx = Path(f"{example}.bin"), Path(f"{example}.idx")
    raw, index = tokens.read_bytes(), idx.read_bytes()
    tokens.write_bytes(raw[:-1])
    assert said(example).startswith(
        "a_tokens.bin: has 35 bytes, too short: a_tokens.idx counts 9 int32 tokens, 36 bytes"
    )
    tokens.write_bytes(raw + b"\0\0\0\0")
    assert said(example).startswith("a_tokens.bin: has 40 bytes, too long")
    tokens.write_bytes(raw)
    for cut, fault in ((93, "is truncated: 93 bytes"), (20, "is truncated: 20 bytes, the header alone has 34")):
        idx.write_bytes(index[:cut])
        assert said(example).startswith(f"a_tokens.idx: {fault}")
    idx.write_bytes(b"")
    assert said(example).startswith("a_tokens.idx: is no Megatron index: it begins with b''")
    idx.unlink()
    assert said(example).startswith("a_tokens.idx: is missing, though a_tokens.bin is there: half-written; write both")
    idx.write_bytes(index)
    tokens.unlink()
    assert said(example).startswith("a_tokens.bin: is missing, though a_tokens.idx is there: half-written")
    idx.unlink()
    assert said(example).startswith("a_tokens.bin: does not exist; check the prefix")


def test_no_flipped_bit_and_no_cut_of_an_index_passes_for_other_tokens(example: Path) -> None:
    """Only a document's start can move to another sequence; everything else is refused, in words."""
    idx, wanted = Path(f"{example}.idx"), open_indexed(example).tokens.tolist()
    index = idx.read_bytes()
    passed = set()
    for bit in range(8 * len(index)):
        data = bytearray(index)
        data[bit // 8] ^= 1 << bit % 8
        idx.write_bytes(data)
        try:
            found = open_indexed(example)
        except CheckFailed:
            continue
        passed.add(tuple(found.documents.tolist()))
        assert found.tokens.tolist() == wanted and found.lengths.tolist() == [3, 2, 4]
    assert passed == {(0, 0, 3), (0, 3, 3)}
    for size in range(len(index)):
        idx.write_bytes(index[:size])
        with pytest.raises(CheckFailed):
            open_indexed(example)


def test_modes_of_text_are_passed_over_and_images_refused(example: Path) -> None:
    idx = Path(f"{example}.idx")
    index = idx.read_bytes()
    idx.write_bytes(index + b"\0\0\0")
    modes = open_indexed(example).modes
    assert modes is not None and modes.tolist() == [0, 0, 0]
    idx.write_bytes(index + b"\0\x01\0")
    assert said(example).startswith("a_tokens.idx: is multimodal: sequence 1 has mode 1, not text; give text files")
    idx.write_bytes(index + b"\0\0")
    assert said(example).startswith("a_tokens.idx: is too long: 96 bytes")


def refused(prefix: Path, dtype: str, ids: list[int], vocab_size: int | None = None) -> str:
    with pytest.raises(CheckFailed) as caught, IndexedWriter(prefix, dtype, vocab_size=vocab_size) as writer:
        writer.add([1, 2])
        writer.end_document()
        writer.add(ids)
    assert list(prefix.parent.iterdir()) == []
    return str(caught.value).removeprefix(f"{prefix}.bin: ")


def test_ids_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    prefix = tmp_path / "a"
    assert refused(prefix, "uint16", [65536]) == (
        "token id 65536 is outside of dtype uint16 (0 to 65535); use a wider dtype"
    )
    assert refused(prefix, "uint16", [3, -1]).startswith("token id -1 is outside of dtype uint16 (0 to 65535)")
    assert refused(prefix, "int8", [128]).startswith("token id 128 is outside of dtype int8 (-128 to 127)")
    assert refused(prefix, "int32", [201088], 201088) == (
        "token id 201088 is outside of a vocabulary of 201,088 (0 to 201087); use the tokenizer of the ids"
    )
    assert refused(prefix, "int32", [-1], 201088).startswith("token id -1 is outside of a vocabulary of 201,088")
    assert refused(prefix, "uint16", [], 201088) == (
        "dtype uint16 holds ids up to 65,535, too small for a vocabulary of 201,088; use int32"
    )
    assert refused(prefix, "float32", []).startswith("dtype float32 holds no token ids; use uint8")
    assert refused(prefix, "uint32", []).startswith("dtype uint32 holds no token ids; use uint8")
    IndexedWriter(prefix, "uint16", vocab_size=65536)
    assert best_dtype(65499) == np.uint16 and best_dtype(65500) == np.int32


def test_only_integers_in_one_dimension_are_ids(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "a", np.int32) as writer:
        with pytest.raises(ValueError, match="ids are float64 of shape"):
            writer.add([1.5])
        with pytest.raises(ValueError, match="ids are int64 of shape"):
            writer.add(np.zeros((2, 2), np.int64))


def test_a_document_left_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="2 sequences belong to no document; call end_document"):  # noqa: SIM117
        with IndexedWriter(tmp_path / "a", np.int32) as writer:
            writer.add([1])
            writer.end_document()
            writer.add([2])
            writer.add([3])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_the_old_files(example: Path) -> None:
    before = {p.name: p.read_bytes() for p in example.parent.iterdir()}
    with pytest.raises(KeyboardInterrupt), IndexedWriter(example, np.int32) as writer:
        writer.add([4])
        raise KeyboardInterrupt
    assert {p.name: p.read_bytes() for p in example.parent.iterdir()} == before
    write(example, [[[4]]])
    assert open_indexed(example)[0].tolist() == [4]


def test_an_error_of_the_caller_stays_his(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the source"), IndexedWriter(tmp_path / "a", np.int32):
        raise FileNotFoundError("the source")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckFailed, match=r"/file: cannot be written \(.*\); make it writable or choose another place"):  # noqa: SIM117
        with IndexedWriter(tmp_path / "file" / "a", np.int32):
            pass


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(CheckFailed, match=r"a.bin: .*\(File too large\): at least 131,072 bytes are needed; free"):  # noqa: SIM117
            with IndexedWriter(tmp_path / "a", np.int64) as writer:
                writer.add(np.zeros(1 << 14, np.int64))
                writer.end_document()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def with_sidecars(example: Path, mask: list[list[list[int]]]) -> Indexed:
    write(example.with_name("a_lossmask"), mask, np.uint8)
    write(example.with_name("a_span"), [[[0, 1, 2], [0, 0]], [[1, 1, 2, 0]]], np.uint8)
    return open_indexed(example)


def test_sidecars_are_found_by_name(example: Path) -> None:
    assert sidecars(example) is None and open_sidecars(open_indexed(example)) is None
    tokens = with_sidecars(example, [[[0, 1, 1], [0, 0]], [[1, 1, 1, 0]]])
    assert sidecars(f"{example}.bin") == (example.with_name("a_lossmask"), example.with_name("a_span"))
    assert sidecars(example.with_name("a_span")) is None
    found = open_sidecars(tokens)
    assert found is not None and [side[2].tolist() for side in found] == [[1, 1, 1, 0], [1, 1, 2, 0]]
    example.with_name("a_span.idx").unlink()
    with pytest.raises(CheckFailed, match=r"a_span.idx: is missing"):
        open_sidecars(tokens)


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        ([[[0, 1, 1], [0, 0]], [[1, 1, 1]]], "gives sequence 2 3 values, a_tokens has 4 tokens"),
        ([[[0, 1], [0, 0, 0]], [[1, 1, 1, 0]]], "gives sequence 0 2 values, a_tokens has 3 tokens"),
        ([[[0, 1, 1], [0, 0]]], "has 2 sequences, a_tokens has 3"),
        ([[[0, 1, 1]], [[0, 0], [1, 1, 1, 0]]], "has other documents than a_tokens"),
    ],
)
def test_a_sidecar_one_token_short_is_named(example: Path, mask: list[list[list[int]]], fault: str) -> None:
    tokens = with_sidecars(example, mask)
    with pytest.raises(CheckFailed) as caught:
        check_sidecars(tokens, [open_indexed(example.with_name("a_lossmask"))])
    place = example.with_name("a_lossmask.idx")
    assert str(caught.value) == f"{place}: {fault}; build a_tokens and its sidecars again, together"
