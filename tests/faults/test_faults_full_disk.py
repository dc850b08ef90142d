"""Every write on a full disk: exit 4 with the file and the bytes it needs, the earlier state as it was, the next try works."""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import finished_store as made

import ablab
from ablab import report as reporting
from ablab.core import chain, places
from ablab.core.fault import CheckFailed
from ablab.core.files import read_json, write_json
from ablab.data import prepare
from ablab.data.formats.indexed import IndexedWriter, open_indexed
from ablab.judging import judge
from ablab.runs.store import append_line, read_lines
from ablab.runtime.lock import locked
from ablab.scoring.scores import Scores
from ablab.training import checkpoint
from ablab.training.metrics import Metrics

SOURCE = Path(ablab.__file__).parent
ROWS = [{"row": i, "text": "x" * 50} for i in range(40)]


@contextmanager
def full(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes: a write takes what fits and the next one fails, as on a disk that runs full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def size(path: Path) -> int:
    return path.stat().st_size


def _append(folder: Path) -> None:
    append_line(folder / "rows.jsonl", {"row": "new", "text": "y" * 80})


def _begun_rows(folder: Path) -> int:
    for row in ROWS:
        append_line(folder / "rows.jsonl", row)
    return size(folder / "rows.jsonl") + 20  # a part of the next line fits


def _metrics(folder: Path) -> None:
    Metrics(folder / "metrics.jsonl", keep=size(folder / "metrics.jsonl")).write({"step": 9, "text": "y" * 80})


def _begun_metrics(folder: Path) -> int:
    metrics = Metrics(folder / "metrics.jsonl", keep=0)
    for row in ROWS:
        metrics.write(row)
    metrics.close()
    return size(folder / "metrics.jsonl") + 20


def _begun_json(folder: Path) -> int:
    write_json(folder / "verdict.json", {"old": 1})
    return 500


def _checkpoint(folder: Path) -> None:
    checkpoint.save(folder, 2, {"w": torch.ones(5000)}, {"identity": "i", "metrics_bytes": 0})


def _begun_checkpoint(folder: Path) -> int:
    checkpoint.save(folder, 1, {"w": torch.zeros(5)}, {"identity": "i", "metrics_bytes": 0})
    return 8192


def _scores(folder: Path) -> None:
    n = np.random.default_rng(0).random(3000)
    Scores(n, np.ones(3000), np.ones(3000)).save(folder)


def _indexed(folder: Path) -> None:
    with IndexedWriter(folder / "a", np.int64) as writer:
        writer.add(np.arange(4000))
        writer.end_document()


def _begun_index(folder: Path) -> int:
    with IndexedWriter(folder / "a", np.int64) as writer:
        writer.add(np.arange(4))
        writer.end_document()
    return 8192


def _corpus(folder: Path) -> None:
    asked = {"source": [str(folder.parent / "text.jsonl")], "valid_source": None, "valid_text_bytes": None, "order": "chunks",
             "text_field": "text", "tokenizer": {"name": "bytes"}, "valid_fraction": 0.2, "valid_bytes": 2000}  # fmt: skip
    prepare(asked, folder, say=lambda _: None)


def _begun_corpus(folder: Path) -> int:
    rows = [{"text": f"{i} words and numbers of this document " * 20} for i in range(60)]
    (folder.parent / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 30_000


def _report(folder: Path) -> None:
    plan = made.plan(folder)
    reporting.write(judge.conclude(plan), plan.directory)


def _begun_report(folder: Path) -> int:
    plan = made.fill(made.plan(folder))
    reporting.write(judge.conclude(plan), plan.directory)
    return 60_000  # the verdict fits, the page does not


@dataclass(frozen=True)
class Case:
    """begun(folder): the earlier state, returns the room that is left; act(folder): the write; names: what the error names."""

    begun: Callable[[Path], int]
    act: Callable[[Path], Any]
    names: str


CASES = {
    "a row of a ledger": Case(_begun_rows, _append, "rows.jsonl"),
    "a row of metrics": Case(_begun_metrics, _metrics, "metrics.jsonl"),
    "a file of JSON": Case(
        _begun_json, lambda folder: write_json(folder / "verdict.json", {"new": "x" * 4000}), "verdict.json"
    ),
    "a checkpoint": Case(_begun_checkpoint, _checkpoint, "checkpoint-000000002.safetensors"),
    "scores": Case(lambda folder: 4096, _scores, "scores.npz"),
    "an index": Case(_begun_index, _indexed, "a.bin"),
    "a corpus": Case(_begun_corpus, _corpus, ""),
    "a report": Case(_begun_report, _report, "report.html"),
}


@pytest.mark.parametrize("name", CASES)
def test_f05_a_full_disk_is_said_and_loses_nothing(name: str, tmp_path: Path) -> None:
    case, folder = CASES[name], tmp_path / "runs"
    folder.mkdir()
    room, before = case.begun(folder), state(folder)
    with full(room), pytest.raises(CheckFailed) as raised:
        case.act(folder)
    [fault] = raised.value.faults
    assert raised.value.exit_code == 4 and fault.place.startswith(str(folder)) and fault.place.endswith(case.names)
    assert "File too large" in fault.fault and "bytes are needed" in fault.fault
    assert fault.cure == "free space or choose another --out, then run again" or name == "an index"
    after = state(folder)
    assert {key: after.get(key) for key in before} == before or name == "a report"
    assert not [key for key in after if ".part" in key]
    case.act(folder)  # the cure
    assert state(folder) != before or name == "a report"  # the same page again, within one second


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows without the digests that chain them."""
    return [{name: value for name, value in row.items() if name != chain.FIELD} for row in read_lines(path)]


def test_f05_the_earlier_state_is_what_is_read_afterwards(tmp_path: Path) -> None:
    for name in ("a row of a ledger", "a checkpoint", "an index"):
        folder = tmp_path / name
        folder.mkdir()
        with full(CASES[name].begun(folder)), pytest.raises(CheckFailed):
            CASES[name].act(folder)
    assert rows_of(tmp_path / "a row of a ledger/rows.jsonl") == ROWS
    said: list[str] = []
    header, _ = checkpoint.newest(tmp_path / "a checkpoint", fit=lambda header: "", say=said.append) or ({}, {})
    assert header["step"] == 1 and not said
    assert len(open_indexed(tmp_path / "an index/a").lengths) == 1 and size(tmp_path / "an index/a.bin") == 4 * 8
    with full(CASES["a report"].begun(tmp_path)), pytest.raises(CheckFailed):
        CASES["a report"].act(tmp_path)
    assert read_json(tmp_path / "runs/studies/stages/verdict.json", "arms")["arms"]
    assert (tmp_path / "runs/studies/stages/report.html").read_text().endswith("</html>\n")


@pytest.mark.parametrize("taken", [0, 1, 30])
def test_f05_half_a_line_is_never_left(taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes the first bytes of a line, says so, and then no more: what ENOSPC looks like from inside."""
    path, real, told = tmp_path / "rows.jsonl", os.write, list[int]()

    def write(handle: int, data: Any) -> int:
        if told:
            raise OSError(28, "No space left on device")
        told.append(taken)
        return real(handle, bytes(data)[:taken])

    append_line(path, ROWS[0])
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(places.os, "write", write)
        with pytest.raises(
            CheckFailed, match=r"rows.jsonl: cannot be written \(No space.*\): 118 bytes are needed, [\d,]+ are free"
        ):
            append_line(path, ROWS[1])
    assert path.read_bytes() == before
    append_line(path, ROWS[1])
    assert rows_of(path) == ROWS[:2]


def test_f05_a_row_that_a_kill_has_torn_is_repaired_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_line(path, ROWS[0])
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[:20], b"{"):  # all but the line's end; half; one sign
        path.write_bytes(whole + torn)
        append_line(path, ROWS[1])
        kept = [ROWS[0]] if torn == whole[:-1] else []
        assert rows_of(path) == [ROWS[0], *kept, ROWS[1]] and len(path.read_text().splitlines()) == 2 + len(kept)
    path.write_bytes(whole + b"a note of a person")  # no row of ours: nobody else's words are removed
    append_line(path, ROWS[1])
    assert path.read_text().splitlines()[1] == "a note of a person" and rows_of(path) == ROWS[:2]


def test_f05_a_lock_needs_no_room(tmp_path: Path) -> None:
    with full(0), locked(tmp_path):
        assert size(tmp_path / "claim.000001") == 0


WRITING = (
    "open",
    "write_text",
    "write_bytes",
    "mkdir",
    "mkstemp",
    "mkdtemp",
    "touch",
    "symlink_to",
    "hardlink_to",
    "makedirs",
)
MODES = set("wax+")
KNOWN = {
    "core/places.py": "folder, opened: the one place",
    "core/making.py": "behind places.check or places.folder",
    "core/folders.py": "by places.folder",
    "core/files.py": "atomic, in what making has made",
    "data/formats/index_writer.py": "inside atomic",
    "core/streams.py": "os.devnull",
    "runtime/lock.py": "new files in a folder that was checked, an empty one will do",
    "training/metrics.py": "by places.opened, places.folder, atomic",
    "launch/bundle/write.py": "inside atomic; new files below a folder of its own, by names that were checked",
    "training/checkpoint.py": "inside atomic",
    "scoring/scores.py": "into memory, then write_atomic",
    "data/corpus/writer.py": "inside that folder",
    "data/corpus/tokenised.py": "inside that folder",
    "data/harmony/finish.py": "inside atomic",
    "data/harmony/official.py": "inside a TemporaryDirectory",
    "runtime/provenance.py": "inside a TemporaryDirectory",
    "runtime/machine.py": "/proc/self/clear_refs",
    "runs/program.py": "inside a TemporaryDirectory",
    "runs/tree.py": "links in the copy that places.folder has made; said by places.unwritable",
}


def _writes(tree: ast.AST) -> list[int]:
    """Lines with a call that can make or change a file."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        texts += [
            word.value.value for word in node.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)
        ]
        of_os = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "os"
        if name == "open" and not of_os:
            if any(len(text) <= 3 and set(text) & MODES for text in texts):
                found.append(node.lineno)
        elif (name == "open" and "O_RDONLY" not in ast.unparse(node)) or (name in WRITING and name != "open"):
            found.append(node.lineno)
    return found


def test_f05_every_file_that_writes_is_known_here() -> None:
    """Whoever adds a write adds it above, behind `places`, and to the cases of this file."""
    writing = {}
    for path in SOURCE.rglob("*.py"):
        if lines := _writes(ast.parse(path.read_text())):
            writing[path.relative_to(SOURCE).as_posix()] = lines
    assert {name: lines for name, lines in writing.items() if name not in KNOWN} == {}
    assert len(writing) > 8, "the search finds what it did"
