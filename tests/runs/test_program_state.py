"""What enters the key of a run of a program: the tree as it lies there, files that are read, words; and what does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests import foreign

from ablab.core.fault import CheckFailed
from ablab.launch.study import Lab
from ablab.runs import program, tree

READS = foreign.changed(foreign.STUDY, reads='["data/*.bin"]')


def key(file: Path) -> str:
    return foreign.plan(file).runs["baseline", 0].train_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return foreign.write(tmp_path, READS, **{"data/train.bin": "12", "data/valid.bin": "3", "other.bin": "4"})


def test_any_edit_of_the_checkout_is_another_run_and_undoing_it_is_not(file: Path) -> None:
    first, checkout = key(file), file.parent.parent / "program"
    seen = {first}
    for name, text in {"model.py": "def gain(*_):\n    return 0\n", "new.py": "", "data/train.bin": "13"}.items():
        before = (checkout / name).read_text() if (checkout / name).exists() else None
        (checkout / name).write_text(text)
        now = key(file)
        assert now not in seen
        seen.add(now)
        (checkout / name).unlink() if before is None else (checkout / name).write_text(before)
        assert key(file) == first
    (checkout / "other.bin").write_text("5")  # ignored, and not read
    assert key(file) == first


def test_an_edit_in_the_second_of_the_commit_that_moves_no_size_is_seen(file: Path) -> None:
    checkout = file.parent.parent / "program"
    foreign.git(checkout, "config", "core.trustCtime", "false")  # which no test can turn back
    index, model = checkout / ".git" / "index", checkout / "model.py"
    then = model.stat().st_mtime_ns - 3600 * 10**9
    os.utime(model, ns=(then, then))
    foreign.git(checkout, "add", "--all")
    first = key(file)
    model.write_text(foreign.MODEL.replace("0.05", "0.07"))
    for one in (model, index):
        os.utime(one, ns=(then, then))
    assert key(file) != first


def test_committing_an_edit_and_the_index_move_nothing(file: Path) -> None:
    checkout = file.parent.parent / "program"
    (checkout / "model.py").write_text("def gain(*_):\n    return 0\n")
    edited = key(file)
    index = (checkout / ".git" / "index").read_bytes()
    assert key(file) == edited and (checkout / ".git" / "index").read_bytes() == index
    foreign.git(checkout, "add", "--all")
    assert key(file) == edited
    foreign.git(checkout, "commit", "--quiet", "--message=two")
    plan = foreign.plan(file)
    run = plan.runs["baseline", 0]
    assert run.train_key == edited and run.program is not None and run.program.diff == ""


def test_a_study_in_the_checkout_its_patches_and_its_store_are_no_part_of_it(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    checkout = tmp_path / "program"
    file = checkout / "study.toml"
    study = foreign.changed(foreign.STUDY, directory='"."') + '[arm.gate]\nrunner.patch = "gate.diff"\n'
    file.write_text(study)
    (checkout / "gate.diff").write_text("--- a/model.py\n+++ b/model.py\n@@ -1 +1 @@\n-a\n+b\n")
    first = key(file)
    (checkout / "gate.diff").write_text("--- a/model.py\n+++ b/model.py\n@@ -1 +1 @@\n-a\n+c\n")
    file.write_text(f"# a remark\n{study}")
    assert (checkout / "runs").is_dir() and key(file) == first


def test_words_and_variables_are_the_key_and_how_long_it_may_take_is_not(file: Path) -> None:
    first, told = key(file), {}
    for what, keys in {
        "args": {"args.x": "1"}, "env": {"env.X": '"1"'}, "timeout": {"timeout": '"2h"'}, "resume": {"resume": '"--again"'},
        "log": {"log": "{ regex = '(.)' }"}, "repeats": {"repeats": "1"},
    }.items():  # fmt: skip
        file.write_text(foreign.changed(READS, **keys))
        told[what] = key(file) == first
    assert told == {"args": False, "env": False, "timeout": True, "resume": True, "log": True, "repeats": True}


def test_a_tree_has_the_diff_copies_of_files_that_are_read_and_no_remote(file: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "program"
    (checkout / "new.py").write_text("print()\n")
    plan = foreign.plan(file)
    stands = plan.runs["baseline", 0].program
    assert stands is not None
    here = tree.make(stands, tmp_path / "there" / "tree", plan.store)
    assert (here / "new.py").read_text() == "print()\n" and not (here / "data" / "train.bin").is_symlink()
    assert subprocess.run(["git", "remote"], cwd=here, capture_output=True, check=True).stdout == b""
    assert str(checkout) not in (here / ".git" / "config").read_text()
    assert (here / "data" / "train.bin").read_text() == "12" and not (here / "other.bin").exists()
    tree.drop(here)
    assert (checkout / "data" / "train.bin").read_text() == "12"
    (checkout / "data" / "train.bin").write_text("changed")
    with pytest.raises(CheckFailed, match="changed after the runs were planned; start the study again"):
        tree.make(stands, tmp_path / "there" / "tree", plan.store)


def test_a_file_that_is_read_and_tracked_lies_in_the_tree_as_the_checkout_has_it(tmp_path: Path) -> None:
    file = foreign.write(tmp_path, foreign.changed(foreign.STUDY, reads='["data.txt"]'), **{"data.txt": "as committed"})
    first = key(file)
    (tmp_path / "program" / "data.txt").write_text("as edited")
    plan = foreign.plan(file)
    stands = plan.runs["baseline", 0].program
    assert stands is not None and plan.runs["baseline", 0].train_key != first
    assert (tree.make(stands, tmp_path / "t" / "tree", plan.store) / "data.txt").read_text() == "as edited"


def test_runs_that_are_planned_stay_what_they_are_while_the_checkout_goes_on(file: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "program"
    (checkout / "model.py").write_text("def gain(*_):\n    return 1\n")
    plan = foreign.plan(file)
    stands = plan.runs["baseline", 0].program
    assert stands is not None
    (checkout / "model.py").write_text("def gain(*_):\n    return 2\n")
    foreign.git(checkout, "commit", "--quiet", "--all", "--message=two")
    assert "return 1" in (tree.make(stands, tmp_path / "t" / "tree", plan.store) / "model.py").read_text()


def test_too_much_that_git_does_not_know_is_refused_with_the_largest(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MOST", 1000)
    (file.parent.parent / "program" / "huge.pt").write_bytes(b"x" * 1001)
    with pytest.raises(
        CheckFailed, match=r"1,001 bytes that git neither tracks nor ignores, most of all huge.pt; ignore them"
    ):
        key(file)


def test_a_checkout_below_the_top_of_its_repository(tmp_path: Path) -> None:
    file = foreign.write(
        tmp_path, foreign.changed(foreign.STUDY, directory='"../program/sub"'), **{"sub/train.py": "print()\n"}
    )
    run = foreign.plan(file).runs["baseline", 0]
    assert run.program is not None and run.program.inside == "sub"
    assert tree.make(run.program, tmp_path / "t" / "tree", foreign.plan(file).store) == tmp_path / "t" / "tree" / "sub"


@pytest.mark.parametrize("small", [0, 1 << 24])
def test_what_a_program_writes_into_what_it_reads_never_reaches_the_users_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(tree, "SMALL", small)
    theirs = tmp_path / "program" / "data" / "train.bin"
    plan = foreign.plan(file)
    stands = plan.runs["baseline", 0].program
    assert stands is not None
    here = tree.make(stands, tmp_path / "there" / "tree", plan.store)
    read = here / "data" / "train.bin"
    assert read.read_text() == "12" and read.is_symlink() == (small == 0)
    if small == 0:
        assert read.resolve().stat().st_mode & 0o222 == 0
        read.resolve().chmod(0o644)  # as root may write all the same
    read.write_text("mine")
    assert theirs.read_text() == "12"
    if small == 0:
        with pytest.raises(CheckFailed, match=r"was written to by a run, through the link data/train\.bin in its copy"):
            tree.unchanged(stands, plan.store)
        tree.drop(here)
        assert (tree.make(stands, here, plan.store) / "data" / "train.bin").read_text() == "12"
        (here / "data" / "train.bin").resolve().chmod(0o644)
        (here / "data" / "train.bin").write_text("once more, and stopped then")
        tree.drop(here)
        assert (tree.make(stands, here, plan.store) / "data" / "train.bin").read_text() == "12"
    tree.unchanged(stands, plan.store)


def test_a_name_that_leaves_the_checkout_is_refused_and_its_whole_path_is_read_in_its_place(tmp_path: Path) -> None:
    file = foreign.write(tmp_path, foreign.changed(foreign.STUDY, reads='["../beside.bin"]'))
    (tmp_path / "beside.bin").write_text("1")
    with pytest.raises(
        CheckFailed, match=r"'../beside.bin', which leaves the checkout: .* give its whole path"
    ) as raised:
        key(file)
    whole = str(raised.value).partition("runner.reads = ")[2].partition(",")[0]
    file.write_text(foreign.changed(foreign.STUDY, reads=whole))
    first = key(file)
    plan = foreign.plan(file)
    stands = plan.runs["baseline", 0].program
    assert stands is not None
    tree.make(stands, tmp_path / "t" / "tree", plan.store)
    (tmp_path / "beside.bin").write_text("2")
    assert key(file) != first
    with pytest.raises(CheckFailed, match="changed after the runs were planned"):
        tree.unchanged(stands, plan.store)


def test_a_name_beside_the_folder_and_within_the_checkout_lies_beside_it_in_the_copy(tmp_path: Path) -> None:
    study = foreign.changed(foreign.STUDY, directory='"../program/sub"', reads='["../data/*.bin"]')
    plan = foreign.plan(foreign.write(tmp_path, study, **{"sub/train.py": "print()\n", "data/train.bin": "12"}))
    stands = plan.runs["baseline", 0].program
    assert stands is not None
    assert (tree.make(stands, tmp_path / "t" / "tree", plan.store) / ".." / "data" / "train.bin").read_text() == "12"


@pytest.mark.parametrize("tracked", [False, True])
def test_a_repository_within_the_checkout_is_refused_by_name_unless_its_files_are_read(
    file: Path, tmp_path: Path, tracked: bool
) -> None:
    checkout = tmp_path / "program"
    inner = checkout / "third" / "inner"
    inner.mkdir(parents=True)
    (inner / "a.py").write_text("1")
    foreign.git(inner, "init", "--quiet")
    foreign.git(inner, "add", "--all")
    foreign.git(inner, "commit", "--quiet", "--message=one")
    if tracked:
        foreign.git(checkout, "add", "--all")
        foreign.git(checkout, "commit", "--quiet", "--message=a link to it")
    with pytest.raises(CheckFailed, match=r"holds third/inner, a repository of its own: .*third/inner/\*\*/\*\.py"):
        key(file)
    file.write_text(foreign.changed(foreign.STUDY, reads='["third/inner/**/*.py"]'))
    first = key(file)
    plan = foreign.plan(file)
    stands = plan.runs["baseline", 0].program
    assert stands is not None
    assert (tree.make(stands, tmp_path / "t" / "tree", plan.store) / "third" / "inner" / "a.py").read_text() == "1"
    (inner / "a.py").write_text("2")
    assert key(file) != first


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ("", "gate.diff: is empty: the arm would be what it is compared with"),
        (" \n\n", "gate.diff: is empty"),
        ("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+a\n", "gate: .*the arm's patch changes nothing of commit"),
    ],
)
def test_a_patch_that_changes_nothing_is_refused_with_its_arm(tmp_path: Path, patch: str, told: str) -> None:
    file = foreign.write(tmp_path, foreign.STUDY + '[arm.gate]\nrunner.patch = "gate.diff"\n', **{"a.txt": "a\n"})
    (file.parent / "gate.diff").write_text(patch)
    with pytest.raises(CheckFailed, match=told):
        Lab(file, out=tmp_path / "runs").check()


def test_a_patch_of_a_mode_alone_is_a_change_and_two_arms_of_one_patch_are_not(tmp_path: Path) -> None:
    mode = "diff --git a/a.txt b/a.txt\nold mode 100644\nnew mode 100755\n"
    arms = '[arm.gate]\nrunner.patch = "gate.diff"\n'
    file = foreign.write(tmp_path, foreign.STUDY + arms, **{"a.txt": "a\n"})
    for name in ("gate.diff", "door.diff"):
        (file.parent / name).write_text(mode)
    Lab(file, out=tmp_path / "runs").check()
    file.write_text(foreign.STUDY + arms + '[arm.door]\nrunner.patch = "door.diff"\n')
    with pytest.raises(CheckFailed, match="door: is run as gate is: the same words on the same tree"):
        Lab(file, out=tmp_path / "runs").check()


def test_a_copy_that_git_cannot_look_at_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        CheckFailed, match=r"cannot be compared before and behind the arm's patch .*not a git repository"
    ):
        tree._lies(tmp_path)
