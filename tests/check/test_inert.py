"""The guard against inert arms: it refuses what nothing reads, and only that; what a miniature cannot show is said."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from ablab.check import miniature
from ablab.core.fault import CheckFailed
from ablab.runs import planning
from ablab.runs.store import Store
from ablab.study import load

STUDY = """
[study]
name = "guard"
[decision]
matters = 0.02
metric = "bits_per_byte"
stage = "scored"
seeds = 2
[budget]
tokens = 5_120_000
batch_tokens = 512
[data]
source = "mock"
valid_bytes = 16_384
{data}
[model]
layers = "LG"
d_model = 32
n_heads = 2
seq_len = 64
local.window = 16
local.position = "rope"
global.position = "rope"
{model}
[train]
optimizer = {{ name = "adamw", lr = 3e-3 }}
{train}
[stage]
scored = {stage}
"""


def checked(folder: Path, arms: str, stage: str = '{ evaluate = "disjoint" }', **more: str) -> dict[str, Any]:
    """What a check says of each arm: its settings that were not tested; "" of the baseline. `said`: every line."""
    text = STUDY.format(**{"data": "", "model": "", "train": "", **more}, stage=stage)
    for key, line in more.items():  # a key given twice is the caller's
        for name in ("layers", "seq_len", "optimizer", "valid_bytes", "global.position"):
            if f"{name} =" in line and text.count(f"\n{name} =") > 1:
                at = text.index(f"\n{name} =")
                text = text[:at] + text[text.index("\n", at + 1) :]
        assert key in ("data", "model", "train")
    (folder / "study.toml").write_text(text + arms)
    said: list[str] = []
    plan = planning.make(load(folder / "study.toml"), Store(folder / "runs"), say=lambda _: None)
    found = miniature.check(plan, said.append)
    return {**{name: outcome.untested for name, outcome in found.items()}, "said": said}


@pytest.fixture(autouse=True)
def one_scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Miniatures lie under keys of what they are: all cases share a folder, so that equal ones are trained once."""
    folder = tmp_path_factory.getbasetemp() / "miniatures"
    monkeypatch.setattr(miniature.folders, "scratch", lambda _: nullcontext(folder))


# ---- what acts at full size is never refused


def test_averages_keep_their_share_of_the_training(tmp_path: Path) -> None:
    """Over 10,000 steps these differ from step 890 on; so 20 steps get averages as long in proportion."""
    arms = "[arm.slower]\ntrain.ema = 0.999\n[arm.faster]\ntrain.ema = 0.99\n[arm.at_once]\ntrain.ema_warmup = 0.0\n"
    found = checked(tmp_path, arms, train="ema = 0.9965")
    assert (found["slower"], found["faster"], found["at_once"]) == ((), (), ("train.ema_warmup",))


def test_averages_under_a_budget_in_seconds_are_not_tested_and_not_refused(tmp_path: Path) -> None:
    text = STUDY.format(
        data="", model="", train="ema = 0.9965\nvalidate_every = 5_120", stage='{ evaluate = "disjoint" }'
    )
    (tmp_path / "study.toml").write_text(
        text.replace("tokens = 5_120_000", "seconds = 60") + "[arm.slower]\ntrain.ema = 0.999\n"
    )
    plan = planning.make(load(tmp_path / "study.toml"), Store(tmp_path / "runs"), say=lambda _: None)
    assert miniature.check(plan, lambda _: None)["slower"].untested == ("train.ema",)


def test_a_short_warm_up_acts(tmp_path: Path) -> None:
    arms = '[arm.one]\ntrain.schedule.warmup = 0.01\n[arm.two]\non = "one"\ntrain.schedule.warmup = 0.02\n'
    found = checked(tmp_path, arms, train='schedule = { name = "wsd", warmup = 0.0, warmdown = 0.5 }')
    assert found["one"] == () and found["two"] == ("train.schedule.warmup",)


ROUNDED = '{ compress = { name = "rtn", bits = 6, small = 0 }, codec = %s, evaluate = "disjoint" }'
PROBE = '{ evaluate = "disjoint" }\nprobe = { evaluate = { name = "needle", tokens_budget = 200_000 } }'
UNTESTED: dict[str, tuple[dict[str, str], str, str]] = {
    "zstd": ({"stage": ROUNDED % '{ name = "zstd", level = 19 }'}, "level = 22", "stage.scored.codec"),
    "brotli": ({"stage": ROUNDED % '{ name = "brotli", window = 22 }'}, "window = 24", "stage.scored.codec"),
    "qat": ({"train": 'qat = { name = "fake_quant", bits = 6, start = 0.81 }'}, "start = 0.84", "train.qat"),
    "loop": ({"model": 'layers = "L[LG]^2"\nloop_from = 0.31'}, "loop_from = 0.34", "model"),
    "momentum": (
        {"train": 'optimizer = { name = "muon", momentum_warmup = [0.85, 0.01] }'},
        "momentum_warmup = [0.85, 0.02]",
        "train.optimizer",
    ),
    "window": (
        {"model": "seq_len = 512"},
        "window = 18",
        "model.local",
    ),
    "no momentum": ({"train": 'optimizer = "muon"'}, "momentum_warmup = [0.85, 0.01]", "train.optimizer"),
    "chunk": (
        {"stage": '{ evaluate = { name = "ttt_sgd", chunk = 1_024 } }'},
        "chunk = 2_048",
        "stage.scored.evaluate",
    ),
    "items of a probe": ({"stage": PROBE}, "tokens_budget = 400_000", "stage.probe.evaluate"),
    "clip": ({"train": "clip = 10.0"}, "clip = 20.0", "train"),
    "held out": ({}, "valid_bytes = 32_768", "data"),
    "two at once": ({"train": "clip = 1e8"}, 'tokens = 6_000_000\ntrain.clip = 1e9\ntogether = "why not"', "budget"),
}


@pytest.mark.parametrize("case", UNTESTED)
def test_what_a_miniature_cannot_show_is_said_and_not_refused(case: str, tmp_path: Path) -> None:
    beside, arm, where = UNTESTED[case]
    found = checked(tmp_path, f"[arm.other]\n{where}.{arm}\n", **beside)
    path = f"{where}.{arm.partition(' ')[0]}"
    assert found["other"] == (path,)
    text = "note: arm 'other' is the same as its reference at this small size; whether it acts was not tested"
    assert f"{text} ({path})" in found["said"]


def test_a_chunk_longer_than_a_miniature_s_document_passes(tmp_path: Path) -> None:
    """One document of 6,000 bytes; a miniature took 512 tokens of it, and a chunk of 512 then held the whole text."""
    (tmp_path / "held.txt").write_text("".join(f"line {n} of {n * n % 97}\n" for n in range(360))[:6000])
    stage = '{ evaluate = { name = "ttt_sgd", chunk = 512 } }'
    found = checked(
        tmp_path, '[arm.alibi]\nmodel.global.position = "grape_a"\n', stage, data='valid_source = "held.txt"'
    )
    assert not any("not tested" in line for line in found["said"])


def test_what_acts_on_one_tier_of_a_probe_alone_acts(tmp_path: Path) -> None:
    """Natural recall and context gain are no part of the probe's score, which is all that was compared."""
    found = checked(tmp_path, "[arm.other]\nstage.probe.evaluate.natural_tokens = 0\n", PROBE)
    assert found["other"] == ()


def test_adapters_that_go_on_act_though_a_miniature_has_few_documents(tmp_path: Path) -> None:
    """They go on to the document after: all those of a miniature went side by side, and "b" was refused as inert."""
    stage = '{ evaluate = { name = "ttt_lora", optimizer = 0.01 } }'
    arms = '[arm.other]\nstage.scored.evaluate.reset = "b"\n'
    assert checked(tmp_path, arms, stage, data="valid_bytes = 65_536")["other"] == ()


def test_a_layer_named_by_number_is_in_the_miniature(tmp_path: Path) -> None:
    stage = '{ evaluate = { name = "ttt_sgd", chunk = 256, freeze = ["layers.19."], documents = 4 } }'
    arm = '[arm.alibi]\nmodel.global.position = "grape_a"\n'
    assert checked(tmp_path, arm, stage, model='layers = "(LG)*10"')["alibi"] == ()


# ---- what nothing reads is refused

INERT: dict[str, tuple[dict[str, str], str]] = {
    "beyond any norm": ({"train": "clip = 1e8"}, "train.clip = 1e9"),
    "beyond any logit": ({}, "model.softcap = 1e9"),
    "a fall that never comes": (
        {"train": 'schedule = { name = "wsd", warmdown = 0.0 }'},
        "train.schedule.min_lr = 0.1",
    ),
    "its shape": ({"train": 'schedule = { name = "wsd", warmdown = 0.0 }'}, 'train.schedule.shape = "sqrt"'),
    "taper of no decay": ({"train": 'optimizer = { name = "muon" }'}, "train.optimizer.decay.taper = [0.5, 0.5]"),
    "the other way to write one": (
        {"model": 'projection = { name = "tpa" }'},
        'model.projection.factors = "heads"',
    ),
    "a schedule that stays": (
        {"train": 'schedule = { name = "wsd", warmup = 0.0, warmdown = 0.0 }'},
        'train.schedule = { name = "cosine", warmup = 0.0, min_lr = 1.0 }',
    ),
    "a base that is scaled nowhere": ({}, "model.global.position.ntk = true"),
    "what the model says already": ({}, "model.projection.bias = false"),
    "one frequency, whatever its base": (
        {"model": 'global.position = { name = "rope", fraction = 0.125 }'},
        "model.global.position.theta = 5e5",
    ),
}


@pytest.mark.parametrize("case", INERT)
def test_what_nothing_reads_is_refused(case: str, tmp_path: Path) -> None:
    beside, arm = INERT[case]
    with pytest.raises(
        CheckFailed, match="arm 'other' changes nothing: weights, losses and scores equal those of the base"
    ):
        checked(tmp_path, f"[arm.other]\n{arm}\n", **beside)


def test_a_base_of_two_frequencies_acts_in_narrow_heads_too(tmp_path: Path) -> None:
    """A quarter of 16 channels is two pairs; of a miniature's 8 it would be one, whose frequency is 1 at any base."""
    arm = "[arm.other]\nmodel.global.position.theta = 5e5\n"
    assert checked(tmp_path, arm, model='global.position = { name = "rope", fraction = 0.25 }')["other"] == ()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ([1.0, NAN], [1.0, NAN], True),
        ([1.0, NAN], [1.0, 2.0], False),
        ([1.0, NAN], [NAN, 1.0], False),
        ([1.0, NAN], [1.1, NAN], False),  # one NaN hides no other difference
        ([INF, 1.0], [INF, 1.0], True),
        ([INF, 1.0], [-INF, 1.0], False),
        ([1.0, 2.0], [1.0, 2.0 + 5e-10], True),
        ([1e9, 2.0], [1e9 + 1e-6, 2.0], False),  # 1e-9 of the number itself, not of its size
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_nan_equals_nan_and_nothing_else(one: list[float], other: list[float], alike: bool) -> None:
    """In scores a NaN differed from itself, so that an inert arm passed; in weights it equalled everything."""

    def of(weights: list[float], losses: list[float], scores: list[float]) -> miniature.Outcome:
        held = {"w": torch.tensor(weights, dtype=torch.float64)}
        return miniature.Outcome({}, held, losses, {"scored": scores}, [])

    for at in range(3):
        parts, others = [[1.0]] * 3, [[1.0]] * 3
        parts[at], others[at] = one, other
        assert miniature.same(of(*parts), of(*others)) is alike
        assert miniature.same(of(*others), of(*parts)) is alike
