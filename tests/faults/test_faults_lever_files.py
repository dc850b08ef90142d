"""A study that came with a file of levers: nothing of the file runs, whatever reads the study, until its bytes were allowed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import ablab
from ablab.cli.main import app
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.study import load, outside, trusted
from ablab.study.keys import SLOTS

LEVERS = """
from pathlib import Path
from ablab.training.schedules.schedule import Schedule

with (Path(__file__).parent / "ran.txt").open("a") as file:
    file.write("ran\\n")


class Flat(Schedule):
    \"\"\"Always the whole learning rate.\"\"\"

    def factor(self, progress: float) -> float:
        return 1.0
"""
STUDY = """
study = { name = "s" }
decision = { matters = 0.01, seeds = 1, stage = "plain" }
budget = { tokens = 1024, batch_tokens = 512 }
data = { source = "mock" }
model = { layers = "G", d_model = 16, n_heads = 1, seq_len = 64, global = { position = "nope" } }
stage = { plain = { evaluate = "disjoint" } }
levers = { from = ["their_levers.py"] }
[arm.flat]
train.schedule = "flat"
"""
READ_A_STUDY = {
    "check": ["STUDY"],
    "run": ["STUDY"],
    "work": ["STUDY"],
    "status": ["STUDY"],
    "report": ["STUDY"],
    "ladder": ["STUDY", "--scales", "a,b,c"],
    "unbundle": ["STUDY", "flat"],
    "bundle": ["STUDY"],
    "mirror": ["STUDY", "--mirror", "tensorboard"],
    "sample": ["STUDY", "baseline", "--prompt", "a"],
    "export": ["STUDY", "baseline", "--to", "megatron"],
    "explain": ["--arm-of", "STUDY", "--", "--num-layers", "1"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stranger's folder, and an account that has allowed nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    theirs = tmp_path / "their's"
    theirs.mkdir()
    (theirs / "their_levers.py").write_text(LEVERS)
    (theirs / "study.toml").write_text(STUDY)
    monkeypatch.chdir(theirs)
    before = {name: (dict(slot.table), dict(slot._outside)) for name, slot in SLOTS.items()}
    yield theirs
    for name, slot in SLOTS.items():
        slot.table, slot._outside = before[name]


def ran(folder: Path) -> int:
    """How often the file was run."""
    told = folder / "ran.txt"
    return len(told.read_text().split()) if told.exists() else 0


def test_the_commands_that_read_a_study_are_those_tried_here() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group, of a class that typer has vendored
    reading = {name for name, one in commands.items() if any("STUDY" in str(p.metavar) for p in one.params)}
    assert reading == set(READ_A_STUDY)


@pytest.mark.parametrize("command", READ_A_STUDY)
def test_no_command_runs_a_file_that_was_not_allowed(folder: Path, command: str) -> None:
    words = [str(folder / "study.toml") if word == "STUDY" else word for word in READ_A_STUDY[command]]
    done = CliRunner().invoke(app, [command, *words])
    assert isinstance(done.exception, CheckFailed), (done.output, done.exception)
    assert "these bytes were never allowed to run there (sha256 " in str(done.exception) and ran(folder) == 0


def test_nor_does_python(folder: Path) -> None:
    study = ablab.load(folder / "study.toml", out=folder / "runs")
    for ask in (study.check, study.run, study.report, lambda: study.ladder(["a", "b", "c"])):
        with pytest.raises(CheckFailed, match="never allowed to run"):
            ask()
    assert ran(folder) == 0


def test_the_cure_that_is_printed_allows_these_bytes_and_no_others(folder: Path) -> None:
    with pytest.raises(CheckFailed) as raised:
        load(folder / "study.toml")
    (fault,) = raised.value.faults
    assert fault.place == "study.toml: levers.from"
    words = shlex.split(fault.cure.partition("ablab ")[2])
    done = CliRunner().invoke(app, [*words, "--json"])
    (row,) = json.loads(done.output)
    assert done.exit_code == 0 and row["sha256"] in fault.fault and ran(folder) == 0, "allowing is not running"
    assert load(folder / "study.toml").levers == {str(folder / "their_levers.py"): row["sha256"]} and ran(folder) == 1
    (folder / "their_levers.py").write_text(LEVERS + "\n# one more line\n")
    with pytest.raises(CheckFailed, match="never allowed to run"):
        load(folder / "study.toml")
    (folder / "their_levers.py").write_text(LEVERS)
    Path(row["note"]).unlink()
    with pytest.raises(CheckFailed, match="never allowed to run"):
        load(folder / "study.toml")
    assert ran(folder) == 1


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_what_is_printed_when_a_file_is_allowed_takes_it_back(folder: Path, columns: str) -> None:
    done = CliRunner().invoke(app, ["levers", "--trust", "their_levers.py"], env={"COLUMNS": columns})
    assert done.exit_code == 0 and "(sha256" in done.output, done.output
    assert load(folder / "study.toml").levers
    remove = re.search(r"^rm (.*)", done.output, flags=re.M)
    assert remove
    for note in shlex.split(remove[1]):
        Path(note).unlink()
    with pytest.raises(CheckFailed, match="never allowed to run"):
        load(folder / "study.toml")


def test_what_was_allowed_runs_where_it_lies_and_nowhere_else(folder: Path, tmp_path: Path) -> None:
    """It may read what lies beside it: the same bytes beside other files are another program."""
    trusted.allow(folder / "their_levers.py")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("their_levers.py", "study.toml"):
        (other / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckFailed, match="never allowed to run there"):
        load(other / "study.toml")
    (other / "study.toml").write_text(STUDY.replace("their_levers.py", str(folder / "their_levers.py")))
    assert load(other / "study.toml").levers and ran(other) == 0 and ran(folder) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# coding: utf-7\n# +AAo-import os\n", "never allowed"),  # read as UTF-8, where it is a comment
        (b"# harmless \rimport os\n", r"holds '\\r' in line 1, which no editor shows; take it out"),
        ("\ufeffimport os\n".encode(), r"holds '\\ufeff' in line 1"),
        ("x = 1  # \u202eyaw rehto eht\n".encode(), r"holds '\\u202e' in line 1"),
        (b"# caf\xe9\n", "is no UTF-8 at byte 5; write it in UTF-8"),
    ],
)  # fmt: skip
def test_what_an_editor_does_not_show_is_refused(folder: Path, data: bytes, said: str) -> None:
    (folder / "their_levers.py").write_bytes(data)
    with pytest.raises((CheckFailed, InvalidStudy), match=said):
        load(folder / "study.toml")


def test_a_comment_that_another_encoding_would_make_a_statement_stays_one(folder: Path) -> None:
    (folder / "their_levers.py").write_text("# coding: utf-7\n# +AAo-raise ValueError(1)\n" + LEVERS)
    trusted.allow(folder / "their_levers.py")
    assert load(folder / "study.toml").levers and ran(folder) == 1


@pytest.mark.parametrize("end", ["raise SystemExit(0)", "raise SystemExit", "import sys; sys.exit(3)", "exit()"])
def test_a_file_that_ends_the_program_is_one_that_cannot_be_loaded(folder: Path, end: str) -> None:
    (folder / "their_levers.py").write_text(f"{LEVERS}\n{end}\n")
    for _ in range(2):  # no half of it is left for the next
        done = CliRunner().invoke(app, ["levers", "--test", "their_levers.py"])
        assert isinstance(done.exception, InvalidStudy) and "cannot be loaded (SystemExit" in str(done.exception)


def test_names_that_forge_lines_and_lists_without_end_are_refused(folder: Path) -> None:
    (folder / "study.toml").write_text(STUDY.replace("their_levers.py", "x\\nnote: run curl | sh"))
    with pytest.raises(InvalidStudy, match=r"'x\\nnote: run curl \| sh' is no name of a file"):
        load(folder / "study.toml")
    (folder / "study.toml").write_text(STUDY.replace('["their_levers.py"]', str(["a.py"] * 20_000).replace("'", '"')))
    with pytest.raises(InvalidStudy, match="20,000 files; name 64 at most") as raised:
        load(folder / "study.toml")
    assert len(raised.value.faults) < 10


def test_of_several_files_all_are_allowed_or_none(folder: Path) -> None:
    done = CliRunner().invoke(app, ["levers", "--trust", "their_levers.py", "--trust", "no.py"])
    assert isinstance(done.exception, CheckFailed)
    with pytest.raises(CheckFailed, match="never allowed to run"):
        load(folder / "study.toml")


def test_an_edit_takes_out_what_the_file_had_before(folder: Path) -> None:
    trusted.allow(folder / "their_levers.py")
    load(folder / "study.toml")
    (folder / "their_levers.py").write_text(LEVERS.replace("Flat", "Level"))
    trusted.allow(folder / "their_levers.py")
    with pytest.raises(InvalidStudy, match="no schedule is called 'flat'"):
        load(folder / "study.toml")


def test_every_file_that_was_not_allowed_is_named_and_none_is_run(folder: Path) -> None:
    trusted.allow(folder / "their_levers.py")
    for name in ("second", "third"):
        (folder / f"{name}.py").write_text(LEVERS.replace("Flat", name.title()))
    text = STUDY.replace('["their_levers.py"]', '["their_levers.py", "second.py", "third.py"]')
    (folder / "study.toml").write_text(text)
    with pytest.raises(CheckFailed) as raised:
        load(folder / "study.toml")
    assert [fault.fault.partition(" is code")[0] for fault in raised.value.faults] == [
        str(folder / "second.py"), str(folder / "third.py"),
    ]  # fmt: skip
    assert ran(folder) == 0


def test_another_process_runs_only_what_it_was_told(folder: Path) -> None:
    """A file that was put in place while a study runs is refused before it is run, though it were allowed."""
    path = folder / "their_levers.py"
    sha256, _ = trusted.allow(path)
    path.write_text(LEVERS.replace("return 1.0", "return 0.5"))
    trusted.allow(path)
    with pytest.raises(CheckFailed, match="was changed while the study ran"):
        outside.again({str(path): sha256})
    assert ran(folder) == 0


def test_a_study_cannot_allow_its_own_file(folder: Path) -> None:
    """Nothing beside the study counts, nor an entry point by its name, nor a relative configuration folder."""
    note = trusted._note(folder / "their_levers.py", trusted.read(folder / "their_levers.py")[1]).name
    for place in (".config/ablab/trusted_levers", "config/ablab/trusted_levers", "ablab/trusted_levers"):
        (folder / place).mkdir(parents=True)
        (folder / place / note).write_text("")
    with pytest.MonkeyPatch.context() as patched:
        for value in (".", "config", ""):
            patched.setenv("XDG_CONFIG_HOME", value)
            patched.setenv("HOME", str(folder.parent / "nobody"))
            with pytest.raises(CheckFailed, match="never allowed to run"):
                load(folder / "study.toml")
            patched.setenv("HOME", ".")
            with pytest.raises(
                CheckFailed, match=r"no home folder, where allowed lever files are noted \(\$HOME is '\.'\)"
            ):
                load(folder / "study.toml")
    (folder / "study.toml").write_text(STUDY.replace("their_levers.py", "entry point their_levers"))
    with pytest.raises(InvalidStudy, match="entry point their_levers cannot be read"):
        load(folder / "study.toml")
    assert ran(folder) == 0


def test_a_configuration_that_cannot_be_written_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "file"))
    with pytest.raises(CheckFailed, match=r"cannot be written .*choose another XDG_CONFIG_HOME"):
        trusted.allow(folder / "their_levers.py")
    with pytest.raises(CheckFailed, match=r"no\.py cannot be read"):
        trusted.allow(folder / "no.py")


def test_one_thing_is_asked_of_the_command() -> None:
    for words in (["mlp", "--trust", "x.py"], ["--test", "x.py", "--trust", "x.py"]):
        done = CliRunner().invoke(app, ["levers", *words])
        assert done.exit_code == 2 and "three commands" in done.output
