"""The verdict on a terminal: the sentence, what must not be missed, and the table in at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.text import Text

from ablab.core import grid
from ablab.records.answer import Answer, ArmAnswer, Effect
from ablab.report import crossed, prose, tables, words
from ablab.report.view import View

STYLE = words.Style()
COLOURS = {
    "better": "bold blue",
    "worse": "bold yellow",
    "equivalent": "bold",
    "inconclusive": "italic",
    "unstable": "bold magenta",
    "invalid": "bold white on red",
    "waiting": "dim",
}
WIDTH = 100
RIGHT = ("difference", "interval", "seeds", "p", "more seeds")
COLUMNS = [grid.Column(title, right=title in RIGHT) for title in ("arm", "verdict", *RIGHT)]
EFFECTS = [grid.Column(title, right=title in RIGHT) for title in ("verdict", "difference", "seeds")]
EFFECTS += [grid.Column("what that says", least=24)]
STACKED = [column for column in COLUMNS if column.title != "interval"]


def terminal(verdict: Answer, console: Console) -> None:
    """Print warnings, the verdict table, what changed, and the answer; ASCII without colour where it is no terminal."""
    view = View(verdict)
    pretty = console.is_terminal
    width = min(WIDTH, console.width)

    def say(value: str, style: str = "", hang: int = 0) -> None:
        grid.say(_text(value, console, style if pretty else ""), console, width=width, hang=hang)

    for _, head, said in prose.warnings(view):
        say(f"{head.upper()}: {said}", "bold red")
    rows = [_row(view, arm, console, pretty) for arm in view.arms]
    columns = COLUMNS
    if _wide(rows) > width:  # the interval below the difference, as the page has it; a level stands alone
        columns = STACKED
        rows = [[*row[:2], _stacked(*row[2:4]), *row[4:]] for row in rows]
    grid.show(columns, rows, console, width=width, box=box.SIMPLE_HEAD if pretty else box.ASCII2)
    say(f"difference to the reference in {view.unit} at {view.stage}; lower is better", "dim")
    for arm in view.rivals:
        for line in _below(view, arm):
            say(f"  {line}", "dim", hang=4)
    for one in crossed.factorials(view):
        effects = [_effect(view, effect, console, pretty) for effect in one["effects"] if effect["order"] < 3]
        named = [grid.Column(STYLE.name(one["name"])), *EFFECTS]
        grid.show(named, effects, console, width=width, box=box.SIMPLE_HEAD if pretty else box.ASCII2)
        say(one["sentence"], "bold")
    say(view.verdict["sentence"], "bold")


def _row(view: View, arm: ArmAnswer, console: Console, pretty: bool) -> list[Text]:
    word, d = view.word(arm), view.decimals
    delta = STYLE.delta(arm["delta"], d)
    between = STYLE.interval(arm["low"], arm["high"], d) or words.DASH
    said = f"{word}, over" if arm["over_limits"] else word
    cells = [said, delta, between, words.whole(arm["seeds"]), words.p_value(arm["p"]), tables.more_text(arm)]
    if arm["name"] == view.baseline:
        cells[2] = tables.difference_text(view, arm, STYLE)
    name = STYLE.name(arm["name"])
    return [
        _text(name, console, "bold" if pretty else ""),
        *(_text(c, console, COLOURS.get(word, "") if pretty and i == 0 else "") for i, c in enumerate(cells)),
    ]


def _effect(view: View, effect: Effect, console: Console, pretty: bool) -> list[Text]:
    """Show a main effect or an interaction, its interval below the difference."""
    between = STYLE.interval(effect["low"], effect["high"], view.decimals)
    word = effect["word"] or words.DASH
    return [
        _text(effect["label"], console, "bold" if pretty else ""),
        _text(word, console, COLOURS.get(word, "") if pretty else ""),
        _stacked(_text(STYLE.delta(effect["delta"], view.decimals), console), _text(between or words.DASH, console)),
        _text(words.whole(effect["seeds"]) if effect["seeds"] else words.DASH, console),
        _text(crossed.briefly(effect), console),
    ]


def _stacked(difference: Text, interval: Text) -> Text:
    """Put both in one cell, without the dashes of what is not known while there is something beside them."""
    known = [cell for cell in (difference, interval) if cell.plain.strip("- ")]
    return grid.lines(known or [difference])


def _wide(rows: Sequence[Sequence[Text]]) -> int:
    """Count the characters that the table takes with names of at most NAME in a line."""
    widths = [max(len(column.title), *(len(row[i].plain) for row in rows), 0) for i, column in enumerate(COLUMNS)]
    return min(widths[0], grid.NAME) + sum(3 + width for width in widths[1:])


def _stages(view: View, arm: ArmAnswer) -> str:
    """Write the difference at every stage on one line; nothing where there is but one."""
    said = []
    for stage in view.stages:
        cell = arm["stages"].get(stage)
        if stage in arm["unstable"]:
            said.append(f"{stage} unstable")
        elif cell is not None and cell["delta"] is not None:
            said.append(f"{stage} {STYLE.delta(cell['delta'], view.decimals)}")
    return ", ".join(said) if len(said) > 1 else ""


def _below(view: View, arm: ArmAnswer) -> list[str]:
    """Say what changed in an arm, its difference at every stage, and what knowing more about it costs."""
    name = STYLE.name(arm["name"])
    lines = [f"{name}: {tables.change_text(c, STYLE)}" for c in arm["changes"]]
    if stages := _stages(view, arm):
        lines.append(f"{name}: {stages}")
    if arm["over_limits"]:
        lines.append(f"{name}: cannot win: {arm['over_limits']}")
    if kind := tables.weights_text(arm):
        lines.append(f"{name}: {kind}: it trains nothing of its own")
    if tables.is_free(arm):
        lines.append(f"{name}: free: no more bytes, no longer in training or at the deciding stage")
    price = tables.cost_of_more(arm)
    return [*lines, *([f"{name}: {tables.more_text(arm)} seeds cost about {price}"] if price else [])]


def _text(value: str, console: Console, style: str = "") -> Text:
    """Write untrusted text as it stands: no markup, and nothing that the stream cannot encode."""
    plain = value.replace("\u2013", "-").replace("\u00d7", "x").replace("\u00b1", "+/-").replace("\u2026", "...")
    return Text(plain.encode(console.encoding, "replace").decode(console.encoding), style=style)
