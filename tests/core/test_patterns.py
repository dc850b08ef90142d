"""Names that look like patterns, and patterns in folders whose names look like patterns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.data.tiny import settings

from ablab.core.patterns import literal, matched
from ablab.data import prepare
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.harmony.rows import find as rows
from ablab.data.sources.find import find

ODD = ("corpus [v2]", "a*b", "what?", "c# 1", "-x", "two\nlines", "ä ö", "[", "x]y", "~", "$HOME")


@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "deep").mkdir(parents=True)
    for number in (2, 1):
        (folder / f"{number}.txt").write_text(f"text {number}")
    (folder / "deep" / "3.txt").write_text("text 3")
    (tmp_path / "corpus v").mkdir()
    (tmp_path / "corpus v" / "1.txt").write_text("another")  # what [v2] would stand for
    assert matched(f"{folder}/*.txt") == [folder / "1.txt", folder / "2.txt"]
    assert matched(f"{folder}/**/*.txt") == [folder / "1.txt", folder / "2.txt", folder / "deep" / "3.txt"]
    assert matched(f"{folder}/[12].txt") == [folder / "1.txt", folder / "2.txt"]
    assert matched(f"{folder}/1.txt") == [folder / "1.txt"]
    assert matched(f"{tmp_path}/*/deep/?.txt") == [folder / "deep" / "3.txt"]
    assert matched(f"{folder}/*.none") == matched(f"{folder}/none") == []
    assert literal(f"{folder}/prefix") == folder / "prefix"


def test_a_pattern_is_a_pattern_where_no_such_name_exists(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "1.txt").write_text("x")
    assert matched(f"{tmp_path}/v[0-9]/*.txt") == [tmp_path / "v2" / "1.txt"]
    assert literal(f"{tmp_path}/v[0-9]/prefix") == tmp_path / "v2" / "prefix"


@pytest.mark.parametrize("name", ODD)
def test_token_files_text_and_rows_are_read_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for prefix, numbers in (("tr", range(30)), ("va", range(30, 40))):
        with IndexedWriter(folder / prefix, np.int32) as writer:
            for i in numbers:
                writer.add(list(f"doc {i} says {i * i}.".encode()))
                writer.end_document()
    asked = settings(f"{folder}/tr", valid_source=[f"{folder}/va"], valid_fraction=0.01)
    corpus = prepare(asked, tmp_path / "out", lambda _: None)
    assert len(corpus.documents) == 30 and len(corpus.valid) == 10
    (folder / "x.jsonl").write_text('{"text": "a", "synth_id": "1", "messages_json": "[]"}\n')
    assert [one.name for one in find([f"{folder}/*.jsonl"], "text").texts] == [f"{folder}/x.jsonl"]
    monkeypatch.chdir(folder)
    assert [one.name for one in find(["*.jsonl"], "text").texts] == ["x.jsonl"]
    from ablab.core.inputs import Inputs

    assert [one.rows for one in rows([f"{folder}/*.jsonl"], Inputs(tmp_path / "memo"))] == [1]


def test_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).mkdir()
    except OSError:
        assert os.uname().sysname == "Darwin"  # whose file systems have no such names
        return
    [folder] = matched(f"{tmp_path}/caf*")
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"document {number}")
    said: list[str] = []
    corpus = prepare(settings(f"{tmp_path}/caf*/*.txt", valid_fraction=0.5), tmp_path / "out", said.append)
    assert corpus.manifest["counts"]["documents"] == 20
    "".join(said).encode()
