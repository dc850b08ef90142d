"""Small drawing parts for the report's figures: axes, ticks, a framed panel. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ablab.report.words import count

SERIES = 8  # s0 is the baseline; s1..s7 repeat with other dashes
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2")
MARKS = ("circle", "square", "triangle", "diamond", "cross")


def colour(index: int) -> str:
    """Return the class of the arm at this place of the table."""
    return "s0" if index == 0 else f"s{(index - 1) % (SERIES - 1) + 1}"


def dash(index: int) -> str:
    """Return a dash that separates neighbours without colour, and the rounds of a palette used twice."""
    pattern = DASHES[0] if index == 0 else DASHES[(index - 1 + (index - 1) // (SERIES - 1)) % len(DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def pt(value: float) -> str:
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def text(x: float, y: float, words: object, cls: str = "", anchor: str = "start", turn: float | None = None) -> str:
    around = f' transform="rotate({pt(turn)} {pt(x)} {pt(y)})"' if turn is not None else ""
    named = f' class="{cls}"' if cls else ""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{pt(x)}" y="{pt(y)}"{named}{side}{around}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, cls: str, extra: str = "") -> str:
    return f'<line x1="{pt(x1)}" y1="{pt(y1)}" x2="{pt(x2)}" y2="{pt(y2)}" class="{cls}"{extra}/>'


def rect(x: float, y: float, width: float, height: float, cls: str, extra: str = "", title: str = "") -> str:
    box = (
        f'<rect x="{pt(x)}" y="{pt(y)}" width="{pt(max(width, 0))}" height="{pt(max(height, 0))}" class="{cls}"{extra}'
    )
    return f"{box}><title>{escape(title)}</title></rect>" if title else f"{box}/>"


def path(points: Sequence[tuple[float, float]], cls: str, extra: str = "", closed: bool = False) -> str:
    if not points:
        return ""
    steps = " ".join(f"{pt(x)},{pt(y)}" for x, y in points)
    return f'<path d="M{steps}{"Z" if closed else ""}" class="{cls}"{extra}/>'


def mark(index: int, x: float, y: float, size: float = 3.6, title: str = "", extra: str = "") -> str:
    """Draw the arm's own marker: its shape tells it apart where its colour does not."""
    kind = MARKS[index % len(MARKS)]
    cls = f"mark {colour(index)}{extra}"
    tip = f"<title>{escape(title)}</title>" if title else ""
    if kind == "circle":
        return f'<circle cx="{pt(x)}" cy="{pt(y)}" r="{pt(size)}" class="{cls}">{tip}</circle>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.25), (1.2, 1), (-1.2, 1)),
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        "cross": ((-1, 0), (0, -1), (1, 0), (0, 1)),
    }[kind]
    steps = " ".join(f"{pt(x + size * dx)},{pt(y + size * dy)}" for dx, dy in corners)
    return f'<path d="M{steps}Z" class="{cls}">{tip}</path>'


def figure(width: float, height: float, label: str, body: str) -> Markup:
    """Write an inline image with its text alternative."""
    return Markup(f'<svg viewBox="0 0 {pt(width)} {pt(height)}" role="img" aria-label="{escape(label)}">{body}</svg>')


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `wanted` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / max(wanted, 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(m * unit / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many decimals as the ticks need, a true minus, no minus zero."""
    gaps = [abs(b - a) for a, b in zip(ticks, ticks[1:])] or [abs(value) or 1.0]
    step = min(gaps)
    need = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if abs(step * 10**need - round(step * 10**need)) > 1e-6:
        need += 1
    shown = f"{abs(value):.{min(need, 8)}f}"
    return shown if value >= 0 or float(shown) == 0 else "\u2212" + shown


@dataclass(frozen=True)
class Axis:
    """Data to drawing units; logarithmic with base 2 ticks on request. A flat range is widened."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-12))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        if not self.log:
            return nice_ticks(self.low, self.high, wanted)
        first, last = math.ceil(math.log2(self.low) - 1e-9), math.floor(math.log2(self.high) + 1e-9)
        stride = max(1, math.ceil((last - first + 1) / max(wanted, 1)))
        return [2.0**e for e in range(first, last + 1, stride)]


class Panel:
    """A framed plot of 460 x 280 with grid, tick labels and axis titles; `draw` adds marks, `svg` closes it."""

    width, height = 460.0, 280.0
    left, right, top, bottom = 58.0, 12.0, 30.0, 42.0

    def __init__(
        self,
        slug: str,
        title: str,
        xs: tuple[float, float],
        ys: tuple[float, float],
        *,
        x_title: str,
        y_title: str,
        x_log: bool = False,
        room: tuple[int, int] = (0, 0),
    ) -> None:
        """Make an empty panel. `room`: lines of text that must fit below and above the data."""
        low, high = ys
        pad = (high - low) * 0.06 or max(abs(high), 1.0) * 0.01
        low, high = low - room[0] * pad, high + room[1] * pad
        self.x = Axis(xs[0], xs[1] if xs[1] > xs[0] else xs[0] * 2 + 1, self.left, self.width - self.right, x_log)
        self.y = Axis(low - pad, high + pad, self.height - self.bottom, self.top)
        self.slug = slug
        self.title = title
        self.x_title, self.y_title = x_title, y_title
        self.parts: list[str] = []

    def x_text(self, value: float) -> str:
        """Write a tick of the axis of x."""
        return count(value)

    def draw(self, *parts: str) -> None:
        self.parts.extend(parts)

    def shade(self, low: float, high: float, words: str) -> None:
        """Draw a horizontal band, behind everything else, with its name at the right edge."""
        top, bottom = max(self.y(high), self.top), min(self.y(low), self.height - self.bottom)
        if bottom > top:
            self.parts.insert(0, rect(self.left, top, self.width - self.right - self.left, bottom - top, "matters"))
            self.parts.append(text(self.width - self.right - 4, top - 3, words, "note", "end"))

    def zero(self) -> None:
        if self.y.low <= 0 <= self.y.high:
            self.parts.insert(0, line(self.left, self.y(0), self.width - self.right, self.y(0), "zero"))

    def upright(self, at: float, words: str) -> None:
        """Draw a thin vertical line with its name on the roomier side."""
        x, late = self.x(at), self.x(at) > (self.x.start + self.x.end) / 2
        self.draw(line(x, self.top, x, self.height - self.bottom, "axis", ' stroke-dasharray="2 3"'))
        self.draw(text(x - 4 if late else x + 4, self.top + 10, words, "note", "end" if late else "start"))

    def outside(self, lines: dict[str, float], decimals: int) -> None:
        """Name the lines that run off a scale around zero, with their last value, at the edge on its side."""
        above = below = 0
        for name, value in lines.items():
            up = value >= 0
            above, below = above + up, below + (not up)
            y = self.top + 12 * above if up else self.height - self.bottom + 6 - 12 * below
            sign, arrow = "+" if value > 0 else "\u2212", " \u2191" if up else " \u2193"
            how, arrow = ("leaves", "") if self.y.low <= value <= self.y.high else ("is off", arrow)
            words = f"{name} {how} this scale, last {sign}{abs(value):.{decimals}f}{arrow}"
            self.draw(text(self.left + 6, y, words, "note"))

    def curve(self, index: int, points: Sequence[tuple[float, float]], title: str, marks: bool = False) -> None:
        at = [(self.x(x), self.y(y)) for x, y in points]
        if not at:
            return
        self.draw(path(at, f"line {colour(index)}", dash(index)))
        self.draw(*(mark(index, x, y, 3.2, title) for x, y in (at if marks or len(at) == 1 else at[-1:])))

    def ribbon(self, index: int, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]) -> None:
        points = [*((self.x(x), self.y(y)) for x, y in low), *((self.x(x), self.y(y)) for x, y in reversed(high))]
        self.draw(path(points, f"ribbon {colour(index)}", closed=True))

    def svg(self, label: str) -> Markup:
        right, floor = self.width - self.right, self.height - self.bottom
        out = [text(self.left, 16, self.title, "title")]
        y_ticks, x_ticks = self.y.ticks(5), self.x.ticks(8 if self.x.log else 5)
        for v in y_ticks:
            out.append(line(self.left, self.y(v), right, self.y(v), "grid"))
            out.append(text(self.left - 6, self.y(v) + 4, tick_text(v, y_ticks), "tick", "end"))
        for v in x_ticks:
            out.append(line(self.x(v), floor, self.x(v), floor + 4, "axis"))
            out.append(
                text(self.x(v), floor + 16, self.x_text(v), "tick", "end" if self.x(v) > right - 8 else "middle")
            )
        clip = f"clip-{self.slug}"
        box = rect(self.left - 5, self.top, right - self.left + 10, floor - self.top, "")
        out.append(f'<clipPath id="{clip}">{box}</clipPath><g clip-path="url(#{clip})">{"".join(self.parts)}</g>')
        out.append(line(self.left, floor, right, floor, "axis"))
        out.append(text((self.left + right) / 2, self.height - 6, self.x_title, "label", "middle"))
        out.append(text(13, (self.top + floor) / 2, self.y_title, "label", "middle", -90))
        return figure(self.width, self.height, label, "".join(out))
