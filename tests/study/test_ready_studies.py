"""The files in studies/ are studies at every scale, and ask what they say that they ask."""

import tomllib
from pathlib import Path

import pytest

from ablab.scoring.stage import windowed
from ablab.study import load

STUDIES = Path(__file__).resolve().parents[2] / "studies"
FILES = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(STUDIES.glob("*.toml"))}
SCALES = [(name, scale) for name, raw in FILES.items() for scale in (None, *raw.get("scale", {}))]


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_every_study_loads_at_every_scale(name: str, scale: str | None) -> None:
    study = load(STUDIES / f"{name}.toml", scale)
    assert study.question and study.arms and study.decision["stage"] in study.stages


@pytest.mark.parametrize("scale", [None, "tiny", "golf", "golf_8gpu"])
def test_eval_time_levers_reads_longer_text_whole(scale: str | None) -> None:
    """Arms and stages that are about length must see it: no window of the trained length may cut what they read."""
    study = load(STUDIES / "eval_time_levers.toml", scale)
    trained = study.baseline.settings["model"]["seq_len"]
    for name, arm in {"baseline": study.baseline, **study.arms}.items():
        for stage, chosen in arm.settings["stage"].items():
            windows = {kind["window"] for kind in windowed(arm.settings, stage)["model"]["kinds"].values()}
            length = chosen["evaluate"].get("seq_len") or arm.settings["model"]["seq_len"]
            if not name.startswith("window"):
                assert windows == {None}, (name, stage)
            if stage == "twice" or (
                name == "eval_4096" and stage in ("pre_quant", "post_quant", "sliding", "post_ttt")
            ):
                assert length == 2 * trained, (name, stage)
    rope = study.baseline.settings["model"]["kinds"]["M"]["position"]
    assert rope["name"] == "rope" and rope["ntk"]
    assert study.arms["train_4096"].settings["model"]["seq_len"] == 2 * trained
    trains = {name for name in study.arms if not study.shares_weights(name)}
    short = study.factorials["windows"]["factors"][0]["levels"][1]
    cells = {f"window={short}", f"window={short},windows.main={short}"}
    assert trains == {"bigram48", "train_4096", "qat", "grape_a", "nope"} | cells


def test_quantisation_levers_trains_once_and_names_its_references() -> None:
    study = load(STUDIES / "quantisation_levers.toml", "tiny")
    assert all(map(study.shares_weights, study.arms))
    assert {name: arm.on for name, arm in study.arms.items() if arm.on != "baseline"} == {
        "embed7_clip14": "embed7",
        "embed6_from7": "embed7",
    }
