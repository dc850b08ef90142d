"""A comparison of logged runs as one web page that loads nothing: every run a point, the answers in their order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources

import jinja2
from markupsafe import Markup

from ablab.records.comparison import Answers, Comparison, Seen, Sided
from ablab.report import compared, svg, words
from ablab.report.figures import fitted
from ablab.report.tables import PageTable

STYLE = words.Html()
WIDTH = 460.0  # of a figure, as in a study's report
MOST = 400  # runs of a side in the table; every run is in --json
ROWS = 5  # heights at which points of a side lie, so that equal scores are seen as several
LOOKS = {"same settings": "equivalent", "no logs": "invalid", "nothing to compare with": "waiting"}


def page(record: Answers) -> str:
    """Write the whole page as text; the same answers give the same bytes."""
    answers = record["comparisons"]
    title = _title(answers[0]) if len(answers) == 1 else f"{len(answers)} arms, judged"
    css = resources.files("ablab.report").joinpath("style.css").read_text(encoding="utf-8")
    shown = {
        "css": Markup(css),
        "title": title,
        "answers": [_parts(i, answer) for i, answer in enumerate(answers)],
        "faults": [words.clean(fault) for fault in record["faults"]],
    }
    return _template().render(shown) + "\n"


@functools.cache
def _template() -> jinja2.Template:
    source = resources.files("ablab.report").joinpath("compared.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(source)


def _title(answer: Comparison) -> str:
    names = [words.clean(side["name"], words.NAME) for side in (answer["x"], answer["y"]) if side]
    return " against ".join(names)


def _parts(number: int, answer: Comparison) -> dict[str, object]:
    stops = [f for f in answer["flags"] if f["grade"] == "stops"]
    return {
        "slug": f"arm{number}",
        "title": _title(answer),
        "name": words.clean(answer["x"]["name"], words.NAME),
        "chip": chip(answer["word"]),
        "sentence": words.clean(answer["sentence"]),
        "stops": [words.clean(flag["said"]) for flag in stops],
        "runs": points(answer),
        "difference": difference(answer),
        "said": [
            (heading.capitalize(), [words.clean(one) for one in said], _levers(answer) if heading == "levers" else None)
            for heading, said in compared.parts(answer)
        ],
        "ledger": _ledger(answer),
    }


def chip(word: str) -> str:
    """Draw the word as a chip; one that no study has gets the look of the nearest word."""
    look = LOOKS.get(word, word)
    text = Markup('<span class="chip w-{}"><i aria-hidden="true">{}</i> {}</span>')
    return text.format(look, words.SIGNS.get(look, ""), word)


def _sides(answer: Comparison) -> list[tuple[str, Sided]]:
    """Order the sides, the reference first: the other is compared with it."""
    return [(name, side) for name, side in (("y", answer["y"]), ("x", answer["x"])) if side]


def points(answer: Comparison) -> Markup | None:
    """Draw every run as a point on its side's row, with mean and its 95% interval; hollow are those that do not count."""
    sides = _sides(answer)
    near = [run["value"] for _, side in sides for run in side["runs"] if run["counted"] and run["value"] is not None]
    near += [v for _, side in sides for v in (side["low"], side["high"], side["mean"]) if v is not None]
    if not near:
        return None
    top, step = 30.0, 64.0
    height = top + step * len(sides) + 24
    x = _axis(near)
    unit = answer["metric"].replace("_", " ")
    out = [svg.text(10, 16, f"Every run, {unit} (left is better)", "title"), *_scale(x, top + step * len(sides))]
    for i, (name, side) in enumerate(sides):
        out.extend(_side(i, name, side, x, top + step * i))
    said = "; ".join(f"{name} {side['n']} runs, mean {_number(side['mean'])}" for name, side in sides)
    return svg.figure(WIDTH, height, f"Every run as a point: {said}", "".join(out))


def _axis(near: Sequence[float]) -> svg.Axis:
    """Return an axis from the least to the largest with some room, and with more where they are one."""
    low, high = min(near), max(near)
    pad = max((high - low) * 0.06, abs(high) * 1e-6, 1e-9)
    return svg.Axis(low - pad, high + pad, 12, WIDTH - 12)


def _scale(x: svg.Axis, floor: float) -> list[str]:
    ticks = x.ticks(5)
    out = [svg.line(x.start, floor, x.end, floor, "axis")]
    for v in ticks:
        at = x(v)
        side = "start" if at < x.start + 20 else "end" if at > x.end - 20 else "middle"
        out += [
            svg.line(at, floor, at, floor + 4, "axis"),
            svg.text(at, floor + 16, svg.tick_text(v, ticks), "tick", side),
        ]
    return out


def _side(index: int, name: str, side: Sided, x: svg.Axis, y: float) -> list[str]:
    shown = f"{name} {words.clean(side['name'], words.NAME)}" if side["name"] != name else name
    numbers = "no score" if side["mean"] is None else f"mean {_number(side['mean'])}, n {side['n']}"
    out = [svg.text(10, y + 12, fitted(shown, 34), "arm"), svg.text(450, y + 12, numbers, "value", "end")]
    at = y + 46
    if side["low"] is not None and side["high"] is not None:
        out.append(svg.line(x(side["low"]), at, x(side["high"]), at, f"whisker {svg.colour(index)}"))
        for v in (side["low"], side["high"]):
            out.append(svg.line(x(v), at - 6, x(v), at + 6, f"whisker {svg.colour(index)}"))
    for i, run in enumerate(side["runs"]):
        value = run["value"]
        if value is not None and x.low <= value <= x.high:
            height = at - 10 - (i % ROWS) * 3.5
            out.append(svg.mark(0, x(value), height, 2.8, _tip(run), "" if run["counted"] else " hollow"))
    if side["mean"] is not None:
        tip = f"mean of {side['n']} independent runs: {_number(side['mean'])}"
        out.append(svg.mark(index, x(side["mean"]), at, 5, tip))
    return out


def _tip(run: Seen) -> str:
    seed = "" if run["seed"] is None else f", seed {run['seed']}"
    counts = "" if run["counted"] else "; does not count"
    return f"{words.clean(run['source'], words.NAME)}:{run['line']}{seed}: {_number(run['value'])}{counts}"


def difference(answer: Comparison) -> Markup | None:
    """Draw the difference of the means with Welch's interval, zero and the tie behind it."""
    gap = answer["unpaired"]
    if gap is None or gap["delta"] is None:
        return None
    delta, low, high, matters = gap["delta"], gap["low"], gap["high"], answer["matters"] or 0.0
    height, at = 106.0, 52.0
    near = [0.0, -1.3 * matters, 1.3 * matters, delta, *(v for v in (low, high) if v is not None)]
    x = _axis(near)
    unit = answer["metric"].replace("_", " ")
    out = [svg.text(10, 16, f"x minus y, {unit} (left of zero is better)", "title"), *_scale(x, 78)]
    out.append(svg.rect(x(-matters), at - 16, x(matters) - x(-matters), 32, "matters"))
    out.append(svg.line(x(0), at - 16, x(0), at + 16, "zero"))
    if low is not None and high is not None:
        out.append(svg.line(x(low), at, x(high), at, "whisker s1"))
        out += [svg.line(x(v), at - 6, x(v), at + 6, "whisker s1") for v in (low, high)]
    mark = svg.mark(1, x(delta), at, 5, f"{delta:+.6f}", "" if low is not None else " hollow")
    out.append(mark)
    said = f"Difference {delta:+.6f}" + ("" if low is None else f", 95% {low:+.6f} to {high:+.6f}")
    return svg.figure(WIDTH, height, said, "".join(out))


def _levers(answer: Comparison) -> PageTable | None:
    """List every setting that differs, with the value that most runs of each side have."""
    levers = answer["levers"]
    if levers is None or not levers["changes"]:
        return None
    rows = [
        [STYLE.name(name), *(STYLE.text("not named" if value is None else value or "(empty)") for value in pair)]
        for name, pair in levers["changes"].items()
    ]
    return PageTable((("setting", ""), ("y", ""), ("x", "")), rows)


def _ledger(answer: Comparison) -> PageTable | None:
    heads = (("run", ""), ("side", ""), ("seed", "r"), ("steps", "r"), ("score", "r"), ("label", ""), ("counts", ""))
    rows = []
    for name, side in reversed(_sides(answer)):
        for run in side["runs"][:MOST]:
            numbers = [words.DASH if one is None else f"{one:,}" for one in (run["seed"], run["steps"])]
            place, counts = f"{run['source']}:{run['line']}", "yes" if run["counted"] else "no"
            label = STYLE.text(run["label"]) if run["label"] else words.DASH
            rows.append([STYLE.name(place), name, *numbers, _number(run["value"], 8), label, counts])
    more = sum(max(0, len(side["runs"]) - MOST) for _, side in _sides(answer))
    note = f"{more} more runs are not shown; --json has all." if more else ""
    return PageTable(heads, rows, note) if rows else None


def _number(value: float | None, digits: int = 6) -> str:
    return words.DASH if value is None else f"{value:.{digits}f}"
