"""What a newcomer looks for beside the code: a licence that is the standard one, links that lead somewhere, one way to test."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from ablab import __version__

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
APACHE = (
    "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of LICENSE-2.0.txt as its owner publishes it
)


def test_the_licence_is_apache_2_and_the_package_says_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    assert project["version"] == __version__


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_leads_to_every_page_beside_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"LICENSE", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {*re.findall(r"\]\(([^)]+)\)", text)}


def test_the_changelog_goes_backwards_from_what_is_not_released() -> None:
    heads = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert heads[:2] == ["Unreleased", __version__]
    assert heads[1:] == sorted(heads[1:], key=lambda name: tuple(map(int, name.split("."))), reverse=True)


def test_the_workflow_calls_what_a_person_calls_on_every_python_that_is_allowed() -> None:
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- run: (.*)$", text, flags=re.M) == [
        "make test PYTHON=python TORCH_INDEX=${{ vars.TORCH_INDEX }}"
    ]
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", asked).groups()
    assert re.findall(r'"(3\.\d+)"', text) == [f"3.{minor}" for minor in range(int(low), int(high))]
    assert "$(PYTHON)" in (ROOT / "Makefile").read_text()


def test_hooks_are_the_programs_of_make_test_and_nothing_is_fetched() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"- repo: (.*)", text) == ["local"] and set(re.findall(r"language: (.*)", text)) == {"system"}
    entries = re.findall(r"entry: \.venv/bin/(.*)", text)
    assert len(entries) == len(re.findall(r"- id:", text)) and "pytest" in entries[-1]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"$(BIN)/{entry}" in makefile for entry in entries[:-1])
    assert (ROOT / entries[-1].split()[-1]).is_file()
