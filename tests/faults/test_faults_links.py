"""A store or a dataset from a stranger holds links: nothing at their other end is emptied, extended, made or removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import finished_store as made
from typer.testing import CliRunner

from ablab import report as reporting
from ablab.cli.main import app
from ablab.core import places
from ablab.core.fault import CheckFailed
from ablab.core.files import write_atomic, write_json
from ablab.data import prepare
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.harmony import build as harmony
from ablab.data.harmony.plan import settings as asked_of
from ablab.data.harmony.unit import PARTS
from ablab.judging import judge, shelf
from ablab.runs.store import Store, append_line
from ablab.runtime.lock import locked
from ablab.training import checkpoint
from ablab.training.metrics import Metrics, Mirrored
from ablab.training.mirrors import Mirrors
from ablab.training.train import PATIENCE

CLAIM = "claim.000001"
WORDS = "words and numbers of this document "


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may touch: it is compared with what it was, byte for byte and name for name."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_text("the only copy\n")
    (folder / ".old.part").write_text("of another program\n")
    (folder / "checkpoint-000000007.safetensors").write_text("of another run\n")
    before = held(folder)
    yield folder
    assert held(folder) == before


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def study(folder: Path) -> Path:
    """A study on a text of its own, ready for `ablab run`."""
    (folder / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"{i} {WORDS * 9}{i * i}"}) + "\n" for i in range(80))
    )
    text = made.STUDY.replace('source = "mock"', 'source = "text.jsonl"\nvalid_fraction = 0.2\nvalid_bytes = 2000')
    return made.study_file(folder, text)


WRITES: dict[str, Callable[[Path], Any]] = {
    "append_line": lambda path: append_line(path, {"a": 1}),
    "metrics": lambda path: Metrics(path, keep=path.stat().st_size if path.exists() else 0).write({"step": 1}),
    "claim": lambda path: locked(path.parent).__enter__() if path.name == CLAIM else append_line(path, {}),
    "write_json": lambda path: write_json(path, {}),
    "save_tensors": lambda path: checkpoint.save_tensors(path, {}),
    "folder": places.folder,
}


@pytest.mark.parametrize("how", WRITES)
def test_f27_no_write_follows_a_link(how: str, outside: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    store.mkdir()
    name = CLAIM if how == "claim" else "file"
    (store / name).symlink_to(outside / "precious.txt")
    with pytest.raises(CheckFailed, match=f"{name}: is a link that leads to .*precious.txt, and nothing is written"):
        WRITES[how](store / name)
    (store / name).unlink()
    (store / name).symlink_to(outside / "new.txt")  # which is not there yet: a write would make it
    with pytest.raises(CheckFailed, match="is a link"):
        WRITES[how](store / name)
    (store / "folder").symlink_to(outside)
    with pytest.raises(CheckFailed, match=r"lies behind the link .*folder that leads to"):
        WRITES[how](store / "folder" / "deeper" / name)
    (store / name).unlink()
    WRITES[how](store / name)  # the cure


@pytest.mark.parametrize("how", ["append_line", "metrics"])
def test_f27_what_is_extended_is_a_file_of_its_own(how: str, outside: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    os.link(outside / "precious.txt", path)
    with pytest.raises(CheckFailed, match=r"is one of 2 names of the same file \(hard links\)") as raised:
        WRITES[how](path)
    assert os.system(raised.value.faults[0].cure.partition(": ")[2]) == 0  # the cure
    WRITES[how](path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckFailed, match=r"is no regular file|No such device"):  # at once: it waits for no reader
        WRITES[how](path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckFailed, match="Is a directory"):
        WRITES[how](path)


def test_f27_an_index_of_tokens_follows_no_link(outside: Path, tmp_path: Path) -> None:
    for name in ("a.bin", "a.idx"):
        (tmp_path / name).symlink_to(outside / "precious.txt")
        with pytest.raises(CheckFailed, match="is a link"), IndexedWriter(tmp_path / "a", np.int32):
            pass
        (tmp_path / name).unlink()
    (tmp_path / "train").symlink_to(outside)
    with pytest.raises(CheckFailed, match="lies behind the link"), IndexedWriter(tmp_path / "train" / "a", np.int32):
        pass


@pytest.mark.parametrize(
    "name", ["studies/stages/claim.000001", "studies", "studies/stages", "data", "decisions.jsonl"]
)
def test_f27_a_run_writes_nothing_through_a_strangers_store(
    name: str, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablab.runtime.signals.interruptible", lambda: None)  # the suite keeps its own
    path = study(tmp_path)
    link = tmp_path / "runs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "precious.txt" if link.suffix else outside)
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "runs")])
    assert isinstance(done.exception, CheckFailed), done.output
    assert f"{link}" in str(done.exception) and "nothing is written through a link" in str(done.exception)


@pytest.mark.parametrize(
    "name", ["earlier", "verdict.json", "report.html", "report.md", "study.toml", "decisions.jsonl"]
)
def test_f27_a_report_writes_nothing_through_a_strangers_store(name: str, outside: Path, tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    (plan.directory / name).parent.mkdir(parents=True, exist_ok=True)
    (plan.directory / name).symlink_to(outside / "precious.txt" if "." in name else outside)
    if name == "earlier":  # a page of another version lies there, which would move
        other = {"arms": [], "decided_by": "the end", "version": "another"}
        write_json(plan.directory / "verdict.json", other)
        with pytest.raises(CheckFailed, match="nothing is written through a link"):
            shelf.make_room(plan)
        return
    with pytest.raises(CheckFailed, match="nothing is written through a link"):
        reporting.write(judge.conclude(plan), plan.directory)


def test_f27_dashboards_follow_no_link(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorboard").symlink_to(outside)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    said: list[str] = []
    asked = Mirrored(("tensorboard",), called="study/arm/0", boards=tmp_path / "tensorboard")
    Mirrors(asked, tmp_path / "run", settings={}, say=said.append).close(PATIENCE)
    assert any("nothing is written through a link" in text for text in said), said


def test_f27_nothing_is_swept_behind_a_link(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"query": f"q{i}", "synthetic_reasoning": "r", "synthetic_answer": "a", "synth_id": f"i{i}"} for i in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in (PARTS, "train", "valid"):
        out = tmp_path / f"built_{name}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(harmony, "finish", killed)
            harmony.build([str(tmp_path / "rows.jsonl")], out, asked_of(valid_fraction=0.5))
        if (out / name).exists():
            (out / name).rename(tmp_path / f"moved_{name}")
        (out / name).symlink_to(outside)
        with pytest.raises(CheckFailed, match="nothing is written through a link"):
            harmony.build([str(tmp_path / "rows.jsonl")], out, asked_of(valid_fraction=0.5))
    store = Store(tmp_path / "runs")
    store.root.mkdir()
    store.data.symlink_to(outside)
    (outside / ".old.part").unlink()
    (outside / ".old.part").mkdir()
    os.utime(outside / ".old.part", (0, 0))
    settings = {"source": ["mock"], "valid_source": None, "valid_text_bytes": None, "text_field": "text", "order": "chunks",
                "tokenizer": {"name": "bytes"}, "valid_fraction": 0.01, "valid_bytes": 1000, "weights": None}  # fmt: skip
    with pytest.raises(CheckFailed, match="link"):
        prepare(settings, store.data, say=lambda _: None)
    assert (outside / ".old.part").is_dir()
    (outside / ".old.part").rmdir()
    (outside / ".old.part").write_text("of another program\n")


def test_the_store_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large")
    plan = made.fill(made.plan(tmp_path))
    reporting.write(judge.conclude(plan), plan.directory)
    assert (tmp_path / "large/studies/stages/report.html").is_file()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "large")
    write_atomic(places.real(tmp_path / "elsewhere" / "file"), "named by a person")
    assert (tmp_path / "large/file").read_text() == "named by a person"
