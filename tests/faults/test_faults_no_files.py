"""Pipes, devices, links that lead round in a circle: whatever is named as a file is one, or is refused at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.data.tiny import settings

from ablab.artifact import code as script
from ablab.core import loose_json, opened
from ablab.core.fault import Refused
from ablab.core.files import read_json, sha256_file, write_atomic
from ablab.core.inputs import Inputs
from ablab.core.kinds import kind_of, no_text, text_of
from ablab.core.patterns import matched
from ablab.data import pieces, prepare, vocabulary
from ablab.data.corpus.corpus import open_corpus
from ablab.data.formats.index_file import read_header
from ablab.data.formats.mapped import map_file
from ablab.data.formats.shards import read_shard
from ablab.data.harmony import readers, rows
from ablab.data.sources.find import find
from ablab.data.tokenizers.case_ops import CaseOps
from ablab.runs.store import read_lines
from ablab.scoring.scores import Scores
from ablab.scoring.stage import _load
from ablab.study import load
from ablab.training.adopt.found import read as read_weights
from ablab.training.adopt.strange import weights_at
from ablab.training.checkpoint import newest

Read = Callable[[Path], Any]
STORE: Any = {"scores": {"sha256": "0"}}
TEXT = (".txt", ".jsonl", ".parquet", ".arrow", ".bin", "")


def documents(path: Path) -> None:
    """Every document that a study's data.source yields."""
    for source in find([str(path)], "text").texts:
        list(source.documents())


READERS: dict[str, Read] = {
    "study": load,
    "record": read_json,
    "ledger": read_lines,
    "digest": lambda path: Inputs(path.parent / "memo.json").sha256(path),
    "weights": read_weights,
    "weights by name": weights_at,
    "trained weights": lambda path: _load(path, Any),  # type: ignore[arg-type]
    "tokenizer": pieces.read,
    "case operators": lambda path: CaseOps(model=str(path)).ready(),
    "vocabulary": lambda path: vocabulary.install(str(path), path.parent / "to"),
    "code": script.read,
    "shard": read_shard,
    "index": read_header,
    "mapped": lambda path: map_file(path, Any, 0, 1),  # type: ignore[arg-type]
    "lines": lambda path: readers.scan_lines(path),
    "parquet rows": lambda path: readers.parquet(path, "x", ("a",)),
    **{f"source{end}": documents for end in TEXT},
    **{f"harmony{end}": lambda path: rows.find([str(path)], Inputs(path.parent / "m")) for end in TEXT[1:5]},
}


@pytest.fixture(params=["pipe", "device", "socket", "link to a device"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def named(tmp_path: Path, kind: str) -> Iterator[Callable[[str], Path]]:
    """Something that is no file, under a name that ends as it should."""
    sockets = []

    def make(end: str) -> Path:
        path = tmp_path / f"a{end}"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            return Path("/dev/zero")
        elif kind == "socket":
            sockets.append(socket.socket(socket.AF_UNIX))
            here = Path.cwd()
            os.chdir(tmp_path)  # the name of a socket has at most 108 bytes
            sockets[-1].bind(path.name)
            os.chdir(here)
        else:
            path.symlink_to("/dev/zero")
        return path

    yield make
    for one in sockets:
        one.close()


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(named: Callable[[str], Path], reader: str) -> None:
    end = reader.removeprefix("source").removeprefix("harmony") if reader.startswith(("source", "harmony")) else ".x"
    path = named(end)
    with pytest.raises((Refused, ValueError)) as refused:
        READERS[reader](path)
    said = str(refused.value)
    assert "no file" in said or "not a file" in said or "has the suffix" in said, said


def test_first_bytes_of_what_is_no_file_say_nothing(named: Callable[[str], Path]) -> None:
    path = named(".txt")
    assert kind_of(path) is None and text_of(path) == "" and no_text(path) is None
    assert opened.no_file(path).startswith("is no file but a ")
    with pytest.raises(OSError, match="is no file but a"):
        sha256_file(path)


def test_parts_of_a_store_that_are_no_files_are_refused(tmp_path: Path, named: Callable[[str], Path]) -> None:
    (tmp_path / "scores.npz").symlink_to(named(".npz"))
    with pytest.raises(Refused, match="is no file but a"):
        Scores.load(tmp_path, STORE)
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "document {i} of some text"}}\n' for i in range(40)))
    corpus = prepare(settings(str(tmp_path / "texts.jsonl")), tmp_path / "out", say=lambda _: None)
    tokens = corpus.path / "train.tokens"
    tokens.rename(tmp_path / "kept")
    tokens.symlink_to(named(".tokens"))
    with pytest.raises(Refused, match=r"train\.tokens: is missing"):
        open_corpus(corpus.path)
    said: list[str] = []
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint-000000001.json").symlink_to(named("checkpoint"))
    assert newest(folder, fit=lambda header: "", say=said.append) is None
    assert "is no file but a" in said[0]


def test_files_behind_links_are_read(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text('{"text": "a document"}\n')
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "real.jsonl")
    [source] = find([str(tmp_path / "a.jsonl")], "text").texts
    assert [text for _, text in source.documents()] == ["a document"]


def test_two_stars_follow_no_link(tmp_path: Path) -> None:
    """Two links to their own folder: walked, they are 2 to the 40th paths before names are too long."""
    (tmp_path / "loop" / "in").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "loop" / name).symlink_to(".")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("x")
    (tmp_path / "loop" / "out").symlink_to(tmp_path / "outside")
    for name in ("x.txt", "in/y.txt", ".hidden.txt"):
        (tmp_path / "loop" / name).write_text("x")
    base = tmp_path / "loop"
    assert matched(f"{base}/**/*.txt") == [base / "in/y.txt", base / "x.txt"]
    assert matched(f"{base}/**/**/y.txt") == [base / "in/y.txt"]
    assert matched(f"{base}/**") == [base / one for one in ("in", "in/y.txt", "x.txt")]
    assert matched(f"{base}/out/*.txt") == [base / "out/secret.txt"]  # a link that the study names


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loose_json, "MOST_LINE", 1000)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 2000)
    for read in (documents, READERS["lines"]):
        with pytest.raises(Refused, match="has a line of more than 1,000 bytes"):
            read(tmp_path / "a.jsonl")


def test_a_text_larger_than_memory_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "memory", lambda: 1 << 31)
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refused, match=r"has 1,024\.0 GiB, more than the 2\.0 GiB of this machine's memory"):
        documents(tmp_path / "a.txt")


def test_nothing_but_a_file_is_replaced_by_one(tmp_path: Path) -> None:
    """A device's node would become a file for the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, said in (("pipe", "is no file but a pipe"), ("folder", "is a folder")):
        with pytest.raises(Refused, match=f"{name}: {said}; name a file, or move it away"):
            write_atomic(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo() and [one.name for one in sorted(tmp_path.iterdir())] == ["folder", "pipe"]
