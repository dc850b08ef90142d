"""ARCHITECTURE.md: every room has its line, and the core is what one study really enters, with its lines counted.

`python -m tests.docs.test_architecture` writes the page's numbers and its table anew.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.docs import entered
from tests.test_house import SOURCE, TIERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TOTAL = re.compile(r"They are ([\d,]+) lines in (\d+) files;\s+entered are ([\d,]+) functions of ([\d,]+) lines")
NEAR = 200  # lines by which a total may be off before the page must be written again


def listed() -> dict[str, tuple[int, list[str]]]:
    """room -> (lines, files below it) as the page's table of the core has them."""
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| (.+) \|$", PAGE[PAGE.index("## The core") :], flags=re.M)
    return {room: (int(lines.replace(",", "")), re.findall(r"[\w/]+", files)) for room, lines, files in rows}


def lines(file: str) -> int:
    return (SOURCE / file).read_text(encoding="utf-8").count("\n")


def of_functions(found: dict[str, list[str]]) -> int:
    """Lines of the functions that were entered, their docstrings included."""
    return sum(
        len(_spans(ast.parse((SOURCE / file).read_text(encoding="utf-8")), set(names), ""))
        for file, names in found.items()
    )


def _spans(tree: ast.AST, names: set[str], before: str) -> set[int]:
    found: set[int] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            name = before + node.name
            found |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)} if name in names else set()
            found |= _spans(node, names, f"{name}.<locals>.")
        else:
            found |= _spans(node, names, f"{before}{node.name}." if isinstance(node, ast.ClassDef) else before)
    return found


def traced(folder: Path) -> dict[str, list[str]]:
    """What tests/docs/entered.py found in a process of its own."""
    command = [sys.executable, entered.__file__, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out: dict[str, list[str]] = json.loads(done.stdout)
    return out


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return traced(tmp_path_factory.mktemp("core"))


def counted(found: dict[str, list[str]]) -> dict[str, int]:
    """The four numbers that the page states, in its order."""
    functions = sum(map(len, found.values()))
    return {
        "lines": sum(map(lines, found)),
        "files": len(found),
        "functions": functions,
        "of lines": of_functions(found),
    }


def written(found: dict[str, list[str]]) -> str:
    """The page with the numbers and the table that hold now."""
    said = "They are {:,} lines in {} files;\nentered are {:,} functions of {:,} lines"
    page = TOTAL.sub(said.format(*counted(found).values()), PAGE)
    head, rule, _ = page.rpartition("|---|---|---|\n")
    return f"{head}{rule}{table(found)}\n"


def table(found: dict[str, list[str]]) -> str:
    """The page's table as it must be now."""
    rooms = [room for tier in TIERS for room in tier if any(file.startswith(f"{room}/") for file in found)]
    rows = []
    for room in rooms:
        files = [file for file in found if file.startswith(f"{room}/")]
        short = ", ".join(file.removeprefix(f"{room}/").removesuffix(".py") for file in files)
        rows.append(f"| {room} | {sum(map(lines, files)):,} | {short} |")
    return "\n".join(rows)


def test_every_room_has_its_line() -> None:
    tree = PAGE[: PAGE.index("## The rules")]
    for tier in TIERS:
        for room in tier:
            assert re.search(rf"^  {room}/ +\w", tree, flags=re.M), room


def test_the_core_is_what_a_study_enters(found: dict[str, list[str]]) -> None:
    """Between the first training step and the words: no file more, no file less, on any machine."""
    on_page = {f"{room}/{file}.py" for room, (_, files) in listed().items() for file in files}
    assert on_page == set(found), f"the table must be\n{table(found)}"


def test_the_lines_of_the_core_are_counted(found: dict[str, list[str]]) -> None:
    for room, (stated, files) in listed().items():
        assert abs(stated - sum(lines(f"{room}/{file}.py") for file in files)) <= NEAR, (
            f"the table must be\n{table(found)}"
        )
    now, [said] = counted(found), TOTAL.findall(PAGE)
    stated = {name: int(number.replace(",", "")) for name, number in zip(now, said)}
    off = [name for name in now if abs(now[name] - stated[name]) > (0 if name == "files" else NEAR)]
    assert not off, f"the page must say {now}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (ROOT / "ARCHITECTURE.md").write_text(written(traced(Path(folder))), encoding="utf-8")
