"""An artifact that lies about what is in it: one bound for all streams, and every field of its header held against what is."""

from __future__ import annotations

import hashlib
import json
import resource
from typing import Any

import brotli
import numpy as np
import pytest
import zstandard

from ablab.artifact import container
from ablab.artifact import pack as artifact
from ablab.artifact.arrays import Array

COMPRESS = {
    "brotli": lambda data: brotli.compress(data, quality=1, lgwin=24),
    "zstd": lambda data: zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data),
}


def blob(told: dict[str, Any], plain: list[bytes], codec: str, encoded: list[bytes] | None = None) -> bytes:
    """The artifact of a header and its streams, whole and with the right sha256."""
    compress = COMPRESS[codec]
    header = json.dumps(told, separators=(",", ":")).encode()
    packed = compress(header)
    front = b"".join(
        [bytes([len(codec)]), codec.encode(), container._varint(len(header)), container._varint(len(packed))]
    )
    digest = hashlib.sha256(front + header)
    for one in plain:
        digest.update(one)
    streams = b"".join(map(compress, plain) if encoded is None else encoded)
    return b"ablab\x01" + digest.digest() + front + packed + streams


def told(sizes: list[tuple[int, int]], **changed: Any) -> dict[str, Any]:
    names = [f"t{i}" for i in range(len(sizes))]
    return {
        "names": names,
        "types": [["|u1"], []],
        "shapes": [[[n] for n, _ in sizes], list(range(len(sizes)))],
        "bits": [[None], []],
        "done": [[0], []],
        "groups": [names, list(range(len(sizes)))],
        "grouped": True,
        "streams": [list(one) for one in sizes],
        "meta": {"compress": "keep", "meta": {}},
        **changed,
    }


@pytest.mark.parametrize("codec", COMPRESS)
def test_many_streams_that_each_grow_little_are_refused_together(codec: str) -> None:
    size, count = 1 << 24, 64  # a gigabyte of zeros, in streams of 16 MiB
    zeros = bytes(size)
    encoded = COMPRESS[codec](zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = blob(told([(size, len(encoded))] * count), [zeros] * count, codec, [encoded] * count)
    with pytest.raises(ValueError, match=f"{len(whole)} bytes claim to hold {size * count}"):
        artifact.unpack(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("codec", COMPRESS)
def test_a_stream_that_holds_more_than_it_was_told_is_not_expanded(codec: str) -> None:
    encoded = COMPRESS[codec](bytes(1 << 28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="damaged or cut short"):
        artifact.unpack(blob(told([(1000, len(encoded))]), [bytes(1000)], codec, [encoded]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def whole(**changed: Any) -> bytes:
    """An artifact of one array of 64 bytes, but for what is changed in its header."""
    data = bytes(range(64))
    return blob(told([(64, len(COMPRESS["brotli"](data)))], **changed), [data], "brotli")


@pytest.mark.parametrize(
    "changed",
    [
        {"shapes": [[[10**15]], []]},
        {"shapes": [[[-64]], []]},
        {"shapes": [[[8, 8.0]], []]},
        {"shapes": [[[1] * 99 + [64]], []]},
        {"shapes": [[[True, 64]], []]},
        {"shapes": [["64"], []]},
        {"shapes": [[[64]], [5]]},
        {"shapes": [[[64]], [-1]]},
        {"shapes": [[[64]], [0, 0]]},
        {"types": [["O"], []]},
        {"types": [["|V64"], []]},
        {"types": [[["f", "<f4"]], []]},
        {"types": [["<f8,<f8"], []]},
        {"types": [[], []]},
        {"bits": [[10**9], []]},
        {"bits": [[-1], []], "done": [[4], []]},
        {"bits": [["8"], []]},
        {"done": [[1 << 40], []]},
        {"done": [[8], []]},
        {"done": [[4], []]},
        {"names": ["t0", "t0"]},
        {"names": [[]]},
        {"groups": [[1], []]},
        {"grouped": 1},
        {"streams": [[64]]},
        {"streams": [[-64, -64]]},
        {"streams": [[1 << 62, 64]]},
        {"streams": [["64", 64]]},
        {"streams": []},
        {"meta": []},
        {"meta": {"compress": "keep", "meta": 3}},
        {"meta": {"compress": ["keep"]}},
    ],
    ids=str,
)
def test_a_header_that_no_artifact_has_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="packed weights"):
        artifact.unpack(whole(**changed))


def test_the_same_artifact_unchanged_is_read() -> None:
    [read] = container.read(whole(), artifact.codecs.slot.load("brotli").expand)[0]
    assert isinstance(read, Array) and read.array.tolist() == list(range(64))


def test_weights_that_are_nearly_all_zeros_are_read() -> None:
    parts = [Array(f"z{i}", np.zeros((1024, 1024), np.float32)) for i in range(16)]
    codec = artifact.codecs.slot.build({"name": "zstd", "level": 1})
    packed = codec.encode(parts, {})
    assert len(packed) < 20_000  # three thousand times as small
    assert sum(part.array.nbytes for part in container.read(packed, codec.expand)[0]) == 1 << 26
