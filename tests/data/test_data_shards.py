"""Golf shards, plain uint16 files and byte sidecars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.formats.shards import bytes_path, bytes_sidecar, is_golf, read_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "fineweb_val_000000.bin"
    write_shard(path, [1, 65535, 7])
    return path


def said(path: Path) -> str:
    with pytest.raises(CheckFailed) as caught:
        read_shard(path)
    (fault,) = caught.value.faults
    assert fault.place == str(path) and fault.cure
    return fault.fault


def test_layout_of_a_golf_shard(shard: Path) -> None:
    raw = shard.read_bytes()
    assert len(raw) == 1024 + 6 and np.frombuffer(raw, "<i4", 3).tolist() == [20240520, 1, 3]
    assert set(raw[12:1024]) == {0} and raw[1024:].hex() == "0100ffff0700"
    tokens = read_shard(shard)
    assert is_golf(shard) and isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16 and tokens.tolist() == [1, 65535, 7]


def test_a_plain_file_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_shard(path, np.arange(5), plain=True)
    assert path.read_bytes() == np.arange(5, dtype="<u2").tobytes()
    assert not is_golf(path) and read_shard(path).tolist() == [0, 1, 2, 3, 4]
    path.write_bytes(b"\x05\x00")
    assert read_shard(path).tolist() == [5]


def test_broken_shards_are_named_with_their_sizes(shard: Path) -> None:
    raw = shard.read_bytes()
    cases = {
        raw[:-1]: "has 1,029 bytes, its header counts 3 tokens, 1,030 bytes: truncated or half-written",
        raw[:1024]: "has 1,024 bytes, its header counts 3 tokens, 1,030 bytes: truncated or half-written",
        raw + b"\0\0": "has 1,032 bytes, its header counts 3 tokens, 1,030 bytes: too long",
        raw[:1000]: "has 1,000 bytes; the header of a golf shard alone has 1,024: truncated",
        raw[:4] + b"\x02" + raw[5:]: "has version 2; only version 1 is known",
        raw[:8] + b"\xff\xff\xff\xff" + raw[12:]: "counts -1 tokens in its header",
        (20240801).to_bytes(4, "little") + raw[4:]: "has magic 20240801: llm.c's tokens of 32 bits",
        b"\1\2\3\4\5": "has 5 bytes, no whole number of uint16 tokens: half-written",
        b"\1": "has 1 bytes, no whole number of uint16 tokens: half-written",
        b"": "is empty",
    }
    for content, fault in cases.items():
        shard.write_bytes(content)
        assert said(shard) == fault
    shard.unlink()
    assert said(shard) == "cannot be read (No such file or directory)"


@pytest.mark.parametrize("count", [0, 3])
def test_a_shard_of_another_magic_is_not_read_as_plain_tokens(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(count))
    raw = (20250101).to_bytes(4, "little") + path.read_bytes()[4:]
    path.write_bytes(raw)
    assert said(path) == "begins like a golf shard with magic 20250101"
    for other in (raw + b"\0\0", raw[:4] + b"\2" + raw[5:]):  # another size or version: no tokens are 500 zeros on end
        path.write_bytes(other)
        assert said(path) == "begins like a golf shard with magic 20250101"
    path.write_bytes(raw[:4] + b"\2" + raw[5:1020] + b"\1" + raw[1021:])  # neither
    assert len(read_shard(path)) == len(raw) // 2


def test_an_empty_golf_shard_is_no_fault(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", [])
    assert len(read_shard(tmp_path / "a.bin")) == 0


def test_a_megatron_file_is_not_read_as_uint16(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "m", np.int32) as writer:
        writer.add([1, 2])
        writer.end_document()
    assert said(tmp_path / "m.bin") == "is one of Megatron's files: m.idx lies beside it"


def test_half_of_a_megatron_prefix_is_not_read_as_uint16(tmp_path: Path) -> None:
    for kind in ("tokens", "span"):
        (tmp_path / f"m_{kind}.bin").write_bytes(b"\1\0\0\0")
        fault = f"is one of Megatron's files, half-written: m_{kind}.idx is missing"
        if kind == "tokens":
            assert read_shard(tmp_path / "m_tokens.bin").tolist() == [1, 0]  # nothing beside it: only a name
        else:
            assert said(tmp_path / "m_span.bin") == fault
    assert said(tmp_path / "m_tokens.bin") == "is one of Megatron's files, half-written: m_tokens.idx is missing"


def test_byte_sidecars(shard: Path) -> None:
    side = shard.with_name("fineweb_val_bytes_000000.bin")
    assert bytes_path(shard) == side and bytes_path(side) is None
    assert bytes_path(shard.with_name("fineweb_train_000001.bin")) is None
    assert bytes_sidecar(shard) is None
    write_shard(side, [0, 4, 3])
    sizes = bytes_sidecar(shard)
    assert sizes is not None and sizes.dtype == np.uint16 and sizes.tolist() == [0, 4, 3]
    write_shard(side, [0, 4], plain=True)
    with pytest.raises(
        CheckFailed, match=r"_bytes_000000.bin: has 2 counts, fineweb_val_000000.bin has 3 tokens; write"
    ):
        bytes_sidecar(shard)
    side.write_bytes(b"")
    with pytest.raises(CheckFailed, match=r"_bytes_000000.bin: is empty"):
        bytes_sidecar(shard)
