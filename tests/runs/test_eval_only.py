"""Arms that differ after training train nothing, and what they have in common is done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablab.check import quote, timing
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.judging import judge, price
from ablab.launch import work
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.study import load

STUDY = """
[study]
name = "eval-only"
[decision]
metric = "bits_per_byte"
stage = "sliding"
matters = 0.01
seeds = 2
[budget]
tokens = 2048
batch_tokens = 256
[data]
source = "mock"
tokenizer = "bytes"
valid_bytes = 4096
[model]
layers = "MM"
d_model = 16
n_heads = 2
seq_len = 64
main.position = "rope"
[stage]
pre_quant = { evaluate = "disjoint" }
post_quant = { compress = { name = "gptq", bits = 6, small = 64, tokens = 512 }, codec = "brotli", evaluate = "disjoint" }
sliding = { after = "post_quant", evaluate = { name = "sliding", stride = 16 } }
[arm]
bits5.stage.post_quant.compress.bits = 5
bits7.stage.post_quant.compress.bits = 7
zstd.stage.post_quant.codec = "zstd"
lzma.stage.post_quant.codec = "lzma"
passthrough.stage.post_quant.compress.passthrough = "int8"
lqer.stage.post_quant.compress.lqer = 2
stride32.stage.sliding.evaluate.stride = 32
stride8.stage.sliding.evaluate.stride = 8
"""


def planned(folder: Path, text: str = STUDY) -> Plan:
    (folder / "study.toml").write_text(text)
    return planning.make(load(folder / "study.toml"), Store(folder / "runs"), say=lambda _: None)


def test_eight_arms_train_once_a_seed_and_have_a_price(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert len(made.study.arms) == 8 and all(map(made.study.shares_weights, made.study.arms))
    assert len({run.train_key for run in made.runs.values()}) == 2
    # 1 pre_quant, 7 ways to pack, 9 sliding: each once a seed
    assert len({key for run in made.runs.values() for key in run.score_keys.values()}) == 2 * (1 + 7 + 9)
    blind = quote.bounds(made)["start"]
    assert (blind["runs"], blind["evaluations"], blind["seconds"]) == (2, 2 * (1 + 7 + 9), None), "nothing was timed"
    timing.study(made)
    timed = price.timings(made)
    assert len(timed) == 1 + (1 + 7 + 9) and min(timed.values()) > 0
    assert quote.bounds(made)["start"]["seconds"] == pytest.approx(2 * sum(timed.values()))
    alone = quote.of_run(made, "bits5")
    training, stages = price.recipes(made, "bits5")
    assert alone["train_seconds"] == timed[training], "what it stands on"
    assert alone["seconds_per_run"] == pytest.approx(sum(timed[key] for key in stages.values())), "its own part"


def test_what_is_shared_is_done_once(tmp_path: Path) -> None:
    made, said = planned(tmp_path), list[str]()
    how: dict[str, Any] = {"store": made.store, "where": made.where, "mirrors": (), "stop": lambda: False}
    for run in made.runs.values():
        assert work.do(run, say=said.append, **how) == "done"
    assert len(list((tmp_path / "runs").glob("train/*/done.json"))) == 2
    assert sum(text.startswith("stage ") for text in said) == 2 * (1 + 7 + 9)
    answer = judge.conclude(made)
    rows = {row["name"]: row for row in answer["arms"]}
    assert rows["zstd"]["word"] == "equivalent" and rows["zstd"]["delta"] == 0
    assert rows["zstd"]["cost"]["bytes"] != rows["baseline"]["cost"]["bytes"]
    assert rows["bits5"]["cost"]["bytes"] < rows["baseline"]["cost"]["bytes"] < rows["bits7"]["cost"]["bytes"]


@pytest.mark.parametrize("kind", ["edited", "another"])
def test_a_result_that_is_not_what_its_stage_wrote_is_refused(kind: str, tmp_path: Path) -> None:
    made = planned(tmp_path, STUDY.replace("seeds = 2", "seeds = 1"))
    run = made.runs["baseline", 0]
    how: dict[str, Any] = {"store": made.store, "where": made.where, "mirrors": (), "stop": lambda: False}
    work.do(run, say=lambda _: None, **how)
    path, other = (made.store.score(run.score_keys[stage]) / "result.json" for stage in ("sliding", "pre_quant"))
    text = path.read_text()
    path.write_text(other.read_text() if kind == "another" else text.replace('"bytes": ', '"bytes": 1'))
    said = "is of another stage" if kind == "another" else "was changed after it was written"
    with pytest.raises(CheckFailed, match=f"result.json: {said}.*; delete .* to have the stage run again"):
        judge.conclude(made)
    path.write_text(text)
    assert made.store.scored(run.score_keys["sliding"])


def test_a_compressor_that_rounds_nothing_is_refused(tmp_path: Path) -> None:
    from ablab.check import miniature

    made = planned(tmp_path, STUDY.replace("small = 64, ", ""))
    text = (
        r"study.toml: baseline: stage.post_quant.compress: rounds nothing: the largest tensor has [\d,]+ numbers, "
        r"and small = 65,536 pass through; lower small"
    )
    with pytest.raises(InvalidStudy, match=text):
        miniature.fits(made)
