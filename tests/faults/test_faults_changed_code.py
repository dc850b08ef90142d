"""Code that was edited after a result: seen by a hash of the source, refused, and said in the page where it is allowed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made
from tests import tiny

from ablab.core.fault import CheckFailed, Interrupted
from ablab.core.files import read_json, write_json
from ablab.core.sealed import sealed
from ablab.judging import judge, same_code, sources
from ablab.runtime import changed, machine, source

DOWN = "self.down_proj("


def run(out: Path, steps: int | None = None, **how: Any) -> dict[str, Any]:
    """Train `relu2` in `out`, stopped after `steps` steps."""
    asked = itertools.count()
    return tiny.trained(out, stop=lambda: steps is not None and next(asked) >= steps, **how)


class Copy:
    """A copy of the package that the hashes are read from; what is imported stays as it is."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def edit(self, name: str, before: str, after: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert before in text
        (self.root / name).write_text(text.replace(before, after, 1), encoding="utf-8")
        forget()


def forget() -> None:
    """Read files again, as another process would."""
    for read in (source._read, source._path, source._name, source._reached, source._own_hash):
        read.cache_clear()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copy]:
    shutil.copytree(source.ROOT, tmp_path / "copy")
    monkeypatch.setattr(source, "ROOT", tmp_path / "copy")
    forget()
    yield Copy(tmp_path / "copy")
    monkeypatch.undo()
    forget()


def test_a_hash_hears_of_code_and_of_nothing_else(copy: Copy) -> None:
    before = source.of_training(tiny.settings())
    first = '"""Feed-forward with'
    text = (copy.root / "model/mlps/relu2.py").read_text(encoding="utf-8")
    first = text[: text.index("\n")]
    copy.edit("model/mlps/relu2.py", first, f'"""Other words."""\n\n# and a remark\n\n{first[:0]}')
    copy.edit(
        "training/train.py",
        "    learner: Learner,\n    progress: Progress,\n    sitting: Sitting,\n    *,",
        "    learner: Learner, progress: Progress, sitting: Sitting, *,",
    )
    assert source.of_training(tiny.settings()) == before
    copy.edit("core/rng.py", "import hashlib", "import hashlib\n\nODD = 3")
    after = source.of_training(tiny.settings())
    assert [name for name in before if before[name] != after[name]] == ["core/rng.py"]


def test_levers_that_are_not_chosen_and_files_that_give_no_number_do_not_count(copy: Copy) -> None:
    settings = tiny.settings()
    packed = {"compress": {"name": "keep"}, "codec": {"name": "raw"}}
    settings["stage"] = {"pre": {"after": None, **packed, "evaluate": {"name": "disjoint"}}}
    trained, staged = source.of_training(settings), source.of_stage(settings, "pre")
    assert trained.keys() >= {
        "training/train.py",
        "training/learner.py",
        "model/decoder.py",
        "model/layer.py",
        "model/mlps/relu2.py",
        "training/optimizers/adamw.py",
        "model/attention/attend.py",
    }
    assert staged.keys() >= {
        "scoring/stage.py",
        "model/decoder.py",
        "model/mlps/relu2.py",
        "artifact/compressors/keep.py",
        "artifact/codecs/raw.py",
        "scoring/scores.py",
    }
    assert (
        not {"training/optimizers/adamw.py", "training/train.py"} & staged.keys()
        and not {"model/mlps/swiglu.py", "report/html.py"} & trained.keys()
    )
    for name in (
        "model/mlps/swiglu.py",
        "model/positions/fox.py",
        "scoring/evaluators/ttt_sgd.py",
        "judging/judge.py",
        "core/fault.py",
    ):
        (copy.root / name).write_text("x = 1\n")
    copy.edit(
        "model/mlps/__init__.py", "slot: Slot[Mlp] = Slot(", "slot: Slot[Mlp] = Slot(\n    # another lever is listed\n"
    )
    assert source.of_training(settings) == trained
    kinds = {"L": tiny.kind("local", 8, position=["grape_a", "rope"]), "G": tiny.kind("global", None)}
    composed = tiny.settings(model=tiny.model(kinds=kinds))
    assert {"model/positions/grape_a.py", "model/positions/composed.py"} <= source.of_training(composed).keys()


def test_a_run_is_not_resumed_by_other_code(tmp_path: Path, copy: Copy) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        run(out, 7)
    copy.edit("model/mlps/relu2.py", DOWN, "3.0 * self.down_proj(")
    copy.edit("training/optimizers/adamw.py", "def build(", "def other(self) -> None: ...\n\n    def build(")
    files = r"model/mlps/relu2.py \(Relu2.forward\); training/optimizers/adamw.py \(AdamW.other\)"
    with pytest.raises(
        CheckFailed, match=rf"its checkpoint of step 7 was made otherwise: {files}; put that back.*{changed.FLAG}"
    ):
        run(out)
    said: list[str] = []
    done = run(out, allow_changed=True, say=said.append)
    [row] = done["resumed"]
    assert row["step"] == 7 and row["changed"][0] == "model/mlps/relu2.py (Relu2.forward)"
    assert "will not be bit-identical" in said[0]


def test_a_run_is_not_resumed_by_another_torch_or_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, 3)
    here, kind = machine.kind(), machine.kind
    chip, _, version = here.rpartition(", torch ")
    monkeypatch.setattr(machine, "kind", lambda device="cpu": f"another chip, torch {version}9")
    with pytest.raises(CheckFailed) as raised:
        run(tmp_path)
    assert f"torch {version} became {version}9; the machine {chip} became another chip" in str(raised.value)
    monkeypatch.setattr(machine, "kind", kind)
    assert run(tmp_path)["resumed"] == []


def test_a_checkpoint_that_does_not_know_its_code_is_gone_on_with_and_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, 3)
    from ablab.training.checkpoint import _digest

    [path] = tmp_path.glob("checkpoint-*.json")
    header = {key: value for key, value in read_json(path).items() if key not in ("source", "machine", "digest")}
    write_json(path, {**header, "digest": _digest(header)})
    said: list[str] = []
    assert run(tmp_path, say=said.append)["resumed"] == []
    assert any(changed.UNKNOWN in text for text in said)


def test_a_finished_run_of_other_code_is_not_taken_for_this_one(tmp_path: Path, copy: Copy) -> None:
    out = tmp_path / "out"
    first = run(out)
    assert run(out) == first
    copy.edit("model/mlps/relu2.py", DOWN, "3.0 * self.down_proj(")
    with pytest.raises(CheckFailed, match=r"it was made otherwise: model/mlps/relu2.py \(Relu2.forward\)"):
        run(out)
    (out / source.DETAILS).unlink()
    with pytest.raises(
        CheckFailed, match=r"it was made otherwise: model/mlps/relu2.py; put"
    ):  # the functions are not known
        run(out)
    assert run(out, allow_changed=True) == first


def without_source(plan: Any) -> None:
    for path in [*plan.store.root.glob("train/*/done.json"), *plan.store.root.glob("score/*/result.json")]:
        write_json(path, sealed({k: v for k, v in json.loads(path.read_text()).items() if k != "source"}))


def test_run_refuses_and_the_page_says_what_changed(tmp_path: Path, copy: Copy) -> None:
    plan = made.fill(made.plan(tmp_path))
    assert sources.notes(plan) == []
    same_code.guard(plan)
    copy.edit("model/mlps/relu2.py", DOWN, "3.0 * self.down_proj(")
    with pytest.raises(CheckFailed) as raised:
        same_code.guard(plan)
    [fault] = raised.value.faults
    n = len(
        {run.train_key for run in plan.runs.values()}
        | {k for run in plan.runs.values() for k in run.score_keys.values()}
    )
    assert f"{n} results (baseline, int5, wide) were made otherwise: model/mlps/relu2.py" in fault.fault
    assert changed.FLAG in fault.cure and str(plan.store.train(plan.runs["baseline", 0].train_key)) in fault.cure
    [note] = [note for note in judge.conclude(plan)["notes"] if "other code" in note]
    assert note.startswith(
        f"warning: {n} results (baseline, int5, wide) were made by other code than judges now: model/mlps/relu2.py"
    )


def test_arms_of_different_code_are_told_apart_in_the_page(tmp_path: Path, copy: Copy) -> None:
    plan = made.plan(tmp_path)
    for seed in plan.seeds:
        made.finish(plan, "baseline", seed)
    copy.edit("model/parts/norm.py", "import torch", "import torch\n\nODD = 1")
    for seed in plan.seeds:
        made.finish(plan, "wide", seed)
    found = sources.notes(plan)
    assert any(
        "results were made by different versions of model/parts/norm.py: baseline | wide" in note for note in found
    )


def test_results_that_do_not_know_their_code_are_said_and_not_refused(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    without_source(plan)
    same_code.guard(plan)
    [note] = sources.notes(plan)
    assert note.endswith(changed.UNTOLD)


STUDY = """
[study]
name = "edited"
question = "Whose number is it?"
[decision]
matters = 0.01
seeds = 2
[budget]
tokens = 1024
batch_tokens = 512
[data]
source = "mock"
[model]
layers = "G"
d_model = 16
n_heads = 1
seq_len = 64
global.position = "nope"
[train]
optimizer = "adamw"
[stage]
pre_quant = { evaluate = "disjoint" }
[arm.swiglu]
model.mlp = "swiglu"
"""


def test_a_lever_that_is_edited_after_its_run_is_seen_by_the_command(tmp_path: Path) -> None:
    shutil.copytree(source.ROOT, tmp_path / "ablab")
    (tmp_path / "study.toml").write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "160"}

    def ablab(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ablab.cli.main", words[0], "study.toml", *words[1:]]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    first = ablab("run", "--jobs", "1", "--json")
    assert first.returncode == 0, first.stderr
    edited = tmp_path / "ablab" / "model" / "mlps" / "swiglu.py"
    edited.write_text(edited.read_text().replace(DOWN, "3.0 * self.down_proj("))
    again = ablab("run", "--jobs", "1")
    assert again.returncode == 4 and "model/mlps/swiglu.py (Swiglu.forward)" in again.stderr, again.stderr
    assert "4 results (swiglu)" in again.stderr and changed.FLAG in again.stderr
    taken = ablab("run", "--jobs", "1", changed.FLAG, "--json")
    assert taken.returncode == 0, taken.stderr
    found, before = json.loads(taken.stdout), json.loads(first.stdout)
    assert [run["metrics"] for run in found["runs"]] == [run["metrics"] for run in before["runs"]]
    assert any(
        "made by other code than judges now: model/mlps/swiglu.py (Swiglu.forward)" in note for note in found["notes"]
    )
