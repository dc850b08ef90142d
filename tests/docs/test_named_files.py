"""Files and modules that pages, comments and docstrings name are there, under the name that they have now."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "ablab"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "studies").glob("*.toml"), ROOT / "Makefile"]
PROGRAMS = [path for folder in ("src", "bench", "tests") for path in (ROOT / folder).rglob("*.py")]
BASES = (ROOT, SOURCE, ROOT / "tests", *(path for path in SOURCE.iterdir() if path.is_dir()))
# Of other programs, of a reader, of a study's folder, or invented on the spot.
OTHERS = {
    *("study.toml", "mine.toml", "own.toml", "my_levers.py", "report.md", "configs/vpmoe.toml"),
    *("pretrain_gpt.py", "train_gpt.py", "scripts/param_count_megatron.py", "render_vpmoe_megatron_args.py"),
    *("megatron/core/datasets/indexed_dataset.py", "scripts/datasets/build_synth_kd_v1.py"),
    *(
        "wider.toml",
        "seeded.py",
        "config/train_shakespeare_char.py",
        "program/train.py",
        "both.py",
        "runs/trials/trial-bdf13e6ef07a/study.toml",
    ),
    *("json/decoder.py", "pydoc_data/topics.py", "src/ablab/model/positions/learned_slopes.py", "learned_slopes.py"),
}
GROUPS = {"ablab.levers"}  # of entry points
FILE = re.compile(r"(?<![\w/.{*<-])((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|jinja|css))\b(?!\w)")
MODULE = re.compile(r"(?<![\w/.-])ablab((?:\.[A-Za-z_]\w*)+)")


def prose(path: Path) -> str:
    """A page, or the docstrings and comments of a program."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    said = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, owners)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join([*said, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def lost_files(text: str, names: set[str], beside: Path) -> Iterator[str]:
    for name in FILE.findall(text):
        bare = "/" not in name and name in names
        if (
            name not in OTHERS
            and "NAME" not in name
            and not bare
            and not any((base / name).is_file() for base in (*BASES, beside))
        ):
            yield name


def lost_modules(text: str) -> Iterator[str]:
    for found in MODULE.finditer(text):
        at, rest = SOURCE, found[1][1:].split(".")
        while rest and ((at / rest[0]).is_dir() or (at / f"{rest[0]}.py").is_file()):
            at = at / rest.pop(0)
        file = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
        if (
            found[0] not in GROUPS
            and rest
            and not re.search(rf"(?m)\b(def|class) {rest[0]}\b|^{rest[0]}\b|import .*\b{rest[0]}\b", file.read_text())
        ):
            yield found[0]


def test_every_file_and_module_that_is_named_is_there() -> None:
    names = {path.name for path in (*PAGES, *PROGRAMS, *ROOT.glob("*.toml"), *SOURCE.rglob("*.*"))}
    lost = {}
    for path in (*PAGES, *PROGRAMS):
        text = prose(path)
        if found := [*lost_files(text, names, path.parent), *lost_modules(text)]:
            lost[str(path.relative_to(ROOT))] = found
    assert not lost


@pytest.mark.parametrize(
    "text",
    ["`src/ablab/train.py`", "see ablab.data.gates", "model/attend.py decides", "ablab.core.fault.Flaw", "plan2.py"],
)
def test_a_file_that_has_moved_is_found(text: str) -> None:
    assert [*lost_files(text, {"train.py", "attend.py"}, ROOT), *lost_modules(text)]


@pytest.mark.parametrize(
    "text",
    ["`src/ablab/training/train.py`", "ablab.core.fault.Fault", "training/train.py", "train.py"],
)
def test_a_file_that_is_there_is_not(text: str) -> None:
    assert not [*lost_files(text, {"train.py"}, ROOT), *lost_modules(text)]
