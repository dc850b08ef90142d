"""A folder or a glob sorted into arms: equal settings, without seed, paths and rank, and equal code."""

from __future__ import annotations

import os
from pathlib import Path

from tests.logged import TABLE, golf

from ablab.judging.logs.arms import SortedRuns, sort


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".log")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def told(found: SortedRuns) -> list[tuple[str, list[int | None]]]:
    return [(arm.name, [run.seed for run in arm.runs]) for arm in found.arms]


def test_runs_that_differ_by_seed_and_paths_are_one_arm(tmp_path: Path) -> None:
    other = golf(2).replace("data_dir: ./data/", "data_dir: /home/me/data")
    found = sort(written(tmp_path, a_seed1=golf(1), a_seed2=other, b_seed1=golf(1, wd="0.1"), c_seed1=golf(1, code=9)))
    assert told(found) == [("a", [1, 2]), ("b", [1]), ("c", [1])] and found.faults == [] and found.aside == []


def test_arms_are_named_by_their_folder_where_it_is_theirs_alone(tmp_path: Path) -> None:
    folder = written(
        tmp_path, base__train_seed1=golf(1), base__train_seed2=golf(2), wide__train_seed1=golf(1, wd="0.2")
    )
    assert told(sort(folder)) == [("base", [1, 2]), ("wide", [1])]
    assert told(sort(f"{folder}/*/train_seed1.log")) == [("base", [1]), ("wide", [1])]
    assert told(sort(folder / "base", folder / "wide")) == [("base", [1, 2]), ("wide", [1])]
    folder = written(tmp_path / "one", train_seed1=golf(1), train_seed2=golf(2, wd="0.2"))
    assert told(sort(folder)) == [("train", [1]), ("train (2)", [2])]


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    folder = written(tmp_path, a_seed1=golf(1))
    assert told(sort(folder, folder / "a_seed1.log", f"{folder}/*.log")) == [(folder.name, [1])]


def test_without_a_list_of_settings_the_size_of_the_code_tells_and_without_it_the_folder(tmp_path: Path) -> None:
    short = "seed:{}\nCode size: {} bytes\nfinal_int8_zlib_roundtrip_exact val_loss:2.07 val_bpb:1.22\n"
    folder = written(
        tmp_path / "x", a_seed1=short.format(1, 100), b_seed2=short.format(2, 100), c_seed1=short.format(1, 200)
    )
    assert told(sort(folder)) == [("a", [1, 2]), ("c", [1])]
    bare = "seed:{}\nfinal_int8_zlib_roundtrip_exact val_loss:2.07 val_bpb:1.22\n"
    folder = written(tmp_path / "y", a_seed1=bare.format(1), a_seed2=bare.format(2), b_seed1=bare.format(1))
    assert told(sort(folder)) == [("a", [1, 2]), ("b", [1])]


def test_a_table_names_its_arms_and_a_seed_inside_their_names_is_none_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE, encoding="utf-8")
    assert told(sort(tmp_path)) == [("base", [1, 2]), ("wide", [1])]
    (tmp_path / "t.csv").write_text("run_id,seed,val_bpb\nwd0_seed1,1,1.1\nwd0_seed2,2,1.2\n", encoding="utf-8")
    assert told(sort(tmp_path)) == [("wd0", [1, 2])]


def test_of_a_log_with_several_runs_the_last_complete_one_counts(tmp_path: Path) -> None:
    smoke = golf(7).split("stopping_early")[0].replace("4557/", "9/").replace("4000/", "8/")
    found = sort(written(tmp_path, a_seed1=smoke + golf(1)))
    assert told(found) == [(tmp_path.name, [1])] and [run.seed for run in found.aside] == [7]


def test_what_is_no_file_of_runs_is_a_fault_and_never_an_exception(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "dark.log").write_bytes(b"\0" * 9000)
    (tmp_path / "empty.log").write_bytes(b"")
    (tmp_path / "loop.log").symlink_to("loop.log")
    (tmp_path / "odd.bin").write_bytes(b"x")
    (tmp_path / "requirements.txt").write_text("torch\n", encoding="utf-8")
    (tmp_path / "near.log").write_text("val_bpb: 0.0\n", encoding="utf-8")
    found = sort(tmp_path, tmp_path / "odd.bin", tmp_path / "none.log", tmp_path / "empty.log")
    assert found.arms == []
    assert sorted(str(one).removeprefix(f"{tmp_path}/").partition(";")[0] for one in found.faults) == sorted(
        [
            "dark.log: is no text",
            "empty.log: holds no score that a reader knows",
            "near.log: holds no score that a reader knows",
            "near.log:1: the score of 'val_bpb' is no finite number above 0",
            "loop.log: Too many levels of symbolic links",
            "none.log: names no file",
            "odd.bin: has a name that no reader takes",
            "pipe.log: is no file but a pipe",
        ]
    )
