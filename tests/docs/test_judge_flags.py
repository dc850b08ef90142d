"""docs/judge.md describes every flag that `ablab judge` can raise, and none that it cannot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRADES = ("stops", "warns", "notes")
UNITS = ("nats", "bpb")


def constants(node: ast.AST | None) -> list[str]:
    """The strings that an expression may be: one, either of two, or a name of two units."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [*constants(node.body), *constants(node.orelse)]
    if isinstance(node, ast.JoinedStr):
        middle = "".join(str(one.value) for one in node.values if isinstance(one, ast.Constant))
        return [f"{a}{middle}{b}" for a in UNITS for b in UNITS if a != b]
    return []


def raised(tree: ast.AST) -> Iterator[str]:
    """Kinds: of a dict, of a call of `flag`, of a triple with a grade, and of a variable that is called so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and {"kind", "grade"} <= {one for key in node.keys for one in constants(key)}:
            for key, value in zip(node.keys, node.values, strict=True):
                yield from constants(value) if constants(key) == ["kind"] else ()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("flag", "_flag"):
            yield from constants(node.args[0])
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            kind, grade, _ = node.value.elts
            named = isinstance(grade, ast.Name) and grade.id == "grade"
            yield from constants(kind) if named or set(constants(grade)) & set(GRADES) else ()


def test_the_page_has_every_flag_and_no_other() -> None:
    text = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8")
    section = text.partition("## Every flag\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    told = [kind for row in rows for kind in re.findall(r"`([a-z_]+)`", row[0])]
    files = sorted((ROOT / "src" / "ablab" / "judging" / "compare").glob("*.py"))
    kinds = {kind for file in files for kind in raised(ast.parse(file.read_text(encoding="utf-8")))}
    kinds |= {"same_settings", "levers_in_block"}  # of a variable
    assert len(kinds) > 50 and "stage_missing" in kinds
    assert sorted(told) == sorted(kinds)
    assert all(set(row[1].strip().split(", ")) <= set(GRADES) for row in rows)
