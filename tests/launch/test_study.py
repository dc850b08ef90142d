"""The Python API: what the commands do, from a script or a notebook."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made

import ablab
from ablab.check import facts, miniature
from ablab.core.fault import CheckFailed, Halted, Interrupted, InvalidStudy
from ablab.judging import judge
from ablab.launch import study as launched
from ablab.launch.study import Lab
from ablab.report.judged import Judged

STUDY = """
study = { name = "two", question = "Does a wider mlp pay?" }
decision = { metric = "bits_per_byte", stage = "plain", matters = 0.05, seeds = { first = 0, start = 2, at_most = 2 } }
budget = { tokens = 1024, batch_tokens = 256 }
data = { source = "mock" }
model = { layers = "L", d_model = 16, n_heads = 1, seq_len = 32, local = { position = "rope" } }
train = { optimizer = { name = "adamw", lr = 2e-3 } }
stage = { plain = { evaluate = "disjoint" } }
[arm.wide]
model.d_model = 24
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return ablab.load("study.toml")


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    plan = made.fill(made.plan(tmp_path))
    return launched.conclude(plan)


def test_importing_and_loading_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    code = """
import sys
import ablab
lab = ablab.load("study.toml", out="there")
assert "torch" not in sys.modules and "pandas" not in sys.modules, "nothing needs it yet"
assert lab.study.name == "two" and "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_file_that_is_no_study_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidStudy, match="cannot be read"):
        ablab.load(tmp_path / "none.toml")
    (tmp_path / "torn.toml").write_text("[study")
    with pytest.raises(InvalidStudy, match="not TOML"):
        ablab.load(tmp_path / "torn.toml")


def test_a_study_that_means_nothing_is_refused_with_every_fault(lab: Lab) -> None:
    lab.path.write_text(STUDY.replace("rope", "rop").replace("adamw", "adam"))
    for call in (lab.check, lab.run, lab.report):
        with pytest.raises(InvalidStudy) as refused:
            call()
        assert len(refused.value.faults) == 2 and "did you mean 'rope'" in str(refused.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"device": "tpu"}, "device: 'tpu' is no device; choose cpu or cuda"),
        ({"precision": "fp8"}, "precision: 'fp8' is no precision of a run; choose bf16 or fp32"),
    ],
)
def test_a_word_that_names_nothing_is_refused(lab: Lab, how: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckFailed) as refused:
        ablab.load(lab.path, **how).report()
    assert str(refused.value) == said
    with pytest.raises(CheckFailed, match="mirrors: no mirror is called 'vane'; known: tensorboard, wandb"):
        lab.run(mirrors=["vane"])


def test_a_study_is_checked_run_and_reported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first run is judged, the next one is given out."""
    with pytest.raises(CheckFailed, match=r"verdict\.json: is missing: nothing of this study was judged here"):
        _ = lab.verdict
    started, conclude, during = threading.Event(), judge.conclude, list[str]()

    def held(plan: Any, to: Any = None) -> Any:
        if threading.current_thread() is not threading.main_thread():
            during.append("judged")
            assert started.wait(timeout=300), "no worker is given a run while a run is judged"
        return conclude(plan, to)

    def hear(kind: str, run: Any, text: str) -> None:
        if kind == "start":
            during.append(f"{run.arm} {run.seed}")
            if len(during) > 1:
                started.set()

    monkeypatch.setattr(judge, "conclude", held)
    said = list[str]()
    found = lab.run(jobs=1, say=said.append, progress=lambda plan: launched.contextlib.nullcontext(hear))
    assert [one for one in during if one != "judged"] == ["baseline 0", "wide 0", "baseline 1", "wide 1"]
    assert during.index("judged") < len(during) - 1
    assert found.page.is_file() and found.words.keys() == {"wide"} and found.answer["runs"]
    assert any("precision" in one for one in said)
    again = lab.verdict
    assert (
        again.answer["arms"] == found.answer["arms"] == json.loads((found.folder / "verdict.json").read_text())["arms"]
    )
    assert lab.report().words == found.words
    elsewhere = lab.report("page")
    assert elsewhere.page == Path("page/report.html") and elsewhere.page.is_file()
    lab.path.write_text(STUDY.replace("d_model = 24", "d_model = 32"))
    with pytest.raises(CheckFailed, match=r"is of another version: line 10 of the study file became"):
        _ = lab.verdict


def test_a_fault_of_the_judging_ends_the_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(plan: Any, to: Any = None) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "verdict.json")

    monkeypatch.setattr(judge, "conclude", full)
    monkeypatch.setattr(miniature, "check", lambda *_: {})
    with pytest.raises(Halted, match=r"verdict\.json: cannot be written \(No space left on device\); free space"):
        lab.run(jobs=1, say=lambda _: None)


def test_ctrl_c_is_interrupted_and_leaves_the_handlers_as_they_were(lab: Lab) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        lab.run(say=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_until_ends_it_resumable(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniature, "check", lambda *_: {})
    with pytest.raises(Interrupted):
        lab.run(until=0, say=lambda _: None)


def test_a_full_disk_is_said_as_such(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/of/a/library")

    monkeypatch.setattr(facts, "facts", full)
    with pytest.raises(Halted, match="/scratch/of/a/library: cannot be written"):
        lab.check()


def test_what_was_given_up_is_raised_behind_the_page(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.launch import local
    from ablab.runs import given_up

    def failing(board: Any, **how: Any) -> None:
        given_up.give_up(board.plan, board.plan.runs["wide", 0], "no luck")

    monkeypatch.setattr(miniature, "check", lambda *_: {})
    monkeypatch.setattr(local, "execute", failing)
    with pytest.raises(launched.GivenUp, match="wide, seed 0: given up: no luck") as refused:
        lab.run(say=lambda _: None)
    assert refused.value.judged.page.is_file()


def test_the_verdict_is_a_frame(judged: Judged) -> None:
    frame = judged.to_frame()
    assert list(frame.index) == ["baseline", "int5", "wide"] and frame.index.name == "arm"
    for arm in judged.answer["arms"]:
        row = frame.loc[arm["name"]]
        assert row["word"] == arm["word"] and row["seeds"] == arm["seeds"] and row["bytes"] == arm["cost"]["bytes"]
        assert row["delta"] == arm["delta"] or arm["delta"] is None
    assert judged.words == {"int5": "worse", "wide": "worse"} and judged.winner == judged.answer["winner"]


def test_without_pandas_it_says_what_to_install(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CheckFailed, match=r"to_frame\(\): pandas is not installed; .* -m pip install pandas"):
        judged.to_frame()


def test_a_notebook_shows_the_table_and_no_markup_of_a_stranger(judged: Judged) -> None:
    judged.answer["arms"][1]["because"] = "<script>alert(1)</script>"
    drawn = judged._repr_html_()
    assert "<table>" in drawn and "int5" in drawn and "worse" in drawn and "<script>" not in drawn
    assert judged.answer["sentence"].split(".")[0][:20] in drawn or "better" in drawn
    assert repr(judged).startswith("<stages: int5 worse, wide worse; ")
