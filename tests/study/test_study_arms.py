"""Arms as diffs: what changes, against what, and who shares whose weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.written import edited, faults, read

from ablab.core.fault import InvalidStudy
from ablab.study import Arm, Change, Study


def arm(folder: Path, body: str, *pairs: tuple[str, str]) -> tuple[Study, Arm]:
    study = read(folder, edited(*pairs, more=f"[arm.x]\n{body}\n"))
    return study, study.arms["x"]


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ("model.qk_norm = false", [("model.qk_norm", True, False)]),
        ("model.local.window = 32", [("model.local.window", 16, 32)]),
        ("model.global.window = 32", [("model.global.window", None, 32)]),
        ("[arm.x.model.local]\nwindow = 32", [("model.local.window", 16, 32)]),
        ("train.optimizer.lr = 1e-3", [("train.optimizer.lr", 0.002, 0.001)]),
        ('train.optimizer = { name = "adamw", decay = 0 }', [("train.optimizer.decay", 0.1, 0.0)]),
        ("model.local.position = { learnable = false }", [("model.local.position.learnable", True, False)]),
        ('model.local.position = { name = "grape_m", learnable = false }', [("model.local.position.learnable", True, False)]),
        ("train.schedule.warmup = 0.1", [("train.schedule.warmup", 0.05, 0.1)]),  # the baseline relies on the default
        ("model.global.mlp.ratio = 2", [("model.global.mlp.ratio", 4.0, 2.0)]),
        ("model.mlp.ratio = 2", [("model.mlp.ratio", 4.0, 2.0)]),
        ('model.layers = "GL*3"', [("model.layers", "LGLG", "GLLL")]),
        ('model.layers = "[LG]^2 LG"', [("model.layers", "LGLG", "[LG]^2LG")]),  # the same letters, met more often
        ("budget.tokens = 100_352", [("budget.tokens", 200_000, 100_352)]),
        ('data.source = ["python", "mock"]', [("data.source", ["python"], ["python", "mock"])]),
        ('train.salt = "again"', [("train.salt", "", "again")]),
        ('stage.needle.evaluate.items = 8', [("stage.needle.evaluate.items", 64, 8)]),
        (
            'model.d_model = 128\nmodel.n_heads = 8\ntogether = "the same head_dim"',
            [("model.d_model", 64, 128), ("model.n_heads", 4, 8)],
        ),
        (
            'train.optimizer = { lr = 1e-3, decay = 0.0 }\ntogether = "lr times decay"',
            [("train.optimizer.lr", 0.002, 0.001), ("train.optimizer.decay", 0.1, 0.0)],
        ),
    ],
)  # fmt: skip
def test_changes(tmp_path: Path, body: str, changes: list[tuple[str, object, object]]) -> None:
    assert arm(tmp_path, body)[1].changes == tuple(Change(*change) for change in changes)


def test_loops_alone_differ_and_can_be_taken_away(tmp_path: Path) -> None:
    looped = edited(
        ('layers = "(LG)*2"', 'layers = "LG[LG]^3"\nloop_from = 0.5'), more='[arm.x]\nmodel.layers = "LG[LG]^2"\n'
    )
    assert read(tmp_path, looped).arms["x"].changes == (Change("model.layers", "LG[LG]^3", "LG[LG]^2"),)
    body = '[arm.x]\nmodel = { layers = "LGLG", loop_from = 0 }\ntogether = "without loops"\n'
    x = read(tmp_path, edited(('layers = "(LG)*2"', 'layers = "LG[LG]^3"\nloop_from = 0.5'), more=body)).arms["x"]
    assert [(c.before, c.after) for c in x.changes] == [("LG[LG]^3", "LGLG"), (0.5, None)]
    assert (x.settings["model"]["loops"], x.settings["model"]["loop_from"]) == ([], None)


def test_another_name_replaces_the_lever(tmp_path: Path) -> None:
    _, x = arm(tmp_path, 'model.local.position = { name = "rope", theta = 5e5 }')
    assert [(c.path, c.before["name"], c.after["name"]) for c in x.changes] == [
        ("model.local.position", "grape_m", "rope")
    ]
    assert x.settings["model"]["kinds"]["L"]["position"]["theta"] == 500_000.0
    assert "learnable" not in x.settings["model"]["kinds"]["L"]["position"]


def test_a_general_slot_changes_only_the_kinds_that_name_none(tmp_path: Path) -> None:
    body = 'model.mlp = { name = "swiglu" }'
    _, x = arm(tmp_path, body, ("local.window = 16", 'local.window = 16\nlocal.mlp = { name = "relu2", ratio = 3 }'))
    (change,) = x.changes
    assert (change.path, change.before["name"], change.after["name"]) == ("model.mlp", "relu2", "swiglu")
    assert x.settings["model"]["kinds"]["L"]["mlp"] == {"name": "relu2", "ratio": 3.0}


def test_a_kind_that_is_like_another_follows_it(tmp_path: Path) -> None:
    _, x = arm(
        tmp_path,
        'model.local.mlp = "swiglu"',
        ('global.position = "nope"', 'global = { like = "local", position = "nope" }'),
    )
    assert [change.path for change in x.changes] == ["model.local.mlp"]
    assert x.settings["model"]["kinds"]["G"]["mlp"]["name"] == "swiglu"


def test_an_arm_may_bring_a_layer_kind(tmp_path: Path) -> None:
    body = 'model.layers = "LGLW"\nmodel.wide = { like = "local", window = 64 }\ntogether = "one wide layer"'
    _, x = arm(tmp_path, body)
    assert [change.path for change in x.changes] == ["model.layers", "model.wide"]
    assert x.settings["model"]["kinds"]["W"]["window"] == 64
    assert x.settings["model"]["kinds"]["W"]["position"]["name"] == "grape_m"


def test_a_kind_that_an_arm_no_longer_uses_is_gone(tmp_path: Path) -> None:
    _, x = arm(tmp_path, 'model.layers = "G*4"')
    assert list(x.settings["model"]["kinds"]) == ["G"]


def test_on_moves_the_reference(tmp_path: Path) -> None:
    half = 'model.global.position = { name = "rope", fraction = 0.5 }'
    more = f'[arm.y]\non = "x"\nmodel.global.position.theta = 5e5\n[arm.x]\n{half}\n'
    study = read(tmp_path, edited(more=more))
    assert list(study.arms) == ["rope", "y", "x"], "the file's order"
    assert (
        study.arms["y"].on == "x" and study.reference("y") is study.arms["x"] and study.reference("x") is study.baseline
    )
    assert study.arms["y"].changes == (Change("model.global.position.theta", 10_000.0, 500_000.0),)
    assert study.arms["y"].settings["model"]["kinds"]["G"]["position"]["fraction"] == 0.5


def test_an_arm_that_goes_back_to_the_baseline_on_another_asks_the_same_again(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidStudy, match=r"arm\.x: is rope turned round: the same two models, compared the other way"
    ):
        read(tmp_path, edited(more='[arm.x]\non = "rope"\nmodel.global.position = "nope"\n'))


def test_who_shares_weights(tmp_path: Path) -> None:
    more = (
        "[arm.long]\nstage.needle.evaluate.items = 8\n[arm.same]\non = 'rope'\nstage.pre_quant.evaluate.documents = 5\n"
    )
    study = read(tmp_path, edited(more=more))
    assert [study.shares_weights(name) for name in ("baseline", "rope", "long", "same")] == [False, False, True, True]
    assert study.trained_settings("same") == study.trained_settings("rope") != study.trained_settings("long")
    assert set(study.trained_settings("long")) == {"budget", "data", "model", "train"}


def test_data_and_budget_are_levers_where_they_change(tmp_path: Path) -> None:
    more = "[arm.d]\ndata.tokenizer = { name = 'sentencepiece', vocab_size = 512 }\n[arm.b]\nbudget.tokens = 102_400\n"
    arms = read(tmp_path, edited(("[decision]", "[decision]\nmetric = 'bits_per_byte'"), more=more)).arms
    assert [(a.data_is_lever, a.budget_is_lever) for a in arms.values()] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert arms["b"].settings["train"]["validate_every"] == 20 * 512, "the default follows the budget"


@pytest.mark.parametrize("metric", ["nats_per_token", "nats_per_reasoning_token", "nats_per_final_token"])
def test_another_tokenizer_is_refused_in_nats(tmp_path: Path, metric: str) -> None:
    more = "[arm.d]\ndata.tokenizer = { name = 'sentencepiece', vocab_size = 512 }\n[arm.e]\non = 'd'\ntrain.clip = 2\n"
    assert faults(tmp_path, edited(("[decision]", f"[decision]\nmetric = '{metric}'"), more=more)) == [
        f"study.toml: arm.d: data.tokenizer: changes the tokenizer under the metric {metric}: nats of different tokens "
        'cannot be compared; set decision.metric = "bits_per_byte"'
    ]


def test_span_is_the_longest_row_of_any_arm(tmp_path: Path) -> None:
    study = read(tmp_path, edited(more="[arm.s]\nmodel.seq_len = 128\n[arm.l]\nmodel.seq_len = 512\n"))
    assert {one.settings["data"]["span"] for one in (study.baseline, *study.arms.values())} == {512}
    assert study.arms["l"].changes == (Change("model.seq_len", 256, 512),)
    assert not study.arms["l"].data_is_lever


def test_an_arm_that_writes_the_default_span_changes_nothing(tmp_path: Path) -> None:
    assert faults(tmp_path, edited(more="[arm.s]\ndata.span = 256\n")) == [
        "study.toml: arm.s: data.span: changes nothing: 256 is the default; remove it or give another value"
    ]


def test_words_of_an_arm(tmp_path: Path) -> None:
    body = 'model.softcap = 30\nbecause = "logits"\nexpect = { pre_quant = -0.01, needle = 1 }\ntogether = "it is one"'
    _, x = arm(tmp_path, body)
    assert (x.because, x.expect, x.together) == ("logits", {"pre_quant": -0.01, "needle": 1.0}, "it is one")
    assert (x.factorial, x.levels, x.on) == (None, {}, "baseline")


def test_a_fault_of_the_baseline_is_not_told_again_for_every_arm(tmp_path: Path) -> None:
    text = edited(("n_kv_heads = 2", "n_kv_heads = 3"), more='[arm.x]\nmodel.global.position = "ropee"\n')
    found = [fault.removeprefix("study.toml: ") for fault in faults(tmp_path, text)]
    assert [fault.split(":")[0] for fault in found] == ["model.n_kv_heads", "arm.x"]
