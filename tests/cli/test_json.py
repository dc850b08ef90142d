"""--json: every command has it; stdout is then one JSON value and nothing else, and what is wrong goes to stderr."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tests import finished_store
from tests.data.harmony.building import here
from tests.sharded import write_shard

from ablab.check import miniature
from ablab.cli import main as cli
from ablab.cli import sample
from ablab.cli.runs import RunOptions
from ablab.data.harmony import crew
from ablab.launch import joint
from ablab.launch import study as lab
from ablab.launch.bundle import audit as auditor
from ablab.launch.bundle import findings
from ablab.runs import planning

MEGATRON = ("--num-layers", "2", "--hidden-size", "64", "--num-attention-heads", "2", "--seq-length", "64")
SMALL = """
study = { name = "small", question = "Is stdout JSON?" }
decision = { metric = "nats_per_token", stage = "pre_quant", matters = 0.01, seeds = 2 }
budget = { tokens = 4096, batch_tokens = 512 }
data = { source = "small.jsonl", valid_fraction = 0.2 }
model = { layers = "G*2", d_model = 32, n_heads = 2, seq_len = 64, global = { position = "rope" } }
[arm.sink]
model.softmax = "sink"
"""
RUNGS = """
[scale.a]
[scale.b]
model.d_model = 64
[scale.c]
model.d_model = 128
"""
ASKED = [
    ("check", "small.toml"),
    ("run", "STUDY", "--jobs", "1"),
    ("work", "STUDY"),
    ("status", "STUDY"),
    ("report", "STUDY"),
    ("ls", "runs"),
    ("ladder", "rungs.toml", "--scales", "a,b,c", "--no-train"),
    ("bundle", "STUDY", "--to", "bundle.zip"),
    ("audit", "bundle.zip"),
    ("unbundle", "stack.toml", "stack"),
    ("levers",),
    ("power", "--sd", "0.001", "--effect", "0.002"),
    ("noise", "sp8192"),
    ("judge", "runs.csv", "--against", "base"),
    ("mirror", "STUDY", "--mirror", "tensorboard"),
    ("sample", "STUDY", "int5", "--prompt", "a"),
    ("explain", "--", *MEGATRON),
    ("export", "small.toml", "sink", "--to", "megatron"),
    ("export", "STUDY", "int5", "--to", "golf", "--out", "golf", "--author", "A", "--github-id", "a"),
    ("data", "build", "harmony", "mock:30", "--out", "built", "--valid-fraction", "0.2"),
    ("data", "inspect", "shard.bin"),
    ("data", "verify", "shard.bin"),
    ("data", "vocab"),
]
"""What each command is asked for; STUDY stands for the file of a finished study."""


def leaves(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command of the program that does something, with the words that call it."""
    command = command or typer.main.get_command(cli.app)
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(words), command
        return
    for name, one in inner.items():
        yield from leaves(one, (*words, name))


def test_commands_that_make_runs_share_their_options() -> None:
    told, at = dict(leaves()), {field.name for field in dataclasses.fields(RunOptions)}
    assert {name for name, one in told.items() if at <= {param.name for param in one.params}} == {
        "run",
        "work",
        "ladder",
    }
    defaults = [
        {param.name: param.default for param in told[name].params if param.name in at} for name in ("run", "ladder")
    ]
    assert defaults[0] == defaults[1] and defaults[0]["out"] == Path("runs") and defaults[0]["jobs"] is None


def test_every_command_has_json() -> None:
    found = dict(leaves())
    assert found.keys() >= {"run", "data build harmony", "data vocab", "export"}
    del found["trial"]  # whose stdout is JSON and nothing else, always (tests/launch/test_trial.py)
    assert not [name for name, one in found.items() if not any("--json" in option.opts for option in one.params)]
    assert all(any(" ".join(words).startswith(name) for words in ASKED) for name in found)


def rehearsed(plan: Any, say: Any) -> dict[str, Any]:
    """What takes seconds in `check`: it speaks of every arm while it goes on."""
    say("miniature of every arm")
    return {name: SimpleNamespace(losses=[1.0], fault=None, untested=()) for name in plan.study.with_baseline}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished study, a shard, and the folder where they lie: the commands read these and compute little."""
    plan = finished_store.fill(finished_store.plan(tmp_path))
    make = planning.make
    monkeypatch.setattr(
        planning, "make", lambda study, *a, **k: plan if study.name == "stages" else make(study, *a, **k)
    )
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "rungs.toml").write_text(SMALL + RUNGS)
    (tmp_path / "stack.toml").write_text(
        f'{SMALL}[arm.stack]\ntogether = "both"\nmodel.softcap = 15\nmodel.qk_norm = false\n'
    )
    texts = [f"Text number {number} counts to {number * number}. " * 6 for number in range(80)]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    monkeypatch.setattr(joint, "_rehearsed", lambda plan, mark: True)
    monkeypatch.setattr(lab.Lab, "_began", lambda *_: "cpu")
    monkeypatch.setattr(miniature, "check", rehearsed)
    monkeypatch.setattr(crew, "make", here)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sample, "continued", lambda *_, **__: {"samples": []})
    monkeypatch.setattr(auditor, "audit", lambda *_, **__: findings.Audit("a key", held=["every digest"]))
    write_shard(tmp_path / "shard.bin", [1, 2, 3, 2, 1])
    (tmp_path / "runs.csv").write_text("arm,seed,val_bpb\nbase,1,1.0811\nbase,2,1.0808\nwide,1,1.0790\nwide,2,1.0795\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str, str]:
    monkeypatch.setattr(sys, "argv", ["ablab", *words])
    code: Any = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    out, err = capfd.readouterr()
    return code or 0, out, err


def with_json(words: tuple[str, ...]) -> list[str]:
    """The command's words with --json among its options, before what it takes for another program's."""
    words = tuple("study.toml" if word == "STUDY" else word for word in words)
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], "--json", *words[at:]]


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_stdout_is_json_alone(
    words: tuple[str, ...], made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capfd, *with_json(words))
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out, parse_constant=pytest.fail), dict)  # NaN and Infinity are no JSON


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("check", "none.toml"), 3, "none.toml"),
        (("run", "none.toml"), 3, "none.toml"),
        (("report", "none.toml"), 3, "none.toml"),
        (("ladder", "none.toml", "--scales", "a,b,c"), 3, "none.toml"),
        (("ladder", "rungs.toml", "--scales", "a,b", "--no-train"), 4, "2 rungs make no ladder"),
        (("ladder", "rungs.toml", "--scales", "a,b,d"), 3, "the file has no such scale"),
        (("ladder", "rungs.toml", "--scales", "a,b,c", "--seeds", "2,2"), 4, "2 numbers for 3 scales"),
        (("ladder", "rungs.toml", "--scales", "a,b,c", "--seeds", "2,x,2"), 2, "no list of numbers"),
        (("ladder", "rungs.toml", "--scales", "a,b,c", "--at", "nan"), 2, "is no finite number above 0"),
        (("ladder", "rungs.toml", "--scales", "a,b,c", "--at", "1e400"), 2, "inf is no finite number above 0"),
        (("ladder", "rungs.toml", "--scales", "a,b,b"), 4, "names b twice"),
        (
            ("ladder", "rungs.toml", "--scales", "a,b,c", "--seeds", f"{10**23},3,3", "--no-train"),
            4,
            "is more than 1,000",
        ),
        (("levers", "positon"), 2, "no slot is called 'positon'"),
        (("levers", "position", "ropee"), 2, "no position is called 'ropee'"),
        (("sample", "STUDY", "int4", "--prompt", "a"), 3, "no arm is called 'int4'"),
        (("explain",), 2, "no flags"),
        (("export", "STUDY", "int4", "--to", "megatron"), 2, "no arm is called 'int4'"),
        (
            ("export", "none.toml", "a", "--to", "golf", "--out", "o", "--author", "A", "--github-id", "a"),
            3,
            "none.toml",
        ),
        (("data", "build", "harmony", "none.jsonl", "--out", "built"), 3, "none.jsonl"),
        (("data", "inspect", "none.bin"), 4, "none.bin"),
        (("data", "vocab", "none.tiktoken", "--to", "vocab.tiktoken"), 4, "none.tiktoken"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_what_is_wrong_goes_to_stderr(
    words: tuple[str, ...],
    code: int,
    said: str,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    found, out, err = call(monkeypatch, capfd, *with_json(words))
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())


def test_faults_of_data_are_json_and_errors(
    made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`verify` has a result even where something is wrong: both the value on stdout and the lines on stderr."""
    (made / "shard.bin").write_bytes((made / "shard.bin").read_bytes()[:-1])
    code, out, err = call(monkeypatch, capfd, "data", "verify", "shard.bin", "--json")
    (fault,) = json.loads(out)["faults"]
    assert code == 4 and err == f"error: {fault['place']}: {fault['fault']}; {fault['cure']}\n"
