"""Whatever a reader brings: an answer that is JSON, in words that fit, and the same one whichever order the runs come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ablab.judging.compare.ask import ask
from ablab.judging.compare.claims import hold
from ablab.judging.compare.words import compare
from ablab.records.log import Level, LoggedRun
from ablab.report import compared, compared_page

number = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -1.0, 1.08, 2.79, 1e-320, 1e308]))
whole = st.one_of(st.none(), st.sampled_from([0, 1, 42, 4500, 40_540_160, 10**18]))
levels = st.builds(Level, number, number, st.integers(0, 17), st.integers(1, 9), value=number)
labels = st.sampled_from(["val", "quantized_ttt", "sliding|*x*", "ngram", "pre-quant", "", "\u202e"])
listed = st.one_of(
    st.none(), st.dictionaries(st.sampled_from(["a", "b", "seed", "world_size"]), st.sampled_from(["", "1", "x\ny"]))
)
run = st.builds(
    LoggedRun, st.sampled_from([Path("a.log"), Path("b/c.csv")]), st.integers(1, 3),
    st.dictionaries(labels, levels, max_size=3),
    settings=listed, seed=whole, seed_in_name=whole, code_bytes=whole, bytes=whole, val_tokens=whole, shards=whole, steps=whole,
    seconds=st.one_of(st.none(), st.floats(0, 1e9)), number=st.integers(1, 2), of=st.integers(1, 2), complete=st.booleans(),
    reader=st.sampled_from(["golf", "table"]),
)  # fmt: skip
runs = st.lists(run, max_size=5)
RULES = ("golf-strict", "golf-frontier", "speedrun:3.0", "track3")


@settings(max_examples=150, deadline=None, derandomize=True, phases=[Phase.generate])  # to shrink takes minutes
@given(
    runs,
    st.one_of(st.none(), runs),
    st.sampled_from([None, "bpb", "nats", "value"]),
    st.sampled_from([None, "val", "ttt", "no"]),
)
def test_any_runs_have_an_answer(
    x: list[LoggedRun], y: list[LoggedRun] | None, metric: str | None, stage: str | None
) -> None:
    answer = compare(x, y, metric=metric, stage=stage, presets=RULES)
    answer = hold(answer, x, y or [], "val_bpb 1.08, a gain of .0012 nats, p < 1e-3")
    json.dumps(answer, allow_nan=False)
    assert answer["sentence"] and compared.comment(answer) and all(said for _, said in compared.parts(answer))
    assert compared_page.page({"comparisons": [answer, answer], "faults": []}).endswith("</html>\n")
    assert compare(x, y, metric=metric, stage=stage, presets=RULES)["word"] == answer["word"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([1.0, 1.05, 1.1, 1.125]), st.integers(0, 3)), min_size=2, max_size=6))
def test_the_order_of_runs_is_nothing(values: list[tuple[float, int]]) -> None:
    x = [LoggedRun(Path(f"{i}.log"), 1, {"val": Level(v / 0.4, v, 8, 1)}, seed=s) for i, (v, s) in enumerate(values)]
    y = [
        LoggedRun(Path(f"y{i}.log"), 1, {"val": Level(v / 0.4, v, 8, 1)}, seed=i)
        for i, v in enumerate((1.0, 1.1, 1.15))
    ]
    first, second = compare(x, y)["unpaired"], compare(x[::-1], y[::-1])["unpaired"]
    assert first is not None and second is not None
    assert first["word"] == second["word"] and first["nx"] == second["nx"]


@pytest.mark.parametrize("claim", ["a word " * 50, "p = 0.00136 for z=-3e400", "p = 0.00136\0"])
def test_words_that_no_file_can_be_called_are_a_claim(claim: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("arm,seed,loss\na,1,3.5\na,2,3.6\nb,1,3.4\nb,2,3.5\n")
    assert ask([str(tmp_path / "a.csv")], [], claim=[claim])["comparisons"]
