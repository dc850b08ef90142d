"""Weights that a loader would read for ever, or unpack without end: refused before torch sees them."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from ablab.core.fault import CheckFailed
from ablab.training.adopt.found import read

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(3, dtype=torch.bfloat16)}


def doubled(levels: int) -> bytes:
    """A pickle of {t: 1}, t a tuple of twice the same tuple, `levels` times over: to hash it takes 2 ** levels steps."""
    steps = b"\x80\x02}(K\x01\x85q\x00"
    steps += b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(levels))
    return steps.replace(b"\x85q\x00", b"\x85q\x00", 1) + b"K\x01u."


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_STORED, more: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/version", b"3\n")
        file.writestr("a/data/0", bytes(more))
    return path


def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="nested into itself without end"):
        read(archive(tmp_path / "a.pt", doubled(60)))
    old = io.BytesIO()
    torch.save(STATE, old, _use_new_zipfile_serialization=False)
    start = old.getvalue()[: old.getvalue().index(b"ctorch")]
    magic = start[: start.index(b"\x19.") + 2]
    (tmp_path / "old.pt").write_bytes(magic + pickle.dumps(1001, 2) + doubled(60) + doubled(60) + doubled(60))
    with pytest.raises(CheckFailed, match="nested into itself without end"):
        read(tmp_path / "old.pt")


def test_a_zip_that_grows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="is a compressed zip"):
        read(archive(tmp_path / "a.pt", pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, more=1 << 24))


def test_a_tar_with_a_pipe_in_it_is_refused(tmp_path: Path) -> None:
    """torch unpacks such a file to a folder of its own and opens the members: a pipe among them is waited for."""
    for first in ("storages", "\udc80storages"):
        path = tmp_path / f"{len(first)}.pt"
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
            for name in dict.fromkeys((first, "storages", "tensors", "pickle")):
                member = tarfile.TarInfo(name)
                member.type = tarfile.FIFOTYPE
                file.addfile(member)
        data = bytearray(path.read_bytes())
        data[257:265] = bytes(8)  # as the first tar programs wrote it, without their mark
        data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
        path.write_bytes(data)
        assert tarfile.is_tarfile(path)
        with pytest.raises(CheckFailed):
            read(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(tmp_path: Path, zipped: bool, protocol: int) -> None:
    torch.save(STATE, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    try:
        found = read(tmp_path / "a.pt").tensors
    except CheckFailed as refused:  # torch's restricted reader itself knows no later protocols
        assert protocol > 2 and "nested" not in str(refused)
        return
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
