"""A folder that came with code in it: nothing of it runs, whatever command stands there, and whatever its git says."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ablab.core import safe_path
from ablab.core.fault import CheckFailed
from ablab.runtime import provenance

SOURCE = Path(__file__).resolve().parents[2] / "src"
SHADOWS = (
    "pickle json socket struct random types enum re typing dataclasses contextlib collections functools pathlib subprocess "
    "multiprocessing tempfile threading logging signal queue hashlib inspect ast tokenize copy warnings numpy torch scipy "
    "pyarrow sentencepiece safetensors typer click rich jinja2 brotli zstandard tiktoken regex ablab sitecustomize"
)
WITNESS = """
import os
with open({!r}, "a") as file:
    file.write(__name__ + chr(10))
raise ImportError(__name__ + " of the folder was imported")
"""
STUDY = """
study = { name = "f", question = "q" }
decision = { metric = "nats_per_token", stage = "pre_quant", matters = 0.01, seeds = 1 }
budget = { tokens = 1_024, batch_tokens = 128 }
data = { source = "text.jsonl", valid_bytes = 2000, valid_fraction = 0.05 }
model = { layers = "G", d_model = 16, n_heads = 2, seq_len = 32, global = { position = "rope" } }
[arm.sink]
model.softmax = "sink"
"""


def trap(folder: Path) -> Path:
    """Fill `folder` with modules that say that they were imported; returns the file in which they would say so."""
    witness = folder / "imported.txt"
    for name in SHADOWS.split():
        (folder / f"{name}.py").write_text(WITNESS.format(str(witness)))
    return witness


def in_folder(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the installed command does in `folder`: a script in another folder, as pip writes it."""
    script = folder.parent / "bin" / "ablab"
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nfrom ablab.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **environment}
    env.pop(safe_path.VARIABLE, None)
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stranger") / "study"
    made.mkdir()
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(400)]
    rows = [{"text": f"document {i} " + " ".join(draw.choices(words, k=60))} for i in range(200)]
    (made / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "study.toml").write_text(STUDY)
    return made


def test_no_command_imports_from_the_folder_it_stands_in(folder: Path) -> None:
    witness = trap(folder)
    for words in (
        ("run", "study.toml"),
        ("data", "build", "harmony", "mock:40", "--out", "built", "--workers", "2", "--valid-fraction", "0.2"),
    ):
        done = in_folder(folder, *words)
        assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-2000:])
        assert not witness.exists(), (words, witness.read_text())
    assert (folder / "runs" / "studies" / "f" / "verdict.json").exists()


def test_the_trap_is_one(folder: Path) -> None:
    """Python itself, started there without a word, does import from the folder: else the test above could not fail."""
    witness = trap(folder)
    subprocess.run([sys.executable, "-c", "import pickle"], cwd=folder, capture_output=True)
    assert witness.read_text() == "pickle\n"
    witness.unlink()


def test_the_current_folder_leaves_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(safe_path.VARIABLE, "")
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), str(tmp_path / "link"), str(other), *sys.path])
    safe_path.leave_folder()
    assert sys.path[0] == str(other) and os.environ[safe_path.VARIABLE] == "1"
    monkeypatch.chdir(SOURCE)  # the folder of ablab itself is the code that runs anyway
    monkeypatch.setattr(sys, "path", [str(SOURCE)])
    safe_path.leave_folder()
    assert sys.path == [str(SOURCE)]


def test_a_python_that_cannot_be_told_starts_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flags:
        ignore_environment, safe_path = 1, False

    monkeypatch.setattr(sys, "flags", Flags())
    with pytest.raises(CheckFailed, match="-E"):
        safe_path.start(None)  # type: ignore[arg-type]


def test_what_a_child_is_told_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def start(self) -> None:
            assert os.environ[safe_path.VARIABLE] == "1"

    monkeypatch.delenv(safe_path.VARIABLE, raising=False)
    process: Any = Process()
    safe_path.start(process)
    assert safe_path.VARIABLE not in os.environ


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_settings_of_a_strangers_repository_run_nothing(tmp_path: Path) -> None:
    study, witness = tmp_path / "study.toml", tmp_path / "ran.txt"
    study.write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {witness}\ncat\n")
    program.chmod(0o755)
    (tmp_path / ".gitattributes").write_text("*.toml filter=theirs diff=theirs\n")
    with (tmp_path / ".git" / "config").open("a") as file:
        file.write(
            f'[core]\n\tfsmonitor = {program}\n\thooksPath = {tmp_path}\n[filter "theirs"]\n\tclean = {program}\n'
            f'\tprocess = {program}\n[diff "theirs"]\n\ttextconv = {program}\n\tcommand = {program}\n'
        )
    study.write_text("a = 2\n")
    git(tmp_path, "status", "--porcelain", "--", "study.toml")
    assert witness.exists()  # git itself does run them
    witness.unlink()
    assert provenance.of_study(study) == head[: provenance.DIGITS] + provenance.CHANGED
    study.write_bytes(b"a = 1\r\n")  # a checkout that converts line ends
    assert provenance.of_study(study) == head[: provenance.DIGITS]
    assert not witness.exists()


def test_commits_are_found_wherever_git_keeps_them(tmp_path: Path) -> None:
    main, second = tmp_path / "main", tmp_path / "second"
    main.mkdir()
    (main / "a.toml").write_text("a")
    git(main, "init", "-q")
    git(main, "add", ".")
    git(main, "commit", "-qm", "a")
    head = git(main, "rev-parse", "HEAD")[: provenance.DIGITS]
    git(main, "worktree", "add", "-q", "-b", "side/branch", str(second))
    assert provenance.of_study(second / "a.toml") == head
    git(main, "pack-refs", "--all")
    git(main, "gc", "-q")
    assert provenance.of_study(main / "a.toml") == provenance.of_study(second / "a.toml") == head
    git(main, "checkout", "-q", "--detach")
    assert provenance.of_study(main / "a.toml") == head
    (main / ".git" / "HEAD").unlink()
    os.mkfifo(main / ".git" / "HEAD")
    assert provenance.of_study(main / "a.toml") is None  # and nobody waits for a writer
    (second / ".git").write_text("gitdir: " + "/" * 5000)
    assert provenance.of_study(second / "a.toml") is None
