"""A store that cannot be written is still reported from: the page goes elsewhere, and nothing of the store changes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made
from typer.testing import CliRunner

from ablab.cli import main as cli
from ablab.core import making, places
from ablab.core.fault import CheckFailed
from ablab.runs import planning
from ablab.runs.plan import Plan


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    plan = made.fill(made.plan(tmp_path))
    monkeypatch.setattr(planning, "make", lambda *_, **__: plan)
    monkeypatch.chdir(tmp_path)
    return plan


def read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Below `folder` nothing can be made or written, by root neither."""
    real_open, real_make = os.open, making.tempfile.mkstemp

    def refused(path: Any) -> None:
        if Path(path).is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def opened(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            refused(path)
        return real_open(path, flags, mode)

    def make(*words: Any, **how: Any) -> Any:
        refused(how["dir"])
        return real_make(*words, **how)

    patch.setattr(places.os, "open", opened)
    patch.setattr(making.tempfile, "mkstemp", make)


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def ablab(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["report", "study.toml", *words])


def test_f06_a_read_only_store_is_reported_from(
    finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(tmp_path / "runs")
    with monkeypatch.context() as patch:
        read_only(finished.store.root, patch)
        done = ablab()
        assert isinstance(done.exception, CheckFailed)
        assert "cannot be written (Read-only file system); make it writable or choose another --out" in str(
            done.exception
        )
        assert str(done.exception).endswith(", or have the page written elsewhere and nothing here: --page DIR")
        done = ablab("--page", str(tmp_path / "pages"))  # the cure
    assert done.exit_code == 0, done.output
    assert state(tmp_path / "runs") == before
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {
        "verdict.json",
        "report.html",
        "report.md",
        "study.toml",
    }
    assert str(tmp_path / "pages/report.html") in done.output.replace("\n", "")
    elsewhere = json.loads((tmp_path / "pages/verdict.json").read_text())
    assert ablab().exit_code == 0
    here = json.loads((finished.directory / "verdict.json").read_text())
    for answer in (here, elsewhere):
        del answer["environment"]
        for one in answer["decisions"]:
            one.pop("when", None)
    assert here["arms"] == elsewhere["arms"] and here["winner"] == elsewhere["winner"]


def test_f06_the_page_of_another_study_is_not_written_over(finished: Plan, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    other = {"study": "other", "version": "v", "arms": [], "decided_by": "the end"}
    (tmp_path / "pages/verdict.json").write_text(json.dumps(other))
    done = ablab("--page", str(tmp_path / "pages"))
    assert isinstance(done.exception, CheckFailed) and "name another folder" in str(done.exception)
    assert json.loads((tmp_path / "pages/verdict.json").read_text()) == other
    assert ablab("--page", str(tmp_path / "others")).exit_code == 0
    assert ablab("--page", str(tmp_path / "others")).exit_code == 0  # its own it may write again
