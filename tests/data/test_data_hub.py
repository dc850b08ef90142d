"""Datasets of the `datasets` library, the library itself, from a folder and without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablab.data.inputs import Inputs
from ablab.data.sources import Arrow
from ablab.fault import GateFailed

TEXTS = ["first text", "", "NUL \0 and \u00e9", "last"]
READ = """
import sys
from ablab.data.find import find
found = find([sys.argv[1]], "text")
print([(source.name, [text for _, text in source.documents()]) for source in found.texts])
"""


def test_a_folder_of_parquet_files_is_read_by_the_library_itself(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": TEXTS, "id": [0, 1, 2, 3]}), tmp_path / "corpus" / "train-0.parquet")
    places = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", READ, f"hf:{tmp_path / 'corpus'}"]
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == repr([("hf:corpus/corpus-train.arrow", TEXTS)])


def test_a_missing_column_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"body": ["x"]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(GateFailed, match=r"hf:a: has no column 'text'; set data\.text_field; known: body"):
        list(Arrow(path, "hf:a").documents())
    assert len(Arrow(path, "hf:a").describe(Inputs(tmp_path / "i.json"))["sha256"]) == 64
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(GateFailed, match=r"hf:a: cannot be read at row 0 .*; fetch it again"):
        list(Arrow(path, "hf:a", "body").documents())
