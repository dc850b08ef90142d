"""Groups of held-out documents: by the folder of their file or by a field of their rows, kept beside the corpus."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tests.data.tiny import settings, texts

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.data import prepare
from ablab.data.corpus import groups
from ablab.data.corpus.corpus import Corpus
from ablab.data.sources.find import Sources
from ablab.data.sources.sources import Arrow, PythonLibrary

ROWS = [{"text": text, "site": f"site {i % 7}"} for i, text in enumerate(texts(90))]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def made(root: Path, *source: str, **changed: Any) -> Corpus:
    return prepare(settings(*source, **changed), root / "data", say=lambda _: None)


def held(corpus: Corpus) -> list[str]:
    """The held-out texts, in document order; the first token is BOS."""
    return [bytes(int(i) for i in document.ids[1:]).decode() for document in corpus.valid]


def of(corpus: Corpus, names: dict[str, Any]) -> None:
    """Documents are of one group exactly where `names` (by text) says so."""
    assert corpus.groups is not None
    expected = [names[text] for text in held(corpus)]
    first = {name: expected.index(name) for name in expected}
    assert len(first) > 1 and corpus.groups.numbers.tolist() == [
        corpus.groups.numbers[first[name]] for name in expected
    ]
    assert len(set(corpus.groups.numbers.tolist())) == len(first)


SITES = {row["text"]: row["site"] for row in ROWS}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_a_field_of_the_rows_groups_documents(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    table = pyarrow.Table.from_pylist(ROWS)
    if kind == "jsonl":
        lines(path, ROWS)
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=20)
    else:
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    corpus = made(tmp_path, str(path), groups="site")
    of(corpus, SITES)
    assert corpus.groups is not None and corpus.groups.by == "site"


def test_documents_that_are_named_as_held_out_are_grouped_repeats_too(tmp_path: Path) -> None:
    rows = [*ROWS[:20], {**ROWS[3], "site": "mirror"}, {"text": "", "site": None}]
    valid = lines(tmp_path / "v.jsonl", rows)
    train = lines(tmp_path / "t.jsonl", [{"text": row["text"]} for row in ROWS[20:]])  # no site is asked of these
    corpus = made(tmp_path, str(train), valid_source=[str(valid)], valid_fraction=0.01, groups="site")
    assert corpus.groups is not None
    both = [i for i, text in enumerate(held(corpus)) if text == ROWS[3]["text"]]
    numbers = corpus.groups.numbers
    alike = next(i for i, text in enumerate(held(corpus)) if text == ROWS[10]["text"])
    assert len(both) == 2 and numbers[both[0]] == numbers[alike] and list(numbers).count(numbers[both[1]]) == 1


def test_the_top_folder_groups_files(tmp_path: Path) -> None:
    names = {}
    for i, text in enumerate(texts(60)):
        folder = ("a", "b", "b/deeper", "c", ".")[i % 5]
        path = tmp_path / "root" / folder / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        names[text] = path.name if folder == "." else folder[0]
    of(made(tmp_path, f"{tmp_path}/root/**/*.txt", groups="folder"), names)
    several = [f"{tmp_path}/root/{name}/**/*.txt" for name in "abc"]  # all below the one root that they have in common
    of(made(tmp_path, *several, groups="folder"), names)


def test_the_top_package_groups_the_library() -> None:
    corpus_of = {place: groups._package(place) for place, _ in PythonLibrary(limit=400).documents()}
    counted = Counter(corpus_of.values())
    assert counted["python: asyncio"] > 10 and counted["python: abc"] == 1
    assert groups._package("python:topic assert") == "python: pydoc_data"


def test_groups_are_no_part_of_the_corpus_and_are_kept(tmp_path: Path) -> None:
    path = str(lines(tmp_path / "rows.jsonl", ROWS))
    plain, grouped = made(tmp_path, path), made(tmp_path, path, groups="site")
    assert plain.key == grouped.key and plain.groups is None and grouped.groups is not None
    before = {file: file.read_bytes() for file in plain.path.rglob("*") if file.is_file()}
    assert {file: file.read_bytes() for file in grouped.path.rglob("*") if file.is_file()} == before
    (kept,) = (tmp_path / "data/groups").iterdir()
    stamp = kept.stat().st_mtime_ns
    again = made(tmp_path, path, groups="site")
    assert again.groups is not None and np.array_equal(again.groups.numbers, grouped.groups.numbers)
    assert kept.stat().st_mtime_ns == stamp
    kept.write_text(kept.read_text().replace("site 1", "site 2"))
    with pytest.raises(CheckFailed, match=r"groups/.*json: was changed after it was written .*; delete it to have"):
        made(tmp_path, path, groups="site")
    kept.unlink()  # the cure
    again = made(tmp_path, path, groups="site")
    assert again.groups is not None and np.array_equal(again.groups.numbers, grouped.groups.numbers)


def test_files_that_moved_to_other_folders_are_grouped_anew(tmp_path: Path) -> None:
    for i, text in enumerate(texts(60)):
        path = tmp_path / "root" / "ab"[i % 2] / f"{i:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    first = made(tmp_path, f"{tmp_path}/root/*/*.txt", groups="folder")
    (tmp_path / "root/a/00.txt").parent.rename(tmp_path / "root/a0")
    (tmp_path / "root/a1").mkdir()
    for path in sorted((tmp_path / "root/a0").iterdir())[15:]:
        path.rename(tmp_path / "root/a1" / path.name)
    again = made(tmp_path, f"{tmp_path}/root/*/*.txt", groups="folder")
    assert first.groups is not None and again.groups is not None
    assert again.key == first.key and len(set(first.groups.numbers)) == 2 and len(set(again.groups.numbers)) == 3


@pytest.mark.parametrize(
    ("source", "by", "said"),
    [
        (
            "mock",
            "folder",
            r"data\.groups: 'folder' groups nothing: 'mock' is made up, document by document; remove it",
        ),
        ("mock", "site", r"data\.groups: 'site' groups nothing: 'mock' is made up"),
        ("python", "site", r"data\.groups: 'python' has no rows, so no field 'site'; write groups = \"folder\""),
        ("x.txt", "site", r"data\.groups: '.*x\.txt' has no rows, so no field 'site'; write groups = \"folder\""),
        ("x.bin", "folder", r"data\.groups: 'folder' groups nothing: token files keep neither .*; remove it, or"),
        ("x.jsonl", "sites", r"x\.jsonl: line 1: has no field 'sites'; set data\.groups; did you mean 'site'\?"),
        (
            "null.jsonl",
            "site",
            r"null\.jsonl: line \d+: 'site' is missing, which names no group; give it a name, or remove",
        ),
        ("list.jsonl", "site", r"list\.jsonl: line \d+: 'site' is list, which names no group"),
        (
            "one.jsonl",
            "site",
            r"data\.groups: all \d+ held-out documents are of one group by site \(s\): nothing is indep",
        ),
        ("x.jsonl", "folder", r"data\.groups: all \d+ held-out documents are of one group by folder \(x\.jsonl\)"),
    ],
)
def test_what_cannot_be_grouped_is_refused(source: str, by: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("<|endoftext|>".join(texts(60)), encoding="utf-8")
    np.tile(np.array([256, *range(40)], "<u2"), 60).tofile(tmp_path / "x.bin")
    lines(tmp_path / "x.jsonl", ROWS)
    for name, site in (("null", None), ("list", ["a"]), ("one", "s")):
        lines(tmp_path / f"{name}.jsonl", [{**row, "site": site} for row in ROWS])
    named = source if source in ("mock", "python") else str(tmp_path / source)
    with pytest.raises((InvalidStudy, CheckFailed), match=said):
        made(tmp_path, named, groups=by)


def test_rows_of_the_datasets_library_have_fields_and_no_folders(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_stream(tmp_path / "d.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=16)
    source = Arrow(tmp_path / "d.arrow", "hf:d/d.arrow", rows=(10, 70))
    (fault,) = groups.refused(Sources(texts=[source]), "folder")
    assert str(fault) == (
        "data.groups: 'hf:d/d.arrow' lies in no folder: the datasets library keeps rows, not files; name a field of its rows"
    )
    assert groups.refused(Sources(texts=[source]), "site") == []
    named = [(text, name) for _, text, name in groups._named(source, "site", tmp_path)]
    assert named == [(row["text"], row["site"]) for row in ROWS[10:70]]
