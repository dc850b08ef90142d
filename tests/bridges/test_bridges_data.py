"""Data, tokenizer and loss in Megatron's words and ablab's: there and back, refused, or said."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st
from tests.bridged import canonical, meaning, trees
from tests.data.built import write_dataset

from ablab.bridges.megatron.arm import arm
from ablab.bridges.megatron.blends import Blend, blend
from ablab.bridges.megatron.explain import Explanation, explain, missing
from ablab.bridges.megatron.export import export
from ablab.bridges.megatron.parse import words
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.toml import written
from ablab.study import load

SMALL = "--num-layers 4 --hidden-size 32 --num-attention-heads 4 --seq-length 16 --position-embedding-type rope"
HARMONY = "--tokenizer-type O200kHarmonyTokenizer --tokenizer-model /v/o200k_base.tiktoken"
# How the fork's own scripts train on spans, without what they leave to the shell.
SCRIPT = f"""
torchrun --nproc_per_node=1 vpmoe/Megatron-vpmoe/pretrain_gpt.py \\
  --synth-kd-data --train-data-path /d/train/shard_00_tokens /d/train/shard_01_tokens \\
  --valid-data-path /d/valid/shard_00_tokens --tensor-model-parallel-size 1 --pipeline-model-parallel-size 1 \\
  --num-layers 8 --hidden-size 256 --ffn-hidden-size 1024 --num-attention-heads 4 --seq-length 1024 \\
  --max-position-embeddings 1024 {HARMONY} --micro-batch-size 1 --global-batch-size 32 --train-iters 305 --lr 1e-4 \\
  --min-lr 1e-4 --lr-decay-style constant --log-interval 10 --eval-interval 100 --eval-iters 5 \\
  --data-cache-path /d/cache_1024 --transformer-impl local
"""
PREFIXES = ["/d/train/shard_00_tokens", "/d/train/shard_01_tokens", "/d/train/shard_02_tokens"]
WHOLE: dict[str, Any] = {
    "budget": {"tokens": 1600, "batch_tokens": 64},
    "data": {"source": PREFIXES[:2], "valid_source": "/d/v_tokens", "order": "megatron", "tokenizer": "o200k_harmony"},
    "model": {"layers": "G*2", "d_model": 32, "n_heads": 4, "seq_len": 16, "global": {"position": "rope"}},
}


def told(line: str) -> Explanation:
    return explain(words(line))


def said(line: str) -> str:
    return "\n".join(f"{one.kind}: {one.place}: {one.text}" for one in told(line).notes)


def with_(**sections: Any) -> dict[str, Any]:
    """Canonical settings of WHOLE with keys laid over its sections."""
    return canonical({**WHOLE, **{name: {**WHOLE.get(name, {}), **keys} for name, keys in sections.items()}})


def after(argv: tuple[str, ...], flag: str) -> list[str]:
    """The words behind a flag."""
    rest = list(argv[argv.index(flag) + 1 :])
    return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


# ---- from Megatron


def test_the_forks_own_line_is_a_study() -> None:
    found = told(SCRIPT)
    assert not found.refused and not missing(found.tree)
    assert found.tree["data"] == {
        "source": ["/d/train/shard_00_tokens", "/d/train/shard_01_tokens"],
        "order": "megatron",
        "valid_source": "/d/valid/shard_00_tokens",
        "tokenizer": {"name": "o200k_harmony", "vocab": "/v/o200k_base.tiktoken"},
    }
    spans = {"name": "spans", "reasoning": 1.0, "final": 1.0, "group_rows": 1}
    assert found.tree["train"]["loss"] == spans and found.net.vocab_size == 201_088
    assert found.tree["decision"] == {"seeds": {"first": 1234}}
    assert found.fork_only == ("--synth-kd-data", "--tokenizer-type O200kHarmonyTokenizer")
    flags = [flag for flag, _ in found.not_carried]
    assert flags == [*flags[:2], "--data-cache-path /d/cache_1024"] and "dropout" in flags[1]
    rest = {key: value for key, value in tomllib.loads(written(found.tree)).items() if key != "decision"}
    assert canonical(rest)["train"]["loss"] == spans


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ("--train-data-path a b", {"source": ["a", "b"], "order": "megatron"}),
        ("--train-data-path 0.3 a 0.7 b", {"source": ["a", "b"], "order": "megatron", "weights": [0.3, 0.7]}),
        ("--train-data-path 1 a", {"source": "a", "order": "megatron"}),
        (
            "--train-data-path a --valid-data-path 1 b 2 c",
            {"source": "a", "order": "megatron", "valid_source": ["b", "c"]},
        ),
        ("--data-path a --split 1,0,0", {"source": "a", "order": "megatron"}),
        ("--data-path 30 a --split 100,0,0", {"source": "a", "order": "megatron", "weights": [30.0]}),
        ("--data-path a --split 90,5,5", {}),
        ("--data-path a", {}),
        ("--mock-data", {"source": "mock"}),
        ("--tokenizer-type O200kHarmonyTokenizer", {"tokenizer": "o200k_harmony"}),
        (
            "--tokenizer-type SentencePieceTokenizer --tokenizer-model m.model --vocab-size 8192",
            {"tokenizer": {"name": "sentencepiece", "model": "m.model"}},
        ),
        ("--tokenizer-type GPT2BPETokenizer --vocab-size 50257", {}),
    ],
)
def test_data_flags_as_a_study(line: str, data: dict[str, Any]) -> None:
    found = told(f"{SMALL} {line}")
    assert found.tree.get("data", {}) == data and not found.refused
    assert ("data.valid_source" in missing(found.tree)) == ("order" in data and "valid_source" not in data)
    assert found.tree.get("decision") == ({"seeds": {"first": 1234}} if "order" in data else None)
    assert told(f"{SMALL} {line} --seed 5").tree["decision"] == {"seeds": {"first": 5}}


def test_what_of_the_data_stays_behind() -> None:
    left = dict(told(f"{SMALL} --data-path a --split 90,5,5").not_carried)
    assert "--split 90,5,5 cuts ranges of sequences, and ablab has no such split" in left["--data-path"]
    assert "969, 30, 1 (the default)" in dict(told(f"{SMALL} --data-path a").not_carried)["--data-path"]
    assert "--data-path" not in dict(told(f"{SMALL} --data-path a --split 1,0,0").not_carried)
    assert "--test-data-path" in dict(told(f"{SMALL} --train-data-path a --test-data-path b").not_carried)
    other = dict(
        told(f"{SMALL} --tokenizer-type HuggingFaceTokenizer --tokenizer-model x --vocab-size 256").not_carried
    )
    kept = ["--tokenizer-type HuggingFaceTokenizer", "--tokenizer-model x", "vocabulary of 256"]
    assert [flag for flag in other if flag in kept] == kept
    same = (
        f"{SMALL} --reset-position-ids --reset-attention-mask --eod-mask-loss --hidden-dropout 0 --attention-dropout 0"
    )
    assert not told(same).not_carried


def test_group_rows_are_the_rows_of_a_micro_batch() -> None:
    line = f"{SMALL} {HARMONY} --synth-kd-data --kd-span-weight-reasoning 0.5 --kd-span-weight-final 2"
    for sizes, rows in (
        ("--micro-batch-size 4 --global-batch-size 8", 4),
        ("--micro-batch-size 8 --global-batch-size 8", 0),
        ("--micro-batch-size 8", 0),
        ("--global-batch-size 8", 0),
    ):
        wanted = {"name": "spans", "reasoning": 0.5, "final": 2.0, "group_rows": rows}
        assert told(f"{line} {sizes}").tree["train"]["loss"] == wanted
    assert "group_rows = 4" in said(f"{line} --micro-batch-size 4 --global-batch-size 8")
    assert "warning: --micro-batch-size: is not given" in said(f"{line} --global-batch-size 8")
    assert "loss" not in told(f"{SMALL} --kd-span-weight-final 2").tree.get("train", {})


@pytest.mark.parametrize(
    ("listed", "means"),
    [
        ("a", Blend(("a",))),
        ("a b", Blend(("a", "b"))),
        ("0.5 a b", Blend(("0.5", "a", "b"))),
        ("a 1 b 2", Blend(("a", "1", "b", "2"))),
        ("1 a", Blend(("a",), (1.0,))),
        ("1e1 a .5 b", Blend(("a", "b"), (10.0, 0.5))),
    ],
)
def test_a_list_of_prefixes_as_megatron_reads_it(listed: str, means: Blend) -> None:
    assert blend(listed.split()) == means


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--data-path", "--data-path: names nothing; give a prefix"),
        ("--train-data-path 1 a b c", "gives weights to some of its prefixes"),
        ("--train-data-path 1 a 0 b", "has a weight that is not above 0"),
        ("--train-data-path nan a", "has a weight that is not above 0"),
        ("--mock-data --data-path a", "--data-path: stands beside --mock-data: one source of data only; keep one"),
        ("--data-path a --valid-data-path b", "--valid-data-path: stands beside --data-path"),
        ("--train-data-path a --split 9,1,0", "--split: splits nothing beside --train-data-path, so Megatron stops"),
        ("--data-path a --split x", "--split: split 'x' is not up to three numbers"),
        ("--global-batch-size 8 --micro-batch-size 3", "8 rows are no multiple of --micro-batch-size 3"),
        (f"{HARMONY} --vocab-size 200019", "--vocab-size: 200019 is not the 201088 of O200kHarmonyTokenizer"),
        (f"{HARMONY} --padded-vocab-size 201216", "--padded-vocab-size: 201216 is not the 201088"),
        ("--synth-kd-data --mock-data", "--synth-kd-data: stands beside --mock-data, so Megatron stops"),
        (
            "--synth-kd-data --tokenizer-type GPT2BPETokenizer",
            "needs O200kHarmonyTokenizer and not the older tokenizers",
        ),
        (f"--synth-kd-data {HARMONY} --legacy-tokenizer", "no --legacy-tokenizer"),
        ("--synth-kd-data --train-data-path a_tokens b", "'b' does not end in _tokens"),
        ("--kd-span-weight-final -1", "--kd-span-weight-final: -1 is too small; give 0 or more"),
        ("--dataloader-type double", "'double' is not one of its words"),
    ],
)
def test_where_megatron_stops(line: str, text: str) -> None:
    with pytest.raises(InvalidStudy) as refused:
        told(f"{SMALL} {line}")
    assert text in str(refused.value) and all(fault.cure for fault in refused.value.faults)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "--train-data-path a --dataloader-type cyclic",
            "--dataloader-type: ablab has no order like cyclic; use single",
        ),
        ("--synth-kd-data --kd-span-weight-reasoning 0 --kd-span-weight-final 0", "nothing is trained"),
        ("--synth-kd-data --calculate-per-token-loss", "weighs each micro-batch by its tokens in spans"),
    ],
)
def test_a_false_meaning_is_refused(line: str, text: str) -> None:
    assert text in "\n".join(map(str, told(f"{SMALL} {line}").refused))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--train-data-path 1 a", "note: --train-data-path: Megatron ignores the weight of a single prefix"),
        ("--train-data-path 0.5 a b", "warning: --train-data-path: 3 words are prefixes, 0.5 too"),
        ("--train-data-path a", "in the run whose seed is 1234 (seeds.first); initial weights are other ones"),
        ("--train-data-path a --seed 3", "in the run whose seed is 3"),
        ("--train-data-path a --valid-data-path 1 b 2 c", "scores every held-out document once, whatever the weights"),
        ("--train-data-path a", "note: data.source: relative paths count from the study file's folder in ablab"),
        ("--train-data-path a_tokens", "warning: --train-data-path: ignores loss masks beside a_tokens without"),
        ("--train-data-path a --train-samples 9 --global-batch-size 4", "warning: --train-samples: are no whole steps"),
        ("--kd-span-weight-final 2", "warning: --kd-span-weight-final: does nothing without --synth-kd-data"),
        ("--mock-data", "note: --mock-data: counts upwards in every document there"),
        ("--tokenizer-type O200kHarmonyTokenizer", "warning: --tokenizer-model: is not given: Megatron stops"),
        (
            "--reset-attention-mask --no-create-attention-mask-in-dataloader",
            "warning: --reset-attention-mask: has no mask",
        ),
        ("--lr 1", "note: --reset-attention-mask: is not given: tokens see the document before theirs"),
        ("--lr 1", "note: --eod-mask-loss: is not given: the first token of a document is learned from the one before"),
        (
            "--position-embedding-type learned_absolute",
            "note: --reset-position-ids: is not given: positions count from",
        ),
    ],
)
def test_traps_about_data_are_said(line: str, text: str) -> None:
    assert text in said(f"{SMALL} {line}")


def test_no_trap_where_documents_are_kept_apart() -> None:
    quiet = said(f"{SMALL} --reset-position-ids --reset-attention-mask --eod-mask-loss")
    assert not any(flag in quiet for flag in ("reset-position-ids", "reset-attention-mask", "eod-mask-loss"))
    assert "eod-mask-loss" not in said(SCRIPT) and "relative paths" not in said(SCRIPT)


# ---- to Megatron and back


@st.composite
def with_data(draw: st.DrawFn) -> dict[str, Any]:
    """A study that the fork can run, on Megatron prefixes."""
    tree = draw(trees())
    source = draw(st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=3, unique=True))
    data: dict[str, Any] = {"source": source, "valid_source": ["/d/valid/one_tokens"], "order": "megatron"}
    if len(source) > 1 and draw(st.booleans()):
        data["weights"] = [draw(st.sampled_from([0.1, 1.0, 30.0])) for _ in source]
    harmony = {"name": "o200k_harmony", "vocab": draw(st.sampled_from(["", "/v/o200k_base.tiktoken"]))}
    pieces = [{"name": "sentencepiece", "model": "/v/8k.model"}, {"name": "sentencepiece", "vocab_size": 512}, "bytes"]
    data["tokenizer"] = draw(st.sampled_from([harmony, *pieces]))
    if data["tokenizer"] == harmony and draw(st.booleans()):
        rows = tree["budget"]["batch_tokens"] // tree["model"]["seq_len"]
        group = draw(st.sampled_from([0, *(n for n in range(1, rows) if rows % n == 0)]))
        final = draw(st.sampled_from([0.25, 2.0]))
        tree["train"]["loss"] = {"name": "spans", "reasoning": 0.0, "final": final, "group_rows": group}
    return {**tree, "data": data}


@given(with_data())
@checked(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_there_and_back_on_prefixes(tree: dict[str, Any]) -> None:
    first = canonical(tree)
    flags = export(first, "x", seed=7).argv
    found = explain(list(flags))
    assert not found.refused and not found.not_carried and not missing(found.tree)
    read = tomllib.loads(written(found.tree))
    assert read.pop("decision") == {"seeds": {"first": 7}}
    back = canonical(read)
    assert meaning(back) == meaning(first)
    assert export(back, "x", seed=7).argv == flags


def test_words_of_an_export() -> None:
    loss = {"name": "spans", "reasoning": 0.5, "group_rows": 2}
    found = export(with_(data={"weights": [0.3, 0.7]}, train={"loss": loss}), "x", seed=1234)
    assert after(found.argv, "--train-data-path") == ["0.3", PREFIXES[0], "0.7", PREFIXES[1]]
    assert after(found.argv, "--valid-data-path") == ["/d/v_tokens"]
    assert after(found.argv, "--vocab-size") == after(found.argv, "--padded-vocab-size") == ["201088"]
    assert after(found.argv, "--kd-span-weight-reasoning") == ["0.5"]
    assert after(found.argv, "--kd-span-weight-final") == ["1.0"]
    assert after(found.argv, "--micro-batch-size") == ["2"] and after(found.argv, "--synth-kd-data") == []
    assert {"--reset-position-ids", "--reset-attention-mask", "--eod-mask-loss"} <= set(found.argv)
    text = "\n".join(f"{one.place}: {one.text}" for one in found.notes)
    assert "only the vpMoE fork has --synth-kd-data" in text and "O200kHarmonyTokenizer" in text
    assert "where the seed of the run is --seed: 1234" in text and "add --tokenizer-model: o200k_base.tiktoken" in text
    assert f"no file here is called {PREFIXES[0]}.idx" in text and "a micro-batch has 2 rows there" in text


def test_the_whole_batch_is_one_micro_batch() -> None:
    found = export(with_(train={"loss": "spans"}), "x", seed=1)
    assert after(found.argv, "--micro-batch-size") == after(found.argv, "--global-batch-size") == ["4"]
    text = "\n".join(one.text for one in found.notes if one.place == "train.loss.group_rows")
    assert "means are over a micro-batch, so its 4 rows are one, on one device" in text


def test_a_sentencepiece_model_keeps_its_rows() -> None:
    found = export(with_(data={"tokenizer": {"name": "sentencepiece", "model": "/v/8k.model"}}), "x")
    assert after(found.argv, "--tokenizer-model") == ["/v/8k.model"] and "--vocab-size" not in found.argv
    assert after(found.argv, "--make-vocab-size-divisible-by") == ["1"]


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"data": {"tokenizer": "case_ops"}}, "arm x: data.tokenizer: the fork has no case operators"),
        ({"data": {"source": "/d/a_tokens", "weights": [1.0]}}, "ignores the weight of a single --train-data-path"),
        ({"data": {"weights": [1.0, 2.0, 3.0]}}, "data.weights: 3 weights for 2 prefixes; give one for each"),
        ({"data": {"source": "python"}}, "data.source: 'python' is no Megatron prefix"),
        ({"data": {"source": "/d/a.jsonl"}}, "'/d/a.jsonl' is no Megatron prefix"),
        ({"data": {"valid_source": "/d/v.txt"}}, "'/d/v.txt' is no Megatron prefix"),
        ({"data": {"tokenizer": "bytes"}, "train": {"loss": "spans"}}, "takes no other tokenizer than o200k_harmony"),
        ({"data": {"source": "/d/a"}, "train": {"loss": "spans"}}, "'/d/a' does not; rename its files"),
        ({"data": {"valid_source": "/d/v"}, "train": {"loss": "spans"}}, "'/d/v' does not; rename its files"),
        ({"data": {"source": "mock", "order": "chunks"}, "train": {"loss": "spans"}}, "mock data has no spans"),
    ],
)
def test_what_the_fork_cannot_do_with_data(sections: dict[str, Any], text: str) -> None:
    assert export(canonical(WHOLE), "x").argv
    with pytest.raises(CheckFailed) as refused:
        export(with_(**sections), "x")
    assert text in str(refused.value) and all(fault.cure for fault in refused.value.faults)


def test_order_needs_a_held_out_file() -> None:
    tree = json.loads(json.dumps(WHOLE))
    del tree["data"]["valid_source"]
    with pytest.raises(CheckFailed, match="its order needs the whole file; give valid_source"):
        export(canonical(tree), "x")
    del tree["data"]["order"]
    found = export(canonical(tree), "x")
    assert "--train-data-path" not in found.argv
    assert "add --train-data-path and --valid-data-path" in "\n".join(one.text for one in found.notes)


def test_files_that_are_here(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "note.txt").write_text("text")
    built = {"source": str(tmp_path), "order": "megatron", "tokenizer": "o200k_harmony"}
    found = export(canonical({**WHOLE, "data": built, "train": {"loss": "spans"}}), "x")
    train = [str(tmp_path / f"train/shard_0000{i}_tokens") for i in (0, 1)]
    assert after(found.argv, "--train-data-path") == train
    assert after(found.argv, "--valid-data-path") == [str(tmp_path / "valid/shard_00000_tokens")]
    assert not any("no file here" in one.text for one in found.notes)
    with pytest.raises(CheckFailed, match="only with --synth-kd-data, which weighs spans"):
        export(canonical({**WHOLE, "data": built}), "x")
    listed = {"source": str(tmp_path / "*/*_tokens*"), "valid_source": str(tmp_path / "valid/shard_00000_tokens.bin")}
    found = export(with_(data={**listed, "order": "chunks"}, train={"loss": "spans"}), "x")
    valid = str(tmp_path / "valid/shard_00000_tokens")
    assert after(found.argv, "--train-data-path") == [*train, valid]
    assert after(found.argv, "--valid-data-path") == [valid]
    assert any(one.kind == "warning" and one.place == "data.order" for one in found.notes)
    texts = export(with_(data={"source": str(tmp_path / "note.txt"), "order": "chunks"}), "x")
    assert "--train-data-path" not in texts.argv
    assert any("note.txt' is no Megatron prefix that is here" in one.text for one in texts.notes)


STUDY = """
[study]
name = "spans"
[decision]
matters = 0.01
[budget]
tokens = 6400
batch_tokens = 64
[data]
source = "/d/train_tokens"
valid_source = "/d/valid_tokens"
order = "megatron"
tokenizer = "o200k_harmony"
[model]
layers = "G*2"
d_model = 32
n_heads = 4
seq_len = 16
global.position = "rope"
[train]
loss = { name = "spans", group_rows = 2 }
[arm.plain]
train.loss = "mean"
"""


def test_an_arm_with_another_loss(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    study = load(file)

    def lines(flags: str) -> list[str]:
        return arm(shlex.split(flags), study, "x").splitlines()[1:]

    assert lines("--kd-span-weight-final 2") == ['train.loss = { name = "spans", final = 2.0 }']
    assert lines("--micro-batch-size 1") == ['train.loss = { name = "spans", group_rows = 1 }']
    assert lines("--global-batch-size 1") == ["budget.batch_tokens = 16"]
    with pytest.raises(CheckFailed, match="changes nothing"):
        lines("--synth-kd-data --micro-batch-size 2 --train-data-path /d/other_tokens")
    file.write_text(STUDY.replace("loss = {", "# loss = {").replace('"mean"', '"spans"'))
    study = load(file)
    assert lines("--synth-kd-data") == ['train.loss = "spans"']
    assert lines("--synth-kd-data --micro-batch-size 2") == ['train.loss = { name = "spans", group_rows = 2 }']
