"""docs/add_a_lever.md does what it says: the page is followed to the letter on a copy of the source."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add_a_lever.md").read_text(encoding="utf-8")


INSIDE, OUTSIDE = PAGE.split("## 4. ")


def blocks(language: str, page: str = INSIDE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.S)


def test_the_page_works(tmp_path: Path) -> None:
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (new_file,), (table_line,) = blocks("python"), blocks("text")
    places = re.findall(r"^`(src/\S+\.py)`$", PAGE, flags=re.M)
    (tmp_path / places[0]).write_text(new_file)
    table = tmp_path / places[1]
    text = table.read_text()
    end = text.rindex(")")
    table.write_text(text[:end] + table_line + text[end:])
    (tmp_path / "study.toml").write_text(blocks("toml")[0])

    commands = [line[2:].split() for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert [c[:2] for c in commands] == [["ablab", "levers"], ["ablab", "check"], ["pytest", "tests/conformance"]]
    printed = [follow(command, tmp_path) for command in commands]

    assert "learned_slopes" in printed[0] and "start = 0.1" in printed[0]
    assert "learned" in printed[1] and "model.global.position: nope -> learned_slopes" in printed[1]
    passed = re.search(r"(\d+) passed", printed[2])
    assert passed and int(passed[1]) >= 10, "the conformance suite takes the lever up unasked"


def test_levers_outside_the_package_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (levers,), (study,), (commands,) = (blocks(language, OUTSIDE) for language in ("python", "toml", "console"))
    (tmp_path / "my_levers.py").write_text(levers)
    (tmp_path / "own.toml").write_text(study)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    tested, checked = (follow(line[2:].split(), tmp_path, ROOT / "src") for line in commands.splitlines())
    said = [line for line in tested.splitlines() if line.startswith(("holds", "no"))]
    assert len(said) == 5 and all(line.startswith("holds") for line in said), tested
    assert "my_levers.py are loaded, whose code is not ablab's" in checked
    assert "model.mlp: relu2 -> cubed" in checked


def follow(command: list[str], where: Path, source: Path | None = None) -> str:
    module = {"ablab": "ablab.cli.main", "pytest": "pytest"}[command[0]]
    environment = {**os.environ, "PYTHONPATH": str(source or where / "src"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *command[1:]], cwd=where, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
