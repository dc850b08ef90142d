"""Commas in numbers: thousands are read, what may be a decimal comma is refused by its line, and no row vanishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.judging.logs.building import count, ungrouped
from ablab.judging.logs.formats import read
from ablab.judging.logs.found import NoScore, score
from ablab.records.settings import LogSettings


def test_only_groups_of_three_are_thousands() -> None:
    assert [ungrouped(one) for one in ("1,234", "12,345,678.5", "3.5")] == ["1234", "12345678.5", "3.5"]
    assert [ungrouped(one) for one in ("3,5", "0,125", "1,2345", "1234,567", "1,234,5")] == [None] * 5
    assert (count("16,594"), count("1,5")) == (16594, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "arm;seed;loss\na;1;3,5\na;2;3,456\n"),
        ("a.tsv", "arm\tseed\tloss\na\t1\t3,5\na\t2\t3,456\n"),
        ("a.tsv", "arm\tseed\tloss\na\t1\t3,512\na\t2\t3,456\n"),
        ("a.tsv", "arm\tseed\tscore\na\t1\t3,5\na\t2\t3,456\n"),
        ("a.csv", "arm;seed;score\na;1;3,512\na;2;3,456\n"),
        ("a.csv", "arm;seed 1;seed 2\n\na;3,5;3,456\n"),
    ],
)
def test_a_decimal_comma_is_refused_by_its_line(name: str, text: str, tmp_path: Path) -> None:
    (path := tmp_path / name).write_text(text)
    reading = read(path)
    refused = [one for one in reading.faults if "may have a decimal comma" in one.fault]
    assert not reading.runs and len(refused) == 2 and all("write a point" in one.cure for one in refused)


def test_thousands_of_a_number_without_a_unit_are_read(tmp_path: Path) -> None:
    (path := tmp_path / "a.tsv").write_text("arm\tseed\tscore\na\t1\t1,234\na\t2\t12,345.5\n")
    assert [run.stages["score"].value for run in read(path).runs] == [1234, 12345.5]


@pytest.mark.parametrize(
    "text",
    ["step 9: train loss 3,1000, val loss 3,2812\n", "9/9 val_loss: 3,2812 val_bpb: 1,0812\n", "s:9 tel:3,28\n"],
)
def test_no_log_is_read_up_to_its_comma(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.log").write_text(text)
    reading = read(path)
    assert not reading.runs and reading.faults and not reading.strange


def test_a_row_without_a_score_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("arm,seed,loss\na,1,3.5\na,2,crashed\na,3,\n")
    reading = read(path)
    assert [run.seed for run in reading.runs] == [1]
    assert [str(one) for one in reading.faults] == [
        f"{path}:3: `a` has no score, but 'crashed'",
        f"{path}:4: `a` has no score",
    ]


def test_what_one_reader_found_odd_stays_where_another_finds_no_run_either(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text('{"_step": 1, "eval/loss": 0.0, "note": "seed"}\n')
    reading = read(path)
    assert not reading.runs and any(one.place == f"{path}:1" and "eval/loss" in one.fault for one in reading.faults)


NOTHING: LogSettings = {"reader": None, "stage": None, "regex": None, "last": True, "field": None, "file": None}


@pytest.mark.parametrize(
    ("regex", "line"),
    [(r"loss (\S+)", "loss 3,1234"), (r"loss (\S+)", "loss 0,95,"), (r"loss ([\d.]+)", "loss 3.2e-05"),
     (r"loss ([\d.]+)", "loss 1.#QNAN"), (r"loss ([\d.]+)", "loss 3,1234"), (r"loss(?: ([\d.]+))?", "loss is")],
)  # fmt: skip
def test_a_part_of_a_number_is_no_score(regex: str, line: str, tmp_path: Path) -> None:
    (path := tmp_path / "out.txt").write_text(line + "\n")
    with pytest.raises(NoScore):
        score({**NOTHING, "regex": regex}, "val_loss", path, None)


@pytest.mark.parametrize("last", ["null", "nan", "NaN", "-inf", '"inf"'])
def test_a_field_that_is_no_number_at_the_end_is_a_divergence(last: str, tmp_path: Path) -> None:
    (path := tmp_path / "log.json").write_text(f'{{"a": {{"b": 1.5}}}}\n{{"a": {{"b": {last}}}}}\n{{"c": 2}}\n')
    found = score({**NOTHING, "field": "a.b"}, "val_loss", path, None)
    assert (found.value, found.line) == (None, 2)
