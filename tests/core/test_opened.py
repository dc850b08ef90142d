"""What is read of a file that says that it holds nothing."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from ablab.core.opened import read_whole


def test_an_empty_file_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    tracemalloc.start()
    try:
        assert read_whole(tmp_path / "empty") == b""
        assert tracemalloc.get_traced_memory()[1] < 1 << 24  # a piece and its like, not this machine's memory
    finally:
        tracemalloc.stop()


def test_a_file_of_the_kernel_is_read_to_its_end_and_no_further_than_allowed() -> None:
    version = Path("/proc/version")
    assert version.stat().st_size == 0 and read_whole(version) == version.read_bytes() != b""
    with pytest.raises(OSError, match="more than the 3 that such a file may have"):
        read_whole(version, 3)
