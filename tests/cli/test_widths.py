"""What stands on a terminal of 60, 80 and 120 columns: nothing is wider, nothing is lost, and no name is broken in a word."""

from __future__ import annotations

import copy
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console
from rich.console import Console
from rich.text import Text
from tests import finished_store
from tests.data.built import write_dataset

from ablab.bridges.megatron import shown
from ablab.bridges.megatron.explain import explain
from ablab.check import facts as check
from ablab.check import miniature, quote
from ablab.cli import levers, options, runs
from ablab.core import grid
from ablab.data.look.inspect import inspect, show
from ablab.judging.judge import conclude
from ablab.report.terminal import terminal
from ablab.runs.plan import Plan

WIDTHS = (60, 80, 120)
LONG = "a_rather_long_name_of_an_arm-that_says_what_it-does"
MEGATRON = (
    "--num-layers 4 --hidden-size 64 --num-attention-heads 2 --num-query-groups 1 --group-query-attention --seq-length 64 "
    "--swiglu --position-embedding-type rope --window-size 8,0 --window-attn-skip-freq 4 --softmax-type learnable"
)
Draw = Callable[[Console], object]


def drawn(draw: Draw, width: int, terminal: bool = True) -> str:
    file = io.StringIO()
    draw(Console(file=file, width=width, force_terminal=terminal, color_system=None, highlight=False))
    return file.getvalue()


def words(text: str) -> Counter[str]:
    """The pieces between blanks and separators, without what rules are drawn with."""
    return Counter(re.findall(r"[^\s/_.,=:&+\-\u2500|]+", text))


def fits(draw: Draw, *, repeated: bool = False, spared: tuple[str, ...] = ()) -> None:
    """At every width: no line is wider, and its words are those of a very wide terminal, none broken and none lost.

    repeated: a table may go on in a second one, with its names once more. spared: heads that a narrow table does without.
    """
    for pretty in (True, False):
        whole = words(drawn(draw, 1000, pretty))
        for width in WIDTHS:
            found = words(drawn(draw, width, pretty))
            assert {*found, *spared} == {*whole, *spared}
            assert repeated or found == whole
    for width in WIDTHS:
        wide = [line for line in drawn(draw, width).splitlines() if len(line.rstrip()) > width]
        assert not wide, wide


def finished(folder: Path) -> Plan:
    text = finished_store.STUDY.replace("[arm.wide]", f"[arm.{LONG}]")
    effects = {**finished_store.EFFECT, LONG: finished_store.EFFECT["wide"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished_store, "EFFECT", effects)
        patch.setattr(finished_store, "BYTES", {**finished_store.BYTES, LONG: 16_020})
        return finished_store.fill(finished_store.plan(folder, text))


def test_check_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = finished(tmp_path)
    rehearsed = {name: SimpleNamespace(losses=[1.0], fault=None, untested=()) for name in plan.study.with_baseline}
    monkeypatch.setattr(miniature, "check", lambda *_: rehearsed)
    found = json.loads(json.dumps(check.facts(plan, lambda _: None)))
    fits(lambda console: check.show(found, console), repeated=True)


def test_a_verdict_fits(tmp_path: Path) -> None:
    answer = conclude(finished(tmp_path))
    fits(lambda console: terminal(copy.deepcopy(answer), console), repeated=True, spared=("interval",))


def test_names_of_factorials_are_cut_between_their_factors(tmp_path: Path) -> None:
    name = "position=grape_m_everywhere,softmax=off_by_one,mlp.act=leaky_relu2"
    verdict = json.loads((Path(__file__).parents[1] / "golden" / "verdict_example.json").read_text())
    verdict = json.loads(json.dumps(verdict).replace('"grape_a"', json.dumps(name)))
    fits(lambda console: terminal(copy.deepcopy(verdict), console), repeated=True, spared=("interval",))
    text = drawn(lambda console: terminal(verdict, console), 80)
    assert re.search(r"^ ?position=grape_m_\S*", text, re.M) and re.search(r"^ ?mlp\.act=leaky_relu2 ", text, re.M)


def test_levers_fit() -> None:
    fits(lambda console: levers.show(levers.table(), console))


def test_an_explanation_fits() -> None:
    found = explain(MEGATRON.split())
    for width in WIDTHS:
        said: list[str] = []
        shown.show(found, said.append, width=width, tables=False)
        assert max(len(line) for text in said for line in text.splitlines()) <= width
        assert "attention" in "\n".join(said)


def test_an_inspection_fits_whatever_path_the_data_has(tmp_path: Path) -> None:
    place = tmp_path / "conversations_of_another_project" / "built-for-the-second_time" / "with a blank"
    found = inspect(write_dataset(place, "bytes", 257), document=2)
    fits(lambda console: show(found, console))


@pytest.mark.parametrize("width", [8, 20, 60])
def test_paragraphs_break_at_blanks_and_paths_behind_a_slash(width: int) -> None:
    said = "report: runs/studies/a_long_name_of_a_study.tiny/report.html, and more"
    lines = [line.plain for line in grid.wrapped(Text(said), width)]
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", said)
    assert words(" ".join(lines)) == words(said)
    if width == 20:
        assert lines == ["report: runs/", "studies/a_long_name_", "of_a_study.tiny/", "report.html, and", "more"]
    assert all(len(line) <= max(width, 8) for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_is_said_while_a_command_works_fits_columns(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        "precision: bf16; another one (--precision) is another experiment, with its own numbers",
        f"miniature {LONG}: 1",
    )
    monkeypatch.delenv("COLUMNS", raising=False)
    for said in lines:
        options.say(said)
        assert capsys.readouterr().out == said + "\n", "one line of a pipe, for grep"
    monkeypatch.setenv("COLUMNS", str(width))
    for said in lines:
        options.say(said)
        found = capsys.readouterr().out
        assert max(map(len, found.splitlines())) <= width and words(found) == words(said)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_price_and_the_reach_fit_columns(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = finished_store.plan(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    for line in check.reach_text(check.reach(plan), quote.bounds(plan)).splitlines():
        text = drawn(lambda console, line=line: grid.say(line, console, width=width, hang=2), width, terminal=False)
        assert max(map(len, text.splitlines())) <= width and words(text) == words(line)


def test_a_price_whose_ends_are_equal_is_said_once(tmp_path: Path) -> None:
    plan = finished_store.plan(tmp_path)
    reach, one = check.reach(plan), dict(quote.bounds(plan)["start"], runs=6)
    said = check.reach_text(reach, {"start": one, "at_most": dict(one)}).splitlines()[-1]
    assert said.startswith("price: 6 runs") and said.count("6 runs") == 1 and " to " not in said
    said = check.reach_text(reach, {"start": one, "at_most": {**one, "runs": 9}}).splitlines()[-1]
    assert said.startswith("price: 6 runs") and " to 9 runs" in said


def test_a_row_that_fits_no_table_is_a_paragraph() -> None:
    columns = [grid.Column("arm"), grid.Column("changes", least=24), grid.Column("s/run", right=True)]
    rows = [("w" * 50, "model.softmax: vanilla -> sink", "12"), ("baseline", "", "11")]
    text = drawn(lambda console: grid.show(columns, rows, console, width=40), 40)
    said = "changes model.softmax: vanilla -> sink s/run 12 baseline s/run 11"
    assert text.split() == ["w" * 50, *said.split()]


@pytest.mark.parametrize("width", WIDTHS)
def test_live_lines_keep_the_name_and_the_step(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    how: dict[str, Any] = {"file": file, "width": width, "force_terminal": True, "color_system": None}
    monkeypatch.setattr(rich.console, "Console", lambda **_: Console(**how))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run: Any = SimpleNamespace(arm="a_rather_long_name_of_an_arm", seed=3)
    with runs.shown(SimpleNamespace(), quiet=False) as take:  # type: ignore[arg-type]
        take("start", run, "")
        take("say", run, "step 123/489, loss 3.141, 15,800 tokens/s, 25 s left")
    assert re.search(r"a_rather_long_name_of_an_arm, seed 3\W[^\n]*step 123/489", file.getvalue())
