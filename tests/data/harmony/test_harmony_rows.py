"""Inputs of a Harmony build: what they name, slices of their rows, rows as conversations, the split, the mock."""

import hashlib
import json
import os
import sys
import types
from pathlib import Path

import datasets
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.files import canonical
from ablab.core.inputs import Inputs
from ablab.data.harmony import held, mock, readers, rows
from ablab.data.harmony.conversation import Message, from_synth
from ablab.data.harmony.official import OfficialRenderer
from ablab.data.harmony.readers import Bad
from ablab.data.harmony.rows import BadRow, RowSource, find
from ablab.data.sources.hub import arrow_files

SYNTH = {
    "synth_id": ["a", "b", "c"],
    "query": ["1?", "2?", "3?"],
    "synthetic_reasoning": ["r1", "r2", "r3"],
    "synthetic_answer": ["1", "2", "3"],
}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "channel": "final", "content": "Ho"}]


def parquet(path: Path, columns: dict, **settings) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **settings)
    return path


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


def one(path: Path) -> RowSource:
    (found,) = find([str(path)], Inputs(path.parent / "memo.json"))
    return found


def conversations(source: RowSource) -> list:
    found = []
    for number, cells in source.reader().rows(source.first, source.first + source.rows):
        try:
            found.append(source.conversation(cells))
        except BadRow as error:
            found.append((source.place(number), error.row_id, str(error)))
    return found


def test_the_split_and_the_hash_of_its_settings_are_those_of_the_vpmoe_fork() -> None:
    # numbers: vpMoE, scripts/datasets/build_synth_kd_v1.py and data/megatron/synth_kd_v1_smoke/manifest.json
    assert held.hash_of("abc") == 15617099051652453721
    assert held.threshold(0.001) == 18446744073709551
    below = [i for i in range(100_000) if held.hash_of(str(i)) < held.threshold(0.001)]
    assert below[:5] == [1429, 2882, 3100, 3592, 4327] and len(below) == 114
    for fraction, digest in (
        (0.1, "faa2ee2ea0adc1b2dc2f171d31e4ab4d6b6a3a320d09a35776cceb34c006ecdc"),
        (0.001, "73f469ae8f3cdb1ddcd6219c2c90d095507048999c0d19da084423de048f91b0"),
    ):
        assert held.config_hash(held.config(fraction, 199_999)) == digest


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_fraction_outside_of_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"is not between 0 and 1; 0\.001 holds out one row in a thousand"):
        held.threshold(fraction)


def test_all_and_nothing_can_be_held_out() -> None:
    assert held.threshold(0) == 0 and held.threshold(1) == 2**64


def test_the_mock_is_the_same_everywhere_and_any_slice_of_it_too() -> None:
    found = list(mock.rows(0, 300))
    digest = hashlib.sha256(canonical(found).encode()).hexdigest()
    assert digest == "92482183464c55d9be6fa3f90535474d59e9a6fc696ed1afbf931e7d35259b43"
    assert list(mock.rows(117, 131)) == found[117:131]
    assert len({row[0] for row in found}) == 300
    for _, query, reasoning, answer in found:
        assert query and reasoning and answer
        if query.startswith("What is "):
            a, b = map(int, query[8:-1].split(" + "))
            assert answer == f"{a} + {b} = {a + b}." and f"The sum is {a + b}." in reasoning


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "mock"])
def test_any_slices_of_rows_are_those_of_the_whole(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "BATCH", 7)
    monkeypatch.setattr(readers, "MARK_EVERY", 10)
    table = pyarrow.table({name: [row[i] for row in mock.rows(0, 100)] for i, name in enumerate(mock.FIELDS)})
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=30)
    elif kind == "arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=40)
    else:
        lines(path, "", *table.slice(0, 33).to_pylist(), "  ", "", *table.slice(33).to_pylist(), "")
    source = one(path) if kind != "mock" else find(["mock:100"], Inputs(tmp_path / "memo"))[0]
    assert source.rows == 100
    whole = list(source.reader().rows(0, 100))
    assert [cells for _, cells in whole] == list(mock.rows(0, 100))
    if kind == "jsonl":
        assert [number for number, _ in whole] == [*range(2, 35), *range(37, 104)]  # lines, as an editor counts
    reader = source.reader()
    for start, stop in ((0, 10), (10, 11), (11, 45), (60, 61), (95, 100), (3, 99), (99, 100), (40, 40), (29, 31)):
        assert list(reader.rows(start, stop)) == whole[start:stop], (start, stop)


def test_synth_columns_become_a_question_a_reasoning_and_an_answer(tmp_path: Path) -> None:
    source = one(parquet(tmp_path / "x.parquet", SYNTH | {"other": [1, 2, 3]}))
    assert conversations(source) == [
        (row, from_synth(f"{i}?", f"r{i}", f"{i}")) for i, row in ((1, "a"), (2, "b"), (3, "c"))
    ]
    assert source.identity["name"] == "x.parquet" and str(tmp_path) not in json.dumps(source.identity)


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ({"synth_id": "s", "id": "i"}, "s"),
        ({"id": 17}, "17"),
        ({}, hashlib.sha256(json.dumps(TALK).encode()).hexdigest()[:32]),
    ],
)
def test_messages_take_the_id_that_is_there_or_a_hash(extra: dict, wanted: str, tmp_path: Path) -> None:
    talk = (Message("user", "Hi"), Message("assistant", "Ho", "final"))
    record = {"messages_json": json.dumps(TALK), **extra}
    columns = {name: [value] for name, value in record.items()}
    for path in (parquet(tmp_path / "x.parquet", columns), lines(tmp_path / "x.jsonl", record)):
        assert conversations(one(path)) == [(wanted, talk)]


def test_messages_may_be_a_list_under_messages_or_json_already(tmp_path: Path) -> None:
    given = [json.dumps({"messages": TALK}), TALK, {"messages": TALK}]
    path = lines(tmp_path / "x.jsonl", *({"id": str(i), "messages_json": value} for i, value in enumerate(given)))
    found = conversations(one(path))
    assert [row for row, _ in found] == ["0", "1", "2"] and len({messages for _, messages in found}) == 1


def test_a_missing_column_is_named_with_those_present(tmp_path: Path) -> None:
    columns = {name: value for name, value in SYNTH.items() if name not in ("synth_id", "query")}
    path = parquet(tmp_path / "x.parquet", columns | {"prompt": ["a", "b", "c"]})
    with pytest.raises(CheckFailed) as refused:
        one(path)
    assert str(refused.value) == (
        f"{path}: has no column 'synth_id', 'query'; it has synthetic_reasoning, synthetic_answer, prompt; "
        "give synth_id, query, synthetic_reasoning, synthetic_answer, or messages_json (with synth_id or id)"
    )
    with pytest.raises(CheckFailed, match=r"has no field 'synth_id', 'query'.*; it has text;"):
        one(lines(tmp_path / "x.jsonl", {"text": "a"}))


def test_rows_that_are_no_conversation_say_why_and_the_others_stay(tmp_path: Path) -> None:
    good = {name: values[0] for name, values in SYNTH.items()}
    path = tmp_path / "x.jsonl"
    lines(
        path,
        good,
        "{half",
        "[1]",
        {name: value for name, value in good.items() if name != "query"},
        good | {"query": None},
        good | {"synthetic_answer": 4},
        good | {"synth_id": None},
        good | {"synth_id": 1.5},
        good | {"synth_id": "\ud800"},
        good | {"synth_id": 9},
    )
    with path.open("ab") as file:
        file.write(b'{"synth_id": "\xff"}\n')
    found = conversations(one(path))
    assert found[0] == ("a", from_synth("1?", "r1", "1")) and found[9][0] == "9"
    assert found[1][:2] == ("x.jsonl: line 2", None) and found[1][2].startswith("is no JSON (")
    assert found[2:9] == [
        ("x.jsonl: line 3", None, "is no JSON object"),
        ("x.jsonl: line 4", "a", "has no field 'query'"),
        ("x.jsonl: line 5", "a", "'query' has no value"),
        ("x.jsonl: line 6", "a", "'synthetic_answer' is int, not a string"),
        ("x.jsonl: line 7", None, "'synth_id' has no value"),
        ("x.jsonl: line 8", None, "'synth_id' is float, not a string"),
        ("x.jsonl: line 9", None, "'synth_id' holds a lone surrogate at character 0"),
    ]
    assert found[10] == ("x.jsonl: line 11", None, "is no UTF-8 at byte 14 of the line")


def test_a_broken_first_line_is_set_aside_like_any_other(tmp_path: Path) -> None:
    good = {name: values[0] for name, values in SYNTH.items()}
    source = one(lines(tmp_path / "x.jsonl", "", "{half", "[1]", good))
    found = conversations(source)
    assert found[0][:2] == ("x.jsonl: line 2", None) and found[0][2].startswith("is no JSON (")
    assert found[1:] == [("x.jsonl: line 3", None, "is no JSON object"), ("a", from_synth("1?", "r1", "1"))]
    with pytest.raises(CheckFailed, match=r"y\.jsonl: has no line that is a JSON object; give one object on each line"):
        one(lines(tmp_path / "y.jsonl", "{half", "[1]"))


def test_bad_messages_say_why(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        {"id": "a", "messages_json": "{"},
        {"id": "b", "messages_json": "7"},
        {"id": "c", "messages_json": [{"role": "user"}]},
    )
    found = conversations(one(path))
    assert found[0][2].startswith("'messages_json' is no JSON (")
    assert found[1][2] == "the messages are 7, not a list"
    assert found[2][1:] == ("c", "message 0 has no 'content'; it has 'role'")


def test_text_that_is_no_utf8_spoils_its_row_only(tmp_path: Path) -> None:
    raw = pyarrow.array([b"good", b"bad \xff", b"good too"]).view(pyarrow.utf8())
    source = one(parquet(tmp_path / "x.parquet", SYNTH | {"query": raw}))
    found = conversations(source)
    assert found[1] == ("x.parquet: row 1", "b", "'query' is no UTF-8 at byte 4")
    assert [messages[0].text for _, messages in (found[0], found[2])] == ["good", "good too"]
    assert readers.cells(raw, "query")[1] == Bad("'query' is no UTF-8 at byte 4")


def test_every_source_that_names_nothing_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a")
    asked = [str(tmp_path / "no.parquet"), str(tmp_path), str(tmp_path / "x.csv")]
    with pytest.raises(InvalidStudy) as refused:
        find(asked, Inputs(tmp_path / "memo"))
    texts = [str(fault) for fault in refused.value.faults]
    assert "no.parquet' matches no file; check the path; known: .parquet, .jsonl and .arrow files" in texts[0]
    assert "is a folder; name its files" in texts[1] and "has the suffix '.csv', which has no reader" in texts[2]
    for word in ("mock:", "mock:0", "mock:x"):
        with pytest.raises(InvalidStudy, match=f"'{word}' names no count"):
            find([word], Inputs(tmp_path / "memo"))
    with pytest.raises(InvalidStudy, match="SOURCE: names nothing"):
        find([], Inputs(tmp_path / "memo"))


def test_a_glob_names_files_in_order(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "c.jsonl"):
        path = tmp_path / name
        parquet(path, SYNTH) if path.suffix == ".parquet" else lines(path, {"messages_json": "[]"})
    found = find([str(tmp_path / "*.parquet"), str(tmp_path / "c.jsonl")], Inputs(tmp_path / "memo"))
    assert [source.name for source in found] == ["a.parquet", "b.parquet", "c.jsonl"]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", SYNTH)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckFailed, match=r"x\.parquet: cannot be read \(.*\); check the file, or fetch it again"):
        one(path)
    rows_of = {name: [text * 1000 for text in values] * 200 for name, values in SYNTH.items()}
    parquet(path, rows_of, compression="none", use_dictionary=False)
    source = one(path)
    spoilt = bytearray(path.read_bytes())
    spoilt[4:200] = bytes(196)  # the first page's header
    path.write_bytes(spoilt)
    with pytest.raises(CheckFailed, match=r"x\.parquet: cannot be read behind row 0 \("):
        list(source.reader().rows(0, 600))


def test_a_dataset_of_the_hub_is_read_from_its_arrow_files(tmp_path: Path, monkeypatch) -> None:
    table = pyarrow.table(SYNTH)
    with pyarrow.ipc.new_stream(tmp_path / "d-train.arrow", table.schema) as stream:
        stream.write_table(table)
    asked: list = []

    def load_dataset(name: str, config: str | None, *, revision: str | None, cache_dir: None) -> object:
        asked.append((name, config, revision))
        return {"test": types.SimpleNamespace(cache_files=[{"filename": str(tmp_path / "d-train.arrow")}], num_rows=3)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (source,) = find(["hf:some/set@v1#small:test"], Inputs(tmp_path / "memo"))
    assert asked == [("some/set", "small", "v1")]
    assert source.name == "hf:some/set/d-train.arrow" and conversations(source)[2][0] == "c"
    (last,) = find(["hf:some/set:test[2:]"], Inputs(tmp_path / "memo"))
    assert (last.first, last.rows) == (2, 1) and last.identity != source.identity
    assert [row_id for row_id, _ in conversations(last)] == ["c"]


def test_the_hub_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        CheckFailed, match=r"needs the package 'datasets'.*; \S*python\S* -P -m pip install datasets, or give"
    ):
        find(["hf:some/set"], Inputs(tmp_path / "memo"))


@pytest.mark.parametrize("place", ["SOURCE", "data.source"])
def test_faults_of_the_hub_stand_where_the_source_was_written(place: str, monkeypatch) -> None:
    def fails(*_: object, **__: object) -> object:
        raise ConnectionError("no network")

    given = () if place == "SOURCE" else (place,)
    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(CheckFailed, match=rf"^{place}: 'hf:some/set' cannot be loaded \(ConnectionError: no network\)"):
        arrow_files("hf:some/set", *given)
    with pytest.raises(InvalidStudy, match=f"^{place}: 'hf:' names no dataset"):
        arrow_files("hf:", *given)
    kept = {"train": types.SimpleNamespace(cache_files=[], num_rows=3)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: kept)
    with pytest.raises(CheckFailed, match=f"^{place}: 'hf:some/set' is not kept in files"):
        arrow_files("hf:some/set", *given)


def test_openai_harmony_is_asked_with_our_vocabulary_and_leaves_no_variable(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(tmp_path))
    official = OfficialRenderer()
    assert os.environ["TIKTOKEN_ENCODINGS_BASE"] == str(tmp_path)
    # ids: openai-harmony 0.0.8, as vpMoE renders them
    wanted = [
        200006,
        1428,
        200008,
        4827,
        382,
        220,
        17,
        10,
        17,
        30,
        200007,
        200006,
        173781,
        200005,
        35644,
        200008,
        17,
        10,
    ]
    wanted += [17, 28, 19, 13, 200007, 200006, 173781, 200005, 17196, 200008, 19, 200002, 199999]
    assert official.ids(from_synth("What is 2+2?", "2+2=4.", "4")) == wanted
    with pytest.raises(ValueError, match="the o200k vocabulary cannot be read"):
        OfficialRenderer(tmp_path / "no")


def test_an_id_of_content_is_that_of_its_text() -> None:
    assert rows.content_id("[]") == hashlib.sha256(b"[]").hexdigest()[:32]
    assert rows.content_id([{"b": 1, "a": 2}]) == rows.content_id([{"a": 2, "b": 1}])
    assert len(rows.content_id("\ud800")) == 32
