"""Training: the loop, its accounts, and what survives stops, kills and damage."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, get_type_hints

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.golden import make_tiny_losses

from ablab.core import places
from ablab.core.fault import CheckFailed, Interrupted, InvalidStudy, to_install
from ablab.core.files import read_json, sha256_file, write_json
from ablab.core.lever import Origin
from ablab.data.batches.ahead import Ahead
from ablab.model.decoder import Decoder
from ablab.model.layer import Layer
from ablab.records.run import Progressed
from ablab.runtime.lock import locked
from ablab.training import learner as learner_module
from ablab.training import optimizers, snapshot
from ablab.training.checkpoint import _digest
from ablab.training.learner import Learner, Spikes
from ablab.training.memory import halvings
from ablab.training.metrics import WALL, Mirrored
from ablab.training.mirrors import cure
from ablab.training.optimizers.optimizer import Optimizer
from ablab.training.roles import Rates
from ablab.training.sums import tree
from ablab.training.train import Progress

run, WHERE = tiny.trained, tiny.WHERE
HOW: dict[str, Any] = {"seed": 0, "precision": "fp32", "micro_rows": 4, "executor": "lift"}


def rows(out: Path) -> list[dict[str, Any]]:
    """The metrics without wall time."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in WALL} for line in lines]


def learner(settings: dict[str, Any], **how: Any) -> Learner:
    asked = {**HOW, **how}
    return Learner(settings, tiny.corpus(), device="cpu", **asked)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run of 20 steps."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


def same(one: Path, other: Path) -> bool:
    """Byte-identical weights and equal metrics."""
    alike = (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    return alike and rows(one) == rows(other)


def after(steps: int) -> Any:
    """A `stop` that turns true once `steps` steps were begun."""
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps


def test_it_learns_and_accounts_for_everything(whole: Path) -> None:
    done = json.loads((whole / "done.json").read_text())
    steps = [row for row in rows(whole) if "loss" in row]
    held_out = [row for row in rows(whole) if "valid_nats_per_token" in row]
    assert [row["step"] for row in steps] == list(range(1, 21))
    assert [row["tokens"] for row in steps] == [128 * (i + 1) for i in range(20)]
    assert steps[0]["loss"] == pytest.approx(3.47, abs=0.05) and steps[-1]["loss"] < 2.0
    assert [row["tokens"] for row in held_out] == [640, 1280, 1920, 2560], "every 5 batches, once at the end"
    assert done["status"] == "done" and done["fault"] is None and (done["steps"], done["tokens"]) == (20, 2560)
    assert done["token_hash"] == steps[-1]["token_hash"] and len(done["hashes"]) == len(done["trajectory"]) == 4
    assert done["hashes"][0] == [640, steps[4]["token_hash"]]
    assert done["trajectory"][-1]["nats_per_token"] == held_out[-1]["valid_nats_per_token"]
    # Every target of the tiny corpus counts one byte.
    assert held_out[-1]["valid_bits_per_byte"] == pytest.approx(
        held_out[-1]["valid_nats_per_token"] / 0.6931471805599453
    )
    assert done["weights"] == {"weights.safetensors": sha256_file(whole / "weights.safetensors")}
    assert not list(whole.glob("checkpoint*")) and not list(whole.glob(".*"))


def test_a_finished_run_is_not_made_again_and_damage_is_seen(whole: Path, tmp_path: Path) -> None:
    assert run(whole)["seconds"] == json.loads((whole / "done.json").read_text())["seconds"]
    for name in ("done.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(CheckFailed, match="is of a run with other settings, data, seed"):
        run(tmp_path, seed=1)
    damaged = bytearray((tmp_path / "weights.safetensors").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(damaged)
    with pytest.raises(CheckFailed, match=r"does not match the sha256 in done\.json"):
        run(tmp_path)


def test_checkpoints_that_a_kill_left_behind_a_finished_run_are_removed(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for suffix in ("json", "safetensors"):
        (out / f"checkpoint-000000006.{suffix}").write_text("killed between done.json and its end")
    run(out)
    assert (out / "done.json").exists() and not list(out.glob("checkpoint-*"))


@pytest.mark.parametrize("train_settings", [{}, {"ema": 0.9}], ids=["plain", "ema"])
def test_stopped_at_any_step_equals_uninterrupted(tmp_path: Path, train_settings: dict[str, Any]) -> None:
    settings = tiny.settings(**train_settings)
    run(tmp_path / "whole", settings)
    out = tmp_path / "stopped"
    for steps in (0, 1, 4, 3, 5):  # the sums stand before, on and behind a validation
        with pytest.raises(Interrupted):
            run(out, settings, stop=after(steps))
        assert len(list(out.glob("checkpoint-*.json"))) <= 2
    run(out, settings)
    assert same(tmp_path / "whole", out)


def test_checkpoints_on_the_clock_change_nothing_and_rows_after_them_are_dropped(whole: Path, tmp_path: Path) -> None:
    def stop_hard() -> bool:
        if calls.append(1) or len(calls) > 9:  # type: ignore[func-returns-value]
            raise KeyboardInterrupt
        return False

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):  # dies without a last checkpoint
        run(tmp_path, stop=stop_hard, checkpoint_every=0)
    for path in sorted(tmp_path.glob("checkpoint-*"))[2:]:
        path.unlink()  # the newest generation is lost: step 8 is left, metrics know step 9
    assert rows(tmp_path)[-1]["step"] == 9
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 10, "tok')  # and a row torn by the crash
    run(tmp_path)
    assert same(whole, tmp_path)


# Trainings that write a checkpoint at every step and die by SIGKILL as they call OWNER.NAME for the AT-th time: before that
# does anything, or right after. Forked from one process that has imported torch and computed nothing.
DYING = """
import json, os, pkgutil, signal, sys
from pathlib import Path
import torch
import torch._dynamo  # what an optimizer's first step imports: once for all
from tests import tiny

def train_and_die(owner, name, at, late):
    owner = pkgutil.resolve_name(owner)
    plain, calls = getattr(owner, name), iter(range(10**9))

    def dies(*given, **named):
        here = next(calls) == at
        if here and late == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = plain(*given, **named)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, dies)
    tiny.trained(Path(sys.argv[1]), checkpoint_every=0)

torch.set_num_threads(int(sys.argv[2]))
for death in json.loads(sys.argv[3]):
    child = os.fork()
    if not child:
        train_and_die(*death)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == -signal.SIGKILL, (death, ended)
"""


def test_killed_in_the_middle_of_every_kind_of_write(whole: Path, tmp_path: Path) -> None:
    """Two renames make a checkpoint, tensors first; after it the third oldest is dropped."""
    deaths = [
        ("ablab.training.checkpoint", "save_file", 3, "after"),  # tensors are written and have no name
        ("pathlib:Path", "replace", 2, "after"),  # tensors have a name and no JSON
        ("ablab.training.metrics:Metrics", "write", 4, "before"),
        ("pathlib:Path", "replace", 3, "before"),
        ("ablab.training.checkpoint", "_drop", 2, "before"),  # three generations
        ("ablab.training.metrics:Metrics", "write", 1, "after"),  # a row that no checkpoint knows
    ]
    command = [sys.executable, "-c", DYING, str(tmp_path), str(torch.get_num_threads()), json.dumps(deaths)]
    subprocess.run(command, check=True)
    assert list(tmp_path.glob("checkpoint-*.json")) and not (tmp_path / "done.json").exists()
    run(tmp_path)
    assert same(whole, tmp_path)
    assert not list(tmp_path.glob(".*.part")), "half-written files are swept"


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
    path.write_bytes(data if how == "flipped" else data[: len(data) // 3])


@pytest.mark.parametrize("how", ["flipped", "cut"])
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_damaged_checkpoint_falls_back_and_says_so(whole: Path, tmp_path: Path, suffix: str, how: str) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(9), checkpoint_every=0)
    newest, _ = sorted(tmp_path.glob(f"checkpoint-*.{suffix}"), reverse=True)
    damage(newest, how)
    said: list[str] = []
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(0), say=said.append)
    assert said[0].startswith(str(newest.with_suffix(".safetensors"))) and said[0].endswith("going back one generation")
    assert said[1] == "step 8: resumed" and not newest.exists()
    for path in tmp_path.glob(f"checkpoint-*.{suffix}"):
        damage(path, how)
    said.clear()
    run(tmp_path, say=said.append)
    assert f"{tmp_path}: no checkpoint is whole; starting over" in said
    assert same(whole, tmp_path)


def test_a_checkpoint_whose_progress_is_of_another_shape_falls_back_and_says_so(whole: Path, tmp_path: Path) -> None:
    assert get_type_hints(Progressed) == get_type_hints(Progress), "a header holds every field of Progress, in its type"
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(9), checkpoint_every=0)
    newest, _ = sorted(tmp_path.glob("checkpoint-*.json"), reverse=True)
    header = read_json(newest)
    body = {**header, "progress": {**header["progress"], "spikes": "none"}}
    body.pop("digest")
    write_json(newest, {**body, "digest": _digest(body)})
    said: list[str] = []
    run(tmp_path, say=said.append)
    fault = f"{newest.name} holds 'none' for progress.spikes, where a whole number belongs"
    assert said[:2] == [f"{newest.with_suffix('.safetensors')}: {fault}; going back one generation", "step 8: resumed"]
    assert same(whole, tmp_path)


class Descent(Optimizer):
    """Plain gradient descent by torch's own optimizer: an optimizer from outside need not look at its gradients."""

    def __init__(self, *, lr: float = 0.1) -> None:
        self.rates = Rates(lr, 0.0, lr, 0.0)

    def build(self, parameters: Any, roles: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.rates.groups(parameters, roles))


def test_an_optimizer_of_torchs_own_trains_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.slot, "table", {**optimizers.slot.table})
    monkeypatch.setattr(optimizers.slot, "_outside", {})
    optimizers.slot.add("descent", Descent, Origin("mine.py", Path(__file__), "0" * 64))
    settings = tiny.settings(optimizer={"name": "descent"})
    first = run(tmp_path / "whole", settings)["trajectory"][-1]["nats_per_token"]
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", settings, stop=after(5))
    assert run(tmp_path / "cut", settings)["trajectory"][-1]["nats_per_token"] == first
    assert same(tmp_path / "whole", tmp_path / "cut") and first < rows(tmp_path / "cut")[0]["loss"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(3))
    other = {"where": dataclasses.replace(WHERE, precision="fp64")}, {"where": dataclasses.replace(WHERE, micro_rows=2)}
    for how in ({"seed": 1}, *other, {"asked": tiny.settings(clip=2.0)}):
        with pytest.raises(CheckFailed) as raised:
            run(tmp_path, **how)
        fault = "holds a checkpoint of a run with other settings, data, seed, precision or micro-batch"
        assert str(raised.value) == f"{tmp_path}: {fault}; choose another directory, or delete this one"
    assert run(tmp_path)["status"] == "done"


def test_a_directory_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(CheckFailed) as raised:
        run(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}: is in use by pid {os.getpid()} on ")
    assert " since 2" in str(raised.value) and str(raised.value).endswith("; wait for it, or stop it")
    assert run(tmp_path)["status"] == "done", "the lock of a holder that is gone is free"


def test_a_disk_that_refuses_leaves_the_earlier_state(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(6))
    with monkeypatch.context() as patch:
        patch.setattr(places, "os", FullDisk())
        with pytest.raises(CheckFailed) as raised:
            run(tmp_path)
    path, cure = tmp_path / "metrics.jsonl", "free space or choose another --out, then run again"
    told = rf"{path}: cannot be written \(No space left on device\): \d+ bytes are needed, [\d,]+ are free; {cure}"
    assert re.fullmatch(told, str(raised.value)), raised.value
    run(tmp_path)
    assert same(whole, tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckFailed, match="cannot be written"):
        run(blocked / "run")


class FullDisk:
    """`os` on a disk with room for 300 more bytes."""

    def __init__(self) -> None:
        self.room = 300

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, file: int, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return os.write(file, data)


def test_divergence_ends_the_run_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Learner.gradients

    def poisoned(self: Learner, batch: Any) -> float:
        loss = real(self, batch)
        self.parameters["layers.1.mlp.up_proj.weight"].grad[0, 0] = float("nan")  # type: ignore[index]
        before.update({name: p.detach().clone() for name, p in self.parameters.items()})
        weights.update(self.parameters)
        return loss

    before: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(4))
    monkeypatch.setattr(Learner, "gradients", poisoned)
    done = run(tmp_path)
    assert done["status"] == "diverged" and done["steps"] == 4 and done["weights"] == {}
    assert done["fault"] == "the gradient norm is nan (first in layers.1.mlp.up_proj.weight) at step 5"
    assert all(torch.equal(before[name], weights[name]) for name in before)
    assert len([row for row in rows(tmp_path) if "loss" in row]) == 4
    monkeypatch.setattr(Learner, "gradients", lambda self, batch: float("inf"))
    assert run(tmp_path / "loss")["fault"] == "the loss is inf at step 1"


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_micro_batches_give_the_gradient_of_the_whole_batch(micro_rows: int) -> None:
    """Equal up to rounding: fp64 to 1e-12 relative; in fp32 the sums differ in their last bits, 1e-5 of the norm."""
    for precision, tolerance in (("fp64", 1e-12), ("fp32", 1e-5)):
        found = []
        for rows_at_once in (4, micro_rows):
            one = learner(tiny.settings(), precision=precision, micro_rows=rows_at_once)
            batch = one.stream.batch(0)
            assert len({int(n) for n in (batch.targets_BT >= 0).sum(1)}) > 1, "rows must differ in their targets"
            loss = one.gradients(batch)
            found.append((loss, torch.cat([p.grad.flatten() for p in one.parameters.values()])))  # type: ignore[union-attr]
        (loss, whole), (other_loss, other) = found
        assert other_loss == pytest.approx(loss, rel=tolerance * 10)
        assert float((whole - other).norm() / whole.norm()) < tolerance


def test_the_gradient_is_that_of_the_mean_over_targets() -> None:
    one = learner(tiny.settings(), precision="fp64", micro_rows=1)
    batch = one.stream.batch(0)
    one.gradients(batch)
    nll = one.model.nll(*batch[:3])
    wanted = torch.autograd.grad(nll[batch.targets_BT >= 0].mean(), list(one.parameters.values()))
    for parameter, gradient in zip(one.parameters.values(), wanted):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_clipping_scales_to_the_norm_and_logs_the_norm_before() -> None:
    for clip in (0.0, 0.01):
        one = learner(tiny.settings(clip=clip))
        one.gradients(one.stream.batch(0))
        before = torch.cat([p.grad.flatten() for p in one.parameters.values()])  # type: ignore[union-attr]
        assert one.clip() == pytest.approx(float(before.norm()), rel=1e-5)
        after_it = torch.cat([p.grad.flatten() for p in one.parameters.values()])  # type: ignore[union-attr]
        torch.testing.assert_close(after_it, before * (clip / before.norm()) if clip else before)


def test_threads_matter_in_the_last_bits_at_most(whole: Path, tmp_path: Path) -> None:
    """Bit-identical with 1 and 2 threads under windows; torch's kernel for full attention rounds by thread (1e-8 here)."""
    threads, windows = (
        torch.get_num_threads(),
        tiny.settings(model=tiny.model(layers="LL", kinds={"L": tiny.kind("local", 8)})),
    )
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            run(tmp_path / f"full{n}")
            run(tmp_path / f"windows{n}", windows)
    finally:
        torch.set_num_threads(threads)
    assert same(tmp_path / "windows1", tmp_path / "windows2")
    for one, other in zip(rows(tmp_path / "full1"), rows(tmp_path / "full2")):
        assert one.get("loss") == pytest.approx(other.get("loss"), abs=1e-5)


def test_schedule_reaches_every_group_and_no_update_is_inert(tmp_path: Path) -> None:
    settings = tiny.settings(
        optimizer={"name": "adamw", "lr": 1e-2, "scalar_lr": 1e-3},
        schedule={"name": "wsd", "warmup": 0.5, "warmdown": 0.5},
    )
    run(tmp_path, settings)
    rates = [row["lr"] for row in rows(tmp_path) if "loss" in row]
    wanted = [1e-2 * min((s + 0.5) / 10, (20 - s - 0.5) / 10) for s in range(20)]
    assert rates == pytest.approx(wanted) and min(rates) > 0
    one = learner(settings)
    one.step(one.stream.batch(0), 1, 0.0)
    by_role = {
        role: group["lr"] for role, group in zip(dict.fromkeys(one.model.roles().values()), one.optimizer.param_groups)
    }
    assert by_role == pytest.approx({"embedding": 5e-4, "matrix": 5e-4, "scalar": 5e-5})


def test_budget_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which every step takes 1/16 s, so that the machine's load does not count."""
    tiny.ticks(monkeypatch, 1 / 16)
    settings = tiny.settings()
    settings["budget"].update(tokens=None, seconds=0.3)
    with pytest.raises(Interrupted):
        run(tmp_path, settings, stop=after(2))
    done = run(tmp_path, settings)
    assert (done["status"], done["seconds"], done["steps"]) == ("done", 0.3125, 5)
    assert done["tokens"] == done["steps"] * 128 and done["trajectory"][-1]["tokens"] == done["tokens"]


@pytest.mark.parametrize("compiled", [False, True])
def test_compilation_is_no_part_of_a_budget_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """By a clock that only compilation moves, by a minute a sitting, and each step, by 1/16 s."""
    now, sittings = [0.0], list[Learner]()

    def late(model: Decoder) -> None:
        first = model.layers[0]
        assert isinstance(first, Layer)
        eager, ahead = first.forward, [60.0]

        def forward(*args: Any) -> Any:
            now[0] += ahead.pop() if ahead and torch.is_grad_enabled() else 0.0
            return eager(*args)

        monkeypatch.setattr(first, "forward", forward)

    def step(self: Learner, *args: Any) -> Any:
        sittings.append(self)
        now[0] += 1 / 16
        return taken(self, *args)

    taken = Learner.step
    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr("ablab.training.learner.compile_layers", late)
    shown = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr(importlib.import_module("ablab.training.train"), "time", shown)
    settings = tiny.settings()
    settings["budget"].update(tokens=None, seconds=0.3)
    ask = {"where": dataclasses.replace(WHERE, compiled=compiled)}
    with pytest.raises(Interrupted):
        run(tmp_path, settings, stop=after(2), **ask)
    done = run(tmp_path, settings, **ask)
    assert (done["seconds"], done["steps"]) == (0.3125, 5) and len(set(map(id, sittings))) == 2
    assert now[0] == (120.3125 if compiled else 0.3125)


def test_warming_up_moves_nothing() -> None:
    warm, cold = learner(tiny.settings()), learner(tiny.settings())
    for one in (warm, cold):
        one.step(one.stream.batch(0), 1, 0.0)
    warm.warm_up(1, 0.5)
    assert all(p.grad is None for p in warm.parameters.values())
    before, after_it = snapshot.tensors(cold), snapshot.tensors(warm)
    assert before.keys() == after_it.keys() and all(torch.equal(before[name], after_it[name]) for name in before)
    assert warm.step(warm.stream.batch(1), 2, 0.5) == cold.step(cold.stream.batch(1), 2, 0.5)


def test_batches_prepared_by_a_thread_train_the_same(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, "Feed", lambda batches: Ahead(batches, pinned=False))
    with pytest.raises(Interrupted):
        run(tmp_path, stop=after(7))
    run(tmp_path)
    assert same(whole, tmp_path)


def test_a_gpu_validates_in_micro_batches_and_a_cpu_in_what_its_cache_holds() -> None:
    assert learner_module.rows_at_once("cuda:1", 48, 1024) == 48
    assert [learner_module.rows_at_once("cpu", 48, length) for length in (1024, 8192, 10_000)] == [8, 1, 1]
    one = learner(tiny.settings())
    asked, nll = list[int](), one.model.nll
    one.model.nll = lambda tokens, *rest: asked.append(len(tokens)) or nll(tokens, *rest)  # type: ignore
    one.validate()
    assert asked[0] == min(len(one.valid), learner_module.rows_at_once("cpu", one.micro_rows, one.seq_len))


def test_bf16_is_near_fp32_and_keeps_fp32_weights(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        run(tmp_path / precision, tiny.settings(3), where=dataclasses.replace(WHERE, precision=precision))
    for one, other in zip(rows(tmp_path / "bf16")[:3], rows(tmp_path / "fp32")):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.02) and one["loss"] != other["loss"]
    assert {t.dtype for t in load_file(tmp_path / "bf16" / "weights.safetensors").values()} == {torch.float32}


def test_a_budget_below_one_batch_is_refused(tmp_path: Path) -> None:
    settings = tiny.settings()
    settings["budget"]["tokens"] = 100
    with pytest.raises(InvalidStudy) as raised:
        run(tmp_path, settings)
    cure = "raise tokens or lower batch_tokens"
    assert str(raised.value) == f"budget.tokens: 100 tokens are less than one batch of 128; {cure}"


def test_ema_weights_are_the_ones_scored_and_both_are_kept(tmp_path: Path, whole: Path) -> None:
    done = run(tmp_path, tiny.settings(ema=0.8))
    mean, last = load_file(tmp_path / "weights.safetensors"), load_file(tmp_path / "weights.last.safetensors")
    assert set(done["weights"]) == {"weights.safetensors", "weights.last.safetensors"}
    plain = load_file(whole / "weights.safetensors")
    assert all(torch.equal(last[name], plain[name]) for name in plain), "averaging must not touch training"
    assert any(not torch.equal(mean[name], plain[name]) for name in plain)
    model = learner(tiny.settings()).model
    model.load_state_dict(mean)
    valid = learner(tiny.settings())
    valid.model.load_state_dict(mean)
    assert valid.validate()["nats_per_token"] == done["trajectory"][-1]["nats_per_token"]


def test_salt_moves_the_weights_and_not_the_tokens(whole: Path, tmp_path: Path) -> None:
    done = run(tmp_path, tiny.settings(salt="again"))
    assert done["token_hash"] == json.loads((whole / "done.json").read_text())["token_hash"]
    assert rows(tmp_path)[0]["loss"] != rows(whole)[0]["loss"]


def test_spikes_are_counted_as_stated() -> None:
    spikes = Spikes([])
    assert not any(spikes.seen(2.0 + 0.01 * (i % 5)) for i in range(64))
    assert not spikes.seen(2.11), "6 spreads above, but less than 0.1 nats above the median"
    assert spikes.seen(2.5) and not spikes.seen(2.02)
    assert not Spikes([2.0] * 63).seen(9.0), "63 losses are too few to judge by"
    rough = Spikes([2.0 + (i % 2) for i in range(64)])
    assert not rough.seen(3.4), "more than 0.1 nats above, but within 6 spreads"


def test_out_of_memory_is_said_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(self: Learner, batch: Any) -> float:
        return float(torch.empty(1 << 60))

    monkeypatch.setattr(Learner, "gradients", hungry)
    with pytest.raises(
        CheckFailed, match="out of memory with 4 rows per micro-batch; run on a machine with more memory"
    ):
        run(tmp_path)


class Broken:
    """A dashboard that accepts two rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rows: list[str] = []

    def add_text(self, *args: Any) -> None: ...

    def close(self) -> None: ...

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.rows.append(key)
        if step > 2:
            raise ConnectionError("401")


def test_mirrors_may_fail_but_must_be_there(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckFailed) as raised:
        run(tmp_path / "a", mirrors=Mirrored(("wandbb",)))
    assert str(raised.value) == "mirrors: no mirror is called 'wandbb'; known: tensorboard, wandb"
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(CheckFailed) as raised:
        run(tmp_path / "a", mirrors=Mirrored(("wandb",)))
    assert str(raised.value) == f"mirrors: wandb is not installed; {to_install('wandb')}"
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type("Module", (), {"SummaryWriter": Broken}))
    said: list[str] = []
    run(tmp_path / "b", mirrors=Mirrored(("tensorboard",)), say=said.append)
    assert [line for line in said if "mirror" in line] == [f"mirror tensorboard stopped (401); {cure('tensorboard')}"]
    assert same(whole, tmp_path / "b")


class Named:
    """Both dashboards at once: remembers the folder or the names that it is started with."""

    def __init__(self, folder: str = "", **kwargs: Any) -> None:
        self.told.append((folder, {k: kwargs.get(k) for k in ("id", "name", "group")}))

    told: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def add_text(self, *args: Any) -> None: ...

    def add_scalar(self, *args: Any) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def finish(self) -> None: ...


def test_mirrors_call_a_run_study_arm_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Named, "told", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type("Module", (), {"SummaryWriter": Named}))
    monkeypatch.setitem(sys.modules, "wandb", type("Module", (), {"init": Named}))
    asked = Mirrored(("tensorboard", "wandb"), called="sink.tiny/off_by_one/3", boards=tmp_path / "tensorboard")
    run(tmp_path / "0a1b2c", mirrors=asked)
    (_, named), (folder, _) = sorted(Named.told, key=lambda told: told[0])  # W&B is given no folder
    assert Path(folder) == tmp_path / "tensorboard" / "sink.tiny" / "off_by_one" / "3"
    assert named == {"id": "0a1b2c", "name": "sink.tiny/off_by_one/3", "group": "sink.tiny"}


def test_validation_is_split_by_size_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner(tiny.settings(), precision="fp64")
    at_once = one.validate()
    monkeypatch.setattr(learner_module, "VALID_TOKENS", 1)
    assert one.validate() == pytest.approx(at_once, rel=1e-12)


def test_the_tiny_baseline_has_its_golden_losses() -> None:
    """A new slot, or a new lever, moves none of them; a change on purpose raises a REVISION and makes the file again."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "tiny_losses.json").read_text())
    assert make_tiny_losses.losses() == pytest.approx(golden["losses"], abs=golden["tolerance"])


@pytest.mark.parametrize(("rows", "order"), [(3, "(0+1)+2"), (4, "(0+1)+(2+3)"), (6, "((0+1)+2)+((3+4)+5)")])
def test_gradients_are_summed_by_one_fixed_tree(rows: int, order: str) -> None:
    """Bit for bit: another order differs in the last bits."""
    one = learner(tiny.settings(batch_tokens=rows * 32), micro_rows=1)
    batch, weights = one.stream.batch(0), list(one.parameters.values())
    targets = int((batch.targets_BT >= 0).sum())
    parts = []
    for row in range(rows):
        nll = one.model.nll(*(part[row : row + 1] for part in batch[:3]))
        parts.append(torch.autograd.grad(nll.sum() / targets, weights))
    one.gradients(batch)
    wanted = [eval(re.sub(r"\d", lambda i: f"g[{i[0]}]", order), {"g": grads}) for grads in zip(*parts)]
    assert all(p.grad is not None and torch.equal(p.grad, sum_of) for p, sum_of in zip(weights, wanted, strict=True))


def test_sums_that_wait_are_as_many_as_a_batch_is_halved() -> None:
    """Counted at the moment at which a micro-batch is begun, of sums of one number each."""
    waiting = list[int]()

    class Sum(list[Any]):
        def __init__(self) -> None:
            super().__init__([torch.zeros(1)])
            held.append(weakref.ref(self[0]))

    def chain(starts: Any) -> Any:
        waiting.append(sum(one() is not None for one in held))
        return Sum()

    for n, depth in {1: 0, 2: 1, 3: 0, 4: 2, 6: 1, 7: 0, 8: 3, 12: 2, 24: 3}.items():
        held = list[Any]()
        waiting.clear()
        tree(range(n), chain)
        assert max(waiting) == depth == halvings(n)
