"""A factorial on the pages: its sentence, a picture of every pair of factors, effects and cells; on terminals of any width."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.report.test_report import columns, parsed

from ablab.report import html, markdown
from ablab.report.terminal import terminal
from ablab.verdict import ArmSpec, Decision, Factor, Factorial, RunScore, judge, two_by_two

GOLDEN = Path(__file__).parents[1] / "golden" / "verdict_example.json"
NAMES = ("baseline", "grape_a", "grape_m_everywhere", "no_position")


def judged(cells: Factorial, gains: dict[str, float], lost: str = "") -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    runs = [
        RunScore(arm, seed, "diverged")
        if arm == lost
        else RunScore(arm, seed, "done", stages={"s": 3.2 + gains.get(arm, 0.0) + float(rng.normal(0, 0.0004))})
        for arm in cells.cells.values()
        for seed in range(5)
    ]
    specs = [ArmSpec(arm) for arm in cells.cells.values() if arm != "baseline"]
    rule = Decision(stage="s", matters=0.005, start=5, at_most=5)
    found: list[dict[str, Any]] = judge(rule, specs, range(5), runs, factorials=[cells]).as_json()["factorials"]
    return found


@pytest.fixture
def verdict() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    square = two_by_two(*NAMES, name="square", a="slope", b="rank")
    found["factorials"] = judged(square, {"grape_a": -0.03, "grape_m_everywhere": -0.02, "no_position": -0.02})
    return found


def shown(verdict: dict[str, Any], width: int) -> str:
    file = io.StringIO()
    terminal(verdict, Console(file=file, width=width, force_terminal=True, color_system=None))
    return file.getvalue()


def test_the_page_has_sentence_picture_effects_and_cells(verdict: dict[str, Any]) -> None:
    text = html.page(verdict)
    parsed(text)
    section = text[text.index('id="factorials"') : text.index('id="forest"')]
    assert (
        text.count("They interfere: together they keep 40% of the sum (slope=on and rank=on).") == 2
    )  # top and section
    (drawn,) = re.findall(r"<svg.*?</svg>", section, re.S)
    assert 'aria-label="Interaction plot of slope and rank. slope=on x rank=on: they interfere"' in drawn
    assert drawn.count("hollow") == 1 and drawn.count('class="whisker s1"') == 3 and drawn.count('class="line') == 2
    assert ">off</text>" in drawn and ">on</text>" in drawn and ">rank=on</text>" in drawn
    assert "no word: it depends on the other factor (slope=on x rank=on)" in section
    assert "together; 40% of the sum" in section and section.count("<tr") == 2 + 3 + 4
    assert '<a href="#factorials">' in text


def test_a_page_without_factorials_says_nothing_of_them(verdict: dict[str, Any]) -> None:
    del verdict["factorials"]  # as of an earlier version
    for text in (html.page(verdict), markdown.page(verdict), html.page({**verdict, "factorials": []})):
        assert 'id="factorials"' not in text and "Factorial" not in text


def test_markdown_and_terminals_of_every_width(verdict: dict[str, Any]) -> None:
    text = markdown.page(verdict)
    assert "## Factorial `square`" in text and "## Cells of `square`" in text
    assert "**They interfere: together they keep 40% of the sum (slope=on and rank=on).**" in text
    for width in (60, 80, 120):
        lines = shown(verdict, width).splitlines()
        assert max(map(len, lines)) <= width
        said = " ".join(" ".join(lines).split())
        assert "They interfere: together they keep 40% of the sum (slope=on and rank=on)." in said
        assert re.search(r"slope=on x rank=on .*worse", said) or re.search(r"slope=on x .*worse .*\+0\.0", said)


def test_three_factors_have_a_picture_each_pair_and_no_word_of_three(verdict: dict[str, Any]) -> None:
    factors = (Factor("a", ("0", "1")), Factor("b", ("0", "1", "2")), Factor("c", ("0", "1")))
    at = {(i, j, k): f"c{i}{j}{k}" if i or j or k else "baseline" for i in range(2) for j in range(3) for k in range(2)}
    verdict["factorials"] = judged(Factorial("cube", factors, at), {})
    text = html.page(verdict)
    section = text[text.index('id="factorials"') : text.index('id="forest"')]
    assert section.count("<svg") == 3 and "levels of the other factors averaged" in section
    assert section.count("beyond their pairs") == 2
    assert "a=1 x b=2 x c=1" not in shown(verdict, 120)


def test_a_missing_cell_leaves_its_point_out_and_is_named(verdict: dict[str, Any]) -> None:
    square = two_by_two(*NAMES, name="square", a="slope", b="rank")
    verdict["factorials"] = judged(square, {"grape_a": -0.03}, lost="no_position")
    text = html.page(verdict)
    assert "needs no_position (diverged at seeds 0, 1, 2, 3, 4)" in text and "Unknown for 1 of 1 pairs" in text
    drawn = re.findall(r"<svg.*?</svg>", text[text.index('id="factorials"') :], re.S)[0]
    assert "whisker" not in drawn and drawn.count('class="hollow') == 1


def test_names_of_a_factorial_are_harmless(verdict: dict[str, Any]) -> None:
    bad = json.dumps(verdict["factorials"]).replace("slope", "<script>x</script>").replace("square", "a|b`c")
    verdict["factorials"] = json.loads(bad)
    text = html.page(verdict)
    parsed(text)
    assert "<script" not in text
    columns(markdown.page(verdict))
