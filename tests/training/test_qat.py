"""Quantisation-aware training: what is rounded and when, straight-through gradients, and that full weights stay full.

And how often each position was trained, which the same steps count.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests import tiny
from tests.study.written import edited, faults, read
from tests.training.test_train import after, learner, rows, run, same

from ablab.check.shrink import STEPS, shrink
from ablab.core.fault import Interrupted
from ablab.data import bands
from ablab.model.compiled import compile_layers
from ablab.model.parts.rounding import rounded, scales
from ablab.training import qats
from ablab.training.learner import Learner
from ablab.training.qats.fake_quant import FakeQuant

QAT: dict[str, Any] = {"name": "fake_quant", "bits": 4}


def on(**asked: Any) -> Any:
    """The canonical choice."""
    return {**QAT, **asked}


def data(one: Learner) -> dict[str, torch.Tensor]:
    """Copies of all weights."""
    return {name: p.detach().clone() for name, p in one.parameters.items()}


def test_off_is_the_default_and_rounds_nothing() -> None:
    assert qats.slot.names[0] == "off" and tiny.settings()["train"]["qat"] == {"name": "off"}
    one = learner(tiny.settings())
    assert one.rounds == [] and not one.qat.acts(0.99)


@pytest.mark.parametrize("micro_rows", [4, 1])
@pytest.mark.parametrize("sigmas", [12.85, 2.0, 0.0])
def test_gradients_are_those_of_the_rounded_model_left_to_the_full_weights(sigmas: float, micro_rows: int) -> None:
    """The oracle is a second model that holds the rounded weights; 2 sigmas clip, and clipped entries keep theirs."""
    asked = on(sigmas=sigmas, tensors="matrices_and_embedding")
    one = learner(tiny.settings(qat=asked), precision="fp64", micro_rows=micro_rows)
    other = learner(tiny.settings(), precision="fp64", micro_rows=micro_rows)
    before = data(one)
    for name, p in other.parameters.items():
        if name in one.rounds:
            p.data = rounded(p.data, 4, sigmas=sigmas)
    batch = one.stream.batch(0)
    with one.rounded(0.0):
        assert all(torch.equal(p, other.parameters[name]) for name, p in one.parameters.items())
        loss = one.gradients(batch)
    assert loss == other.gradients(batch)
    assert all(torch.equal(p.grad, other.parameters[name].grad) for name, p in one.parameters.items())  # type: ignore[arg-type]
    assert all(torch.equal(p, before[name]) for name, p in one.parameters.items()), "the full weights are back"
    name = "layers.0.mlp.up_proj.weight"
    clipped = (before[name].abs() > 7.5 * scales(before[name], 4, sigmas=sigmas)).any()
    assert bool(clipped) == (sigmas == 2.0)
    assert bool((one.parameters[name].grad != 0).all()), "no entry is cut off from its gradient"


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ("matrices", {"attn", "mlp"}),
        ("embedding", {"embed", "lm_head"}),
        ("matrices_and_embedding", {"attn", "mlp", "embed", "lm_head"}),
    ],
)
def test_tensors_are_chosen_by_role(tensors: str, named: set[str]) -> None:
    kinds = {
        "L": tiny.kind("local", 8, mlp={"name": "moe", "n_experts": 4}),
        "G": tiny.kind("global", None),
    }
    model = tiny.model(tied=False, bias=True, kinds=kinds)
    one = learner(tiny.settings(model=model, qat=on(tensors=tensors)))
    chosen, roles = set(one.rounds), one.model.roles()
    assert {part for name in chosen for part in name.split(".") if part in ("attn", "mlp", "embed", "lm_head")} == named
    wanted = {"matrix"} if tensors == "matrices" else {"embedding", "head"}
    wanted |= {"matrix"} if tensors == "matrices_and_embedding" else set()
    assert chosen == {n for n, p in one.parameters.items() if roles[n] in wanted and p.dim() >= 2}
    if "mlp" in named:  # a stack of experts is rounded matrix by matrix, row by row
        [stack] = [name for name in chosen if one.parameters[name].dim() == 3 and "up" in name]
        with one.rounded(0.0):
            now = one.parameters[stack].detach().clone()
        full = one.parameters[stack].detach()
        apart = torch.stack([torch.stack([rounded(row[None], 4, sigmas=12.85)[0] for row in m]) for m in full])
        assert torch.equal(now, apart)


def test_what_is_saved_validated_and_averaged_is_the_full_weight(tmp_path: Path) -> None:
    one = learner(tiny.settings(qat=on(bits=2)))
    assert one.validate() == learner(tiny.settings()).validate()
    done = run(tmp_path, tiny.settings(qat=on(), ema=0.8))
    last, mean = load_file(tmp_path / "weights.last.safetensors"), load_file(tmp_path / "weights.safetensors")
    assert done["rounded"] == {"steps": 20, "tensors": len(one.rounds)}
    for name in one.rounds:
        for saved in (last[name], mean[name]):
            assert len(saved[0].unique()) > 2**4, "a row of full weights has more values than 4 bits"
    scored = learner(tiny.settings())
    scored.model.load_state_dict(mean)
    assert scored.validate()["nats_per_token"] == done["trajectory"][-1]["nats_per_token"]


def test_sixteen_bits_are_nearly_none_and_two_are_not(tmp_path: Path) -> None:
    losses = {}
    for bits in (0, 16, 2):
        run(tmp_path / str(bits), tiny.settings(qat=on(bits=bits, sigmas=0.0) if bits else "off"))
        losses[bits] = [row["loss"] for row in rows(tmp_path / str(bits)) if "loss" in row]
    assert losses[16][0] == pytest.approx(losses[0][0], abs=1e-4) and losses[16] != losses[0]
    far = {bits: max(abs(a - b) for a, b in zip(losses[bits], losses[0])) for bits in (16, 2)}
    assert far[16] < 0.02, "rounding errors grow as any others do in training"
    assert far[2] > 0.1, far


def test_start_leaves_the_steps_before_it_alone(tmp_path: Path) -> None:
    run(tmp_path / "off")
    done = run(tmp_path / "half", tiny.settings(qat=on(start=0.5)))
    off, half = ([row["loss"] for row in rows(tmp_path / way) if "loss" in row] for way in ("off", "half"))
    assert off[:10] == half[:10] and off[10] != half[10], "step 11 is the first that begins at half the training"
    assert done["rounded"]["steps"] == 10
    assert run(tmp_path / "last", tiny.settings(qat=on(start=0.95)))["rounded"]["steps"] == 1


def test_stopped_and_gone_on_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    asked = tiny.settings(qat=on(start=0.3, tensors="matrices_and_embedding"), ema=0.9)
    whole = run(tmp_path / "whole", asked)
    for steps in (4, 5, 3):  # before, across and behind the start
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", asked, stop=after(steps))
    done = run(tmp_path / "stopped", asked)
    assert same(tmp_path / "whole", tmp_path / "stopped")
    assert done["rounded"] == whole["rounded"] and done["positions"] == whole["positions"]


def test_a_failure_in_the_passes_leaves_the_full_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Learner, batch: Any) -> float:
        raise RuntimeError("no memory")

    one = learner(tiny.settings(qat=on()))
    before = data(one)
    monkeypatch.setattr(Learner, "gradients", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        one.step(one.stream.batch(0), 1, 0.0)
    assert all(torch.equal(p, before[name]) for name, p in one.parameters.items())


def test_compiled_layers_see_the_rounded_weights_and_are_not_compiled_again() -> None:
    model = tiny.model(layers="G", kinds={"G": tiny.kind("global", None, position="nope")})
    asked = tiny.settings(model=model, qat=on(bits=3, sigmas=0.0, start=0.1))
    plain, traced = learner(asked), learner(asked)
    compile_layers(traced.model, backend="aot_eager")
    before, graphs = 0, torch._dynamo.utils.counters["stats"]
    for step in range(4):  # the third is the first that begins at 0.1
        losses = [one.step(one.stream.batch(step), step + 1, step / 20)[0] for one in (plain, traced)]
        assert losses[1] == pytest.approx(losses[0], abs=2e-6)
        before = before if step > 1 else graphs["unique_graphs"]
    assert graphs["unique_graphs"] == before > 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"bits": 0}, "bits = 0 cannot hold a signed code; choose 2 to 16"),
        ({"bits": 17}, "bits = 17 cannot hold a signed code; choose 2 to 16"),
        ({"sigmas": -1.0}, "sigmas = -1 is negative; give a clip above 0, or 0 for the row's largest magnitude"),
        (
            {"sigmas": 1e-9},
            "sigmas = 1e-09 clips nearly everything away; choose 0.1 or more, 12.85 as usual for 6 bits",
        ),
        ({"start": 1.0}, "start = 1 is no fraction of training; give 0 to below 1"),
        ({"start": -0.1}, "start = -0.1 is no fraction of training; give 0 to below 1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as raised:
        FakeQuant(**asked)
    assert str(raised.value) == said
    inside = ", ".join(f"{key} = {value}" for key, value in asked.items())
    text = edited(("[train]", f'[train]\nqat = {{ name = "fake_quant", {inside} }}'))
    assert faults(tmp_path, text) == [f"study.toml: train.qat: fake_quant: {said}"]


def test_a_study_names_it(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more='\n[arm.qat]\ntrain.qat = { name = "fake_quant", bits = 5 }\n'))
    asked = study.arms["qat"].settings["train"]["qat"]
    assert asked == {"name": "fake_quant", "bits": 5, "sigmas": 12.85, "tensors": "matrices", "start": 0.0}
    assert [change.path for change in study.arms["qat"].changes] == ["train.qat"]
    text = edited(more='\n[arm.qat]\ntrain.qat = { name = "fake_quant", start = 0.998 }\n')
    said = "0.998 is beyond the last of 391 steps: no step would be rounded; lower it, or remove qat"
    assert faults(tmp_path, text) == [f"study.toml: arm.qat: train.qat.start: {said}"]


def test_a_miniature_rounds_at_least_once(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more='\n[arm.qat]\ntrain.qat = { name = "fake_quant", start = 0.99 }\n'))
    settings = study.arms["qat"].settings
    small = shrink(settings, study.baseline.settings, long=0.25, same_layers=False)
    assert small["train"]["qat"]["start"] <= (STEPS - 1) / STEPS


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_trained_positions_equal_a_count_one_by_one(length: int, n: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    ids = np.cumsum(draws.random((n, length)) < draws.random(), axis=1)
    targets = draws.integers(-1, 3, (n, length))
    edges = bands.band_edges(length)
    wanted = np.zeros(len(edges) - 1, np.int64)
    for row_ids, row_targets in zip(ids, targets):
        place = -1
        for at in range(length):
            place = place + 1 if at and row_ids[at] == row_ids[at - 1] else 0
            wanted[np.searchsorted(edges, place, side="right") - 1] += int(row_targets[at] >= 0)
    assert bands.trained_in_bands(ids, targets).tolist() == wanted.tolist()


def test_a_run_tells_how_often_each_position_was_trained(tmp_path: Path) -> None:
    done = run(tmp_path)
    one = learner(tiny.settings())
    batches = [one.stream.batch(step) for step in range(20)]
    assert done["positions"]["edges"] == [0, 1, 2, 4, 8, 16, 32]
    assert sum(done["positions"]["tokens"]) == sum(int((b.targets_BT >= 0).sum()) for b in batches)
    wanted = sum(bands.trained_in_bands(b.ids_BT.numpy(), b.targets_BT.numpy()) for b in batches)
    assert done["positions"]["tokens"] == list(wanted)  # type: ignore[call-overload]
    assert json.loads((tmp_path / "done.json").read_text())["positions"] == done["positions"]
