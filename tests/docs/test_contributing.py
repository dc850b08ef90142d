"""CONTRIBUTING.md: the changes that it names have as many files as it says, and forgetting one of them does not pass unseen."""

from __future__ import annotations

import ast
import re
import typing
from pathlib import Path

import pytest
from tests.test_house import LEVERS, SOURCE

from ablab.judging import bank, cost
from ablab.report import costs, terminal, view, words
from ablab.scoring.scores import Scores
from ablab.study.keys import IN_MODEL, OF_MODEL, SECTIONS, SLOTS
from ablab.training import mirrors
from ablab.verdict import evidence, headline
from ablab.verdict.contrasts import READING

PAGE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGES = {
    head.split(":")[0]: (head, body) for head, body in re.findall(r"^### (.+)\n((?:(?!^#).*\n?)*)", PAGE, flags=re.M)
}


def test_the_ten_changes_are_there() -> None:
    asked = (
        "position",
        "slot",
        "number",
        "evaluator",
        "metric",
        "limit",
        "word",
        "measured number",
        "launcher",
        "log format",
    )
    assert len(CHANGES) == len(asked)
    assert all(re.match(rf"An? {word}\b", name) for word, name in zip(asked, CHANGES))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_touches_as_many_files_as_its_head_says(change: str) -> None:
    """Those of its numbered lines; what stands in brackets is there instead of another one."""
    head, body = CHANGES[change]
    items = "\n".join(re.findall(r"^\d\. .*(?:\n   .*)*", body, flags=re.M))
    named = re.findall(r"`([\w/]+\.(?:py|css|toml))`", re.sub(r"\([^)]*\)", "", items))
    other = re.findall(r"`(?:launch/work|judging/collect|src/ablab/launch/local)\.py`", items)  # called, not changed
    found = re.search(r": (\d+) files", head)
    assert found and len(set(named)) - len(other) == int(found[1]), named


def test_a_limit_that_is_measured_has_a_key_and_a_name() -> None:
    assert set(SECTIONS["limits"]) == set(cost.LIMITS) == set(costs.NAMES)


def test_a_metric_that_may_decide_is_known_everywhere() -> None:
    declared = typing.get_args(SECTIONS["decision"]["metric"].type)
    assert declared == evidence.METRICS and set(declared) == set(words.UNITS)
    assert headline.UNITS.items() <= words.UNITS.items()
    assert set(Scores([1.0], [1], [1]).metrics) == {name for name in declared if name in headline.UNITS}


def test_a_word_is_known_to_whoever_shows_or_counts_it() -> None:
    style = (SOURCE / "report" / "style.css").read_text(encoding="utf-8")
    tree = ast.parse((SOURCE / "verdict" / "interval.py").read_text(encoding="utf-8"))
    [reads] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "word_of"]
    read = {node.value for node in ast.walk(reads) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    read -= {ast.get_docstring(reads)}
    assert read == set(headline.JUDGED) == set(bank.WORDS) and read <= {*view.KNOWN}
    assert read <= words.SIGNS.keys() and read <= terminal.COLOURS.keys()
    assert all(f"tr.w-{word}" in style for word in read) and set(READING) == read - {"inconclusive"}


def test_a_slot_has_a_default_and_its_folder_is_one_of_levers() -> None:
    folders = {slot.package.rpartition(".")[2] for slot in SLOTS.values()}
    assert folders == {folder for room in LEVERS.values() for folder in room}
    assert {*IN_MODEL, *OF_MODEL} == {name for name, slot in SLOTS.items() if ".model." in slot.package}


def test_a_log_format_has_a_module_and_says_what_to_install() -> None:
    assert mirrors.MODULES.keys() == mirrors.PACKAGES.keys()
