"""Compressed JSON lines: the text of the plain file, and what is said of one that is damaged, cut short or named wrong."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ablab.core.fault import CheckFailed
from ablab.data.formats.packed import Unpacked
from ablab.data.sources.find import find
from ablab.data.sources.sources import JsonLines

LINES = [f"Line {n} says {random.Random(n).getrandbits(400):x}, caf\u00e9." for n in range(400)]
RAW = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in LINES).encode()
PACKED: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}


def texts(path: Path) -> list[str | None]:
    (source,) = find([str(path)], "text").texts
    return [text for _, text in source.documents()]


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_lines_are_those_of_the_plain_file(tmp_path: Path, suffix: str) -> None:
    path, pack = tmp_path / f"a.jsonl.{suffix}", PACKED[suffix]
    path.write_bytes(pack(RAW))
    assert texts(path) == LINES
    path.write_bytes(pack(RAW[:1000]) + pack(b"") + pack(RAW[1000:]))  # one behind another, as `cat` joins them
    assert texts(path) == LINES
    path.write_bytes(pack(b"\xef\xbb\xbf" + RAW))
    assert texts(path) == LINES


@pytest.mark.parametrize("suffix", PACKED)
def test_what_is_cut_short_or_damaged_is_said(tmp_path: Path, suffix: str) -> None:
    path, whole = tmp_path / f"a.jsonl.{suffix}", PACKED[suffix](RAW)
    for end in (len(whole) - 1, len(whole) // 2, 20):
        path.write_bytes(whole[:end])
        with pytest.raises(
            CheckFailed, match=r"is cut short behind [0-9,]+ bytes of text; copy or fetch the file again"
        ):
            texts(path)
    path.write_bytes(whole + b"more of it")
    with pytest.raises(CheckFailed, match=r"is damaged behind [0-9,]+ bytes of text"):
        texts(path)
    other = "zst" if suffix == "gz" else "gz"
    path.write_bytes(PACKED[other](RAW))
    with pytest.raises(CheckFailed, match=f"whatever its name says; call it a.jsonl.{other}"):
        texts(path)
    path.write_bytes(RAW)
    with pytest.raises(CheckFailed, match=r"is not compressed at all, whatever its name says; call it a\.jsonl"):
        texts(path)
    path.write_bytes(PACKED[suffix](RAW + b"{\n"))
    with pytest.raises(CheckFailed, match="line 401: is no JSON"):
        texts(path)


@pytest.mark.parametrize("suffix", PACKED)
def test_a_file_that_unpacks_to_much_is_read_in_pieces(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(PACKED[suffix](bytes(1 << 28)))
    with Unpacked(path) as file:
        longest = max(len(piece) for piece in file._pieces)
    assert 0 < longest <= 1 << 26


def test_a_mark_before_the_first_line_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + RAW)
    assert [text for _, text in JsonLines(tmp_path / "a.jsonl").documents()] == LINES
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf\n" + RAW)
    assert texts(tmp_path / "b.jsonl") == LINES
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# Head\n")
    assert texts(tmp_path / "a.md") == ["# Head\n"]
