"""Folders that go away while something is written into them: a word at the next write, and nothing is made anew."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from tests.whole import held

from ablab.core.fault import Halted
from ablab.runtime.lock import locked
from ablab.scoring.stage import run_stage


def remove(out: Path) -> None:
    shutil.rmtree(out.parent)


def move(out: Path) -> None:
    out.parent.rename(out.parent.parent / "moved")


def exchange(out: Path) -> None:
    move(out)
    out.mkdir(parents=True)
    (out / "claim.000001").touch()


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "is stopped"])
@pytest.mark.parametrize("how", [remove, move, exchange])
def test_a_training_ends_where_its_folder_goes(tmp_path: Path, how: Callable[[Path], None], ends: bool) -> None:
    out, steps = tmp_path / "runs" / "key", iter(range(100))

    def stop() -> bool:
        if next(steps) != 5:
            return False
        how(out)
        return ends

    with pytest.raises(Halted, match=r"key: is (gone|another folder)"):
        tiny.trained(out, stop=stop, checkpoint_every=0)
    left = [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert left == (["claim.000001"] if how is exchange else [])


def test_a_folder_that_goes_at_the_last_step_gets_no_result(tmp_path: Path) -> None:
    out, last = tmp_path / "runs" / "key", []

    def say(text: str) -> None:
        if text.startswith("step 20/20"):
            last.append(text)
            remove(out)

    with pytest.raises(Halted):
        tiny.trained(out, say=say)
    assert last and not (tmp_path / "runs").exists()


def test_a_stale_handle_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path / "key") as mine:

        def stale(path: Path) -> os.stat_result:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

        monkeypatch.setattr(Path, "lstat", stale)
        with pytest.raises(Halted, match=rf"is gone \({os.strerror(errno.ESTALE)}\); put it back"):
            mine.check()


def test_a_stage_writes_nothing_where_its_folder_went(tmp_path: Path) -> None:
    settings = tiny.settings(steps=1)
    settings["stage"] = {
        "pre": {
            "after": None, "compress": {"name": "keep"}, "codec": {"name": "raw"}, "code": None, "windows": None,
            "evaluate": {"name": "disjoint", "documents": None},
        }
    }  # fmt: skip
    from ablab.scoring import evaluators

    settings["stage"]["pre"]["evaluate"] = tiny.choice(evaluators.slot, "disjoint")
    tiny.trained(tmp_path / "train", settings)
    out = tmp_path / "runs" / "score"
    with locked(out) as mine:
        remove(out)
        where = dataclasses.replace(tiny.WHERE, executor="reference")
        how: Any = {"weights": tmp_path / "train/weights.safetensors", "corpus": tiny.corpus(), "folders": {"pre": out}}
        with pytest.raises(Halted, match="score: is gone"):
            run_stage(settings, "pre", **how, seed=0, where=where, here=mine.check)
    assert not (tmp_path / "runs").exists()


def test_the_command_ends_where_the_store_goes(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(held.STUDY)
    with held.held(tmp_path, "baseline", 0, 20) as process:
        (tmp_path / "runs").rename(tmp_path / "gone")  # at once: what goes file by file is written into meanwhile
        _, errors = process.communicate(timeout=held.HANG)
    assert process.returncode == 4 and "studies/killed: is gone" in errors and "Traceback" not in errors, errors
    assert not (tmp_path / "runs").exists()
