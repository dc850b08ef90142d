"""What a killed process left half-made is removed by the next one; what a living one makes stays, whatever the clocks say."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.data.tiny import settings

from ablab.core import folders
from ablab.core.files import write_json
from ablab.data import prepare

FOLDER = """
import sys
from pathlib import Path
from ablab.core import folders
with folders.folder(Path(sys.argv[1]), ".key.", ".part", among=".") as made:
    (made / "train.tokens").write_bytes(b"half")
    print(made, flush=True)
    sys.stdin.read()
"""
FILE = """
import sys
from pathlib import Path
from ablab.core.files import atomic
with atomic(Path(sys.argv[1]) / "result.json") as part:
    part.write_bytes(b"half")
    print(part, flush=True)
    sys.stdin.read()
"""
FOLDER_AMONG_SCRATCH = FOLDER.replace(
    'Path(sys.argv[1]), ".key.", ".part", among="."', 'Path(sys.argv[1]), "ablab-try-"'
)
DAYS = 2 * 86_400


@contextmanager
def maker(code: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that is making something in `folder`, and what it is making."""
    command = [sys.executable, "-P", "-c", code, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def aged(path: Path, seconds: float) -> None:
    """Give a file or a folder with all in it a time of another clock."""
    when = time.time() + seconds
    for one in (*path.rglob("*"), path) if path.is_dir() else (path,):
        os.utime(one, (when, when))


def corpus(root: Path) -> Path:
    return prepare(settings("mock"), root, say=lambda _: None).path


@pytest.mark.parametrize("clock", [-DAYS, 0, DAYS])
def test_f18_no_clock_removes_what_is_being_made(clock: float, tmp_path: Path) -> None:
    with maker(FOLDER, tmp_path) as (process, made):
        aged(made, clock)
        corpus(tmp_path)
        assert (made / "train.tokens").read_bytes() == b"half"
        process.kill()
        process.wait()
        assert made.exists()
        corpus(tmp_path)  # found as it is: nothing is made, nothing looked for
        with folders.folder(tmp_path, ".other.", ".part", among="."):
            assert not made.exists()  # however new it looks


def test_f02_a_file_that_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with maker(FILE, tmp_path) as (process, made):
        aged(made, -DAYS)
        write_json(tmp_path / "result.json", {"mine": 1})
        assert made.read_bytes() == b"half", "its maker lives"
        process.kill()
        process.wait()
        write_json(tmp_path / "other.json", {})
        assert made.exists(), "of another name"
        write_json(tmp_path / "result.json", {"mine": 2})
        assert {path.name for path in tmp_path.iterdir()} == {"result.json", "other.json"}


def test_f02_scratch_of_killed_processes_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ablab-try-a-file").write_text("no folder")
    (tmp_path / "another").mkdir()
    (tmp_path / "ablab-try-notes").mkdir()
    (tmp_path / "ablab-try-notes/mine.txt").write_text("of a person, or of a version without locks that is at work")
    (tmp_path / "ablab-try-link").symlink_to(tmp_path / "another")
    with maker(FOLDER_AMONG_SCRATCH, tmp_path) as (process, made):
        with folders.scratch("ablab-try-") as own:
            assert made.exists() and own.exists()
        process.kill()
        process.wait()
        with folders.scratch("ablab-try-"):
            assert not made.exists()
    names = {"ablab-try-a-file", "another", "ablab-try-link", "ablab-try-notes"}
    assert {path.name for path in tmp_path.iterdir()} == names and (tmp_path / "ablab-try-notes/mine.txt").exists()


def test_what_is_published_holds_no_lock(tmp_path: Path) -> None:
    assert folders.LOCK not in {path.name for path in corpus(tmp_path).iterdir()}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    (tmp_path / ".old.part").mkdir()  # its maker died before it had a lock
    (tmp_path / ".older.part").mkdir()
    (tmp_path / ".older.part/train.tokens").write_bytes(b"of a version without locks")
    with folders.folder(tmp_path, ".new.", ".part", among="."):
        assert not (tmp_path / ".old.part").exists() and not (tmp_path / ".older.part").exists()
