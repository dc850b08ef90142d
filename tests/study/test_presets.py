"""The presets: exact numbers of parameters, on the meta device, and a way from a study file to each."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.core.fault import InvalidStudy
from ablab.model.decoder import order, skeleton
from ablab.model.size import active_parameters, parameters
from ablab.study import load
from ablab.study.preset import names

STUDY = """
[study]
name = "presets"
[decision]
matters = 0.01
[budget]
tokens = 1_000_000
batch_tokens = 4096
[data]
source = "mock"
[model]
preset = "{name}"
{keys}
[arm.again]
train.salt = "again"
"""
# facts: vpMoE by the fork's own counter plus the biases and scalars that it omits; GPT-2's published size; the
# model_params line of the parameter-golf logs (records #1493).
COUNTS = {
    "vpmoe": (201_088, 6_021_784_719),
    "gpt2_124m": (50_257, 124_439_808),
    "golf_11x512": (8_192, 35_944_536),
}


def written(folder: Path, name: str, keys: str = "", more: str = "") -> Path:
    path = folder / "study.toml"
    path.write_text(STUDY.format(name=name, keys=keys) + more)
    return path


def test_every_preset_is_counted_here() -> None:
    assert names() == sorted(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_exact_numbers_of_parameters(tmp_path: Path, name: str) -> None:
    vocab_size, total = COUNTS[name]
    settings = load(written(tmp_path, name)).baseline.settings["model"]
    assert parameters(skeleton(settings, vocab_size=vocab_size))["total"] == total


def test_vpmoe_part_by_part(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "vpmoe")).baseline.settings["model"]
    model = skeleton(settings, vocab_size=201_088)
    count: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(piece for piece in name.split(".") if not piece.isdigit())
        count[part] = count.get(part, 0) + parameter.numel()
    assert sum(n for part, n in count.items() if part.startswith("shared.")) == 64  # one log_freq for the whole net
    assert sum(n for part, n in count.items() if ".router." in part) == 20_729_600
    assert sum(n for part, n in count.items() if ".softmax." in part) == 640
    assert sum(n for part, n in count.items() if ".value." in part) == 79
    assert sum(n for part, n in count.items() if "norm" in part) == 164_864 + 20_480
    assert count["embed.weight"] == count["lm_head.weight"] == 205_914_112
    # what one token meets, by their rules (no TPA bias, no value mix)
    assert active_parameters(model) == 779_995_712 + 92_160 + 79


def test_golf_meets_its_layers_in_the_logged_order(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "golf_11x512")).baseline.settings["model"]
    steps = order(len(settings["layers"]), settings["loops"])
    half = len(steps) // 2
    assert steps[:half] == [0, 1, 2, 3, 4, 5, 3, 4] and steps[half:] == [5, 3, 4, 5, 6, 7, 8, 9, 10]


def test_keys_of_the_file_are_laid_over_the_preset(tmp_path: Path) -> None:
    keys = 'block.from_layer = 5\nposition = "nope"\nmain.window = 64\n'
    study = load(written(tmp_path, "golf_11x512", keys, '[arm.rope]\nmodel.position = "rope"\n'))
    kind = study.baseline.settings["model"]["kinds"]["M"]
    assert kind["block"] == {"name": "parallel", "from_layer": 5} and kind["position"] == {"name": "nope"}
    assert kind["window"] == 64 and study.arms["rope"].settings["model"]["kinds"]["M"]["position"]["name"] == "rope"


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidStudy) as error:
        load(written(tmp_path, "gpt2_124"))
    assert "model.preset: no preset is called 'gpt2_124'; did you mean 'gpt2_124m'?" in str(error.value)


@pytest.mark.parametrize(
    "more", ['[arm.other]\nmodel.preset = "gpt2_124m"\n', '[scale.x]\nmodel.preset = "gpt2_124m"\n']
)
def test_a_preset_is_the_baselines(tmp_path: Path, more: str) -> None:
    with pytest.raises(InvalidStudy) as error:
        load(written(tmp_path, "golf_11x512", more=more))
    wanted = "model.preset: a preset is what the baseline starts from; name it in [model], and change its keys here"
    assert wanted in str(error.value) and len(error.value.faults) == 1
