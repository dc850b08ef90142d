"""An arm as a folder for transformers: the same logits, the names that transformers itself writes, or a refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.bridged import with_news
from transformers import AutoModelForCausalLM, AutoTokenizer

from ablab.bridges.hf.express import ARCHITECTURES, express
from ablab.bridges.hf.names import renamed
from ablab.cli import main as cli
from ablab.core.fault import CheckFailed
from ablab.launch.study import Lab
from ablab.model.decoder import build, inference
from ablab.scoring.stage import trained_decoder
from ablab.study.keys import SLOTS

K = tiny.kind
CLOSE = 3e-5  # of logits as large as 5, in fp32


def both(local: int | None = None, **levers: Any) -> dict[str, Any]:
    return {"L": K("local", local, **levers), "G": K("global", None, **levers)}


MOE: dict[str, Any] = {"name": "moe", "n_experts": 4, "activation": "swiglu", "ratio": 1.0}
GROUPED = {"name": "deepseek_v3", "top_k": 2, "n_groups": 2, "group_top_k": 1, "scale": 2.5}
BEFORE, AFTER = ({"name": "softmax_topk", "order": order} for order in ("pre", "post"))
YARN, ROPE = {"name": "yarn", "factor": 4.0}, {"name": "rope", "theta": 5000.0}
LEARNED = tiny.choice(SLOTS["embedding"], "learned")
WIDE: dict[str, Any] = {"qk_norm": False, "head_dim": 16}
ARMS: dict[str, dict[str, Any]] = {
    "qwen3": {"kinds": both(8, mlp="swiglu"), "tied": False, "head_dim": 16},
    "qwen3, no weights in norms": {"kinds": both(8, mlp="swiglu", position=YARN), "norm": "bare"},
    "llama": {"kinds": both(mlp="swiglu", position=ROPE), "bias": True, **WIDE},
    "smollm3": {"kinds": {**both(8, mlp="swiglu"), "G": K("global", None, mlp="swiglu", position="nope")}, **WIDE},
    "qwen2": {"kinds": both(8, mlp="swiglu", projection={"name": "gqa", "bias": True}), **WIDE},
    "arcee": {"kinds": both(), "qk_norm": False},
    "gpt2": {
        "kinds": both(mlp="gelu", position="nope"), "qk_norm": False, "bias": True, "norm": "layer", "n_kv_heads": 4,
        "embedding": LEARNED,
    },
    "qwen3_moe": {
        "layers": "LGL",
        "kinds": {"L": K("local", None, mlp=MOE, router=BEFORE), "G": K("global", None, mlp="swiglu")},
    },
    "qwen3_moe, softmax after": {"kinds": both(mlp=MOE, router=AFTER)},
    "dots1": {
        "layers": "GLL",
        "kinds": {"L": K("local", 8, mlp={**MOE, "shared": 2.0}, router=GROUPED), "G": K("global", None, mlp="swiglu")},
    },
    "gpt_oss": {
        "kinds": both(8, softmax="sink", position=YARN, mlp={**MOE, "activation": "gptoss_swiglu"}, router=AFTER),
        "bias": True, **WIDE,
    },
}  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
def test_transformers_computes_the_logits_of_the_arm_under_names_of_its_own(arm: str, tmp_path: Path) -> None:
    settings = tiny.settings(model=tiny.model(**ARMS[arm]))
    expressed = express(settings, arm)
    assert expressed.of.model_type == arm.split(",")[0]
    ours, draws = build(settings["model"], vocab_size=tiny.VOCAB, seed=3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in ours.state_dict().values():  # the biases and weights of norms, too, are no zeros and ones
            tensor.add_(torch.randn(tensor.shape, generator=draws) * 0.2)
    made = renamed(expressed, ours.state_dict())
    save_file(made, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rest = {"vocab_size": tiny.VOCAB, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps({**expressed.config, **rest}))
    theirs, told = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert type(theirs).__name__ == expressed.of.name and not any(told.values()), told
    tokens = torch.randint(0, tiny.VOCAB, (2, 32), generator=draws)
    with torch.no_grad():
        wanted, found = ours.logits(ours(tokens, torch.zeros_like(tokens))), theirs.eval()(tokens).logits
    assert wanted.abs().max() > 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=CLOSE)
    theirs.save_pretrained(tmp_path / "again")
    back = load_file(tmp_path / "again" / "model.safetensors")
    assert back.keys() == made.keys() and all(torch.equal(back[name], made[name]) for name in made)


def test_every_architecture_is_held_against_transformers() -> None:
    assert {arm.split(",")[0] for arm in ARMS} == {one.model_type for one in ARCHITECTURES}


TPA = {"name": "tpa", "q_rank": 3}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "grape_m": ({"kinds": both(mlp="swiglu", position="grape_m")}, "model.local.position: .* has no position grape_m"),
    "grape_a": (
        {"kinds": {**both(mlp="swiglu"), "G": K("global", None, mlp="swiglu", position="grape_a")}},
        "model.global.position: .* has no position grape_a",
    ),
    "tpa": ({"kinds": both(mlp="swiglu", projection=TPA)}, "model.local.projection: .* has no projection tpa"),
    "gate": ({"kinds": both(mlp="swiglu", gate="xsa")}, "model.local.gate: .* has no gate xsa"),
    "softcap": ({"kinds": both(mlp="swiglu"), "softcap": 30.0}, "model.softcap: .* has no soft cap"),
    "two windows": (
        {"kinds": {"L": K("local", 8, mlp="swiglu"), "G": K("global", 16, mlp="swiglu")}},
        "model.global.window: .* has one window for all its layers",
    ),
    "half a rotation": (
        {"kinds": both(mlp="swiglu", position={"name": "rope", "fraction": 0.5})}, "neither a partial rotation",
    ),
    "a ramp beyond the planes": (
        {"kinds": both(mlp="swiglu", position={**YARN, "original": 16})}, "no ramp of yarn beyond",
    ),
    "relu2 behind a norm of q and k": ({"kinds": both()}, "model.local.mlp: Qwen3ForCausalLM, .* has no mlp relu2"),
    "no shared expert": ({"kinds": both(mlp=MOE, router=GROUPED)}, "model.local.mlp: Dots1ForCausalLM"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_no_architecture_has_is_refused_by_name(why: str) -> None:
    changed, text = REFUSED[why]
    with pytest.raises(CheckFailed, match=text) as refused:
        express(tiny.settings(model=tiny.model(**changed)), "x")
    assert refused.value.faults[0].place.startswith("arm x: model.") and refused.value.faults[0].cure


def test_a_setting_that_is_new_is_refused_and_not_left_out() -> None:
    whole = tiny.settings(model=tiny.model(**ARMS["dots1"]))
    express(whole, "x")
    places = (
        ("model",), ("model", "kinds", "L"), ("model", "kinds", "L", "mlp"), ("model", "kinds", "L", "router"),
        ("model", "kinds", "G", "mlp"), ("model", "kinds", "G", "projection"),
    )  # fmt: skip
    for new in with_news(whole, *places):
        with pytest.raises(CheckFailed, match=r"has nothing for 0\.25"):
            express(new, "x")


def command(monkeypatch: pytest.MonkeyPatch, lab: Lab, *words: str) -> Any:
    whole = ["ablab", "export", str(lab.path), *words, "--to", "hf", "--runs", str(lab.out)]
    monkeypatch.setattr(sys, "argv", whole)
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


def test_a_trained_run_becomes_a_folder_that_transformers_loads(
    trained: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folder"
    assert command(monkeypatch, trained, "baseline", "--out", str(out), "--seed", "0") == 0
    said = capsys.readouterr()
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert [Path(line).name for line in said.out.splitlines()] == names == sorted(path.name for path in out.iterdir())
    assert "every document begins with token 256" in said.err
    plan = trained.plan(computes=False)
    run = plan.runs["baseline", 0]
    corpus, weights = plan.corpus(run), plan.store.train(run.train_key) / "weights.safetensors"
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = "A naïve café costs 5 €\n\tor \x00 more."
    ids = [corpus.bos_id, *corpus.tokenizer.encode(text)[0].tolist()]
    assert tokenizer(text)["input_ids"] == ids and tokenizer.decode(ids, skip_special_tokens=True) == text
    ours, theirs = trained_decoder(run.settings, weights, corpus, seed=0, where=plan.where), None
    theirs = AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager").eval()
    tokens = torch.tensor([ids])
    with inference(ours, "fp32"):
        torch.testing.assert_close(
            theirs(tokens).logits, ours.logits(ours(tokens, torch.zeros_like(tokens))), rtol=0, atol=CLOSE
        )
    assert theirs.config.eos_token_id == 256 and theirs.config.layer_types == ["sliding_attention", "full_attention"]
    for words, code, text in (
        (("baseline", "--out", str(out)), 4, "is there already"),
        (("grape", "--out", str(tmp_path / "no")), 4, "has no position grape_m"),
        (("baseline",), 2, "a folder to write is needed"),
        (("baseline", "--out", str(out), "--title", "x"), 2, "--title belongs to --to golf"),
        (("baseline", "--out", str(tmp_path / "no"), "--seed", "7"), 3, "is none of its seeds"),
    ):
        assert command(monkeypatch, trained, *words) == code
        assert text in " ".join(capsys.readouterr().err.replace("\u2502", " ").split())
    assert not (tmp_path / "no").exists()
