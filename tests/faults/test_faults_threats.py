"""The page about strangers' files says nothing that no test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "threats.md"


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 25 and "::" not in re.sub(r"`[\w/]+\.py::\w+`", "", PAGE.read_text(encoding="utf-8"))
    for file, test in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test] == [test], (
            f"{file}::{test}"
        )
