"""`python -m ablab.bridges.megatron.plugin.pretrain`: an arm of a study file trained, and its log read as Megatron's."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests import on_cpu

from ablab import study as studies
from ablab.bridges.megatron.plugin import pretrain
from ablab.bridges.megatron.plugin.express import express
from ablab.cli import main as cli
from ablab.core.fault import CheckFailed, Refused
from ablab.core.files import sha256_file
from ablab.judging.logs import megatron
from ablab.judging.logs.text import Text
from ablab.model.decoder import build

STUDY = """
[study]
name = "small"
question = "Does it train?"
[decision]
metric = "nats_per_token"
stage = "plain"
matters = 0.01
[budget]
tokens = 1280
batch_tokens = 128
[data]
source = "texts/*.txt"
tokenizer = "bytes"
valid_bytes = 1024
[model]
layers = "LG"
d_model = 16
n_heads = 2
head_dim = 8
seq_len = 32
local.window = 8
local.position = "grape_m"
global.position = "grape_a"
[stage]
plain = { evaluate = "disjoint" }
[arm.sinks]
model.softmax = "sink"
[arm.capped]
model.softcap = 30.0
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command's words for an arm of a small study."""
    (tmp_path / "texts").mkdir()
    for n in range(60):
        (tmp_path / "texts" / f"{n}.txt").write_text(
            f"The {n}th text is no other, as {n} times {n} is {n * n}. " * (n % 5 + 1)
        )
    (tmp_path / "small.toml").write_text(STUDY)
    return ["--study", str(tmp_path / "small.toml"), "--arm", "sinks", "--runs", str(tmp_path / "runs")]


def test_an_arm_trains_from_its_study_file_and_its_log_is_megatrons(words: list[str], tmp_path: Path) -> None:
    kept, said = tmp_path / "weights.safetensors", list[str]()
    more = ["--micro-batch-size", "2", "--train-iters", "4", "--save", str(kept)]
    what = pretrain.ready([*words, *more], 1)
    with on_cpu.megatron(tmp_path):
        losses = pretrain.run(what, said.append, use_cpu_initialization=True)
    assert len(losses) == len(said) == 4 and losses[-1] < losses[0]
    [run] = megatron.read(Text(tmp_path / "log.txt", ("\n".join(said) + "\n").encode()))
    assert run.stages and run.steps == 4
    ours = build(what.expressed.model, vocab_size=what.corpus.vocab_size, seed=0)
    ours.load_state_dict(load_file(kept))


def test_what_cannot_be_trained_is_refused_before_the_processes_meet(words: list[str]) -> None:
    for changed, world, text in (
        (["--arm", "capped"], 1, "model.softcap"),
        (["--arm", "none"], 1, "choose one of baseline, sinks, capped"),
        (["--micro-batch-size", "3"], 1, "4 rows a step cannot be shared out to 1 processes, 3 at a time"),
        (["--tensor-model-parallel-size", "2"], 3, r"2 x 1 x 1 \(tensor, pipeline, expert\) do not divide 3 processes"),
        (["--train-iters", "11"], 1, "but the study has 10 steps"),
        (["--pipeline-model-parallel-size", "2", "--save", "x"], 2, "over tensor parallel processes alone"),
    ):
        with pytest.raises(Refused, match=text):
            pretrain.ready([*words, *changed], world)


def test_without_a_gpu_the_command_says_so(words: list[str]) -> None:
    command = [sys.executable, "-m", "ablab.bridges.megatron.plugin.pretrain", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=None)
    if ended.returncode == 0:
        assert "lm loss" in ended.stdout  # there is one
    else:
        assert ended.returncode == CheckFailed.exit_code and "Megatron-Core trains on GPUs" in ended.stderr


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["ablab", *words])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


def test_a_folder_has_the_command_that_trains_and_the_hashes_of_what_it_trains_on(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, runs, out = words[1], words[5], tmp_path / "folder"
    export = ("export", study, "--to", "megatron-run", "--runs", runs)
    assert command(monkeypatch, *export, "sinks", "--out", str(out)) == 0, capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"run.sh", "run.sbatch", "arm.json"}
    said = json.loads((out / "arm.json").read_text())
    assert said["study"]["sha256"] == sha256_file(Path(study)) and said["arm"] == "sinks" and said["data"]["inputs"]
    for name in ("run.sh", "run.sbatch"):
        text = (out / name).read_text().replace("\\\n", "")
        [line] = [line for line in text.splitlines() if " -m " in line]
        asked = shlex.split(line.split(f" -m {pretrain.__name__} ")[1])
        assert asked.pop() == "$@" and "torchrun --n" in line
        what = pretrain.ready([*asked, "--train-iters", "2"], 4)  # four rows a step, on as many processes
        assert "--nproc-per-node 4" in line and (what.seed, what.steps) == (0, 2)
        subprocess.run(["bash", "-n", str(out / name)], check=True)
    with on_cpu.megatron(tmp_path):
        assert (
            len(pretrain.run(pretrain.ready([*asked, "--train-iters", "2"], 1), print, use_cpu_initialization=True))
            == 2
        )
    for arm, folder, code, text in (
        ("sinks", out, 4, "is there already"),
        ("capped", tmp_path / "no", 4, "model.softcap"),
        ("none", tmp_path / "no", 2, "no arm is called 'none'"),
    ):
        assert command(monkeypatch, *export, arm, "--out", str(folder)) == code
        assert text in " ".join(capsys.readouterr().err.replace("\u2502", " ").split())


def test_three_lines_take_flags_from_explain_to_an_arm_that_trains(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, written = Path(words[1]), tmp_path / "seed.toml"
    flags = "--window-size 8,0 --window-attn-skip-freq 2 --no-rope-freq 2 --grape-a --position-embedding-type grapem"
    asked = ("explain", "--arm-of", str(study), "--name", "seed", "--write", str(written), "--", *flags.split())
    assert command(monkeypatch, *asked) == 0
    study.write_text(study.read_text() + written.read_text())
    settings = studies.load(study).arm("seed").settings
    assert settings["model"]["kinds"]["L"]["window"] == 9
    express(settings, "seed")
