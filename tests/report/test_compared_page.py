"""The page of `ablab judge`: every run a point, the answers in their order, and nothing of a stranger alive."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ablab.judging.compare.words import compare
from ablab.records.comparison import Answers, Comparison
from ablab.records.log import Level, LoggedRun
from ablab.report import compared_page

EVIL = "<script>alert(1)</script>\u202e"


def runs(name: str, *scores: float) -> list[LoggedRun]:
    return [
        LoggedRun(
            Path(f"{name}{seed}.log"), 1, {"ttt": Level(score / 0.38713116, score, 8, 9)}, {"wd": name}, seed=seed
        )
        for seed, score in enumerate(scores, 1)
    ]


def answer() -> Comparison:
    """Three runs against four, of which one is an earlier attempt in its file."""
    y = runs("y", 1.08103103, 1.08079352, 1.08118408)
    first = dataclasses.replace(y[0], stages={"ttt": Level(2.8, 1.08100001, 8, 5)}, number=1, of=2)
    y = [first, dataclasses.replace(y[0], number=2, of=2), *y[1:]]
    return compare(runs("x", 1.07892882, 1.07886574, 1.07865582), y, presets=("golf-strict",))


def page(*found: Comparison, faults: tuple[str, ...] = ()) -> str:
    answers: Answers = {"comparisons": [*found], "faults": [*faults]}
    return compared_page.page(answers)


def test_every_run_is_a_point_and_every_mean_has_its_interval() -> None:
    said = answer()
    text = page(said)
    drawn = text.partition("Every run as a point")[2].partition("</svg>")[0]
    assert drawn.count('r="2.8"') == 7 and drawn.count("mark s0 hollow") == 1 and "does not count" in drawn
    assert drawn.count("whisker s0") == drawn.count("whisker s1") == 3
    assert "mean of 3 independent runs: 1.078817" in drawn
    x = said["x"]
    assert x["low"] is not None and x["high"] is not None and x["mean"] is not None and x["sd"] is not None
    assert (x["high"] - x["mean"]) == (x["mean"] - x["low"]) or abs(x["high"] + x["low"] - 2 * x["mean"]) < 1e-12
    assert abs((x["high"] - x["low"]) / 2 - 4.302652729749464 * x["sd"] / 3**0.5) < 1e-12, "t of two degrees"


def test_the_answers_stand_in_their_order_with_levers_and_flags() -> None:
    text = page(answer())
    heads = re.findall("<h3>([^<]+)</h3>", text)
    assert heads == [
        "Runs",
        "Comparable",
        "Levers",
        "Independent",
        "Word",
        "Rules",
        "Beside it, none of it decides",
        "What would settle it",
        "Every run",
    ]
    assert "<td>y</td><td>x</td>" in text, "the lever's two values"
    assert "earlier run" in text and "golf-strict: " in text and "Difference -0.002186" in text


def test_it_loads_nothing_and_is_the_same_bytes() -> None:
    text = page(answer(), answer(), faults=("a.log: holds no score",))
    assert "http:" not in text and "https:" not in text and "src=" not in text and "default-src 'none'" in text
    assert text == page(answer(), answer(), faults=("a.log: holds no score",))
    assert text.count("<section") == 3 and 'href="#arm1"' in text and "a.log: holds no score" in text


def test_what_a_stranger_wrote_is_text() -> None:
    x = [dataclasses.replace(run, source=Path(EVIL), settings={EVIL: EVIL}) for run in runs("x", 1.1, 1.2)]
    found = compare(x, runs("y", 1.1, 1.3))
    found["x"]["name"] = EVIL
    text = page(found, faults=(EVIL,))
    assert "<script" not in text and "\u202e" not in text and "&lt;script&gt;" in text


def test_one_side_alone_or_no_score_has_a_page() -> None:
    alone = page(compare(runs("x", 1.1, 1.2), None))
    assert "Difference" not in alone and alone.count('r="2.8"') == 2
    assert "nothing to judge" in page(compare([], []))
    one = page(compare(runs("x", 1.1), runs("y", 1.1)))
    assert "hollow" in one and "no interval" in one
