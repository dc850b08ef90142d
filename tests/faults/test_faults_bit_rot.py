"""F10: a byte that flips under the same size and time, shards that change places, and a dataset that became another one."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed
from ablab.data import open_corpus, prepare

DRAW = random.Random(4)


def shard(path: Path, count: int) -> Path:
    """A shard of documents of 100 letters, as old as if nobody had touched it for a while."""
    write_shard(
        path, np.array([i for _ in range(count) for i in [256, *(DRAW.randrange(97, 123) for _ in range(100))]])
    )
    os.utime(path, (time.time() - 100,) * 2)
    return path


def made(folder: Path, said: list[str] | None = None) -> Path:
    data = {
        "source": sorted(map(str, folder.glob("x_train_*.bin"))),
        "valid_source": [str(folder / "x_val_1.bin")],
        "valid_text_bytes": None,
        "text_field": "text",
        "tokenizer": {"name": "bytes"},
        "valid_fraction": 0.01,
        "valid_bytes": 10**6,
        "order": "chunks",
        "weights": None,
        "span": 64,
    }
    lines = [] if said is None else said
    return prepare(data, folder / "store", say=lambda line: lines.append(str(line))).path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("x_train_1.bin", 60), ("x_train_2.bin", 60), ("x_val_1.bin", 9)):
        shard(tmp_path / name, count)
    return tmp_path


def flipped(folder: Path) -> None:
    path = folder / "x_train_1.bin"
    before, raw = path.stat(), bytearray(path.read_bytes())
    raw[3000] ^= 3
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(folder: Path) -> None:
    """Another file takes the name, with the size and the time of the first, as rsync -t or cp -p leave it."""
    path = folder / "x_train_1.bin"
    before, raw = path.stat(), bytearray(path.read_bytes())
    raw[3000] ^= 3
    (folder / "new").write_bytes(raw)
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").replace(path)


def swapped(folder: Path) -> None:
    one, other = folder / "x_train_1.bin", folder / "x_train_2.bin"
    assert one.stat().st_size == other.stat().st_size
    one.rename(folder / "third")
    other.rename(one)
    (folder / "third").rename(other)
    for path in (one, other):
        os.utime(path, (time.time() - 100,) * 2)


@pytest.mark.parametrize("settled", [False, True], ids=["at once", "when the memo is believed"])
@pytest.mark.parametrize("change", [flipped, replaced, swapped], ids=lambda change: change.__name__)
def test_other_bytes_under_the_same_size_and_time_are_found(
    change: Callable[[Path], None], settled: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settled:
        monkeypatch.setattr("ablab.core.inputs._FRESH_NS", -(1 << 62))  # files are old enough to be remembered
    path = made(folder)
    open_corpus(path)
    assert (folder / "store" / "inputs.json").exists() == settled
    change(folder)
    with pytest.raises(
        CheckFailed, match=r"x_train_1\.bin: is not the file that corpus .* was made from \(sha256 differs\)"
    ):
        open_corpus(path)
    said: list[str] = []
    assert made(folder, said) != path
    warned = [line for line in said if "warning" in line]
    assert len(warned) == 1 and f"changed since corpus {path.name[:8]} was made" in warned[0]
    assert "this is another corpus, and all runs are trained again; put back what was there" in warned[0]
    names = 2 if change is swapped else 1
    assert sum(f"x_train_{i}.bin" in warned[0] for i in (1, 2)) == names


def test_what_was_not_changed_is_not_said_to_be(folder: Path) -> None:
    said: list[str] = []
    path = made(folder, said)
    assert made(folder, said) == path
    shard(folder / "x_train_3.bin", 20)  # more of it is what was asked for
    assert made(folder, said) != path
    assert not [line for line in said if "warning" in line]


def test_a_file_that_is_put_back_is_the_corpus_again(folder: Path) -> None:
    path, raw = made(folder), (folder / "x_train_1.bin").read_bytes()
    flipped(folder)
    assert made(folder) != path
    (folder / "x_train_1.bin").write_bytes(raw)
    assert made(folder) == path and open_corpus(path).n_train == 2 * 60 * 101
