"""Whatever is done to a file of a stranger: it is read or refused, and nothing else (see fuzz.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("fuzz.py")
KINDS = 38  # of files and of ways to change them


def fuzz(folder: Path, count: int, seed: int, seconds: int) -> list[Any]:
    """What was done, `[kind, times, refused]`; in a process of its own, for a file may end the interpreter."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(PROGRAM), str(folder / "fuzz"), str(count), str(seed)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    faults = [line["fault"] for line in lines if "fault" in line]
    assert not faults, f"{len(faults)} faults, the first: {faults[0]}"
    assert done.returncode == 0, (lines[-1:], done.stderr[-3000:])  # a crash, or a reading that hangs
    return [line["done"] for line in lines if "done" in line]


def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    done = fuzz(tmp_path, 40, 20, 1200)  # a guard; it takes 9 s of a core
    assert len(done) == KINDS and all(count == 40 for _, count, _ in done)
    assert sum(refused for _, _, refused in done) > 40 * KINDS / 2  # the changes reach what is looked at


@pytest.mark.minutes
def test_two_thousand_changes_of_every_kind_of_file_are_read_or_refused(tmp_path: Path) -> None:
    done = fuzz(tmp_path, 2000, 1, 3600)
    assert len(done) == KINDS and all(count == 2000 for _, count, _ in done)


def test_an_arrow_file_whose_offsets_lead_out_of_it_is_refused(tmp_path: Path) -> None:
    """pyarrow reads from wherever they point: the interpreter ended with a bus error."""
    read = (
        "import sys, pyarrow, pyarrow.ipc, numpy\n"
        "from pathlib import Path\n"
        "from ablab.data.sources.sources import Arrow\n"
        "offsets = pyarrow.py_buffer(numpy.array([0, 3, 1 << 30, 6], numpy.int32))\n"
        "text = pyarrow.StringArray.from_buffers(3, offsets, pyarrow.py_buffer(b'abcdef'))\n"
        "table = pyarrow.record_batch([text], ['text'])\n"
        "with pyarrow.OSFile(sys.argv[1], 'wb') as file, pyarrow.ipc.new_file(file, table.schema) as to: to.write(table)\n"
        "print(list(Arrow(Path(sys.argv[1]), 'a').documents()))\n"
    )
    command = [sys.executable, "-P", "-c", read, str(tmp_path / "a.arrow")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    assert done.returncode == 1 and "CheckFailed" in done.stderr and "offset" in done.stderr, done
