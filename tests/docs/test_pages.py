"""The studies that README and tutorial print are studies, and the error that the tutorial prints is the one that is given."""

import re
from pathlib import Path

import pytest

from ablab.core.fault import InvalidStudy
from ablab.study import load

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)


def test_the_readme_shows_a_ten_line_study(tmp_path: Path) -> None:
    (text,) = blocks("README.md")
    assert len(text.strip().splitlines()) == 10
    (tmp_path / "study.toml").write_text(text)
    assert list(load(tmp_path / "study.toml").arms) == ["sink", "off_by_one"]


def test_the_tutorial_works(tmp_path: Path) -> None:
    first, scale = blocks("docs/tutorial.md")
    path = tmp_path / "mine.toml"
    path.write_text(first + scale)
    assert load(path).arms["sink"].because == "a head that has nothing to say can say nothing"
    assert load(path, "large").baseline.settings["model"]["layers"] == "LLLGLLLGLLLG"
    path.write_text(first.replace('"sink"\nbecause', '"sinks"\nbecause'))
    with pytest.raises(InvalidStudy) as refused:
        load(path)
    assert f"error: {refused.value}" in (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
