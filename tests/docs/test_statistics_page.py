"""The numbers of docs/statistics.md that a reader can follow by hand are those that the verdict comes to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ablab.verdict import ArmSpec, Decision, RunScore, judge

PAGE = (Path(__file__).parents[2] / "docs/statistics.md").read_text(encoding="utf-8")
[EXAMPLE] = re.findall(r"\*\*By hand\.\*\*.*?```python\n(.*?)```", PAGE, re.DOTALL)


def worked() -> list[tuple[str, float, float]]:
    """(expression, its value, the value that the page prints) of every line that ends with a number."""
    names: dict[str, Any] = {}
    found = []
    for line in EXAMPLE.splitlines():
        code, _, said = line.partition("#")
        if re.match(r"\s*(\w+ = |from )", code):
            exec(code, names)
        else:
            found.append((code.strip(), float(eval(code, names)), float(said.split(":")[0])))
    return found


@pytest.mark.parametrize(("code", "value", "said"), worked(), ids=[code for code, _, _ in worked()])
def test_each_line_comes_to_what_stands_beside_it(code: str, value: float, said: float) -> None:
    assert value == pytest.approx(said, rel=5e-6)


@pytest.mark.parametrize(("seeds", "word"), [(3, "inconclusive"), (5, "inconclusive"), (8, "better")])
def test_the_example_is_what_the_verdict_says(seeds: int, word: str) -> None:
    differences: list[float] = []
    exec(EXAMPLE, held := {})
    differences = held["D"]
    runs = [
        RunScore(name, s, "done", f"h{s}", stages={"s": 3.2 + 0.001 * s * s + (d if name == "a" else 0.0)})
        for s, d in enumerate(differences[:seeds])
        for name in ("baseline", "a")
    ]
    row = judge(Decision(stage="s", matters=0.001, start=3, at_most=8), [ArmSpec("a")], range(8), runs).rows["a"]
    numbers = {code: said for code, _, said in worked()}
    assert row.word == word
    mean = f"mean(D[:{seeds}])" if seeds < 8 else "mean(D)"
    assert row.high == pytest.approx(numbers[f"{mean} + half({seeds})"], rel=5e-6)
    if f"p({seeds})" in numbers:
        assert row.p == pytest.approx(numbers[f"p({seeds})"], rel=5e-6)


def test_every_word_that_a_row_can_have_is_defined() -> None:
    for word in (
        "better",
        "worse",
        "equivalent",
        "inconclusive",
        "unstable",
        "invalid",
        "exploratory",
        "same settings",
    ):
        assert re.search(rf"^\| [^|]*`{word}`", PAGE, re.MULTILINE), word


def test_the_methods_have_their_sources() -> None:
    references = PAGE[PAGE.index("## References") :]
    for source in ("Holm 1979", "O'Brien and Fleming 1979", "Welch 1947", "TOST", "Miller 2024"):
        assert source in references
