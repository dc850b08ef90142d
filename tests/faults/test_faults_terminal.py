"""What a command prints: no text of a stranger commands the terminal, and a print that fails is said as what it is."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

import ablab
from ablab.core import grid, streams
from ablab.core.fault import CheckFailed, Fault
from ablab.core.plain import plain
from ablab.data import prepare

SOURCE = Path(ablab.__file__).parent
EVIL = "a\x1b[31mb\x9b2Jc\x07\rd\u202ee\u200bf\udc80g\x00h"
SPELT = "a\\x1b[31mb\\x9b2Jc\\x07\\rd\\u202ee\\u200bf\\udc80g\\x00h"


def ablab_(*words: str | bytes, **how: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-P", "-m", "ablab.cli.main", *words], stdin=subprocess.DEVNULL, **how)


class Full(io.StringIO):
    """A stream behind which the disk is full."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


def test_f28_what_commands_a_terminal_is_spelled_out() -> None:
    assert (
        plain(EVIL) == SPELT
        and plain("words\n\tin \u2003lines \u00b1 \u00e9 \u4e2d") == "words\n\tin \u2003lines \u00b1 \u00e9 \u4e2d"
    )
    assert str(Fault(EVIL, EVIL, EVIL)) == f"{SPELT}: {SPELT}; {SPELT}"
    assert str(CheckFailed(Fault("p", EVIL))) == f"p: {SPELT}"


@pytest.mark.parametrize("colour", [False, True])
def test_f28_tables_and_paragraphs_spell_it_out(colour: bool) -> None:
    told = io.StringIO()
    console = Console(file=told, force_terminal=colour, width=200, color_system="truecolor" if colour else None)
    grid.say(EVIL, console, width=200)
    grid.say(Text(EVIL, style="bold"), console, width=200)
    grid.show([grid.Column(EVIL), grid.Column("b")], [[EVIL, Text(EVIL, style="bold")], ["x", "y"]], console, width=200)
    bare = told.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")  # rich's own
    for left_out in ("\\x07", "\\r"):  # rich takes these two out of a Text by itself
        bare = bare.replace(left_out, "")
    assert bare.isascii() and "\x1b" not in bare, bare
    assert bare.count(SPELT.replace("\\x07\\r", "")) == 5, bare


def test_f28_prints_spell_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    below = io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams.Outlet(below, "stdout"))  # type: ignore[arg-type]
    print(EVIL)
    sys.stdout.writelines([EVIL, "\n"])
    streams.styled().write("\x1b[1mbars\x1b[0m\n")
    assert below.getvalue() == f"{SPELT}\n{SPELT}\n\x1b[1mbars\x1b[0m\n"


def test_f28_names_of_files_and_flags_reach_no_terminal_raw(tmp_path: Path) -> None:
    folder = tmp_path / "evil\x1b[31mdir"
    folder.mkdir()
    done = ablab_("check", str(folder / "none.toml"), capture_output=True)
    assert done.returncode == 3 and b"\\x1b[31m" in done.stderr and b"\x1b" not in done.stderr, done.stderr
    parent, child = pty.openpty()  # on a terminal typer keeps colours
    done = ablab_("check", "--precision", "evil\x1b[31mname", "x", stdout=child, stderr=child)
    os.close(child)
    assert b"\\x1b[31mname" in (said := os.read(parent, 4096)) and b"\x1b" not in said
    os.close(parent)


def test_f28_every_console_of_rich_writes_where_nothing_is_spelled_twice() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console":
                assert "file" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}: give file=styled()"
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "sys.stdout.buffer",
                "sys.__stdout__",
                "os.system",
            ):
                raise AssertionError(f"{path}:{node.lineno}: {ast.unparse(node)} passes the streams by")


@pytest.mark.parametrize("words", [["levers"], ["levers", "--json"], ["data", "--help"]])
def test_f05_stdout_on_a_full_disk(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as out:
        done = ablab_(*words, stdout=out, stderr=subprocess.PIPE, cwd=tmp_path)
    told = done.stderr.decode()
    assert done.returncode == 4 and told.startswith(
        "error: standard output (/dev/full): cannot be written (No space left"
    )
    assert "bytes are needed; free space, or send it elsewhere, then run again\n" in told and told.count("\n") == 1


def test_f05_stderr_on_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as out:
        assert ablab_("check", "none.toml", stderr=out, cwd=tmp_path).returncode == 3  # the code says what words cannot
        assert ablab_("levers", "nowhere", stderr=out, stdout=out, cwd=tmp_path).returncode in (2, 3, 4)


def test_f36_an_output_that_nobody_reads(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = ablab_("levers", stdout=write, stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(write)
    assert done.returncode == 141 and not done.stderr
    parent, child = pty.openpty()
    os.close(parent)  # the terminal is gone; the work goes on
    done = ablab_("levers", stdout=child, stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(child)
    assert done.returncode == 0 and not done.stderr


def test_f36_an_encoding_that_lacks_a_sign(tmp_path: Path) -> None:
    how: dict[str, Any] = {"capture_output": True, "cwd": tmp_path}
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = ablab_("levers", env=env, **how)
    assert done.returncode == 0 and not done.stderr and b"GRAPE" in done.stdout
    done = ablab_("check", "\u4e2d.toml".encode(), env=env, **how)
    assert done.returncode == 3 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1


def test_f05_a_print_that_fails_is_not_blamed_on_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"{i} words and numbers of this document"} for i in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"source": [str(tmp_path / "text.jsonl")], "valid_source": None, "valid_text_bytes": None, "order": "chunks",
             "text_field": "text", "tokenizer": {"name": "bytes"}, "valid_fraction": 0.2, "valid_bytes": 2000}  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(CheckFailed) as raised:
        patch.setattr(sys, "stdout", streams.Outlet(Full(), "stdout"))  # type: ignore[arg-type]
        prepare(asked, tmp_path / "runs")
    assert raised.value.faults[0].place == "standard output (/dev/stdout)"
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    with monkeypatch.context() as patch, pytest.raises(streams.Unheard):
        patch.setattr(sys, "stdout", streams.Outlet(Full(errno.EPIPE), "stdout"))  # type: ignore[arg-type]
        prepare(asked, tmp_path / "runs")
    prepare(asked, tmp_path / "runs")
