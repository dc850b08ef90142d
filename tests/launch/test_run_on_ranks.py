"""A run on two processes that it starts itself: the first alone writes, all stop together, none is left behind."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny

from ablab.check import miniature
from ablab.core.fault import CheckFailed, Interrupted
from ablab.launch import ranks, work
from ablab.launch.ranks import Errand, Lost, Together, company
from ablab.launch.study import Lab
from ablab.records.run import Where
from ablab.training.metrics import WALL

STUDY = """
study = { name = "two", question = "Does a wider mlp pay?" }
decision = { metric = "bits_per_byte", stage = "plain", matters = 0.05, seeds = { first = 0, start = 2, at_most = 2 } }
budget = { tokens = 1024, batch_tokens = 256 }
data = { source = "mock" }
model = { layers = "L", d_model = 16, n_heads = 1, seq_len = 32, local = { position = "rope" } }
train = { optimizer = { name = "normuon" } }
stage = { plain = { evaluate = "disjoint" } }
[arm.wide]
model.d_model = 24
"""
WHERE = Where("cpu", "fp32", "lift", 1)
ASKED = tiny.settings(steps=6, optimizer={"name": "normuon", "lr": 0.02}, validate_every=2 * 128)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ranks find one another on the loopback, and find these tests."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert not multiprocessing.active_children(), "a process is left behind"


def run(out: Path, world: int = 1, patience: float = ranks.PATIENCE, **sitting: Any) -> Any:
    """The run in `out` on so many processes."""
    if world > 1:
        out.mkdir(exist_ok=True)
        errand = Errand(ASKED, tiny.corpus, WHERE, 0, out, threads=1, patience=patience)
        sitting["company"] = functools.partial(company, errand, world)
    return tiny.trained(out, ASKED, where=WHERE, **sitting)


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in WALL} for line in lines]


def at_step(step: int, act: Any) -> Any:
    """A `stop` that does something before the step of that number, and answers what that returns."""
    asked = iter(range(1 << 20))
    return lambda: next(asked) == step and act()


def test_stopped_on_two_processes_and_gone_on_with_one_it_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "two", 2, stop=at_step(3, lambda: True))
    left = {path.name for path in (tmp_path / "two").iterdir()}
    assert {f"checkpoint-000000003.{kind}" for kind in ("json", "safetensors")} | {"metrics.jsonl"} <= left
    assert not any(name.startswith(".") for name in left), "nor is the file where they met"
    two, one = run(tmp_path / "two"), run(tmp_path / "one")
    assert two["weights"] == one["weights"] and two["token_hash"] == one["token_hash"]
    assert two["trajectory"] == one["trajectory"] and two["identity"] == one["identity"]
    assert rows(tmp_path / "two") == rows(tmp_path / "one")


def test_the_file_where_they_meet_stays_until_the_run_ends(tmp_path: Path) -> None:
    """A run that begins removes what a kill has left; the others may still be on their way to the file by then."""

    def meeting() -> bool:
        assert (tmp_path / "two" / ".ranks.part").exists()
        return True

    with pytest.raises(Interrupted):
        run(tmp_path / "two", 2, stop=at_step(0, meeting))
    assert not (tmp_path / "two" / ".ranks.part").exists()


def test_a_process_that_is_killed_ends_the_run_and_the_next_start_goes_on(tmp_path: Path) -> None:
    def kill() -> bool:
        [other] = multiprocessing.active_children()
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        return False

    with pytest.raises(Lost, match=r"process 1 of 2 ended with code -9"):
        run(tmp_path / "two", 2, stop=at_step(3, kill), checkpoint_every=0.0)
    assert (tmp_path / "two" / "checkpoint-000000003.json").exists()
    two, one = run(tmp_path / "two", 2), run(tmp_path / "one")
    assert two["weights"] == one["weights"] and rows(tmp_path / "two") == rows(tmp_path / "one")


def test_a_process_that_hangs_ends_the_run_when_patience_does(tmp_path: Path) -> None:
    def halt() -> bool:
        [other] = multiprocessing.active_children()
        assert other.pid is not None
        os.kill(other.pid, signal.SIGSTOP)
        return False

    with pytest.raises(Lost, match="says nothing more"):
        run(tmp_path / "two", 2, patience=20.0, stop=at_step(2, halt))


def test_a_study_on_two_processes_lies_under_the_keys_of_one_and_has_its_weights(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    two = Lab(tmp_path / "study.toml", out=tmp_path / "two", precision="fp32", per_run=2).plan()
    assert two.where.micro_rows == 4, "half of a batch's rows"
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    one = Lab(tmp_path / "study.toml", out=tmp_path / "one", precision="fp32").plan()
    found = []
    for plan, per_run in ((two, 2), (one, 1)):
        run = plan.runs["baseline", 0]
        how: dict[str, Any] = {
            "mirrors": (),
            "stop": lambda: False,
            "say": lambda _: None,
            "together": Together(per_run),
        }
        assert work.do(run, store=plan.store, where=plan.where, **how) == "done"
        found.append((run.train_key, plan.store.train(run.train_key)))
    assert found[0][0] == found[1][0]
    weights, others = (folder / "weights.safetensors" for _, folder in found)
    assert weights.read_bytes() == others.read_bytes()


def test_a_loss_over_the_whole_batch_takes_as_many_processes_as_it_has_micro_batches(tmp_path: Path) -> None:
    mixture = 'mlp = { name = "moe", n_experts = 4, balance = "switch" }, router = { name = "softmax_topk", top_k = 2 }'
    (tmp_path / "study.toml").write_text(STUDY.replace('local = { position = "rope" }', f"local = {{ {mixture} }}"))
    lab = Lab(tmp_path / "study.toml", out=tmp_path / "out", precision="fp32", per_run=2)
    assert miniature.splits(lab.plan()) == []
    said = [str(fault) for fault in miniature.splits(replace(lab, per_run=1).plan())]
    assert (
        said[0].startswith("study.toml: baseline: model.layers.0.mlp: ")
        and "its 8 rows go through 4 at a time;" in said[0]
    )


def test_processes_that_cannot_share_a_batch_are_refused_before_any_run(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    lab = Lab(tmp_path / "study.toml", out=tmp_path / "out", precision="fp32")
    assert lab.plan().where.micro_rows == 8
    with pytest.raises(
        CheckFailed, match=r"--per-run: micro_rows: 8 rows .* 1 micro-batch for 2 processes; choose 4, or begin"
    ):
        replace(lab, per_run=2).plan()
    with pytest.raises(CheckFailed, match=r"3 processes cannot share a tree of sums.*; choose 2 or 4"):
        replace(lab, per_run=3).plan()
