"""Levers from outside the package: a study names a file, its hash is in every key, and nothing of ours moves for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from tests.study.written import BASE

from ablab.check import conformance
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.records.run import Where
from ablab.runs import store
from ablab.runtime import source
from ablab.study import load, outside, trusted
from ablab.study.keys import SLOTS

CUBED = '''"""A lever of our own."""

from __future__ import annotations

from torch import Tensor

from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.linear import Linear
from ablab.model.shape import Shape
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.training.schedules.schedule import Schedule


class Cubed(Mlp):
    """down(relu(up x)^3)."""

    def __init__(self, shape: Shape, *, ratio: float = 2.0) -> None:
        super().__init__()
        self.up_proj = Linear(shape.d_model, round(ratio * shape.d_model), std=shape.init_std)
        self.down_proj = Linear(round(ratio * shape.d_model), shape.d_model, std=shape.out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(self.up_proj(x_BTD).relu() ** 3)


class InHalves(Disjoint):
    """Disjoint windows of half the length."""

    name = "halves"


class _Hidden(Schedule):
    """No lever: its name begins with an underscore."""
'''
WHERE = Where("cpu", "fp32", "lift", 2)


@pytest.fixture(autouse=True)
def afterwards(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take out again what a test took in; what it allows is noted in a folder of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    before = {name: (dict(slot.table), dict(slot._outside)) for name, slot in SLOTS.items()}
    yield
    for name, slot in SLOTS.items():
        slot.table, slot._outside = before[name]


def study(folder: Path, levers: str | None = CUBED, arm: str = "") -> Any:
    text = BASE + arm
    if levers is not None:
        (folder / "my_levers.py").write_text(levers)
        trusted.allow(folder / "my_levers.py")
        text = 'levers.from = ["my_levers.py"]\n' + text
    (folder / "study.toml").write_text(text)
    return load(folder / "study.toml")


def key(settings: dict[str, Any]) -> str:
    return store.train_key(settings, corpus="c", seed=0, where=WHERE)


ARM = '\n[arm.own]\nmodel.mlp = "cubed"\n'


def test_a_file_is_part_of_the_keys_of_what_it_takes_part_in_and_of_nothing_else(tmp_path: Path) -> None:
    keys = []
    # A comment will do: nobody raises a stranger's revision.
    for levers in (CUBED, CUBED.replace("A lever", "Another lever")):
        found = study(tmp_path, levers, ARM)
        assert list(found.levers) == [str(tmp_path / "my_levers.py")]
        stage = {**found.baseline.settings["stage"]["pre_quant"], "evaluate": tiny.choice(SLOTS["evaluate"], "halves")}
        halved = {**found.baseline.settings, "stage": {"s": stage}}
        keys.append(
            (key(found.baseline.settings), key(found.arms["own"].settings), store.score_key(halved, "s", trained="t"))
        )
    alone = key(study(tmp_path, None).baseline.settings)
    assert keys[0][0] == keys[1][0] == alone
    assert keys[0][1] != keys[1][1] and keys[0][2] != keys[1][2]


def test_the_sources_of_a_training_name_the_file(tmp_path: Path) -> None:
    found = study(tmp_path, CUBED, ARM)
    made_by = source.of_training(found.arms["own"].settings)
    assert "outside/my_levers.py" in made_by and "outside/my_levers.py" not in source.of_training(
        found.baseline.settings
    )
    source.keep(tmp_path, made_by)
    assert source.changes({"source": made_by}, {"source": made_by}, tmp_path) == []


def test_another_process_takes_in_the_same_or_stops(tmp_path: Path) -> None:
    found = study(tmp_path, CUBED, ARM)
    outside.again(found.levers)
    (tmp_path / "my_levers.py").write_text(CUBED + "\n# later\n")
    with pytest.raises(CheckFailed, match=r"was changed while the study ran.*; start the command again"):
        outside.again(found.levers)
    (tmp_path / "my_levers.py").unlink()
    with pytest.raises(CheckFailed, match="cannot be read"):
        outside.again(found.levers)


def test_a_study_has_the_levers_of_its_own_files_only(tmp_path: Path) -> None:
    """Whatever another study of this process has named: its other processes would not know them."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    first = study(tmp_path / "one", CUBED, ARM)
    with pytest.raises(InvalidStudy, match="no mlp is called 'cubed'; known: gelu"):
        study(tmp_path / "other", None, ARM)
    assert "cubed" in SLOTS["mlp"].names and load(first.path).levers == first.levers


@pytest.mark.parametrize(
    ("levers", "said"),
    [
        ("x = 1\n", "holds no lever; write a class that inherits the base of its slot"),
        ("import nothing_of_this_name\n", "my_levers.py cannot be loaded (ModuleNotFoundError"),
        ("class Broken(\n", "my_levers.py cannot be loaded (SyntaxError"),
        ("from ablab.core.lever import Lever\nclass Odd(Lever):\n    pass\n", "Odd is of no slot; let it inherit"),
        (CUBED.replace("class Cubed", "class Swiglu"), "'swiglu' is a lever of mlp already, in ablab; give the"),
        (CUBED.replace('"halves"', '"No Name"'), "InHalves: 'No Name' is no name of a lever"),
        (CUBED.replace("ratio: float", "ratio: Nothing"), "Cubed: its constructor cannot be read (NameError"),
        (CUBED.replace("def forward", "def foward"), "Cubed does not have `forward`, which ablab.model.mlps.mlp.Mlp leaves"),
    ],
    ids=["empty", "import", "syntax", "no slot", "taken", "name", "annotation", "half"],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, levers: str, said: str) -> None:
    with pytest.raises(InvalidStudy) as raised:
        study(tmp_path, levers)
    assert said in str(raised.value) and "levers.from: " in str(raised.value)


def test_half_a_lever_is_taken_in_once_its_cure_was_followed(tmp_path: Path) -> None:
    half = CUBED.replace("def forward", "def foward")
    with pytest.raises(InvalidStudy, match="write it in class Cubed, as Mlp describes it, or begin its name with _"):
        study(tmp_path, half)
    assert "cubed" not in SLOTS["mlp"].names
    study(tmp_path, half.replace("class Cubed", "class _Cubed"))
    assert "cubed" not in SLOTS["mlp"].names and "halves" in SLOTS["evaluate"].names
    study(tmp_path, CUBED)
    assert "cubed" in SLOTS["mlp"].names


def test_a_file_that_is_not_there_and_two_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('levers.from = ["no.py"]\n' + BASE)
    with pytest.raises(
        InvalidStudy, match=r"levers.from: .*no.py cannot be read .*; give a Python file beside the study"
    ):
        load(tmp_path / "study.toml")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(CUBED.replace("Cubed", f"Cubed{folder.upper()}"))
        trusted.allow(tmp_path / folder / "mine.py")
    (tmp_path / "study.toml").write_text('levers.from = ["a/mine.py", "b/mine.py"]\n' + BASE)
    with pytest.raises(InvalidStudy, match="have one name; rename one of them"):
        load(tmp_path / "study.toml")


def test_the_checks_hold_for_a_lever_that_keeps_the_rules_and_catch_one_that_does_not(tmp_path: Path) -> None:
    study(tmp_path, CUBED)
    assert [found.fault for found in conformance.of_levers([("mlp", "cubed")])] == ["", "", ""]
    wrong = CUBED.replace("self.up_proj(x_BTD).relu()", "self.up_proj(x_BTD.roll(-1, 1)).relu()")
    study(tmp_path, wrong)
    faults = [found.fault for found in conformance.of_levers([("mlp", "cubed")])]
    assert re.match(r"a token at place 20 moves a hidden state before it by ", faults[0])
    assert faults[1] == "a document of 5 tokens is another one when it stands behind 0 tokens of others"
    torch_own = CUBED.replace("parts.linear import Linear", "parts.linear import Linear\nfrom torch import nn").replace(
        "self.up_proj = Linear(shape.d_model, round(ratio * shape.d_model), std=shape.init_std)",
        "self.up_proj = nn.Linear(shape.d_model, round(ratio * shape.d_model))",
    )
    study(tmp_path, torch_own)
    faults = [found.fault for found in conformance.of_levers([("mlp", "cubed")])]
    assert all("use ablab.model.parts.linear.Linear(" in fault for fault in faults)


STUDY = """
study = { name = "outside", question = "Does a cube help?" }
decision = { matters = 0.01, seeds = 2 }
budget = { tokens = 1024, batch_tokens = 512 }
data = { source = "mock" }
model = { layers = "G", d_model = 16, n_heads = 1, seq_len = 64, global = { position = "nope" } }
train = { optimizer = "adamw" }
stage = { pre_quant = { evaluate = "disjoint" } }
[levers]
from = ["my_levers.py"]
[arm.cubed]
model.mlp = "cubed"
[arm.packaged]
model.mlp = "quartic"
"""


def package(folder: Path) -> None:
    """An installed package whose entry point declares a lever."""
    (folder / "fourth.py").write_text(CUBED.replace("Cubed", "Quartic").replace("** 3", "** 4").replace("halves", "h4"))
    told = folder / "fourth-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: fourth\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[ablab.levers]\nfourth = fourth\n")


def test_workers_take_them_in_from_files_and_packages_and_a_bundle_refuses_them(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    package(tmp_path / "site")
    (tmp_path / "my_levers.py").write_text(CUBED)
    (tmp_path / "study.toml").write_text(STUDY)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])

    def ablab(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "ablab", *words]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )

    listed = ablab("levers")
    assert listed.returncode == 0 and "quartic" in listed.stdout and "entry point fourth" in listed.stdout
    assert ablab("levers", "--trust", "my_levers.py").returncode == 0
    done = ablab("run", "study.toml", "--jobs", "2", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {run["arm"]: run["status"] for run in answer["runs"]} == dict.fromkeys(
        ("baseline", "cubed", "packaged"), "done"
    )
    levels = {run["arm"]: run["metrics"] for run in answer["runs"] if run["seed"] == 0}
    assert levels["cubed"] != levels["packaged"] != levels["baseline"]
    refused = ablab("bundle", "study.toml")
    assert refused.returncode == 4 and "whose code a bundle does not carry" in refused.stderr, refused.stderr
    assert not list(tmp_path.glob("*.zip"))
    (tmp_path / "my_levers.py").write_text(CUBED.replace("** 3", "** 5"))  # another lever: nothing of it is reused
    (tmp_path / "study.toml").write_text(STUDY.replace('[arm.packaged]\nmodel.mlp = "quartic"\n', ""))
    assert ablab("run", "study.toml").returncode == 4
    assert ablab("levers", "--trust", "my_levers.py").returncode == 0
    again = ablab("run", "study.toml", "--jobs", "1", "--json")
    assert again.returncode == 0, again.stderr
    other = {run["arm"]: run["metrics"] for run in json.loads(again.stdout)["runs"] if run["seed"] == 0}
    assert other["baseline"] == levels["baseline"] and other["cubed"] != levels["cubed"]
