"""What a study means does not depend on how it is written; what it hashes to follows what it means."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.study.written import BASE, edited, read

from ablab.core.fault import InvalidStudy
from ablab.core.files import canonical
from ablab.core.patterns import matched
from ablab.study.keys import IN_MODEL

SAME = [
    (('name = "adamw", lr = 2e-3', "lr = 0.002, name = 'adamw', betas = [0.9, 0.95], decay = 0.1"),),
    (('optimizer = { name = "adamw", lr = 2e-3 }', 'optimizer.name = "adamw"\noptimizer.lr = 2.0e-3'),),
    (('"(LG)*2"', '" L G(LG) * 1"'),),
    (('global.position = "nope"', 'global.position = { name = "nope" }'),),
    (('global.position = "nope"', 'global.position = ["nope"]'),),
    (('global.position = "nope"', '[model.global]\nposition = "nope"'),),
    (('global.position = "nope"', 'global = { position = "nope", softmax = "vanilla", mlp = "relu2" }'),),
    (('global.position = "nope"', 'global.position = "nope"\nsoftmax = "vanilla"'),),
    (("d_model = 64", "d_model = 6.4e1\nhead_dim = 16\ntied = true\nsoftcap = 0\nnorm_eps = 0.00001"),),
    (("matters = 0.005", 'matters = 5e-3\nmetric = "nats_per_token"\nseeds = { at_most = 8, start = 3 }\ntie = []'),),
    (('source = "python"', 'source = ["python"]\nspan = 256\nvalid_fraction = 1e-2'),),
    (('pre_quant = { evaluate = "disjoint" }', 'pre_quant = { evaluate = { name = "disjoint" }, compress = "keep" }'),),
    (('model.global.position = "rope"', "[arm.rope.model.global]\nposition = { theta = 10_000, name = 'rope' }"),),
    (('question = "Does it?"', 'question = "Is it so?"'),),
    (
        (
            'model.global.position = "rope"',
            'model.global.position = "rope"\nbecause = "I say so"\nexpect.pre_quant = -1',
        ),
    ),
    (("[train]", "[train]\nvalidate_every = 20_000 # ten times, in whole batches"),),
]
OTHER = [
    (("lr = 2e-3", "lr = 2.1e-3"),),
    (("window = 16", "window = 17"),),
    (('"(LG)*2"', '"LLGG"'),),
    (("matters = 0.005", "matters = 0.006"),),
    (("matters = 0.005", "matters = 0.005\nseeds = 3"),),
    (("matters = 0.005", 'matters = 0.005\ntie = ["needle"]'),),
    (('model.global.position = "rope"', 'model.global.position = "fox"'),),
    (("[train]", '[train]\nsalt = "a"'),),
    (("[arm.rope]", "[limits]\nbytes = 1_000_000\n[arm.rope]"),),
    (
        ('pre_quant = { evaluate = "disjoint" }\n', ""),
        ('needle = { evaluate = "needle" }', 'needle = { evaluate = "needle" }\npre_quant = { evaluate = "disjoint" }'),
    ),  # stages are reported in the file's order, gaps are taken against the first
]


@pytest.mark.parametrize("pairs", SAME)
def test_one_meaning_one_form(tmp_path: Path, pairs: tuple[tuple[str, str], ...]) -> None:
    plain, other = read(tmp_path, BASE), read(tmp_path, edited(*pairs))
    assert canonical(other.canonical()) == canonical(plain.canonical())
    assert other.key == plain.key


@pytest.mark.parametrize("pairs", OTHER)
def test_another_meaning_another_hash(tmp_path: Path, pairs: tuple[tuple[str, str], ...]) -> None:
    assert read(tmp_path, edited(*pairs)).key != read(tmp_path, BASE).key


def test_what_is_not_declared_of_groups_is_no_part_of_the_meaning(tmp_path: Path) -> None:
    assert "groups" not in read(tmp_path, BASE).canonical()["baseline"]["data"]
    grouped = read(tmp_path, edited(('source = "python"', 'source = "python"\ngroups = "folder"')))
    assert grouped.canonical()["baseline"]["data"]["groups"] == "folder" and grouped.key != read(tmp_path, BASE).key


def test_an_arm_cannot_group_documents_in_its_own_way(tmp_path: Path) -> None:
    text = edited(("[arm.rope]", '[arm.alike]\ndata.groups = "folder"\n[arm.rope]'))
    with pytest.raises(InvalidStudy, match=r"arm\.alike: an arm may not change data\.groups; .*write it in \[data\]"):
        read(tmp_path, text)


def test_order_of_keys_and_sections_means_nothing(tmp_path: Path) -> None:
    plain = read(tmp_path, BASE).key
    order = random.Random(1)
    for _ in range(5):
        sections = [part.strip("\n").split("\n") for part in BASE.split("\n\n")]
        order.shuffle(sections)
        for lines in sections:
            body = [line for line in lines[1:] if line]
            if lines[0] != "[stage]":
                order.shuffle(body)
            lines[1:] = body
        assert read(tmp_path, "\n\n".join("\n".join(lines) for lines in sections)).key == plain


def test_the_folder_is_no_part_of_the_meaning(tmp_path: Path) -> None:
    """A relative source is found beside the study file, wherever that is; the hash sees what is written."""
    text = edited(('source = "python"', 'source = ["texts/*.txt", "mock", "/data/a.jsonl"]'))
    keys = set()
    for name in ("here", "the[re]"):
        (tmp_path / name).mkdir()
        study = read(tmp_path / name, text)
        keys.add(study.key)
        sources = study.baseline.settings["data"]["source"]
        assert sources == [f"{tmp_path / name}/texts/*.txt", "mock", "/data/a.jsonl"]
        (tmp_path / name / "texts").mkdir()
        (tmp_path / name / "texts" / "one.txt").write_text("x")
        assert matched(sources[0]) == [tmp_path / name / "texts" / "one.txt"]
    assert len(keys) == 1


def test_settings_hold_every_default(tmp_path: Path) -> None:
    settings = read(tmp_path, BASE).baseline.settings
    assert settings["budget"] == {"tokens": 200_000, "seconds": None, "batch_tokens": 512}
    assert settings["data"] == {
        "source": ["python"], "valid_source": None, "valid_text_bytes": None,
        "text_field": "text", "text_separator": "<|endoftext|>", "tokenizer": {"name": "bytes"}, "valid_fraction": 0.01,
        "valid_bytes": 1_000_000, "groups": None, "order": "chunks", "weights": None, "span": 256,
    }  # fmt: skip
    model = {key: value for key, value in settings["model"].items() if key != "kinds"}
    assert model == {
        "layers": "LGLG", "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "seq_len": 256, "tied": True,
        "qk_norm": True, "softcap": 0.0, "norm_eps": 1e-5, "init_std": 0.02, "embed_std": None, "out_std": None,
        "init": "normal", "norm": "rms", "bias": False, "loops": [], "loop_from": None,
        "embedding": {"name": "plain"}, "skips": {"name": "none"},
    }  # fmt: skip
    local, everywhere = settings["model"]["kinds"]["L"], settings["model"]["kinds"]["G"]
    assert (local["table"], local["window"], local["position"]["name"]) == ("local", 16, "grape_m")
    assert local["position"]["learnable"] is True
    assert (everywhere["table"], everywhere["window"], everywhere["position"]) == ("global", None, {"name": "nope"})
    kind_slots = ("projection", "position", "softmax", "mlp")
    for kind in (local, everywhere):
        assert [kind[slot]["name"] for slot in ("projection", "softmax", "mlp")] == ["gqa", "vanilla", "relu2"]
        others = {slot: "" if kind[slot] is None else kind[slot]["name"] for slot in IN_MODEL if slot not in kind_slots}
        assert others == {
            "temperature": "constant", "gate": "off", "value": "own", "router": "", "residual": "plain",
            "block": "sequential",
        }  # fmt: skip
    train = settings["train"]
    assert (train["optimizer"]["name"], train["optimizer"]["lr"]) == ("adamw", 0.002)
    assert (train["schedule"]["name"], train["loss"]) == ("wsd", {"name": "mean"})
    assert (train["clip"], train["ema"], train["salt"], train["validate_every"]) == (1.0, 0.0, "", 39 * 512)
    assert list(settings["stage"]) == ["pre_quant", "needle"]
    assert settings["stage"]["pre_quant"]["compress"] == {"name": "keep"}
    assert settings["stage"]["pre_quant"]["after"] is None


def test_a_stage_after_another_has_its_compressed_weights(tmp_path: Path) -> None:
    more = 'long = { after = "pre_quant", evaluate = "disjoint" }\nlonger = { after = "long", evaluate = "disjoint" }'
    stages = read(tmp_path, edited(("[arm.rope]", f"{more}\n[arm.rope]"))).baseline.settings["stage"]
    assert stages["long"] == {**stages["pre_quant"], "after": "pre_quant"}
    assert stages["longer"]["compress"] == stages["pre_quant"]["compress"]


def test_a_stage_stands_behind_the_one_whose_weights_it_uses(tmp_path: Path) -> None:
    more = 'slid = { after = "packed", evaluate = "disjoint" }\nraw = { evaluate = "disjoint" }\n'
    more += '[stage.packed]\nevaluate = "disjoint"'
    stages = read(tmp_path, edited(("[arm.rope]", f"{more}\n[arm.rope]"))).stages
    assert stages == ("pre_quant", "needle", "raw", "packed", "slid")


def test_without_stages_there_is_one(tmp_path: Path) -> None:
    text = edited(
        ("[stage]\n", ""), ('pre_quant = { evaluate = "disjoint" }\n', ""), ('needle = { evaluate = "needle" }\n', "")
    )
    study = read(tmp_path, text)
    assert study.stages == ("pre_quant",) and study.decision["stage"] == "pre_quant"


def test_a_budget_in_seconds(tmp_path: Path) -> None:
    text = edited(("tokens = 200_000\n", "seconds = 60\n"), ("[train]", "[train]\nvalidate_every = 1100"))
    settings = read(tmp_path, text).baseline.settings
    assert settings["budget"] == {"tokens": None, "seconds": 60.0, "batch_tokens": 512}
    assert settings["train"]["validate_every"] == 1024


def test_one_kind_and_like(tmp_path: Path) -> None:
    one = edited(
        ('"(LG)*2"', '"G*4"'),
        ("local.window = 16\n", ""),
        ('local.position = { name = "grape_m", learnable = true }\n', ""),
        ('global.position = "nope"', "global = {}"),
        ('"rope"', '"nope"'),
    )
    study = read(tmp_path, one)
    assert study.baseline.settings["model"]["layers"] == "GGGG"
    assert study.baseline.settings["model"]["kinds"]["G"]["position"]["name"] == "rope"

    like = edited(('global.position = "nope"', 'global = { like = "local", window = 64, position.per_head = true }'))
    kinds = read(tmp_path, like).baseline.settings["model"]["kinds"]
    assert kinds["G"]["window"] == 64 and kinds["L"]["window"] == 16
    assert kinds["G"]["position"] == {**kinds["L"]["position"], "per_head": True}
