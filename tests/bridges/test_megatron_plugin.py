"""Stock Megatron-Core trains an arm as ablab does: the same losses from the same weights, batches and optimizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import on_cpu, tiny
from tests.bridged import canonical, with_news
from tests.megatron_rank import MIXTURE, SHARED

from ablab import study as studies
from ablab.bridges.megatron import plugin
from ablab.bridges.megatron.explain import explain
from ablab.bridges.megatron.plugin.express import express
from ablab.bridges.megatron.plugin.table import table
from ablab.check.shrink import shrink
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.training.learner import Learner

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
DENSE, MIXED = 1e-5, 5e-5  # nats, over three steps in fp32
K = tiny.kind
SWITCH: dict[str, Any] = {"name": "moe", "n_experts": 4, "activation": "gptoss_swiglu", "balance": "switch"}
DEEPSEEK = {"name": "deepseek_v3", "top_k": 2, "n_groups": 2, "group_top_k": 1, "group_score": "megatron", "scale": 2.5}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "seed": {
        "layers": "LLLG",
        "kinds": {
            "L": K("local", 8, position=SHARED, projection={"name": "tpa", "q_rank": 3}, softmax="sink"),
            "G": K("global", None, position="grape_a", softmax="sink", value="residual"),
        },
    },
    "gates": {
        "tied": False,
        "norm": "layer",
        "bias": True,
        "kinds": {
            "L": K("local", 8, gate=["xsa", {"name": "attn_out_gate", "input": "raw"}], mlp="gelu"),
            "G": K("global", None, position=["rope", "fox"], projection={"name": "tpa"}, mlp="leaky_relu2"),
        },
    },
    "after": {
        "norm": "bare",
        "qk_norm": "after",
        "kinds": {
            "L": K("local", 8, softmax="off_by_one", mlp="gptoss_swiglu", temperature="qk_gain"),
            "G": K("global", None, position="t5_buckets", mlp="swiglu", gate="gated_attn"),
        },
    },
    "deepseek": {
        "layers": "GLL",
        "kinds": {"L": K("local", 8, mlp=MIXTURE, router=DEEPSEEK), "G": K("global", None, mlp="relu2")},
    },
    "switch": {
        "kinds": {
            "L": K("local", 8, mlp=SWITCH, router={"name": "softmax_topk", "top_k": 2, "order": "post"}),
            "G": K("global", None, mlp=SWITCH, router={"name": "softmax_topk", "top_k": 1, "order": "pre"}),
        },
    },
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one, on the CPU."""
    with on_cpu.megatron(tmp_path_factory.mktemp("group")):
        yield


def model(settings: Any, vocab: int = tiny.VOCAB) -> Any:
    """A GPTModel of Megatron's, of an arm's settings."""
    from ablab.bridges.megatron.plugin import specs

    return specs.spec(express(settings, "x"), use_cpu_initialization=True).build(vocab)


def farthest(settings: Any, steps: int = 3, micro_rows: int = 4) -> float:
    """The largest difference of a loss between ablab's training and Megatron's, from the same weights over the same batches."""
    from ablab.bridges.megatron.plugin import specs
    from ablab.bridges.megatron.plugin.training import Trainer

    corpus = tiny.corpus()
    how: dict[str, Any] = {"precision": "fp32", "micro_rows": micro_rows, "executor": "lift", "device": "cpu"}
    learner = Learner(settings, corpus, seed=0, **how)
    first = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    spec = specs.spec(express(settings, "x"), use_cpu_initialization=True)
    trainer = Trainer(spec, corpus.vocab_size, micro_rows=micro_rows, first=first)
    worst = 0.0
    for number in range(steps):
        batch, spent = learner.stream.batch(number), number / learner.steps
        loss, norm, lr = learner.step(batch, number + 1, spent)
        found = trainer.step(batch, min(1.0, spent + 0.5 / learner.steps))
        assert found.lr == lr
        assert found.norm == pytest.approx(norm, rel=1e-3)
        worst = max(worst, abs(found.loss - loss))
    return worst


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("optimizer", ["adamw", "normuon"])
def test_three_steps_are_those_of_ablab(arm: str, optimizer: str) -> None:
    settings = tiny.settings(model=tiny.model(**ARMS[arm]), optimizer=optimizer)
    assert farthest(settings) < (MIXED if arm in ("deepseek", "switch") else DENSE)


def ready() -> Iterator[Any]:
    """Every arm of the ready studies that Megatron-Core trains, at the size of a miniature; those of one training once."""
    seen = set()
    for path in STUDIES:
        study = studies.load(path)
        if study.runner is not None:
            continue
        base = study.baseline.settings
        for name, arm in study.with_baseline.items():
            try:
                express(arm.settings, name)
            except CheckFailed:
                continue
            small = shrink(arm.settings, base, long=32 / base["model"]["seq_len"], same_layers=False)
            small["data"] |= {"span": small["model"]["seq_len"], "order": "chunks", "weights": None}
            layers = small["model"]["layers"]  # until each kind has been met, and one that follows
            small["model"]["layers"] = layers[: max(map(layers.index, set(layers))) + 2]
            small["train"]["loss"] = tiny.settings()["train"]["loss"]  # spans have a corpus of their own, below
            key = json.dumps(
                {"model": small["model"], "train": small["train"], "budget": small["budget"]}, sort_keys=True
            )
            if key not in seen:
                seen.add(key)
                yield pytest.param(small, id=f"{path.stem}-{name}")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("small", list(ready()))
def test_every_ready_arm_that_is_not_refused_trains_as_in_ablab(small: Any) -> None:
    mixed = any(kind["mlp"]["name"] == "moe" for kind in small["model"]["kinds"].values())
    rows = small["budget"]["batch_tokens"] // small["model"]["seq_len"]
    assert farthest(small, micro_rows=rows) < (MIXED if mixed else DENSE)


SMALL = """--num-layers 4 --hidden-size 32 --num-attention-heads 4 --group-query-attention --num-query-groups 2
--micro-batch-size 4 --global-batch-size 4 --train-iters 20 --lr 1e-2 --lr-decay-style constant --hidden-dropout 0
--attention-dropout 0 --seq-length 32 --window-attn-skip-freq 4 --position-embedding-type grapem --grapem-learnable-freq
--normalization RMSNorm --disable-bias-linear --squared-relu --make-vocab-size-divisible-by 1 --no-rope-freq 4"""
ROUTER = """--moe-router-load-balancing-type none --moe-router-enable-expert-bias --moe-router-bias-update-rate 1e-3
--moe-router-score-function sigmoid --num-experts 4 --moe-router-topk 2 --moe-ffn-hidden-size 32"""
SEEDS = {
    "000 run A": "--window-size 8,0",
    "000 run B": "--window-size 8,0 --grape-a",
    "001": f"--window-size (7,0) --grape-a {ROUTER}",
    "003": "--window-size (7,0) --grape-a --use-tpa --tpa-rank 2 --tpa-q-rank 4 --qk-layernorm --softmax-type learnable "
    "--optimizer normuon --normuon-aux-lr 1e-4 --normuon-momentum 0.95 --normuon-beta2 0.95 --polar-express-safety-factor 2e-2 "
    f"{ROUTER} --moe-shared-expert-intermediate-size 32 --moe-layer-freq ([0]+[1]*3)",
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("flags", SEEDS.values(), ids=SEEDS)
def test_flags_of_the_fork_train_in_stock_megatron(flags: str) -> None:
    explained = explain([*SMALL.split(), *flags.split()])
    assert not explained.refused and explained.fork_only
    tree: dict[str, Any] = {**explained.tree, "data": {"source": "mock", "tokenizer": "bytes"}}
    settings = canonical({key: value for key, value in tree.items() if key in ("budget", "data", "model", "train")})
    settings["data"] |= {"span": 32, "order": "chunks", "weights": None}
    assert farthest(settings) < (MIXED if "experts" in flags else DENSE)


def test_the_page_has_the_table_of_what_is_trained_and_what_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "megatron.md").read_text(encoding="utf-8")
    made = table(STUDIES)
    assert made in page, "docs/megatron.md: python -P -m ablab.bridges.megatron.plugin.table studies/*.toml"
    assert "| trains |" in made and "refused: model.softcap" in made


@pytest.mark.usefixtures("alone")
def test_a_balance_of_the_whole_batch_is_not_cut() -> None:
    with pytest.raises(InvalidStudy, match=r'balance = "switch" is no sum over parts|is of the whole batch'):
        farthest(tiny.settings(model=tiny.model(**ARMS["switch"])), micro_rows=2)


@pytest.mark.usefixtures("alone")
def test_weights_come_back_as_they_went_in() -> None:
    from ablab.bridges.megatron.plugin import weights
    from ablab.model.decoder import build

    for arm in ARMS.values():
        settings = tiny.settings(model=tiny.model(**arm))
        theirs, ours = model(settings), build(settings["model"], vocab_size=tiny.VOCAB, seed=5).state_dict()
        weights.load(theirs, ours)
        back = weights.gather(theirs)
        assert set(back) == set(ours)
        assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())
        with pytest.raises(InvalidStudy, match=r"embed\.weight"):
            weights.load(theirs, {name: tensor for name, tensor in ours.items() if name != "embed.weight"})
        with pytest.raises(InvalidStudy, match="of the same arm"):
            weights.load(theirs, {**ours, "final_norm.weight": torch.ones(3), "embed.weight": torch.ones(2, 2)})


@pytest.mark.usefixtures("alone")
def test_documents_come_from_ids_from_a_mask_and_from_packed_sequences() -> None:
    from megatron.core.packed_seq_params import PackedSeqParams

    theirs = model(tiny.settings(model=tiny.model(**ARMS["seed"])))
    length = 32
    tokens = torch.arange(length)[None] % tiny.VOCAB
    ids = (torch.arange(length) // 11)[None]
    seen = (ids[:, :, None] == ids[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor([0, 11, 22, 32], dtype=torch.int32))
    with torch.no_grad():
        whole = theirs(tokens, None, None)
        by_ids, by_mask = theirs(tokens, None, ids), theirs(tokens, None, ~seen[:, None])
        by_edges = theirs(tokens, None, None, packed_seq_params=packed)
        alone = torch.cat([theirs(tokens[:, a:b], None, None) for a, b in ((0, 11), (11, 22), (22, 32))], 1)
    assert torch.equal(by_ids, by_mask) and torch.equal(by_ids, by_edges)
    torch.testing.assert_close(by_ids, alone, rtol=0, atol=1e-5)
    assert (whole - alone).abs().max() > 1e-3
    with pytest.raises(ValueError, match="end at 20, but there are 1 rows of 32"):
        short = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor([0, 20], dtype=torch.int32))
        theirs(tokens, None, None, packed_seq_params=short)
    with pytest.raises(ValueError, match="give ids"):
        theirs(tokens, None, torch.ones(3, 3, 3))


@pytest.mark.usefixtures("alone")
def test_a_mask_that_is_written_anew_in_place_is_read_anew() -> None:
    theirs = model(tiny.settings())
    tokens, ids = torch.arange(32)[None] % tiny.VOCAB, torch.zeros(1, 32, dtype=torch.int64)
    with torch.no_grad():
        whole = theirs(tokens, None, ids)
        ids[:, 16:] = 1
        assert not torch.equal(theirs(tokens, None, ids), whole)


@pytest.mark.usefixtures("alone")
def test_a_network_in_bf16_keeps_its_small_parts_fine() -> None:
    theirs = model(tiny.settings(model=tiny.model(**ARMS["seed"]))).bfloat16()
    fine = {name for name, p in theirs.named_parameters() if p.dtype == torch.float32}
    assert {name.rpartition(".")[2] for name in fine} == {"log_freq", "sink_H", "mix"}
    tokens = torch.arange(32)[None] % tiny.VOCAB
    out = theirs(tokens, None, None)
    assert out.dtype == torch.bfloat16 and bool(out.isfinite().all())


UNDIVIDED = K("local", 8, mlp=MIXTURE, router={"name": "deepseek_v3", "normalize": False})
SIGMOID, SOFTMAX = ARMS["deepseek"]["kinds"]["L"], ARMS["switch"]["kinds"]["L"]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"softcap": 30.0}, "model.softcap"),
    ({"skips": tiny.model()["skips"] | {"name": "unet"}}, "model.skips"),
    ({"loops": [[0, 1, 2]]}, "model.layers"),
    ({"kinds": {"L": K("local", 8, block="parallel"), "G": K("global", None)}}, "model.local.block"),
    ({"kinds": {"L": K("local", 8), "G": K("global", None, residual="mix")}}, "model.global.residual"),
    ({"bias": True, **ARMS["deepseek"]}, "model.local.mlp"),
    ({"kinds": {"L": UNDIVIDED, "G": K("global", None)}}, "model.local.router"),
    ({"kinds": {"L": SIGMOID, "G": SOFTMAX}}, "model: router"),
]


@pytest.mark.parametrize(("changed", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_what_has_no_place_is_refused_by_name(changed: dict[str, Any], place: str) -> None:
    with pytest.raises(CheckFailed) as refused:
        express(tiny.settings(model=tiny.model(**changed)), "x")
    assert any(fault.place == f"arm x: {place}" and fault.cure for fault in refused.value.faults), str(refused.value)


def test_a_setting_that_is_new_is_refused_and_not_left_out() -> None:
    whole = tiny.settings(model=tiny.model(**ARMS["deepseek"]))
    express(whole, "x")
    places = (
        ("model",), ("train",), ("budget",), ("model", "kinds", "L"), ("model", "kinds", "G", "mlp"),
        ("model", "kinds", "L", "mlp"), ("model", "kinds", "L", "router"), ("model", "skips"),
    )  # fmt: skip
    for new in with_news(whole, *places):
        with pytest.raises(CheckFailed, match=r"0\.25 has no place in Megatron-Core"):
            express(new, "x")


def test_another_megatron_core_or_none_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.look()
    for version in ("0.15.0", "0.16.0", "0.17.0", "1.0"):
        monkeypatch.setattr(metadata, "version", lambda _, version=version: version)
        with pytest.raises(CheckFailed, match=f"is {version}, and the plugin knows 0.16.1"):
            plugin.spec(STUDIES[0], "baseline")

    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(CheckFailed, match=r"is not installed; .* -m pip install megatron-core==0\.16\.1"):
        plugin.spec(STUDIES[0], "baseline")


def test_what_contradicts_the_arm_is_refused_with_both_values() -> None:
    study = next(path for path in STUDIES if path.name == "integration.toml")
    with pytest.raises(InvalidStudy, match=r"config.num_layers: is 3, but the arm says 12"):
        plugin.spec(study, "grape", num_layers=3)
    with pytest.raises(InvalidStudy, match="cannot be split over 5 tensor parallel processes"):
        plugin.spec(study, "grape", tensor_model_parallel_size=5)
    with pytest.raises(InvalidStudy, match="first layer's values"):
        plugin.spec(study, "value_residual", pipeline_model_parallel_size=2)
    with pytest.raises(InvalidStudy, match="needs whole rows"):
        plugin.spec(study, "grape", context_parallel_size=2)
