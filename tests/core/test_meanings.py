"""Every setting of every lever says what it means, and no default that acts is printed as none."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from ablab.cli import levers
from ablab.core.setting import Meaning, meanings
from ablab.study.keys import SLOTS

LEVERS = [(slot, name) for slot in SLOTS for name in SLOTS[slot].names]


@pytest.mark.parametrize(("slot", "name"), LEVERS, ids=str)
def test_a_setting_says_what_it_means_and_what_its_default_is(slot: str, name: str) -> None:
    for path, setting in SLOTS[slot].listed(name).items():
        assert setting.meaning.text, f"{slot} {name}: the docstring has no line `{path}: ...`"
        assert setting.required or setting.default is not None or setting.meaning.computed, (
            f"{slot} {name}: {path} has no default; end its line with `; default: ...`"
        )
        assert setting.shown().lower() not in ("none", "null", "")
        assert not setting.meaning.text.endswith((".", ";", ","))


def test_a_line_may_go_on_and_prose_is_none() -> None:
    @dataclass
    class Lever:
        """Does something.

        Prose: of no setting, which
        goes on at the margin.

        size (tokens): of a row, and this
            line goes on; default: as many
            as there are
        rate: plain
        """

        size: int | None = None
        rate: float = 0.1

    found = meanings(Lever)
    assert found["size"] == Meaning("of a row, and this line goes on", "tokens", "as many as there are")
    assert found["rate"] == Meaning("plain") and found["Prose"].text == "of no setting, which"


@pytest.mark.parametrize(("slot", "name"), [("optimizer", "muon"), ("evaluate", "disjoint")])
def test_the_command_says_meaning_unit_default_and_source_of_one_lever(slot: str, name: str) -> None:
    out = io.StringIO()
    levers.show(levers.table(slot, name), Console(file=out, width=400), whole=True)
    text = out.getvalue()
    assert SLOTS[slot].source(name) in text
    assert len([line for line in text.splitlines() if line.startswith("  ") and line[2] != " "]) == 1
    for path, setting in SLOTS[slot].listed(name).items():
        assert f"{path} = {setting.shown()}  {setting.kind().partition(' (')[0]}" in text
        assert setting.meaning.text in text and setting.meaning.unit in text
