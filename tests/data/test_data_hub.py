"""Datasets of the `datasets` library, the library itself, from a folder and without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.inputs import Inputs
from ablab.data.sources.find import find
from ablab.data.sources.hub import located, named
from ablab.data.sources.sources import Arrow

TEXTS = ["first text", "", "NUL \0 and \u00e9", "last"]
READ = """
import sys
from ablab.data.sources.find import find
found = find([sys.argv[1]], "text")
print([(source.name, [text for _, text in source.documents()]) for source in found.texts])
"""


def test_a_folder_of_parquet_files_is_read_by_the_library_itself(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": TEXTS, "id": [0, 1, 2, 3]}), tmp_path / "corpus" / "train-0.parquet")
    places = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", READ, f"hf:{tmp_path / 'corpus'}"]
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == repr([("hf:corpus/corpus-train.arrow", TEXTS)])


@pytest.mark.parametrize("kind", ["stream", "file", "feather"])
def test_both_formats_of_arrow_are_read(tmp_path: Path, kind: str) -> None:
    path, table = tmp_path / "rows.arrow", pa.table({"text": TEXTS, "id": [0, 1, 2, 3]})
    if kind == "feather":
        pa.feather.write_feather(table, path, compression="zstd", chunksize=2)
    else:
        make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as written:
            written.write_table(table, max_chunksize=3)
    [source] = find([str(path)], "text").texts
    assert [text for _, text in source.documents()] == TEXTS
    places = [place for place, _ in Arrow(path, "a", rows=(1, 3)).documents()]
    assert places == ["a: row 1", "a: row 2"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], ["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as written:
        written.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        [source] = find([str(tmp_path / name)], "text").texts
        with pytest.raises(CheckFailed, match="has 2 columns 'text'; write it with one"):
            list(source.documents())


def test_a_missing_column_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"body": ["x"]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(CheckFailed, match=r"hf:a: has no column 'text'; set data\.text_field; known: body"):
        list(Arrow(path, "hf:a").documents())
    assert len(Arrow(path, "hf:a").describe(Inputs(tmp_path / "i.json"))["sha256"]) == 64
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckFailed, match=r"hf:a: cannot be read at row 0 .*; fetch or write the file again"):
        list(Arrow(path, "hf:a", "body").documents())


SLICES = """
import json, sys, datasets
from ablab.data.sources.find import find
from ablab.core.fault import Refused
source, whole = sys.argv[1], datasets.load_dataset(sys.argv[1].removeprefix("hf:"), "large")
for spec in json.loads(sys.argv[2]):
    try:
        found = find([f"{source}#large:{spec}"], "text")
        texts = [text for source in found.texts for _, text in source.documents()]
        same = texts == datasets.load_dataset(source.removeprefix("hf:"), "large", split=spec)["text"][:]
        print(json.dumps([len(texts), same, texts[0]]))
    except Refused as refused:
        print(json.dumps(str(refused)))
"""


def library(tmp_path: Path, code: str, *given: str) -> list:
    places = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *given], env={**os.environ, **places}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def two_configurations(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, count in (("a", 50), ("b", 2000), ("c", 30)):
        rows = (json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(count))
        (folder / f"{name}.jsonl").write_text("".join(rows))
    large = "  data_files:\n  - {split: train, path: b.jsonl}\n  - {split: validation, path: c.jsonl}\n"
    configs = f"configs:\n- config_name: small\n  data_files: a.jsonl\n- config_name: large\n{large}"
    (folder / "README.md").write_text(f"---\n{configs}---\n")
    return folder


def test_slices_are_those_of_the_library_itself(tmp_path: Path) -> None:
    wanted = {
        "train[:100]": (100, "b 0"),
        "train[:90%]": (1800, "b 0"),
        "train[90%:]": (200, "b 1800"),
        "train[10:20]": (10, "b 10"),
        "train[-3:]": (3, "b 1997"),
        "train[33%:66%]": (660, "b 660"),
        "train+validation": (2030, "b 0"),
        "validation[:5]+train[:7]": (12, "c 0"),
        "train": (2000, "b 0"),
    }
    refused = {
        "train[5]": "names no rows; write a split, a slice of it",
        "train[::2]": "names no rows; write a split, a slice of it",
        "train.shuffle(seed=1)": "names no rows; write a split, a slice of it",
        "train[:0]": "names no row: there are 2,000 in train, 30 in validation",
        "train[20:10]": "names no row: there are 2,000 in train",
        "test[:5]": "has no split 'test[:5]'; it has train, validation",
    }
    folder = two_configurations(tmp_path / "the data")
    found = library(tmp_path, SLICES, f"hf:{folder}", json.dumps([*wanted, *refused]))
    assert found[: len(wanted)] == [[count, True, first] for count, first in wanted.values()]
    for said, part in zip(found[len(wanted) :], refused.values()):
        assert part in said


LIST = """
import json, sys
from ablab.data.sources.find import find
from ablab.data.sources.find import find
from ablab.data.sources.hub import located, named
from ablab.core.inputs import Inputs
from ablab.core.fault import Refused
from pathlib import Path
for source in sys.argv[2:]:
    try:
        found = find([source], "text")
        listed = [source.describe(Inputs(Path(sys.argv[1])))["sha256"] for source in found.texts]
        texts = [text for source in found.texts for _, text in source.documents()]
        print(json.dumps([len(texts), texts[-1], listed]))
    except Refused as refused:
        print(json.dumps(str(refused)))
"""


def test_a_configuration_has_a_place_and_a_missing_one_is_named(tmp_path: Path) -> None:
    folder = two_configurations(tmp_path / "d")
    asked = [
        f"hf:{folder}{end}" for end in ("#small", "#large:validation", "#large:train[:5]", "", ":train[:5]", "#none")
    ]
    found = library(tmp_path, LIST, str(tmp_path / "memo"), *asked)
    assert [one[:2] for one in found[:3]] == [[50, "a 49"], [30, "c 29"], [5, "b 4"]]
    assert f'has 2 configurations; known: small, large; name one behind #: "hf:{folder}#small"' in found[3]
    assert f'name one behind #: "hf:{folder}#small:train[:5]"' in found[4]
    assert "has no configuration 'none'; known: small, large" in found[5]
    assert found[0][2] != found[2][2]


def test_a_folder_whose_name_the_library_takes_for_a_pattern(tmp_path: Path) -> None:
    folder = two_configurations(tmp_path / "d [v2]")
    [said, read] = library(tmp_path, LIST, str(tmp_path / "memo"), f"hf:{folder}#small", f"{folder}/*.jsonl")
    assert f"takes the folder's name for a pattern; rename the folder, or name its files: '{folder}/*" in said
    assert read[:2] == [2080, "c 29"], "the cure reads them"


def test_a_file_of_another_content_and_the_same_time_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for text in ("one", "two"):
        (folder / "train.jsonl").write_text(json.dumps({"text": text}) + "\n")
        os.utime(folder / "train.jsonl", (1_600_000_000,) * 2)
        assert library(tmp_path, LIST, str(tmp_path / "memo"), f"hf:{folder}")[0][:2] == [1, text]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("hf:owner/name", ("owner/name", "", "", "")),
        ("hf:owner/name:test", ("owner/name", "", "", "test")),
        ("hf:owner/name@refs/pr/1", ("owner/name", "refs/pr/1", "", "")),
        ("hf:o/n@v1#20220301.en:train[:10%]+test", ("o/n", "v1", "20220301.en", "train[:10%]+test")),
        ("hf:o/n#sample-10BT", ("o/n", "", "sample-10BT", "")),
        ("hf:a@b#c:d", ("a@b#c:d", "", "", "")),
        ("hf:a@b#c:d:train[:5]", ("a@b#c:d", "", "", "train[:5]")),
        ("hf:./a@b#c:d#e", ("./a@b#c:d", "", "e", "")),
    ],
)
def test_the_parts_of_a_name(tmp_path: Path, source: str, wanted: tuple[str, ...]) -> None:
    (tmp_path / "a@b#c:d").mkdir()
    assert tuple(named(source, folder=tmp_path)) == wanted
    local = located(source, tmp_path)
    assert local == source or local.startswith(f"hf:{tmp_path}/a@b#c:d")


@pytest.mark.parametrize("source", ["hf:", "hf::train", "hf:@v1", "hf:#small"])
def test_a_name_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(InvalidStudy, match="names no dataset; write"):
        named(source)
