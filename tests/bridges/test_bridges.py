"""Megatron's words: read as Megatron reads them, explained layer by layer, and written back without loss."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st
from tests.bridged import canonical, meaning, trees

from ablab.bridges.megatron import grammar, shown
from ablab.bridges.megatron.arm import arm
from ablab.bridges.megatron.explain import Explanation, explain
from ablab.bridges.megatron.export import ORDER, export
from ablab.bridges.megatron.flags import FLAGS
from ablab.bridges.megatron.parse import parse, words
from ablab.cli import main as cli
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.toml import written
from ablab.study import load

ROOT = Path(__file__).resolve().parents[2]

# What the fork's renderer makes of its locked configuration (configs/vpmoe.toml), in its order.
LOCKED = """
--vocab-size 201088 --padded-vocab-size 201088 --num-layers 80 --hidden-size 1024 --num-attention-heads 8 \\
--group-query-attention --num-query-groups 2 --ffn-hidden-size 128 --seq-length 2048 --max-position-embeddings 2048 \\
--normalization RMSNorm --qk-layernorm --softmax-type learnable --add-qkv-bias --squared-relu --no-bias-gelu-fusion \\
--no-bias-swiglu-fusion --value-residual --value-residual-init 1.0 --untie-embeddings-and-output-weights \\
--optimizer normuon --normuon-momentum 0.95 --normuon-beta2 0.95 --normuon-eps 1e-10 \\
--polar-express-safety-factor 0.02 --position-embedding-type grapem --attention-dropout 0.0 --no-rope-fusion \\
--grape-a --no-rope-freq 4 --grapem-learnable-freq --grapem-share-across-heads --grapem-log-freq-scale 16.0 \\
--window-size (127,0) --window-attn-skip-freq 4 --use-tpa --tpa-rank 2 --tpa-q-rank 4 --num-experts 256 \\
--moe-router-topk 4 --moe-ffn-hidden-size 128 --moe-router-load-balancing-type seq_aux_loss \\
--moe-aux-loss-coeff 0.0001 --moe-router-score-function sigmoid --moe-router-num-groups 8 --moe-router-group-topk 4 \\
--moe-router-topk-scaling-factor 2.5 --moe-router-enable-expert-bias --moe-router-bias-update-rate 0.001 \\
--moe-router-dtype fp32 --moe-shared-expert-intermediate-size 512 --moe-layer-freq ([0]+[1]*79)
"""
# The plan for global layers: fixed flags, and what its two runs add.
PLAN = (
    "--num-layers 8 --hidden-size 64 --num-attention-heads 4 --seq-length 4096 --window-size 128,0 "
    "--window-attn-skip-freq 4 --position-embedding-type grapem --grapem-learnable-freq"
)
SMALL = "--num-layers 4 --hidden-size 32 --num-attention-heads 4 --seq-length 16 --position-embedding-type rope"


def told(line: str) -> Explanation:
    return explain(words(line))


def said(line: str) -> str:
    """Every warning and note, one a line."""
    return "\n".join(f"{one.kind}: {one.place}: {one.text}" for one in told(line).notes)


def faults(line: str) -> str:
    with pytest.raises(InvalidStudy) as refused:
        told(line)
    assert refused.value.exit_code == 3
    return str(refused.value)


def by_layer(line: str, of: str) -> list[Any]:
    return [getattr(layer, of) for layer in told(line).net.layers]


# ---- values


@st.composite
def spelled(draw: st.DrawFn, depth: int = 2) -> tuple[str, list[int]]:
    """(a list expression, what it means), built from the meaning outwards."""
    text, meant = "", list[int]()
    for i in range(draw(st.integers(1, 3))):
        if depth and draw(st.booleans()):
            inner, means = draw(spelled(depth - 1))
            inner = f"({inner})"
        else:
            means = draw(st.lists(st.integers(0, 1), min_size=1, max_size=3))
            inner = "[" + ",".join(map(str, means)) + draw(st.sampled_from(["", ","])) + "]"
        times = draw(st.sampled_from([1, 2, 3]))
        if times > 1:
            inner = draw(st.sampled_from([f"{inner}*{times}", f"{times}*{inner}", f"{inner}*({times - 1}+1)"]))
        text += ("+" if i else "") + inner
        meant += means * times
    return text, meant


@given(spelled())
def test_a_list_means_what_it_was_built_from(pair: tuple[str, list[int]]) -> None:
    text, meant = pair
    assert grammar.layers(text) == meant
    assert grammar.layers(grammar.spell(meant)) == meant and " " not in grammar.spell(meant)


@given(st.text(alphabet="[](),+*01 29x-", max_size=14))
def test_any_value_is_read_or_refused_with_a_cure(text: str) -> None:
    for read in (grammar.layers, grammar.window):
        try:
            read(text)
        except ValueError as error:
            assert "; " in str(error)


def test_values_as_megatron_reads_them() -> None:
    assert grammar.window("(127,0)") == grammar.window("127,0") == (127, 0)
    assert grammar.layers("([0]+[1]*7)") == [0, 1, 1, 1, 1, 1, 1, 1]
    assert grammar.layers("4") == 4
    assert grammar.spell([0] + [1] * 79) == "([0]+[1]*79)" and grammar.spell([1, 1, 1, 0] * 20) == "([1]*3+[0])*20"
    assert parse(["--window-size=(-1,0)"])["window_size"] == (-1, 0)
    assert parse([]).values == {} and parse([])["adam_beta2"] == 0.999


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "--window-attn-skip-freq '[1, 1, 1, 0]'",
            "a space in the list '[1, 1, 1, 0]': Megatron refuses it; write [1,1,1,0]",
        ),
        (
            "--no-rope-freq [0, 0, 0, 1]",
            "a space in the list '[0, 0, 0, 1]': Megatron refuses it; write [0,0,0,1] without",
        ),
        ("--no-rope-freq __import__('os')[0]", "'_' in the list \"__import__(os)[0]\"".replace('"', "'")),
        ("--no-rope-freq [2]*4", "holds other numbers than 0 and 1"),
        ("--no-rope-freq [1]*9999999", "no number of layers"),
        ("--window-size -1,0", "a value that begins with - needs an equals sign or parentheses"),
        ("--window-size 128", "'128' is no window; write (127,0)"),
        ("--seq-length $SEQ", "'$SEQ' is a variable of the shell; write its value"),
        ("--seq-length 1e3", "'1e3' is not an integer"),
        ("--lr nan", "'nan' is not finite"),
        ("--hidden-size", "--hidden-size: has no value; give one"),
        ("--swiglu=yes", "--swiglu: takes no value"),
        ("--window-szie 1,0", "--window-szie: ablab does not know this flag; did you mean --window-size?"),
        ("--softmax-type sink", "'sink' is not one of its words"),
        ("4096", "4096: belongs to no flag"),
        ("--swiglu 'x", "not a shell line: no closing quotation"),
        ("--num-layers 6 --no-rope-freq 4", "4 does not divide 6 layers, so Megatron stops; give a divisor"),
        ("--num-layers 4 --no-rope-freq [0,1]", "a list of 2 for 4 layers"),
        ("--num-layers 4 --window-size 7,0 --window-attn-skip-freq 0", "0 divides by zero"),
        ("--num-layers 4 --num-experts 4 --moe-layer-freq 0", "0 divides by zero"),
        ("--num-layers 9999999999", "more than 1000 layers"),
        ("--use-tpa --tpa-rank 2 --tpa-q-rank 4", "needs --window-size: only windowed layers use it"),
        ("--use-tpa --window-size 7,0", "--tpa-rank: is needed with --use-tpa"),
        ("--num-experts 4 --moe-router-topk 5", "5 of 4 experts cannot be chosen"),
        ("--num-experts 6 --moe-router-num-groups 4 --moe-router-group-topk 1", "4 groups do not divide 6 experts"),
        ("--num-experts 4 --moe-router-enable-expert-bias", "needs sigmoid scores"),
        ("--squared-relu --swiglu", "stands beside --swiglu; keep one"),
        ("--make-vocab-size-divisible-by 0 --vocab-size 5", "--make-vocab-size-divisible-by: 0 is too small"),
        ("--lr -1", "--lr: -1 is too small; give 0 or more"),
        ("--hidden-size 30 --num-attention-heads 4", "30 is no multiple of 4 heads"),
    ],
)
def test_bad_flags_are_said_with_place_and_cure(line: str, text: str) -> None:
    assert text in faults(line)


def test_all_faults_at_once() -> None:
    assert len(faults("--foo 1 --seq-length x --window-size 1 --swiglu=1").splitlines()) == 4


def test_a_shell_line_is_read() -> None:
    text = 'torchrun --nproc_per_node 8 pretrain_gpt.py \\\n  --num-layers 4 \\  # comment\n  --no-rope-freq "([0]*3+[1])"\n'
    assert words(text.replace("\\  #", "#").replace("# comment\n", "\\\n")) == [
        "--num-layers",
        "4",
        "--no-rope-freq",
        "([0]*3+[1])",
    ]


def test_the_table_of_flags_is_sound() -> None:
    assert all(name == flag.name and name.startswith("--") for name, flag in FLAGS.items())
    for flag in FLAGS.values():
        same = [other for other in FLAGS.values() if other.to == flag.to]
        assert len({repr(other.default) for other in same}) == 1, flag.name
        if flag.words and flag.default is not None:
            defaults = flag.default if isinstance(flag.default, list) else [flag.default]
            assert set(defaults) <= set(flag.words)
    assert all(f"--{name}" in FLAGS for name in ORDER) and len(set(ORDER)) == len(ORDER)


# ---- what really happens


def test_which_layers_are_global_and_which_rotate() -> None:
    plan = f"{PLAN} --no-rope-freq 4 --grape-a"
    assert [i for i, local in enumerate(by_layer(plan, "local"), 1) if not local] == [4, 8]
    assert by_layer(plan, "rotates") == [True, True, True, False] * 2
    assert by_layer(plan, "slopes") == [False, False, False, True] * 2
    assert by_layer(plan, "window") == [129, 129, 129, None] * 2
    assert by_layer(plan.replace("128,0", "(127,0)"), "window") == [128, 128, 128, None] * 2


def test_schedules_of_every_form() -> None:
    base = "--num-layers 6 --window-size 7,0 --position-embedding-type rope"
    assert by_layer(base, "local") == [True] * 6
    assert by_layer(f"{base} --window-attn-skip-freq 4", "local") == [True, True, True, False, True, True]
    assert by_layer(f"{base} --window-attn-skip-freq [1,0]*3", "local") == [True, False] * 3
    assert by_layer(f"{base} --window-attn-skip-freq 1", "local") == [False] * 6
    assert by_layer(f"{base} --no-rope-freq 0", "rotates") == [True] * 6
    assert by_layer(f"{base} --no-rope-freq 1", "rotates") == [False] * 6
    assert by_layer(f"{base} --num-experts 4 --moe-layer-freq 2", "routed") == [True, False] * 3
    assert by_layer(f"{base} --num-experts 4 --moe-layer-freq ([0]+[1]*5)", "routed") == [False] + [True] * 5
    assert by_layer("--num-layers 2 --window-attn-skip-freq 2", "local") == [False, False]


def test_the_locked_model() -> None:
    found = told(LOCKED)
    rows = [(group.numbers[:2], group.attention, group.position, group.projection, group.mlp) for group in found.groups]
    experts = "4 of 256 experts relu2, width 128, + shared 512"
    tpa = "tpa, rank 2, queries 4, bias"
    assert rows == [
        ((1,), "local, 128 tokens", "grape_m", tpa, "dense relu2, width 128"),
        ((2, 3), "local, 128 tokens", "grape_m", tpa, experts),
        ((4, 8), "global, all tokens", "grape_a (ALiBi)", "gqa, bias", experts),
    ]
    assert [len(group.numbers) for group in found.groups] == [1, 59, 20] and not found.refused
    assert {"--use-tpa", "--grape-a", "--optimizer normuon", "--position-embedding-type grapem"} <= set(found.fork_only)
    assert "--window-size" not in found.fork_only and not found.upstream_only


def test_parameters_by_their_rules_and_as_they_are() -> None:
    counted = told(LOCKED).parameters
    assert counted is not None
    assert (counted.total, counted.active, counted.exact) == (6_021_692_480, 779_995_712, 6_021_784_719)
    assert counted.exact - counted.total == 60 * 1536 + 79
    assert counted.parts["attention_local"] == 128_348_160 and counted.parts["moe_experts"] == 5_324_898_304
    assert counted.parts["embeddings"] == counted.parts["output"] == 205_914_112 and counted.parts["norms"] == 164_864
    assert told("--num-layers 2").parameters is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            f"{PLAN} --no-rope-freq 4",
            "warning: --window-size: (128,0) counts the keys beside the current one: 129 tokens",
        ),
        (PLAN, "warning: --hidden-dropout and --attention-dropout: not given: the default is 0.1"),
        (f"{PLAN} --attention-dropout 0", "warning: --hidden-dropout: not given: the default is 0.1"),
        (f"{PLAN} --grape-a", "warning: --grape-a: layers 4, 8 rotate AND have the distance bias"),
        (
            f"{PLAN} --grape-a --window-attn-skip-freq [1,1,1,0]*2",
            "--no-rope-freq is missing there; the renderer never writes it for a list",
        ),
        (f"{PLAN} --grape-a --no-rope-freq 4", "note: --grape-a: trains only: packed sequences and inference"),
        (PLAN, "note: --attention-softmax-in-fp32: is off by default"),
        (
            f"{PLAN} --transformer-impl local --bf16",
            "warning: --window-size: the fused softmax kernel of the local backend",
        ),
        (LOCKED, "warning: --moe-router-num-groups: limits nothing"),
        (LOCKED, "warning: --value-residual-init: 1 saturates the sigmoid: its gradient is 1e-04 of full"),
        (LOCKED, "warning: --ffn-hidden-size: dense layers have width 128 too"),
        (f"{LOCKED} --moe-router-pre-softmax", "warning: --moe-router-pre-softmax: has no effect with sigmoid scores"),
        (f"{LOCKED} --lr 1e-4 --min-lr 1e-4", "note: --min-lr: equals --lr: the learning rate is constant"),
        (f"{LOCKED} --lr 0.02", "warning: --normuon-aux-lr: is not given: AdamW runs at NorMuon's 0.02"),
        ("--window-size=(-1,0)", "-1 is no limit with Transformer Engine; the local backend masks every key"),
        ("--num-layers 4", "warning: --position-embedding-type: is not given: the default is learned_absolute"),
        ("--num-attention-heads 4 --num-query-groups 2", "is ignored without --group-query-attention"),
        ("--squared-relu", "needs --no-bias-gelu-fusion where linear layers have biases, or Megatron stops"),
        ("--num-experts 4", "warning: --moe-aux-loss-coeff: is 0, so aux_loss balances nothing"),
        ("--optimizer adaptive_muon", "adaptive_muon is upstream's; its adaptive form is adamuon by default"),
        ("--use-tpa --optimizer muon --window-size 7,0 --tpa-rank 1 --tpa-q-rank 1", "neither takes both"),
        (f"{PLAN} --grape-a", "note: --grape-a: its bias takes 256 MiB for each global layer"),
        ("--lr 1e-3 --lr 1e-4", "warning: --lr: is given twice; the last one counts"),
        (f"{PLAN} --global-batch-size 8", "32,768 tokens a step: 200,000,000 tokens are 6,104 steps"),
        (f"{PLAN} --global-batch-size 4", "16,384 tokens a step: 200,000,000 tokens are 12,208 steps"),
        (
            f"{PLAN} --global-batch-size 8 --train-iters 6104",
            "6,104 steps x 8 rows x 4,096 tokens = 200,015,872 tokens",
        ),
    ],
)
def test_traps_are_said(line: str, text: str) -> None:
    assert text in said(line)


def test_no_trap_where_there_is_none() -> None:
    quiet = f"{SMALL} --hidden-dropout 0 --attention-dropout 0 --softmax-type learnable --window-size (7,0)"
    assert "warning" not in said(quiet)
    assert "saturates" not in said(f"{LOCKED} --value-residual-init 0.5")
    assert "limits nothing" not in said(f"{LOCKED} --moe-router-group-topk 2")
    assert "fused softmax" not in said(f"{PLAN} --transformer-impl local --bf16 --no-masked-softmax-fusion")
    assert "fused softmax kernel of the local" not in said(f"{PLAN} --transformer-impl local")


def test_what_stays_behind_is_listed() -> None:
    found = told(
        f"{SMALL} --fp8-format hybrid --tensor-model-parallel-size 2 --seed 3 --bf16 --pipeline-model-parallel-size 1"
    )
    flags = [flag for flag, _ in found.not_carried]
    assert flags == ["--hidden-dropout 0.1 (the default)", "--attention-dropout 0.1 (the default)", *flags[2:]]
    assert flags[2:] == ["--fp8-format hybrid", "--tensor-model-parallel-size 2"]
    assert found.how_it_runs == ("--bf16",) and found.tree["decision"] == {"seeds": {"first": 3}}
    assert not told(f"{SMALL} --hidden-dropout 0 --attention-dropout 0").not_carried


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("--window-size 7,1", "--window-size: looks into the future"),
        ("--window-size=(-1,0) --transformer-impl local", "-1 masks every key on the local backend"),
        ("--quick-geglu", "--quick-geglu: ablab has no lever for it"),
        ("--multi-latent-attention", "--multi-latent-attention: ablab has no lever for it"),
        ("--position-embedding-type mrope", "no position lever like mrope"),
        ("--disable-bias-linear --add-qkv-bias", "biases on q, k, v alone bring one on the output projection"),
        ("--num-experts 4 --moe-expert-capacity-factor 1.0", "experts drop tokens beyond this load"),
        ("--num-experts 4 --moe-router-load-balancing-type sinkhorn", "no balance like sinkhorn"),
        ("--optimizer sgd", "ablab does not write Megatron's sgd as a study"),
        ("--lr 1 --lr-decay-style inverse-square-root", "ablab has no inverse-square-root"),
        ("--lr 1 --lr-decay-style WSD --lr-wsd-decay-iters 5 --train-iters 9", "linear or minus_sqrt, not exponential"),
        ("--lr 1 --lr-decay-iters 5 --train-iters 9", "the schedule ends at step 5, the training at step 9"),
        ("--lr 1 --lr-warmup-iters 5", "a fraction of an unknown number of steps"),
        ("--lr 1 --min-lr 0.1 --decoupled-lr 2 --train-iters 9", "give --decoupled-min-lr 0.2"),
        ("--lr 1 --min-lr 2", "2 is above --lr 1"),
        ("--optimizer normuon --polar-express-safety-factor 0.05", "raises there without --polar-express-coeffs-path"),
    ],
)
def test_a_false_meaning_is_refused_not_written(more: str, text: str) -> None:
    found = told(f"{SMALL} {more}")
    assert text in "\n".join(map(str, found.refused))
    assert found.net.layers  # explained all the same


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Any flags with values of their kind, many of them odd."""
    argv = draw(st.sampled_from([[], shlex.split(SMALL)]))[:]
    values = {
        "int": st.sampled_from(["0", "1", "2", "4", "16", "-1"]),
        "float": st.sampled_from(["0", "0.1", "1", "2", "-1"]),
        "floats": st.sampled_from(["0", "0.01"]),
        "window": st.sampled_from(["(7,0)", "3,0", "(-1,0)", "1,1", "(-5,0)"]),
        "skip": st.sampled_from(["0", "1", "2", "4", "[1,0]*2", "[0,0,0,1]"]),
    }
    for flag in draw(st.lists(st.sampled_from(list(FLAGS.values())), max_size=12)):
        known = [*flag.words, *flag.fork_words, *flag.upstream_words] or ["x"]
        argv += [
            flag.name,
            *([] if flag.kind in ("on", "off") else [draw(values.get(flag.kind, st.sampled_from(known)))]),
        ]
    return argv


@given(lines())
@checked(max_examples=200, deadline=None)
def test_any_flags_are_explained_or_refused(argv: list[str]) -> None:
    try:
        found = explain(argv)
    except InvalidStudy as refused:
        assert all(fault.place.startswith("--") and fault.cure for fault in refused.faults)
        return
    shown.show(found, lambda text: None)
    json.dumps(shown.as_json(found), allow_nan=False)
    assert tomllib.loads(written(found.tree)) == found.tree
    assert sorted(number for group in found.groups for number in group.numbers) == [
        *range(1, len(found.net.layers) + 1)
    ]


# ---- there and back


@given(trees())
@checked(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_there_and_back(tree: dict[str, Any]) -> None:
    """Study -> flags -> study is the identity, and so is flags -> study -> flags on what export writes."""
    first = canonical(tree)
    flags = export(first, "x", seed=7).argv
    assert not any(" " in word for word in flags)
    assert [name for name in flags if name.startswith("--")] == [f"--{n}" for n in ORDER if f"--{n}" in flags]
    found = explain(list(flags))
    assert not found.refused and not found.not_carried
    assert found.tree["decision"] == {"seeds": {"first": 7}}
    read = tomllib.loads(written(found.tree))
    assert read == found.tree
    back = canonical({key: value for key, value in read.items() if key != "decision"})
    assert meaning(back) == meaning(first)
    assert export(back, "x", seed=7).argv == flags


def test_the_locked_flags_come_back() -> None:
    """All of them, once the value mix starts where a sigmoid can learn: the one change that ablab insists on."""
    locked = words(LOCKED.replace("--value-residual-init 1.0", "--value-residual-init 0.5"))
    found = explain(locked)
    tree = {**found.tree, "data": {"source": "mock"}, "budget": {"tokens": 2048 * 80, "batch_tokens": 2048 * 8}}
    back = export(canonical(tree), "vpmoe")
    mine, theirs = pairs(back.argv), pairs(locked)
    there = [pair for pair in theirs if "vocab" not in pair[0]]  # the vocabulary is the tokenizer's
    assert [pair for pair in mine if pair in there] == there
    added = [name for name, _ in mine if name not in dict(theirs)]
    assert added[:3] == ["--norm-epsilon", "--hidden-dropout", "--init-method-std"]
    assert back.shell().count("\n") == len(mine) - 1 and "--window-size '(127,0)'" in back.shell()


def pairs(argv: Sequence[str]) -> list[tuple[str, str]]:
    """(flag, its words) in order."""
    out: list[tuple[str, str]] = []
    for word in argv:
        out = [*out, (word, "")] if word.startswith("--") else [*out[:-1], (out[-1][0], f"{out[-1][1]} {word}".strip())]
    return out


def test_the_preset_is_the_locked_model() -> None:
    preset = tomllib.loads((ROOT / "src/ablab/study/presets/vpmoe.toml").read_text())
    rest = {"data": {"source": "mock"}, "budget": {"tokens": 2048, "batch_tokens": 2048}}
    ours = canonical({**rest, "model": preset})
    theirs = canonical({**rest, "model": told(LOCKED).tree["model"]})
    assert meaning(ours)["layers"] == meaning(theirs)["layers"] and meaning(ours)["model"] == meaning(theirs)["model"]


WHOLE = {
    "budget": {"tokens": 1600, "batch_tokens": 32},
    "data": {"source": "mock", "tokenizer": "bytes"},
    "model": {
        "layers": "LG",
        "d_model": 32,
        "n_heads": 4,
        "n_kv_heads": 2,
        "seq_len": 16,
        "local": {"window": 8, "position": {"name": "grape_m", "share": "net"}},
        "global": {"position": "nope"},
    },
}


def with_(path: str, value: Any) -> dict[str, Any]:
    """WHOLE with one dotted key set."""
    tree = json.loads(json.dumps(WHOLE))
    *above, last = path.split(".")
    here = tree
    for key in above:
        here = here.setdefault(key, {})
    here[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("model.gate", "xsa", 'arm x: model.local.gate: the fork has no xsa; use gate = "off"'),
        ("model.block", "parallel", "the fork has no parallel"),
        ("model.residual", ["mix", "depth_scale"], "the fork has no mix+depth_scale"),
        ("model.temperature", "qk_gain", "the fork has no qk_gain"),
        ("model.embedding", "smear_gate", "model.embedding: the fork has no smear_gate"),
        ("model.embedding", "learned", "a learned table and a rotation"),
        ("model.softcap", 30.0, "no soft cap on its logits"),
        ("model.norm", "bare", "no bare norm"),
        ("model.init", "orthogonal", "no orthogonal start"),
        ("model.out_std", 0.0, "the fork's is init_std / sqrt(2 layers)"),
        ("model.layers", "L[G]^2", "it has no loops"),
        ("model.skips", "unet", "the fork has no unet skips"),
        ("model.mlp", "leaky_relu2", "the fork has no leaky_relu2; use relu2, swiglu or gelu"),
        ("model.mlp", "gelu", "without biases the fork's gelu is the exact one"),
        ("model.global.softmax", "sink", "model.softmax: differs between layer kinds (local and global)"),
        ("model.global.position", "fox", "model.global.position: the fork has no fox"),
        ("model.global.position", {"name": "grape_a", "slope_scale": 0.5}, "slopes cannot be scaled by 0.5"),
        ("model.local.position", ["grape_m", "grape_a"], "on all layers without a window and on no other"),
        ("model.local.position", "grape_m", 'one log_freq for the whole net, not one per layer; use share = "net"'),
        (
            "model.local.position",
            {"name": "grape_m", "share": "net", "per_head": True},
            "raise in the fork with grouped",
        ),
        ("model.global.position", "rope", "two rotations; the fork has one"),
        ("model.local.position", {"name": "rope", "ntk": True}, "no ntk scaling"),
        ("model.global.projection", "tpa", "tensor products on all layers with a window and on no other"),
        ("model.local.projection", {"name": "tpa", "init": "official"}, "the fork's factors start normal"),
        ("model.projection", {"name": "gqa", "bias": True}, "biases on q, k, v go with those of the linear layers"),
        ("model.value", "residual", 'not with the plain number; use form = "sigmoid"'),
        ("model.global.window", 4, "windows of 4 and 8 tokens; the fork has one"),
        ("model.softmax", {"name": "sink", "init_std": 0.5}, "the fork's sinks start with init_method_std 0.02"),
        ("model.qk_norm", "after", "the fork normalises q and k before it turns them; use qk_norm = true"),
        ("train.ema", 0.9, "keeps no average of the weights"),
        ("train.qat", "fake_quant", "the fork rounds no weights while it trains"),
        ("train.weights", ["a.pt"], "the fork trains and cannot take weights from elsewhere"),
        ("train.optimizer", "muon", "train.optimizer: the fork has no muon; use adamw or normuon"),
        (
            "train.optimizer",
            {"name": "normuon", "orthogonaliser": {"steps": 4}},
            "train.optimizer.orthogonaliser.steps: the fork cannot do 4; use orthogonaliser.steps = 5",
        ),
        ("train.optimizer", {"name": "normuon", "decay": 0.1}, "use aux.decay = 0.1"),
        (
            "train.optimizer",
            {"name": "normuon", "nesterov": False},
            "train.optimizer.nesterov: the fork cannot do False",
        ),
        ("train.optimizer", {"name": "normuon", "decay": {"form": "cautious"}}, 'use decay.form = "plain"'),
    ],
)
def test_what_the_fork_cannot_do_is_refused(path: str, value: Any, text: str) -> None:
    assert export(canonical(WHOLE), "x").argv
    with pytest.raises(CheckFailed) as refused:
        export(canonical(with_(path, value)), "x")
    assert text in str(refused.value) and refused.value.exit_code == 4
    assert all(fault.place.startswith("arm x: ") and fault.cure for fault in refused.value.faults)


def test_where_the_fork_adds_normuons_eps() -> None:
    """It stands under the root there: flags come back as that form, and another is said on the way out."""
    written = told("--optimizer normuon --normuon-eps 1e-9 --lr 0.01").tree["train"]["optimizer"]
    assert written["second_moment"]["eps_form"] == "inside"
    for form, said in (("inside", []), ("added", ["--normuon-eps"]), ("floor", ["--normuon-eps"])):
        found = export(
            canonical(with_("train.optimizer", {"name": "normuon", "second_moment": {"eps_form": form}})), "x"
        )
        assert [note.place for note in found.notes if note.place == "--normuon-eps"] == said


def test_a_rate_of_the_head_alone_that_the_fork_has_not() -> None:
    tree = with_("train.optimizer", {"name": "adamw", "head_lr": 0.1})
    tree["model"]["tied"] = False
    with pytest.raises(CheckFailed, match="one learning rate for embedding and head"):
        export(canonical(tree), "x")


def test_an_expert_model_that_the_fork_has_not() -> None:
    mixture = {"name": "moe", "n_experts": 8, "ratio": 0.5}
    for router, text in (
        ({"name": "deepseek_v3", "top_k": 2, "normalize": False}, "divides the weights by their sum"),
        ({"name": "deepseek_v3", "top_k": 1, "normalize": "always"}, "leaves a lone expert its score"),
        ({"name": "deepseek_v3", "top_k": 4, "n_groups": 4, "group_top_k": 4}, "scores a group by its best 1"),
    ):
        tree = with_("model.mlp", mixture)
        tree["model"]["router"] = router
        with pytest.raises(CheckFailed, match=text):
            export(canonical(tree), "x")


# ---- arms and commands


def test_an_arm_of_the_committed_study(tmp_path: Path) -> None:
    study = load(ROOT / "studies/global_position.toml")
    fixed = "--seq-length 4096 --window-attn-skip-freq 4 --position-embedding-type grapem --grapem-learnable-freq"
    text = arm(words(f"{fixed} --window-size 128,0 --no-rope-freq 4 --grape-a"), study, "run_b")
    assert text.splitlines() == [
        "[arm.run_b]",
        'model.local.position = { name = "grape_m", share = "net" }',
        "model.local.window = 129",
        'model.global.position = "grape_a"',
        'together = "one command line of another program"',
    ]
    (tmp_path / "study.toml").write_text(study.path.read_text(encoding="utf-8") + "\n" + text)
    changed = load(tmp_path / "study.toml").arms["run_b"]
    assert {change.path: change.after for change in changed.changes} == {
        "model.local.position.share": "net",
        "model.local.window": 129,
        "model.global.position": {"name": "grape_a", "slope_scale": 1.0},
    }
    assert arm(words("--adam-beta2 0.999"), study, "b").splitlines() == [
        "[arm.b]",
        'train.optimizer = { name = "adamw", betas = [0.9, 0.999] }',
    ]
    assert arm(words("--softmax-type learnable"), study, "s").splitlines()[1:3] == [
        'model.local.softmax = "sink"',
        'model.global.softmax = "sink"',
    ]
    only = arm(words("--window-size 127,0 --window-attn-skip-freq 4 --no-rope-freq 4 --grape-a"), study, "run_b")
    assert only.splitlines() == ["[arm.run_b]", 'model.global.position = "grape_a"']
    with pytest.raises(CheckFailed, match="changes nothing"):
        arm(words("--seq-length 4096 --window-size 127,0"), study, "same")
    with pytest.raises(CheckFailed, match="4 layers; the baseline has 12"):
        arm(words("--num-layers 4"), study, "short")


def ablab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["ablab", *argv])
    with pytest.raises(SystemExit) as left:
        cli.main()
        raise SystemExit(0)
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = tmp_path / "flags.txt"
    line.write_text(LOCKED)
    code, out, _ = ablab(monkeypatch, capsys, "explain", "--file", str(line))
    assert code == 0 and "layers 4, 8, ... 80 (20)" in out and "6,021,784,719 parameters" in out
    assert max(len(row) for row in out.partition("[model]")[0].splitlines()) <= 100 and out.isascii()
    code, out, _ = ablab(monkeypatch, capsys, "explain", "--json", "--", *shlex.split(SMALL))
    told_json = json.loads(out)
    assert code == 0 and tomllib.loads(told_json["toml"])["model"]["d_model"] == 32
    assert told_json["left_open"] == ["budget.tokens", "budget.batch_tokens"]
    tables = tmp_path / "tables.toml"
    code, _, _ = ablab(monkeypatch, capsys, "explain", "--write", str(tables), "--", *shlex.split(SMALL))
    assert code == 0 and tomllib.loads(tables.read_text())["model"]["layers"] == "G*4"
    bad = ["explain", "--write", str(tmp_path / "no.toml"), "--", *shlex.split(SMALL), "--quick-geglu"]
    code, _, err = ablab(monkeypatch, capsys, *bad)
    assert code == 4 and err.startswith("error: --quick-geglu") and not (tmp_path / "no.toml").exists()
    assert ablab(monkeypatch, capsys, "explain", "--", "--foo")[0] == 3
    assert ablab(monkeypatch, capsys, "explain")[0] == 2
    assert ablab(monkeypatch, capsys, "explain", "--write", str(tables), "--", "--swiglu")[0] == 2
    study = str(ROOT / "studies/global_position.toml")
    code, out, err = ablab(monkeypatch, capsys, "export", study, "grape_a", "--to", "megatron", "--scale", "tiny")
    assert code == 4 and 'use share = "net"' in err and not out
    assert ablab(monkeypatch, capsys, "export", study, "grape", "--to", "megatron")[0] == 2
    code, out, _ = ablab(monkeypatch, capsys, "export", study, "no_position", "--to", "megatron", "--json")
    assert code == 0 and "--no-rope-freq" not in json.loads(out)["flags"]
    code, out, err = ablab(monkeypatch, capsys, "export", study, "no_position", "--to", "megatron")
    assert code == 0 and words(out) == json.loads(json.dumps(words(out))) and "warning: " in err
    assert not told(out).refused


def test_the_page_shows_what_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/megatron.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?m)^    \$ ablab (.+)\n((?:    .*\n|\n)*)", page)
    assert len(blocks) >= 3
    for command, output in blocks:
        monkeypatch.chdir(ROOT)
        _, out, err = ablab(monkeypatch, capsys, *shlex.split(command))
        expected = [row.removeprefix("    ").rstrip() for row in output.splitlines() if row.strip() not in ("", "...")]
        got = [row.rstrip() for row in (out + err).splitlines()]
        assert [row for row in expected if row not in got] == [], command
