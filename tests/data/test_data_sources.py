"""Sources: what they give, in which order, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.files import sha256_file
from ablab.core.inputs import Inputs
from ablab.data.sources import mock
from ablab.data.sources.find import find
from ablab.data.sources.sources import JsonLines, Mock, Parquet, PythonLibrary, TextFile


def given(source: object) -> list[str | None]:
    return [text for _, text in source.documents()]  # type: ignore[attr-defined]


def test_a_text_file_is_one_document_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\xef\xbb\xbf")
    assert given(TextFile(tmp_path / "a.txt")) == ["one\r\ntwo\n\ufeff"]


def test_text_that_is_no_utf8_names_the_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xc3\xa9 \xff")
    with pytest.raises(CheckFailed, match=r"a\.txt: is no UTF-8 at byte 6 .*; convert the file to UTF-8"):
        given(TextFile(tmp_path / "a.txt"))


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n\n{"body": "tw\\u00f6", "n": 1}\r\n{"body": ""}')
    assert given(JsonLines(tmp_path / "a.jsonl", text_field="body")) == ["one", "tw\u00f6", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', r"a\.jsonl: line 2: is no JSON .*; repair or remove the line"),
        (b"[1]", r'a\.jsonl: line 2: is no JSON object; write {"text": "..."}'),
        (
            b'{"txt": "x"}',
            r"a\.jsonl: line 2: has no field 'text'; set data.text_field; did you mean 'txt'\? known: txt",
        ),
        (b'{"text": null}', r"a\.jsonl: line 2: 'text' is missing, not a string"),
        (b'{"text": 5}', r"a\.jsonl: line 2: 'text' is int, not a string; repair or remove the document"),
        (b'{"text": "a\\ud800"}', r"a\.jsonl: line 2: 'text' holds a lone surrogate at character 1"),
        (b'{"text": "\xff"}', r"a\.jsonl: is no UTF-8 at byte 24 "),
        (b"[" * 100_000, r"a\.jsonl: line 2: is no JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"ok"}\n' + line + b"\n")
    with pytest.raises(CheckFailed, match=message):
        given(JsonLines(tmp_path / "a.jsonl"))


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    rows = [f"row {i}" for i in range(1000)]
    pq.write_table(pa.table({"id": range(1000), "text": rows}), tmp_path / "a.parquet", row_group_size=300)
    assert given(Parquet(tmp_path / "a.parquet")) == rows


def test_parquet_text_that_is_no_utf8_names_the_row(tmp_path: Path) -> None:
    """And the documents before it have come by then: rows are read in pieces."""
    path = tmp_path / "a.parquet"
    rows = [f"row {i} " + os.urandom(8).hex() for i in range(4000)]
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"text": rows}), path, row_group_size=500, **plain)
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"row 3999 ")
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(raw))
    entries = Parquet(path).documents()
    assert next(entries)[1] == rows[0]
    with pytest.raises(CheckFailed, match=r"a\.parquet: cannot be read at row 3999 .*; fetch or write the file again"):
        list(entries)


def test_parquet_faults(tmp_path: Path) -> None:
    pq.write_table(pa.table({"texts": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CheckFailed, match=r"has no column 'text'; set data.text_field; did you mean 'texts'\?"):
        given(Parquet(tmp_path / "a.parquet"))
    with pytest.raises(CheckFailed, match=r"a\.parquet: row 0: 'n' is int, not a string"):
        given(Parquet(tmp_path / "a.parquet", text_field="n"))
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(CheckFailed, match=r"b\.parquet: row 1: 'text' is missing, not a string"):
        given(Parquet(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(CheckFailed, match=r"c\.parquet: cannot be read at row 0"):
        given(Parquet(tmp_path / "c.parquet"))


def test_globs_are_sorted_and_order_is_kept(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.jsonl", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find([f"{tmp_path}/*.jsonl", "mock", f"{tmp_path}/**/*.txt", "python"], "text").texts
    names = [source.name.removeprefix(f"{tmp_path}/") for source in found]
    assert names == ["c.jsonl", "mock", "a.txt", "b.txt", "deep/d.txt", "python"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert [source.name for source in find([f"{tmp_path}/a[1].txt"], "text").texts] == [f"{tmp_path}/a[1].txt"]


def test_every_wrong_pattern_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(InvalidStudy) as caught:
        find([f"{tmp_path}/*.txt", f"{tmp_path}", f"{tmp_path}/a.csv"], "text")
    none, folder, suffix = map(str, caught.value.faults)
    assert none == f"data.source: '{tmp_path}/*.txt' matches no file; check the path; \"python\" needs none"
    assert folder == f"data.source: '{tmp_path}' is a folder; name its files, such as '{tmp_path}/*.txt'"
    assert (
        "has the suffix '.csv', which has no reader; known: .jsonl (.jsonl.gz, .jsonl.zst), .parquet, .arrow, .txt, .md"
        in suffix
    )
    with pytest.raises(InvalidStudy, match=r"data\.source: names nothing"):
        find([], "text")


def test_the_python_library() -> None:
    source = PythonLibrary(limit=120)
    entries = list(source.documents())
    places = [place for place, _ in entries]
    files = [place for place in places if "topic" not in place]
    assert len(files) == 120
    assert files == sorted(files)
    assert not any("-packages" in place or "__pycache__" in place for place in places)
    assert "python:pydoc_data/topics.py" not in [place for place, _ in PythonLibrary().documents()]
    text = dict(entries)["python:argparse.py"]
    import argparse

    assert text == Path(argparse.__file__).read_bytes().decode()
    assert any(place.startswith("python:topic ") and text for place, text in entries)
    assert list(source.documents()) == entries


def test_the_python_library_skips_what_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.data.sources import sources

    monkeypatch.setattr(sources, "_library", lambda: tmp_path)
    monkeypatch.setattr(sources, "_topics", list)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "latin.py").write_bytes(b"# caf\xe9")
    (tmp_path / "a.py").write_text("pass")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "b.py").write_text("pass")
    entries = list(PythonLibrary().documents())
    assert entries == [("python:a.py", "pass"), ("python:test/latin.py", None)]


def test_the_description_covers_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.data.sources import sources

    monkeypatch.setattr(sources, "_library", lambda: tmp_path)
    (tmp_path / "a.py").write_text("pass")
    inputs = Inputs(tmp_path / "inputs.json")
    first = PythonLibrary().describe(inputs)
    (tmp_path / "a.py").write_text("Pass")
    assert PythonLibrary().describe(inputs)["sha256"] != first["sha256"]
    assert first["files"] == 1
    assert first["python"].startswith("3.")


def test_mock_documents_are_the_same_everywhere() -> None:
    documents = mock.documents()
    assert len(documents) == len(set(documents)) == mock.DOCUMENTS
    assert Mock().describe(Inputs(Path("nowhere")))["sha256"] == (
        "e607236663242a47cb40d41478ccb141e2d90d7b4177e1067188f2631ac5b6d5"  # sha256 of the documents, NUL after each
    )
    sums = [line for text in documents for line in text.splitlines() if "+" in line]
    assert len(sums) > 1000
    for line in sums:
        left, right = line.rstrip(".").split(" = ")
        assert sum(map(int, left.split(" + "))) == int(right)


def test_input_hashes_are_remembered_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.core import inputs as module

    file, read = tmp_path / "a.txt", []
    monkeypatch.setattr(module, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    file.write_text("one")
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 100_000_000_000)
    memo = Inputs(tmp_path / "inputs.json")
    first = memo.sha256(file)
    memo.save()
    assert Inputs(tmp_path / "inputs.json").sha256(file) == first == sha256_file(file)
    assert len(read) == 1
    file.write_text("two")
    new = time.time() + 1000  # changed just now, however long this test takes
    os.utime(file, (new, new))
    assert Inputs(tmp_path / "inputs.json").sha256(file) == sha256_file(file) != first
    monkeypatch.setattr(module.time, "time_ns", now)
    fresh = Inputs(tmp_path / "inputs.json")  # changed just now: could change again within the clock's tick
    fresh.sha256(file)
    fresh.save()
    assert json.loads((tmp_path / "inputs.json").read_text())[str(file.resolve())][-1] == first


@pytest.mark.parametrize("how", ["replaced", "rewritten", "linked"])
def test_a_file_of_equal_size_and_time_is_not_taken_for_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from ablab.core import inputs as module

    file, other = tmp_path / "a.bin", tmp_path / "b.bin"
    for path, text in ((file, "one"), (other, "two")):
        path.write_text(text)
        os.utime(path, (1_600_000_000,) * 2)  # as tar and rsync -t leave them
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 100_000_000_000)
    named = tmp_path / "name.bin" if how == "linked" else file
    if how == "linked":
        named.symlink_to(file)
    memo = Inputs(tmp_path / "inputs.json")
    first = memo.sha256(named)
    memo.save()
    if how == "replaced":
        other.replace(file)
    elif how == "linked":
        named.unlink()
        named.symlink_to(other)
    else:
        before = module.stamp_of(file)
        while (
            module.stamp_of(file) == before
        ):  # within a tick of its clock nothing can tell: the memo does not hold so young a file
            file.write_text("two")
            os.utime(file, (1_600_000_000,) * 2)
    assert Inputs(tmp_path / "inputs.json").sha256(named) == sha256_file(named) != first


@pytest.mark.parametrize("broken", ["", "[]", '{"a": 1}', "{"])
def test_a_broken_memo_only_costs_time(tmp_path: Path, broken: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "inputs.json").write_text(broken)
    assert Inputs(tmp_path / "inputs.json").sha256(tmp_path / "a.txt") == sha256_file(tmp_path / "a.txt")


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"gone\.txt: cannot be read \(No such file or directory\); check the file"):
        Inputs(tmp_path / "inputs.json").sha256(tmp_path / "gone.txt")
    with pytest.raises(CheckFailed, match=r"gone\.txt: cannot be read"):
        given(TextFile(tmp_path / "gone.txt"))
