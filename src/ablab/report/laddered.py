"""A ladder of scales as a page, on a terminal and in a script."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ablab.core import grid
from ablab.core.files import write_atomic, write_json
from ablab.core.plain import plural
from ablab.records.ladder import Climbed, LadderAnswer, Measured
from ablab.report import html, records, svg, words
from ablab.report.figures import Drawing
from ablab.report.judged import Answered
from ablab.report.tables import PageTable
from ablab.report.words import Html, Style

if TYPE_CHECKING:
    from rich.console import Console

PLAIN, HTML = Style(), Html()
WORDS = ("holds", "fades", "reverses", "open")
SHOWN = 6  # settings that a row of the rungs names; the rest is counted


class Laddered(Answered[LadderAnswer]):
    """What ladder.json says, beside the ladder's page."""

    @property
    def of(self) -> str:
        """The study, and over how many scales."""
        return f"{self.answer['study']} over {len(self.answer['rungs'])} rungs"


def write(answer: LadderAnswer, folder: Path) -> Laddered:
    """Write ladder.json and report.html into `folder`, each whole or not at all."""
    write_json(folder / "ladder.json", answer)
    write_atomic(folder / "report.html", page(answer))
    return Laddered(answer, folder)


def page(answer: LadderAnswer) -> str:
    """Write the whole page as text, which loads nothing; the same answer gives the same bytes."""
    parts = {
        "css": Markup(html.resource("style.css")),
        "title": f"{answer['study']}: ablab ladder",
        "study": answer["study"],
        "question": answer["question"],
        "answer": answer["sentence"],
        "exploratory": answer["exploratory"],
        "terms": _terms(answer),
        "reminder": answer["reminder"].capitalize() + ".",
        "verdict": verdict_table(answer, HTML),
        "notes": notes(answer),
        "effects": Drawing("Effect against compute", _panels(answer), _caption(answer), legend=False),
        "chips": {word: HTML.chip(word) for word in WORDS},
        "rungs": rung_table(answer, HTML),
        "measured": measured_table(answer, HTML),
        "forms": form_table(answer, HTML),
        "environment": records.facts(answer.get("environment", {}), HTML),
        "methods": _methods(answer),
        "version": words.clean(answer.get("environment", {}).get("ablab") or ""),
    }
    return html.template("ladder.jinja").render(parts) + "\n"


def show(answer: LadderAnswer, screen: Console) -> None:
    """Print the rungs, the arms and the sentences on a terminal of any width."""
    width = screen.width
    for said in answer["exploratory"]:
        grid.say(f"EXPLORATORY: {_ascii(said, screen)}", screen, width=width, hang=2)
    for table in (rung_table(answer, PLAIN), measured_table(answer, PLAIN), verdict_table(answer, PLAIN)):
        columns = [grid.Column(head, right=side == "r", least=24 if side == "w" else 0) for head, side in table.head]
        grid.show(columns, [[_ascii(cell, screen) for cell in row] for row in table.rows], screen, width=width)
        grid.say("", screen, width=width)
    for note in notes(answer):
        grid.say(f"note: {_ascii(note, screen)}", screen, width=width, hang=2)
    grid.say(f"note: {answer['reminder']}", screen, width=width, hang=2)
    for arm in answer["arms"]:
        grid.say(_ascii(arm["sentence"], screen), screen, width=width, hang=2)


def _ascii(text: str, screen: Console) -> str:
    plain = text.replace("\u2013", "-").replace("\u00d7", "x").replace("\u00b1", "+/-").replace("\u2026", "...")
    return plain.encode(screen.encoding, "replace").decode(screen.encoding)


def notes(answer: LadderAnswer) -> list[str]:
    """List notes of the ladder and of each arm, and where a next seed would tell most."""
    texts = [*answer["notes"]]
    for arm in answer["arms"]:
        texts += [f"{arm['name']}: {note}" for note in arm["notes"]]
        if arm["tells_most"] is not None:
            scale, share = arm["tells_most"]["scale"], arm["tells_most"]["share"]
            texts.append(
                f"{arm['name']}: one more seed tells most on {scale}: the interval would narrow by {share:.0%}"
            )
    return texts


def verdict_table(answer: LadderAnswer, style: Style) -> PageTable:
    """Show one row per arm: the word, the interval at the target, the trend, what it saves."""
    d = words.decimals_for(answer["matters"])
    at = f"at {words.flops(answer['at'])} FLOPs" if answer["at"] else "at the target"
    titles = (f"effect {at}, {_unit(answer)}", "per decade", "compute saved")
    head = (("arm", "l"), ("word", "l"), *((title, "r") for title in titles))
    rows = []
    for arm in answer["arms"]:
        trend = arm["trend"]
        change = style.literal(words.DASH)
        if trend is not None:
            change = _with(style.delta(trend["value"], d), style.interval(trend["low"], trend["high"], d), style)
        rows.append(
            [
                style.strong(style.name(arm["name"])) + style.sub(_against(arm, style)),
                style.chip(arm["word"]) if arm["word"] else style.text("no word"),
                style.interval(arm["low"], arm["high"], d) or words.DASH,
                change,
                saved_text(arm, style),
            ]
        )
    return PageTable(head, rows, kinds=[f"w-{arm['word'] or 'waiting'}" for arm in answer["arms"]])


def _against(arm: Climbed, style: Style) -> str:
    """Name what it is compared with, where that is another arm."""
    return "" if arm["on"] == "baseline" else style.literal("against ") + style.name(arm["on"])


def saved_text(arm: Climbed, style: Style) -> str:
    """Write `12% [4%, 20%]`; an end beyond what was searched is open."""
    saved = arm["saved"]
    if saved is None:
        return words.DASH
    low, high = _percent(saved["low"], style), _percent(saved["high"], style)
    return _with(_percent(saved["share"], style), f"[{low}, {high}]", style)


def _with(value: str, interval: str, style: Style) -> str:
    """Write a number and its interval: below it where a cell has lines, else behind it."""
    below = style.sub(style.literal(interval)) if isinstance(style, Html) else f" {interval}"
    return style.literal(value) + below


def _percent(share: float | None, style: Style) -> str:
    if share is None:
        return "?"
    size = f"{abs(100 * share):.0f}%"
    return size if share >= 0 or size == "0%" else style.minus + size


def rung_table(answer: LadderAnswer, style: Style) -> PageTable:
    """Show the rungs by their compute, and what changes from one to the next."""
    head = (
        ("rung", "l"),
        ("FLOPs", "r"),
        ("tokens", "r"),
        ("parameters", "r"),
        ("seeds", "r"),
        ("differs from the rung below", "w"),
    )
    rows = []
    for rung in answer["rungs"]:
        said = [f"{path} {words.value_text(a)} -> {words.value_text(b)}" for path, (a, b) in rung["differs"].items()]
        more = f", and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        rows.append(
            [
                style.name(rung["scale"]),
                words.flops(rung["flops"]),
                words.count(rung["tokens"]),
                words.count(rung["parameters"]),
                words.whole(rung["seeds"]),
                style.text(", ".join(said[:SHOWN]) + more) or words.DASH,
            ]
        )
    return PageTable(head, rows)


def measured_table(answer: LadderAnswer, style: Style) -> PageTable:
    """Show every arm on every rung: the difference with its interval, its spread and seeds."""
    d = words.decimals_for(answer["matters"])
    head = (
        ("arm, rung", "l"),
        (f"difference, {_unit(answer)}", "r"),
        ("interval", "r"),
        ("sd of a pair", "r"),
        ("seeds", "r"),
        ("reference", "r"),
    )
    rows = [
        [
            style.name(arm["name"]) + style.literal(", ") + style.name(one["scale"]),
            style.delta(one["delta"], d),
            style.interval(one["low"], one["high"], d) or words.DASH,
            style.fixed(one["s"], d + 1),
            words.whole(len(one["seeds"])),
            style.fixed(one["mean"], d),
        ]
        for arm in answer["arms"]
        for one in arm["rungs"]
    ]
    return PageTable(head, rows)


def form_table(answer: LadderAnswer, style: Style) -> PageTable:
    """Show what each form says at the target, before the allowance."""
    d = words.decimals_for(answer["matters"])
    head = (("arm, form", "l"), (f"at the target, {_unit(answer)}", "r"), ("interval", "r"))
    rows = [
        [
            style.name(arm["name"]) + style.literal(", ") + style.text(form["form"]),
            style.delta(form["value"], d),
            style.interval(form["low"], form["high"], d),
        ]
        for arm in answer["arms"]
        for form in arm["forms"]
    ]
    note = (
        f"The interval above is the hull of these, widened by {answer['allowance']:.0%} of the effect at the top rung."
    )
    return PageTable(head, rows, note)


class ByCompute(svg.Panel):
    """A panel whose x is log10 of FLOPs."""

    def x_text(self, value: float) -> str:
        return words.flops(10**value)


def _panels(answer: LadderAnswer) -> tuple[Markup, ...]:
    return tuple(_panel(answer, i) for i in range(len(answer["arms"])))


def _panel(answer: LadderAnswer, index: int) -> Markup:
    """Draw one arm's effect against compute: rungs with intervals, the hull beyond the top one, the region of words."""
    arm, d = answer["arms"][index], words.decimals_for(answer["matters"])
    matters, at = answer["matters"], answer["at"]
    xs = [math.log10(one["flops"]) for one in answer["rungs"]]
    last = math.log10(answer["shown"]) if answer["shown"] else xs[-1]
    pad = 0.09 * (last - xs[0])
    values = [v for one in arm["rungs"] for v in (one["low"], one["high"], one["delta"]) if v is not None]
    values += [v for one in arm["hull"] for v in (one["low"], one["high"])]
    low, high = min([-1.4 * matters, *values]), max([1.4 * matters, *values])
    panel = ByCompute(
        f"ladder{index}",
        f"{words.clean(arm['name'], 40)}: {arm['word'] or 'no word'}",
        (xs[0] - pad, last + pad),
        (low, high),
        x_title="training compute, FLOPs (log)",
        y_title=f"difference, {_unit(answer)}",
        room=(0, 3),
    )
    series = index + 1
    panel.zero()
    panel.shade(-matters, matters, f"a tie, within \u00b1{PLAIN.fixed(matters, d)}")
    if arm["hull"] and answer["spoken"] and answer["shown"]:
        _region(panel, arm["hull"][0]["flops"], answer["spoken"], "spoken", "a word")
        _region(panel, answer["spoken"], answer["shown"], "unspoken", "no word")
        points = [(math.log10(p["flops"]), p) for p in arm["hull"]]
        panel.ribbon(series, [(x, p["low"]) for x, p in points], [(x, p["high"]) for x, p in points])
    if at is not None and arm["low"] is not None and arm["high"] is not None:
        _whisker(panel, math.log10(at), arm["low"], arm["high"], f"fit {svg.colour(series)}")
    for x, rung, one in zip(xs, answer["rungs"], arm["rungs"], strict=True):
        numbers = f"{PLAIN.delta(one['delta'], d)} {PLAIN.interval(one['low'], one['high'], d)}".strip()
        tip = f"{rung['scale']}: {numbers} {_unit(answer)}, {plural(len(one['seeds']), 'seed')}"
        _point(panel, x, one, svg.colour(series), tip, rung["scale"])
    said = f"{arm['name']}: difference against training compute over {len(xs)} rungs; {arm['sentence']}"
    return panel.svg(said)


def _region(panel: svg.Panel, start: float, end: float, cls: str, name: str) -> None:
    left, right = panel.x(math.log10(start)), panel.x(math.log10(end))
    panel.parts.insert(0, svg.rect(left, panel.top, right - left, panel.height - panel.bottom - panel.top, cls))
    panel.draw(svg.text((left + right) / 2, panel.top + 12, name, "note", "middle"))


def _whisker(panel: svg.Panel, x: float, low: float, high: float, kind: str) -> None:
    at = panel.x(x)
    ends = [svg.line(at - 5, panel.y(v), at + 5, panel.y(v), kind) for v in (low, high)]
    panel.draw(svg.line(at, panel.y(low), at, panel.y(high), kind), *ends)


def _point(panel: svg.Panel, x: float, one: Measured, colour: str, shown: str, scale: str) -> None:
    """Draw a rung: its interval, its mean, and its name above both; shown: the numbers, for whoever points at it."""
    if one["delta"] is None:
        return
    if one["low"] is not None and one["high"] is not None:
        _whisker(panel, x, one["low"], one["high"], f"whisker {colour}")
    kind = f" {colour}" + ("" if one["used"] else " hollow")
    panel.draw(svg.mark(0, panel.x(x), panel.y(one["delta"]), 4.5, shown, kind))
    top = panel.y(one["delta"] if one["high"] is None else one["high"]) - 8
    panel.draw(svg.text(panel.x(x), top, f"{words.clean(scale, 12)}, n={len(one['seeds'])}", "note", "middle"))


def _caption(answer: LadderAnswer) -> str:
    return (
        "Markers: mean difference to the reference on each rung, with the interval of its seeds. Ribbon: from the top rung "
        "on, the hull of all forms that apply, widened by the allowance. Shaded upright: first how far a word may be said, "
        "then how far the interval is shown without one. Thin bar: the target. An open marker has no interval and is not used."
    )


def _terms(answer: LadderAnswer) -> list[str]:
    rungs, tie = answer["rungs"], PLAIN.fixed(answer["matters"], words.decimals_for(answer["matters"]))
    terms = [f"judged by {_unit(answer)} at {answer['stage']}, lower is better", f"a tie within \u00b1{tie}"]
    ends = f"{words.flops(rungs[0]['flops'])} to {words.flops(rungs[-1]['flops'])} FLOPs"
    terms.append(f"{len(rungs)} rungs, {ends}")
    if answer["at"] and answer["reach"] is not None:
        beyond = f"{answer['reach']:.2g} of the ladder's length beyond its top"
        terms.append(f"asked for {words.flops(answer['at'])} FLOPs, {beyond}")
    return terms


def _methods(answer: LadderAnswer) -> str:
    counts = ", ".join(str(rung["seeds"]) for rung in answer["rungs"])
    tie = PLAIN.fixed(answer["matters"], words.decimals_for(answer["matters"]))
    family = plural(answer["family"], "arm")
    return (
        f"The same comparison was trained at {len(answer['rungs'])} scales ({counts} seeds, fixed before), each arm against "
        "its reference on the same tokens and draws; compute is the counted FLOPs of training. Effects (mean paired difference "
        f"in {_unit(answer)}) were extrapolated on log10 of compute with weights that depend on the rungs' places alone: a "
        "line, a power of compute where all signs agree, the top rung as it is, and a parabola where four rungs show "
        "curvature. Standard errors are those of independent rungs, degrees of freedom Satterthwaite's. The interval is the "
        f"hull of the forms' intervals at {answer['confidence']:.4g} confidence over {family} (Bonferroni), widened by "
        f"{answer['allowance']:.0%} of the effect at the top rung. A word is said up to a quarter of the ladder's length "
        f"beyond its top rung; differences within \u00b1{tie} are a tie. {answer['reminder'].capitalize()}."
    )


def _unit(answer: LadderAnswer) -> str:
    return words.UNITS.get(answer["metric"], answer["metric"])
