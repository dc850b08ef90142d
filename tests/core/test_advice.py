"""What ablab advises to install: packages that an index has, into the environment that runs."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from ablab.core.fault import to_install

ROOT = Path(__file__).resolve().parents[2]
SPOKEN = [
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "studies").glob("*.toml"),
    ROOT / "README.md",
]


def test_the_advice_is_a_command_of_this_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert to_install("wandb") == f"{sys.executable} -P -m pip install wandb"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert to_install("wandb") == ".venv/bin/python -P -m pip install wandb"
    monkeypatch.setattr(sys, "executable", "/opt/my tools/python")
    assert to_install("wandb") == "'/opt/my tools/python' -P -m pip install wandb"


def test_every_advice_names_packages_and_no_extra_of_a_package_that_no_index_has() -> None:
    told = {path: path.read_text(encoding="utf-8") for path in SPOKEN}
    assert not [path.name for path, text in told.items() if re.search(r"pip install [^\n]*\bablab\b", text)]
    named = {name for text in told.values() for name in re.findall(r"to_install\(['\"]([\w-]+)['\"]\)", text)}
    named |= {name for text in told.values() for name in re.findall(r"\.venv/bin/pip install ([\w-]+)`", text)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert named and named <= {re.split(r"[<>=]", one)[0] for one in every}
